"""A bucket that fails a thousand times: runs finish, and everything they recorded is there.

A tenth of them is part of `make test`; `make kill-matrix` takes all.
"""

import random
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest

from flows.retrain import retrain
from tasks import champions, checkpoints
from tasks.google_requests import GoogleStorage, Patience
from tasks.records import STAGES, Artifact
from tasks.settings import RetrainConfig
from tasks.stage import read_stage
from tasks.store import Store, open_store
from tests.end_to_end.conftest import tiny_config
from tests.gcs_emulator import Emulator, Fault

pytestmark = [
    pytest.mark.slow,
    pytest.mark.gcs,
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),
]

LISTING = "prefix="
KINDS: dict[str, tuple[int, dict[str, Any]]] = {  # how many, and what
    "503": (200, {"status": 503}),
    "503 after success": (120, {"status": 503, "after": True}),
    "429": (60, {"status": 429}),
    "412 after success": (60, {"status": 412, "after": True, "match": "ifGenerationMatch"}),
    "reset": (160, {"reset": True}),
    "reset after success": (120, {"reset": True, "after": True}),
    "timeout": (40, {"delay": 1.0}),
    "duplicated request": (120, {"duplicate": True, "method": "POST"}),
    "truncated body": (60, {"truncate": True, "match": "alt=media"}),
    "shortened body": (30, {"shorten": True, "match": "alt=media"}),
    "stale listing": (30, {"stale": True, "match": LISTING}),
}
EVERY = 5  # requests between two faults of all kinds, on average
MOST_RUNS = 25


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    open_store("gs://models")  # sets what gcsfs reads when it is imported
    monkeypatch.setattr(GoogleStorage, "patience", Patience(wait_s=1 / 300, silence_s=0.6))
    with Emulator("models") as service:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", service.url)
        yield service


def plan_faults(service: Emulator, share: int) -> list[tuple[str, Fault]]:
    """The n-th part of them, spread at random over the requests that each can hit."""
    chance = random.Random(0)  # noqa: S311  no secret
    planned = []
    total = sum(n for n, _ in KINDS.values())
    for kind, (all_of_them, fault) in KINDS.items():
        count = all_of_them // share
        gap = EVERY * total / all_of_them  # of all requests; fewer are of its own kind
        gap /= 4 if fault.get("method") == "POST" else 1
        gap /= 8 if fault.get("match") == "alt=media" else 1
        gap /= 16 if fault.get("match") in (LISTING, "ifGenerationMatch") else 1
        for number in range(count):
            skip = int((number + chance.random()) * gap)
            service.fail(**fault, skip=skip)
            planned.append((kind, service._faults[-1]))
    return planned


def night(data: Any, root: Any, place: str) -> RetrainConfig:
    where = f"gs://models/{place}"
    return tiny_config(
        data, root, store=where, bucket=f"{where}/published", name="street", run="night", epochs=2
    )


def published(store: Store) -> dict[str, str]:
    """Digests of what people get."""
    keys = [k for k in store.keys("published") if k.endswith(".pt") or "/results/" in k]
    keys += [k for k in store.keys("runs/night/weights") if k.endswith(".pt")]
    keys.append("runs/night/results.txt")
    assert len(keys) >= 7
    return {key: sha256(store.read_bytes(key)).hexdigest() for key in keys}


def require_whole(store: Store) -> int:
    """Reads every object that a record or pointer names, and counts them."""
    named: list[Artifact] = []
    for stage in STAGES:
        record = read_stage(store, "night", stage)
        assert record is not None, stage
        assert store.read_json(f"runs/night/stages/{stage}.json")["attempt"] == record.attempt
        named += record.outputs
    pointer = checkpoints.newest(store, "night")
    assert pointer is not None
    named += [a for a in (pointer.last, pointer.best, pointer.finished) if a]
    bucket = open_store(store.url("published"))
    (entry,) = champions.entries(bucket, "street")
    bucket.read_artifact(entry[1].weights)
    for artifact in named:
        assert len(store.read_artifact(artifact)) == artifact.size
    return len(named) + 1


@pytest.mark.parametrize(
    "share", [10, pytest.param(1, marks=pytest.mark.kill_matrix)], ids=["a hundred", "a thousand"]
)
def test_runs_on_a_bucket_that_fails_leave_what_a_quiet_one_leaves(bucket, data, tmp_path, share):
    retrain(night(data, tmp_path, "quiet"))
    quiet = published(open_store("gs://models/quiet"))
    planned = plan_faults(bucket, share)
    runs = 0
    while any(fault.count for _, fault in planned):
        assert runs < MOST_RUNS, Counter(kind for kind, fault in planned if fault.count)
        retrain(night(data, tmp_path, f"night{runs}"))
        runs += 1
    happened = Counter(kind for kind, fault in planned if not fault.count)
    assert happened == {kind: count // share for kind, (count, _) in KINDS.items()}
    assert happened.total() >= 1000 // share
    bucket.clear()
    for number in range(runs):
        store = open_store(f"gs://models/night{number}")
        assert require_whole(store) >= 25
        found = published(store)
        assert found == quiet, number
