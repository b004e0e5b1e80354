"""Every flag of a run changes what it says it changes, and nothing it should not."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from flows import stages
from tasks import checkpoints
from tasks.records import StageRecord
from tasks.run import begin_run
from tasks.settings import RetrainConfig
from tasks.store import open_store
from tests.end_to_end.conftest import TINY, captured_log, tiny_config
from tests.undone import undo
from tests.yolov5_core.test_foreign import stripped_v7
from yolov5_core import checkpoint
from yolov5_core.architecture import describe
from yolov5_core.results import ResultsRow, parse_results
from yolov5_core.start import new_detector


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training alone left."""

    record: StageRecord
    state: dict[str, Any]  # the newest checkpoint
    log: list[str]
    folder: Path

    @property
    def rows(self) -> list[ResultsRow]:
        return parse_results(self.state["training_results"])

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return self.state["resume"]["model"]


Train = Callable[..., Trained]


@pytest.fixture(scope="session")
def training(prefect_api: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Prepares and trains with changes to the tiny run: two steps of twelve pictures an epoch."""
    del prefect_api
    root = tmp_path_factory.mktemp("flags")
    numbers = itertools.count()

    def work(**changes: Any) -> Trained:
        config = tiny_config(data, root, batch_size=12, **changes)
        info = begin_run(replace(config, run=f"run{next(numbers)}"), datetime.now(UTC))
        with captured_log() as log:
            stages.prepare(config.store, info.run)
            record = stages.train(config.store, info.run)
        path = root / "store" / record.result["last"]["key"]
        folder = root / "store" / "runs" / info.run
        return Trained(record=record, state=checkpoint.load(path), log=log, folder=folder)

    return work


@pytest.fixture(scope="session")
def plain(training: Train) -> Trained:
    return training()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    "changes",
    [{}, {"workers": 2}, {"cache_images": True}, {"device": ""}],
    ids=["the same again", "workers", "cache_images", "device"],
)
def test_what_must_not_matter_gives_the_same_bytes(training, plain, changes):
    if changes == {"device": ""} and torch.cuda.is_available():
        pytest.skip("the empty device is a GPU here")
    assert same(training(**changes).weights, plain.weights)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"rect": True},
        {"image_weights": True},
        {"lr_curve": "cosine", "epochs": 3},
        {"iou": "giou"},
        {"autobalance": True, "epochs": 2},
        {"quad": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_should_matter_gives_other_weights(training, plain, changes):
    found = training(**changes)
    assert len(found.rows) == changes.get("epochs", 1)
    assert not same(found.weights, plain.weights)


def test_multi_scale_trains_at_another_size(training):
    widths = {row.image_size for row in training(multi_scale=True, epochs=2).rows}
    assert widths <= {32, 64, 96}
    assert widths != {64}


def test_adam_and_adamw_are_what_optimises(training, plain):
    assert "nesterov" in plain.state["optimizer"]["param_groups"][0]
    adam, adamw = (training(optimizer=kind) for kind in ("adam", "adamw"))
    for found, decoupled in ((adam, False), (adamw, True)):
        groups = found.state["optimizer"]["param_groups"]
        assert all(group["betas"] == (0.937, 0.999) for group in groups)
        assert all(group["decoupled_weight_decay"] == decoupled for group in groups)
    assert not same(adam.weights, adamw.weights)


def outputs(found: Trained) -> list[str]:
    """What the train stage lists, below the run's folder."""
    start = f"runs/{found.folder.name}/"
    return [output.key.removeprefix(start) for output in found.record.outputs]


def test_save_period_keeps_every_nth_complete_state(training):
    found = training(save_period=2, epochs=5)
    kept = ["weights/epoch1.pt", "weights/epoch3.pt"]
    assert [name for name in outputs(found) if name.startswith("weights/")] == kept
    assert sorted(path.name for path in (found.folder / "weights").iterdir()) == [
        *("epoch1.pt", "epoch3.pt")
    ]
    for name, epoch in zip(kept, (1, 3), strict=True):
        state = checkpoint.load(found.folder / name)
        assert state["epoch"] == epoch
        assert len(state["resume"]["history"]) == epoch + 1
        assert state["optimizer"] is not None


def test_kept_states_are_listed_whichever_attempt_made_them_unless_deleted(training):
    found = training(save_period=1, epochs=2)
    undo(open_store(str(found.folder.parents[1])), found.folder.name, "train")
    (found.folder / "weights" / "epoch0.pt").unlink()
    again = replace(found, record=stages.train(str(found.folder.parents[1]), found.folder.name))
    assert again.record.result["epochs"] == 0
    assert [name for name in outputs(again) if name.startswith("weights/")] == ["weights/epoch1.pt"]


# ---- early stopping ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def stopped(training: Train) -> Trained:
    """A run that no fitness rises far enough for; it saves only when it is over."""
    return training(patience=1, epochs=12, nosave=True)


def test_training_stops_at_the_first_epoch_that_is_no_better_and_says_why(stopped):
    fitness = [row["results"] for row in stopped.state["resume"]["history"]]
    fitness = [0.1 * results[2] + 0.9 * results[3] for results in fitness]
    assert 1 < len(fitness) < 12
    assert all(now < then for now, then in itertools.pairwise(fitness[:-1]))
    assert fitness[-1] <= max(fitness[:-1])
    line = next(line for line in stopped.log if "stopped early" in line)
    assert f"after epoch {len(fitness)} of 12" in line
    assert f"resume run {stopped.folder.name} with more patience" in line


def test_what_stopped_early_is_as_complete_as_any_run(stopped):
    count = len(stopped.rows)
    assert stopped.state["epoch"] == count - 1
    assert [row.epoch for row in stopped.rows] == list(range(count))
    assert (stopped.folder / "results.txt").read_text() == stopped.state["training_results"]
    assert stopped.record.result["epochs"] == count
    assert stopped.record.result["stopped_early"]
    assert any(line.startswith(f"{count} epochs completed in") for line in stopped.log)
    log = stopped.folder / "checkpoints" / "log"
    assert [path.name for path in log.iterdir()] == ["00000001.json"]  # nosave: the last epoch


def test_the_other_stages_take_a_run_that_stopped_early(stopped):
    store, run = str(stopped.folder.parents[1]), stopped.folder.name
    for stage in ("evaluate", "finalize", "upload", "plot"):
        stages.STAGE_FLOWS[stage](store, run)
    last = checkpoint.load(stopped.folder / "weights" / "last.pt")
    assert (last["epoch"], last["optimizer"], last["resume"]) == (-1, None, None)
    text = (stopped.folder / "results.txt").read_text()
    assert parse_results(text) == stopped.rows
    assert (stopped.folder / "plots" / "results.png").is_file()


def test_a_run_that_stopped_early_trains_on_only_with_more_patience(training):
    found = training(patience=1, epochs=12)
    store, run = str(found.folder.parents[1]), found.folder.name
    undo(open_store(store), run, "train")
    again = stages.train(store, run)
    assert again.result["epochs"] == 0
    assert again.result["stopped_early"]
    assert again.result["last"] == found.record.result["last"]
    asked = RetrainConfig(store=store, resume=run, patience=2)
    begin_run(asked, datetime.now(UTC))
    further = stages.train(store, run)
    assert further.result["epochs"] > 0
    whole = training(patience=2, epochs=12)
    state = checkpoint.load(found.folder.parents[2] / "store" / further.result["last"]["key"])
    assert same(state["resume"]["model"], whole.weights)


def test_nothing_stops_early_without_evaluations(training):
    assert len(training(notest=True, patience=1, epochs=3).rows) == 3


def test_notest_leaves_zeros_in_every_row_but_the_last(training):
    rows = training(notest=True, epochs=3).rows
    assert [row.results for row in rows[:2]] == [(0.0,) * 7] * 2
    assert all(loss > 0 for loss in rows[2].results[4:])
    assert all(row.losses[3] > 0 for row in rows)


def test_nosave_saves_the_last_epoch_only(training):
    found = training(nosave=True, epochs=2)
    log = found.folder / "checkpoints" / "log"
    assert [path.name for path in log.iterdir()] == ["00000001.json"]
    assert len(list(log.parent.glob("*.pt"))) == 1
    assert found.state["epoch"] == 1
    assert len(found.rows) == 2


@pytest.fixture(scope="session")
def badly_anchored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model description whose anchors are far too large for these pictures."""
    table = yaml.safe_load(TINY.read_text())
    table["anchors"] = [[600 + 10 * i] * 6 for i in range(3)]
    path = tmp_path_factory.mktemp("cfg") / "large.yaml"
    path.write_text(yaml.safe_dump(table))
    return path


def anchors_px(found: Trained) -> torch.Tensor:
    anchors = next(v for key, v in found.weights.items() if key.endswith("anchors"))
    return anchors * torch.tensor(found.state["stride"]).view(-1, 1, 1)


def test_bad_anchors_are_refitted_to_the_labels(training, badly_anchored):
    found = training(cfg=str(badly_anchored))
    assert anchors_px(found).max() <= 128
    assert any("anchors" in line and "replaced" in line for line in found.log), found.log


def test_noautoanchor_keeps_even_bad_anchors(training, badly_anchored):
    found = training(cfg=str(badly_anchored), noautoanchor=True)
    assert sorted(anchors_px(found).unique().tolist()) == [600, 610, 620]


def test_single_cls_trains_one_class_called_item(training):
    found = training(single_cls=True)
    assert found.state["names"] == ["item"]
    assert found.state["nc"] == 1


@pytest.mark.parametrize(("freeze", "frozen"), [((2,), {0, 1}), ((0, 3), {0, 3})])
def test_freeze_keeps_the_weights_of_its_layers_only(training, freeze, frozen):
    found = training(freeze=freeze)
    first = new_detector(describe(str(TINY), 4), seed=0)
    for name, parameter in first.named_parameters():
        layer = int(name.split(".")[1])
        if layer in frozen:
            assert torch.equal(found.weights[name], parameter.detach()), name
    conv = "model.1.conv.weight" if 1 not in frozen else "model.3.conv.weight"
    assert not torch.equal(found.weights[conv], first.state_dict()[conv])


def test_weights_of_another_class_count_are_taken_but_for_the_head(training, plain, tmp_path):
    parent = tmp_path / "parent.pt"
    checkpoint.save({**plain.state, "training_results": ""}, tmp_path / "full.pt")
    checkpoint.strip(tmp_path / "full.pt", parent)
    found = training(weights=str(parent), cfg="", single_cls=True, freeze=(24,))
    line = next(line for line in found.log if line.startswith("transferred"))
    done, total = map(int, line.split()[1].split("/"))
    assert 0 < total - done <= 6  # three weights and three biases of the head
    assert found.state["nc"] == 1
    half = {key: value.half() for key, value in plain.state["model"].items()}
    name = "model.2.cv1.conv.weight"
    assert torch.equal(found.weights[name].half(), half[name])
    assert found.state["lineage"]["parent"] == str(parent)
    assert len(found.state["lineage"]["parent_sha256"]) == 64


def test_a_public_checkpoint_can_be_the_start(training, tmp_path):
    path, parent = stripped_v7(tmp_path / "public.pt")
    found = training(weights=str(path), cfg="", freeze=(24,))
    name = "model.0.conv.weight"
    assert torch.equal(found.weights[name].half(), parent.state_dict()[name].half())
    assert found.state["nc"] == 4
    entries = len(parent.state_dict())
    head = 6  # weights and biases of its three levels: the parent has three classes
    assert found.state["lineage"]["transferred"] == [entries - head, entries]
    assert found.record.result["transferred"] == [entries - head, entries]


def test_a_hyperparameter_file_is_used_and_kept(training, plain, tmp_path):
    path = tmp_path / "hyp.yaml"
    path.write_text("lr0: 0.02\nmosaic: 0.0\n")
    found = training(hyp=str(path))
    assert found.state["hyp"] == {**plain.state["hyp"], "lr0": 0.02, "mosaic": 0.0}
    assert not same(found.weights, plain.weights)


def test_a_layer_table_of_ones_own_is_what_trains(plain):
    assert plain.state["description"] == describe(str(TINY), 4).to_mapping()


def test_the_checkpoint_log_points_at_the_last_and_the_best(training):
    found = training(epochs=2)
    pointer = checkpoints.newest(open_store(str(found.folder.parents[1])), found.folder.name)
    assert pointer.epoch == 1
    assert pointer.last.sha256 == found.record.result["last"]["sha256"]
    assert pointer.best_fitness == found.record.result["best_fitness"]
