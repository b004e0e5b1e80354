"""A rank other than 0: follows what rank 0 says, and trains the same steps with it.

It touches neither Prefect nor what is stored, except to read pictures: rank 0 sends settings and
state. So it can be killed at any time, and ends by itself when whoever started it is gone.

    python -m tasks.follower    with torchrun's variables in the environment
"""

import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from tasks.datasets import open_dataset
from tasks.device import pick_device, tune_convolutions
from tasks.errors import exit_code
from tasks.meeting import LEAVE, Meeting, meeting_of
from tasks.place import Place, launched
from tasks.processes import end_with_parent
from tasks.records import prepared_from
from tasks.store import open_store
from yolov5_core import checkpoint
from yolov5_core.allocator import keep_freed_memory
from yolov5_core.config import ConfigError, Hyperparameters, TrainConfig
from yolov5_core.distributed import joined
from yolov5_core.trainer import Trainer

log = logging.getLogger(__name__)


def follow(place: Place) -> None:
    """Takes part in a training until rank 0 ends it.

    Raises:
        RuntimeError: Rank 0 or another rank is gone.
        DataError, StoreError: Of this rank's pictures; rank 0 is told.
    """
    end_with_parent()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # rank 0 ends its step and saves: it needs us so long
    meeting = meeting_of(place)
    meeting.mark("arrived", place.rank)
    word = meeting.hear()
    try:
        if word["word"] != LEAVE:
            _train(place, meeting, word)
    except Exception as error:
        if not meeting.is_over():
            meeting.report(place.rank, error)
            raise
    meeting.mark("left", place.rank)


def _train(place: Place, meeting: Meeting, begin: dict[str, Any]) -> None:
    cv2.setNumThreads(0)  # its thread pool does not survive the fork of the loader's workers
    torch.set_num_threads(begin["threads"])
    keep_freed_memory()
    device = pick_device(begin["device"], place.local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    data = open_dataset(
        open_store(begin["store"]),
        prepared_from(begin["prepared"]),
        single_class=begin["single_cls"],
        splits=("train", "val"),
    )
    training = begin["training"]
    config = TrainConfig(
        **{
            **training,
            "hyp": Hyperparameters(**training["hyp"]),
            "freeze": tuple(training["freeze"]),
        }
    )
    tune_convolutions(config)
    meeting.mark("ready", place.rank)
    with (
        joined(meeting.store, place.rank, place.world_size, device, begin["timeout_s"]) as group,
        tempfile.TemporaryDirectory(prefix="follower-") as scratch,
    ):
        path = Path(scratch) / "state.pt"
        path.write_bytes(group.send(None))
        state = checkpoint.load(path)
        model = checkpoint.build_detector(state, "the state of rank 0")
        trainer = Trainer(config, model, data.splits["train"], data.splits["val"], device)
        trainer.restore(state)
        trainer.join(group)
        while (word := meeting.hear())["word"] != LEAVE:
            trainer.class_maps = np.array(word["class_maps"])
            trainer.train_epoch()


def main() -> int:
    """Runs a follower and returns its exit code."""
    place = launched(os.environ)
    if place is None or place.rank == 0:
        raise ConfigError("tasks.follower: ranks from 1 on follow; start yolov5-retrain instead")
    logging.basicConfig(level=logging.WARNING, format=f"rank {place.rank}: %(message)s")
    try:
        follow(place)
    except Exception as error:  # noqa: BLE001  the edge: every error becomes a code and a line
        log.warning("%s", (str(error).splitlines() or [type(error).__name__])[0])
        return exit_code(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
