from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.batch_size import with_batch_size
from tasks.device import tune_convolutions
from tasks.epochs import TrainingRun, save_state
from tasks.group import assembled
from tasks.interrupts import termination
from tasks.packing import pack
from tasks.records import Prepared, RunInfo
from tasks.settings import RetrainConfig
from tasks.stage import StageContext, run_stage
from tasks.store import open_store
from tasks.train import _begin
from tests.tasks.trained import torch_as_before
from tests.tiny import CPU, IMAGE_SIZE, tiny_description
from yolov5_core.config import TrainConfig
from yolov5_core.model import Detector
from yolov5_core.synthetic import draw_dataset

TRAINING = TrainConfig(epochs=1, batch_size=5, image_size=64)


class Meter:
    """A device with so much memory, of which every step takes next to nothing."""

    def __init__(self, free: int) -> None:
        self.room = free

    def free(self) -> int:
        return self.room

    def reset(self) -> None:
        pass

    def peak(self) -> int:
        return 1


def test_on_a_cpu_the_batch_size_holds():
    assert with_batch_size(TRAINING, Detector(tiny_description()), CPU, 100) is TRAINING


@pytest.mark.parametrize(
    ("free", "pictures", "quad", "expected"),
    [(10**9, 9, False, 9), (10**9, 9, True, 8), (0, 9, False, 1), (0, 9, True, 4)],
)
def test_on_a_gpu_it_is_what_fits_and_never_more_than_there_are_pictures(
    free: int, pictures: int, quad: bool, expected: int
):
    found = with_batch_size(
        replace(TRAINING, quad=quad), Detector(tiny_description()), CPU, pictures, Meter(free)
    )
    assert found == replace(TRAINING, quad=quad, batch_size=expected)


def test_a_resumed_run_has_the_batch_size_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As on a GPU that has room for three pictures, and then for one."""
    sizes = iter((3, 1))
    monkeypatch.setattr(
        "tasks.train.with_batch_size", lambda t, *_: replace(t, batch_size=next(sizes))
    )
    data = draw_dataset(
        tmp_path / "data", train=4, val=1, image_size=IMAGE_SIZE, seed=0, progress=lambda *_: None
    )
    config = RetrainConfig(
        data=str(data),
        store=str(tmp_path / "store"),
        image_size=IMAGE_SIZE,
        batch_size=2,
        auto_batch=True,
        workers=0,
        device="cpu",
        epochs=2,
    )
    store = open_store(config.store)
    digest = pack(store, config.data, lambda *_: None).digest
    prepared = Prepared(digest=digest, names=(), counts={}, rejected=(), report="", verdict="pass")
    info = RunInfo(run="r", created="", config=config, data_digest=digest, code="", packages={})
    runs: list[TrainingRun] = []

    def work(context: StageContext) -> Mapping[str, Any]:
        with termination() as stop, assembled(config) as team:
            runs.append(_begin(context, info, prepared, stop, team, None))
            runs[0].trainer.train_epoch()
            save_state(runs[0])
            runs.append(_begin(context, info, prepared, stop, team, None))
        return {}

    with torch_as_before(tmp_path / "cache"):
        run_stage(store, "r", "train", {}, work)
    assert [run.trainer.config.batch_size for run in runs] == [3, 3]
    assert [run.lineage["batch_size"] for run in runs] == [3, 3]
    assert [len(run.trainer.loader) for run in runs] == [2, 2]
    assert runs[1].trainer.step == 2
    assert next(sizes) == 1  # nothing was measured anew


@pytest.mark.parametrize(
    ("changes", "expected"), [({}, True), ({"multi_scale": True}, False), ({"rect": True}, False)]
)
def test_kernels_are_tried_where_shapes_stay_the_same(changes: dict[str, bool], expected: bool):
    before = torch.backends.cudnn.benchmark
    try:
        tune_convolutions(replace(TRAINING, **changes))
        assert torch.backends.cudnn.benchmark is expected
    finally:
        torch.backends.cudnn.benchmark = before
