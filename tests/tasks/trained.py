"""A run whose train stage is done, in seconds and without a Prefect server."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import deterministic

from tasks.datasets import open_dataset
from tasks.packing import pack
from tasks.records import Prepared, RunInfo, StageRecord
from tasks.settings import RetrainConfig
from tasks.stage import StageContext, run_stage
from tasks.store import Store, open_store
from tests.tiny import IMAGE_SIZE, tiny_trainer
from yolov5_core import checkpoint
from yolov5_core.synthetic import draw_dataset

VAL = 5  # pictures


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """What the stages after training are given."""

    info: RunInfo
    prepared: Prepared
    trained: StageRecord

    @property
    def store(self) -> Store:
        return open_store(self.info.config.store)


@contextmanager
def torch_as_before(cache: Path) -> Iterator[None]:
    """What the stages set for their process ends with it; copies of objects go to a folder."""
    filling, threads = deterministic.fill_uninitialized_memory, torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
    deterministic.fill_uninitialized_memory = filling


def trained_run(root: Path, **settings: Any) -> TrainedRun:
    """One epoch of the tiny detector, which then takes anything for a disc."""
    data = draw_dataset(
        root / "data", train=4, val=VAL, image_size=IMAGE_SIZE, seed=0, progress=lambda *_: None
    )
    told = {"image_size": IMAGE_SIZE, "batch_size": 2, "workers": 0, "device": "cpu", "epochs": 1}
    config = RetrainConfig(data=str(data), store=str(root / "store"), **{**told, **settings})
    store = open_store(config.store)
    digest = pack(store, config.data, lambda *_: None).digest
    prepared = Prepared(digest=digest, names=(), counts={}, rejected=(), report="", verdict="pass")
    info = RunInfo(run="r", created="", config=config, data_digest=digest, code="", packages={})

    def train(context: StageContext) -> Mapping[str, Any]:
        splits = open_dataset(store, prepared).splits
        trainer = tiny_trainer(splits["train"], splits["val"], epochs=1)
        report = trainer.train_epoch()
        trainer.record(report, trainer.evaluate(), 0.0)
        for level in trainer.ema.model.detect.m:
            level.bias.data.view(3, -1)[:, 4:6] = 2
        description = {"description": trainer.model.description.to_mapping()}
        path = context.scratch / "checkpoint.pt"
        checkpoint.save({**trainer.state(), **description}, path)
        saved = asdict(context.publish(path, "checkpoints/epoch-0000.pt"))
        return {"best": saved, "last": saved, "epochs": 1, "hours": 0.0}

    trained = run_stage(store, info.run, "train", {}, train)
    return TrainedRun(info=info, prepared=prepared, trained=trained)
