"""A training with `gpus` processes on the CPU, without Prefect and without a stage.

python -m tests.tasks.teams ROOT    as rank 0 of two, until it is killed
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.datasets import open_dataset
from tasks.follower import follow
from tasks.group import Team, assembled
from tasks.meeting import dismiss
from tasks.packing import pack
from tasks.place import Place, launched
from tasks.records import Prepared
from tasks.settings import RetrainConfig
from tasks.store import open_store
from tests.tiny import IMAGE_SIZE, tiny_trainer
from yolov5_core.epochs import EpochReport
from yolov5_core.synthetic import draw_dataset
from yolov5_core.trainer import Trainer


@dataclass(frozen=True)
class Job:
    """What is trained: four steps an epoch."""

    config: RetrainConfig
    prepared: Prepared

    def trainer(self) -> Trainer:
        splits = open_dataset(open_store(self.config.store), self.prepared).splits
        return tiny_trainer(splits["train"], splits["val"], epochs=2, image_weights=True)

    @contextmanager
    def team(self, state: dict[str, Any] | None = None) -> Iterator[tuple[Team, Trainer]]:
        """A team at a state, or at the beginning."""
        with assembled(self.config) as team:
            trainer = self.trainer()
            if state is not None:
                trainer.restore(state)
            team.join(trainer, self.config, self.prepared)
            yield team, trainer


def job(root: Path, **settings: Any) -> Job:
    data = draw_dataset(
        root / "data", train=16, val=2, image_size=IMAGE_SIZE, seed=0, progress=lambda *_: None
    )
    told = {"gpus": 2, "device": "cpu", "image_size": IMAGE_SIZE, "workers": 0, **settings}
    config = RetrainConfig(data=str(data), store=str(root / "store"), **told)
    digest = pack(open_store(config.store), config.data, lambda *_: None).digest
    prepared = Prepared(digest=digest, names=(), counts={}, rejected=(), report="", verdict="pass")
    return Job(config, prepared)


def train(
    team: Team | None, trainer: Trainer, progress: Callable[[EpochReport], None] = lambda _: None
) -> None:
    """The epochs that are left, as the stage trains them, or a single process."""
    while not trainer.over:
        if team is not None:
            team.begin_epoch(trainer)
        trainer.record(trainer.train_epoch(progress), trainer.evaluate(), 0.0)
        trainer.class_maps = np.linspace(0, 1, len(trainer.class_maps))  # as if it had learnt


def main() -> None:
    place, root = launched(os.environ), Path(sys.argv[1])
    if place is not None:
        _one_epoch(place, root)
        return

    def tell(_: EpochReport) -> None:
        (process,) = team.processes.values()
        sys.stdout.write(f"{process.pid}\n")
        sys.stdout.flush()

    with job(root).team() as (team, trainer):
        while True:
            team.begin_epoch(trainer)
            trainer.train_epoch(tell)


def _one_epoch(place: Place, root: Path) -> None:
    if place.rank:
        follow(place)
        return
    with job(root, gpus=1).team() as (team, trainer):
        team.begin_epoch(trainer)
        trainer.train_epoch()
        sys.stdout.write(f"{team.size} ranks, {trainer.step} steps\n")
    dismiss(place)


if __name__ == "__main__":
    main()
