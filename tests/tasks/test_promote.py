"""One night's model against the champion: who is champion afterwards, and with which bytes."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.rollback import describe_log, roll_back, rollback_command
from tasks import champions
from tasks import promote as stage
from tasks.champions import Champion
from tasks.errors import MissingObjectError, StoreUnavailableError
from tasks.inputs import keep_inputs
from tasks.promote import promote_stage
from tasks.records import Artifact, StageRecord
from tasks.settings import RetrainConfig
from tasks.store import Store, open_store
from tests.tasks.trained import VAL, TrainedRun, torch_as_before, trained_run
from tests.undone import undo
from yolov5_core import checkpoint
from yolov5_core.config import ConfigError
from yolov5_core.synthetic import NAMES


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainedRun]:
    root = tmp_path_factory.mktemp("night")
    with torch_as_before(root / "cache"):
        run = trained_run(root)
        yield replace(run, prepared=replace(run.prepared, names=NAMES))


@pytest.fixture
def bucket(tmp_path: Path) -> str:
    return str(tmp_path / "bucket")


def finalized(night: TrainedRun, run: str, **changes: Any) -> StageRecord:
    """What finalize leaves of a model; `shift` moves its class biases, so that it is another."""
    last = checkpoint.load(night.store.folder / night.trained.result["last"]["key"])
    shift = changes.pop("shift", 0.0)
    for level in range(3):
        last["model"][f"model.24.m.{level}.bias"] += shift
    payload = {**last, "names": list(NAMES), "metrics": {"map50_95": 0.25 + shift}, **changes}
    folder = Path(night.info.config.store) / "runs" / run / "weights"
    checkpoint.save({**payload, "resume": None, "optimizer": None}, folder / "best_street.pt")
    data = (folder / "best_street.pt").read_bytes()
    artifact = Artifact(
        key=f"runs/{run}/weights/best_street.pt",
        size=len(data),
        sha256=sha256(data).hexdigest(),
    )
    return replace(night.trained, run=run, stage="finalize", outputs=(artifact,))


def promoted(night: TrainedRun, bucket: str, run: str, record: StageRecord) -> Any:
    config = replace(night.info.config, bucket=bucket, name="street", run=run)
    return promote_stage(replace(night.info, run=run, config=config), night.prepared, record).result


def champion_bytes(bucket: str) -> bytes:
    return (Path(bucket) / "weights" / "champion_street.pt").read_bytes()


def weights_of(night: TrainedRun, run: str) -> bytes:
    path = Path(night.info.config.store) / "runs" / run / "weights" / "best_street.pt"
    return path.read_bytes()


def entered(store: Store, run: str, weights: bytes) -> Champion:
    """A champion that some other run became."""
    key = f"champions/street/weights/{run}.pt"
    return Champion(
        run=run,
        store="elsewhere",
        weights=store.put_bytes(weights, key),
        data="d",
        metrics={"map50_95": 0.5},
        when="2026-01-01T00:00:00+00:00",
        kind="promoted",
        reason="test",
        verdict={},
    )


# ---- the stage ---------------------------------------------------------------------------------


def test_the_first_model_of_its_name_is_champion(night, bucket):
    found = promoted(night, bucket, "first", finalized(night, "first"))
    assert (found["promoted"], found["entry"], found["champion"]) == (True, 1, "first")
    assert found["reason"] == "the first model of its name"
    assert champion_bytes(bucket) == weights_of(night, "first")
    number, champion = champions.newest(open_store(bucket), "street") or (0, None)
    assert (number, champion and champion.kind) == (1, "promoted")


def test_the_same_bytes_again_are_no_new_champion(night, bucket):
    promoted(night, bucket, "same1", finalized(night, "same1"))
    found = promoted(night, bucket, "same2", finalized(night, "same2"))
    assert not found["promoted"]
    assert found["reason"] == "it is the champion, byte by byte"
    assert found["champion"] == "same1"


def test_a_model_that_is_no_better_leaves_the_champion_as_it_is(night, bucket):
    promoted(night, bucket, "good", finalized(night, "good"))
    before = champion_bytes(bucket)
    found = promoted(night, bucket, "bad", finalized(night, "bad", shift=-20.0))
    assert not found["promoted"]
    assert found["champion"] == "good"
    assert found["numbers"]["images"] == VAL
    assert "is less than the gain wanted" in found["reason"]
    assert champion_bytes(bucket) == before
    assert len(champions.entries(open_store(bucket), "street")) == 1


def test_a_better_model_takes_its_place_with_all_numbers_on_record(night, bucket, caplog):
    promoted(night, bucket, "poor", finalized(night, "poor", shift=-20.0))
    with caplog.at_level(logging.INFO):
        found = promoted(night, bucket, "rich", finalized(night, "rich"))
    assert found["promoted"], found
    assert found["numbers"]["gain"] > 0
    assert found["numbers"]["low"] > 0
    assert found["entry"] == 2
    assert champion_bytes(bucket) == weights_of(night, "rich")
    assert "new champion: fitness +" in caplog.text
    stored = night.store.read_json("runs/rich/promotion.json")
    assert stored == found


def test_other_classes_are_not_compared(night, bucket):
    promoted(night, bucket, "cats", finalized(night, "cats", names=["a", "b"], nc=2))
    found = promoted(night, bucket, "dogs", finalized(night, "dogs"))
    assert not found["promoted"]
    assert "it knows other classes (4) than the champion (2)" in found["reason"]
    assert "--name" in found["reason"]


def test_a_damaged_champion_stays_and_the_reason_says_how_to_go_on(night, bucket):
    promoted(night, bucket, "whole", finalized(night, "whole"))
    (copy,) = (Path(bucket) / "champions" / "street" / "weights").iterdir()
    copy.write_bytes(b"x" * copy.stat().st_size)
    found = promoted(night, bucket, "next", finalized(night, "next", shift=0.5))
    assert not found["promoted"]
    assert "the champion of run whole cannot be read, so it stays" in found["reason"]
    assert "rollback" in found["reason"]


def test_a_run_killed_before_it_showed_its_champion_shows_it_at_the_next_attempt(night, bucket):
    record = finalized(night, "twice")
    promoted(night, bucket, "twice", record)
    (Path(bucket) / "weights" / "champion_street.pt").unlink()
    undo(night.store, "twice", "promote")
    found = promoted(night, bucket, "twice", record)
    assert (found["promoted"], found["entry"]) == (True, 1)
    assert champion_bytes(bucket) == weights_of(night, "twice")
    assert len(champions.entries(open_store(bucket), "street")) == 1


def test_a_champion_that_was_entered_meanwhile_is_compared_with(night, bucket, monkeypatch):
    """Two nights at once: the second finds its number taken, and looks at who took it."""
    promoted(night, bucket, "base", finalized(night, "base", shift=-20.0))
    store, real, asked = open_store(bucket), champions.crown, []

    def crown(*args: Any) -> bool:
        asked.append(args[2])
        if len(asked) == 1:  # the other night is quicker
            assert real(store, "street", args[2], entered(store, "other", weights_of(night, "ch")))
        return real(*args)

    record = finalized(night, "ch")
    monkeypatch.setattr(stage.champions, "crown", crown)
    found = promoted(night, bucket, "ch", record)
    assert asked == [1]
    assert not found["promoted"]
    assert found["champion"] == "other"
    assert found["reason"] == "it is the champion, byte by byte"


def test_a_finished_stage_is_not_done_again(night, bucket):
    record = finalized(night, "done")
    assert promoted(night, bucket, "done", record) == promoted(night, bucket, "done", record)
    assert len(champions.entries(open_store(bucket), "street")) == 1


# ---- rolling back ------------------------------------------------------------------------------


@pytest.fixture
def three(bucket: str) -> Store:
    """A bucket with champions one, two and three; champion three is shown."""
    store = open_store(bucket)
    for number, run in enumerate(("one", "two", "three")):
        assert champions.crown(store, "street", number, entered(store, run, run.encode()))
    champions.show(store, "street", Path(bucket))
    return store


def test_rolling_back_gives_the_earlier_bytes_back(three, bucket):
    assert champion_bytes(bucket) == b"three"
    said = roll_back(three, "street")
    assert "was run three (entry 3), is run two (as in entry 2)" in said
    assert champion_bytes(bucket) == b"two"
    number, champion = champions.newest(three, "street") or (0, None)
    assert champion is not None
    assert (number, champion.run, champion.kind) == (4, "two", "rolled back")


def test_twice_goes_two_champions_back(three, bucket):
    roll_back(three, "street")
    roll_back(three, "street")
    assert champion_bytes(bucket) == b"one"
    with pytest.raises(ConfigError, match="does not have a champion of street before this one"):
        roll_back(three, "street")
    assert champion_bytes(bucket) == b"one"


def test_any_entry_can_be_named_and_the_way_back_is_open(three, bucket):
    roll_back(three, "street", 1)
    assert champion_bytes(bucket) == b"one"
    roll_back(three, "street", 3)
    assert champion_bytes(bucket) == b"three"


def test_weights_that_are_gone_leave_all_as_it_was(three, bucket):
    three.delete("champions/street/weights/two.pt")
    with pytest.raises(MissingObjectError):
        roll_back(three, "street")
    assert champion_bytes(bucket) == b"three"
    assert len(champions.entries(three, "street")) == 3


def test_a_promotion_at_the_same_moment_wins_and_is_said(three, bucket, monkeypatch):
    monkeypatch.setattr(champions, "crown", lambda *_: False)
    with pytest.raises(StoreUnavailableError, match="another champion was entered just now"):
        roll_back(three, "street")
    assert champion_bytes(bucket) == b"three"


def test_the_command_lists_and_refuses_in_words(three, bucket):
    text = rollback_command(["--bucket", bucket, "--name", "street", "--list"])
    assert text == describe_log(three, "street")
    assert [line.split()[0] for line in text.splitlines()] == ["entry", "3", "2", "1"]
    assert "is run two" in rollback_command(["--bucket", bucket, "--name", "street"])
    for words, message in (
        (["--bucket", bucket, "--name", "harbour"], "has no champion of harbour to roll back"),
        (["--bucket", bucket, "--name", "street", "--to", "9"], "does not have entry 9 of street"),
        (["--name", "street"], "rollback: the following arguments are required: --bucket"),
    ):
        with pytest.raises(ConfigError, match=message):
            rollback_command(words)


# ---- starting from the champion ----------------------------------------------------------------


def test_a_run_keeps_the_champion_that_it_starts_from(three, bucket, tmp_path):
    store = open_store(str(tmp_path / "store"))
    config = RetrainConfig(run="r", bucket=bucket, name="street", weights="champion")
    kept = keep_inputs(store, config)
    assert store.read_artifact(kept["weights"]) == b"three"
    roll_back(three, "street")
    assert store.read_artifact(kept["weights"]) == b"three"


def test_without_a_champion_a_run_starts_from_scratch(bucket, tmp_path, caplog):
    store = open_store(str(tmp_path / "store"))
    config = RetrainConfig(run="r", bucket=bucket, name="street", weights="champion")
    with caplog.at_level(logging.INFO):
        assert keep_inputs(store, config) == {}
    assert "has no champion yet: the run starts from scratch" in caplog.text


def test_the_champion_needs_a_bucket():
    with pytest.raises(ConfigError, match="weights='champion': give the bucket"):
        RetrainConfig(weights="champion")


def test_numbers_of_a_verdict_are_json(night, bucket):
    promoted(night, bucket, "low", finalized(night, "low", shift=-20.0))
    found = promoted(night, bucket, "high", finalized(night, "high"))
    assert all(not isinstance(v, np.generic) for v in found["numbers"].values())
