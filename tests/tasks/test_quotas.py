"""What clearly cannot fit is refused before any work, with what is needed, there, and the fix."""

import logging
import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tasks import quotas
from tasks.errors import TEMPORARY, exit_code
from tasks.quotas import (
    Need,
    NoRoomError,
    activation_bytes,
    in_flight_bytes,
    require_disk,
    require_room,
    state_bytes,
)
from tasks.settings import RetrainConfig
from tasks.stage import StageContext
from tasks.store import open_store
from tests.tiny import draw_records, tiny_trainer
from yolov5_core import checkpoint
from yolov5_core.config import ConfigError
from yolov5_core.trainer import Trainer

Usage = namedtuple("Usage", "total used free")
GB = 10**9


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    records = draw_records(tmp_path_factory.mktemp("tiny"), train=8, val=4)
    return tiny_trainer(*records, workers=2)


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    store = open_store(str(tmp_path / "store"))
    lease: Any = SimpleNamespace()
    return StageContext(store=store, run="r", stage="train", lease=lease, scratch=tmp_path)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what the machine has: bytes of disk, of shared memory and of memory."""

    def give(*, disk: int = 50 * GB, shared: int = GB, memory: int = 8 * GB) -> None:
        def usage(path: Path) -> Usage:
            size = shared if Path(path) == quotas.SHARED else disk
            return Usage(size, 0, size)

        monkeypatch.setattr(shutil, "disk_usage", usage)
        monkeypatch.setattr(quotas, "available_memory", lambda: memory)
        monkeypatch.setattr(quotas, "total_memory", lambda: 16 * GB)

    return give


CONFIG = RetrainConfig(workers=2)


def test_a_machine_with_room_is_told_nothing(context, trainer, free, caplog):
    free()
    with caplog.at_level(logging.WARNING):
        assert require_room(context, trainer, CONFIG) > 0
    assert not caplog.records


def test_a_full_disk_is_a_passing_fault(context, trainer, free):
    free(disk=1000)
    with pytest.raises(NoRoomError, match=r"of disk are needed and 0\.0 MB are free") as caught:
        require_room(context, trainer, CONFIG)
    assert exit_code(caught.value) == TEMPORARY
    for part in ("checkpoints: ", "TMPDIR", "finished work is kept"):
        assert part in str(caught.value)


def test_needs_on_one_disk_are_added_up(tmp_path, free):
    free(disk=100)
    needs = [Need(what=w, size=60, place=tmp_path / w / "deep") for w in ("scratch", "store")]
    require_disk(needs[:1])
    with pytest.raises(NoRoomError, match=r"scratch: 0\.0 MB in .*; store: 0\.0 MB in"):
        require_disk(needs)


def test_too_little_shared_memory_names_the_workers_and_the_containers_setting(
    context, trainer, free
):
    free(shared=64_000)
    with pytest.raises(ConfigError, match=r"2 workers hand over 0\.\d MB") as caught:
        require_room(context, trainer, CONFIG)
    assert "--shm-size" in str(caught.value)


def test_without_workers_nothing_is_shared():
    shapes = np.full((10, 2), 640)
    assert in_flight_bytes(shapes, 16, workers=0) == 0
    assert in_flight_bytes(shapes, 16, workers=1) == 3 * (3 * 16 * 640 * 640 + 4096)


def test_memory_that_others_use_may_come_back_and_memory_that_is_not_there_never(
    context, trainer, free, monkeypatch
):
    free(memory=1000)
    with pytest.raises(NoRoomError, match=r"training takes .* memory .* end what else runs"):
        require_room(context, trainer, CONFIG)
    monkeypatch.setattr(quotas, "total_memory", lambda: 2000)
    with pytest.raises(ConfigError, match="use a smaller batch or image size or fewer workers"):
        require_room(context, trainer, CONFIG)


def test_what_is_tight_is_said_and_done(context, trainer, free, caplog):
    free()
    needed = require_room(context, trainer, CONFIG)
    free(memory=int(1.2 * needed))
    with caplog.at_level(logging.WARNING):
        require_room(context, trainer, CONFIG)
    assert "tight: training takes" in caplog.text


def test_a_state_is_about_as_large_as_we_count(trainer, tmp_path):
    fresh = state_bytes(trainer.model, "sgd")
    trainer.train_epoch()
    checkpoint.save(trainer.state(), tmp_path / "x.pt")
    size = (tmp_path / "x.pt").stat().st_size
    assert 0.7 * size < fresh < 1.3 * size  # without the gradients, right after an update


def test_a_forward_pass_keeps_about_what_we_count(trainer):
    """The sizes of what torch itself saves for the backward pass, on real numbers."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    model = trainer.model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        raw = model(torch.rand(1, 3, 64, 64))
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}
    real = sum(size for place, size in kept.items() if place not in parameters)
    assert raw
    assert activation_bytes(model, 64) == pytest.approx(real, rel=0.1)
