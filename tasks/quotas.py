"""Whether a stage has the room it needs, asked before it takes its time: disk, /dev/shm, memory.

Needs are lower bounds: what is refused could not have worked. What is tight is said in the log.
"""

import copy
import logging
import math
import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.autograd.graph import saved_tensors_hooks

from tasks.errors import TransientError
from tasks.settings import RetrainConfig
from tasks.stage import StageContext, run_key
from yolov5_core.boxes import rectangular_batches
from yolov5_core.config import ConfigError, OptimizerKind
from yolov5_core.memory import available_memory, total_memory
from yolov5_core.model import Detector
from yolov5_core.samples import ImageReader
from yolov5_core.trainer import Trainer

log = logging.getLogger(__name__)

SHARED = Path("/dev/shm")  # noqa: S108  where the kernel has POSIX shared memory; nothing is named
_TIGHT = 1.5  # a step's memory was measured to be up to 1.27 times what we count
_CHECKPOINTS = 4  # in the store at once: newest, best, the newest before, and one being written
_FLOAT = 4  # bytes
_WORKER = 17_000_000  # bytes of its own, measured with pictures of 320 pixels; 27 MB with 640
_AHEAD = 2  # batches that a worker prepares, torch's prefetch_factor
_PAGE = 4096


class NoRoomError(TransientError):
    """Too little room now; it can be made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """Something that takes room on a disk."""

    what: str
    size: int  # bytes
    place: Path  # a folder, which need not be there yet


def require_room(context: StageContext, trainer: Trainer, config: RetrainConfig) -> int:
    """Refuses training that clearly cannot fit.

    Args:
        context: Of the train stage.
        trainer: Ready to train, its pictures not cached yet.
        config: The run's.

    Returns:
        Bytes of memory that training will take on top of what it has; leave them free.

    Raises:
        NoRoomError: Too little room on a disk, or others use the memory.
        ConfigError: More memory or shared memory than there is at all.
    """
    state = state_bytes(trainer.model, config.optimizer)
    require_disk(_checkpoint_needs(context, config, trainer.epoch, state))
    shared = _shared_bytes(trainer)
    if shared and SHARED.is_dir():
        _require_shared(shared, config)
    return _require_memory(trainer, state, shared)


def require_disk(needs: Iterable[Need]) -> None:
    """Compares what is needed with what is free, file system by file system.

    Raises:
        NoRoomError: One is too full.
    """
    by_disk = defaultdict[int, list[Need]](list)
    for need in needs:
        by_disk[_existing(need.place).stat().st_dev].append(need)
    for together in by_disk.values():
        folder = _existing(together[0].place)
        size, free = sum(need.size for need in together), shutil.disk_usage(folder).free
        parts = "; ".join(f"{n.what}: {in_bytes(n.size)} in {n.place}" for n in together)
        if size > free:
            raise NoRoomError(
                f"{folder}: {in_bytes(size)} of disk are needed and {in_bytes(free)} are free "
                f"({parts}); make room, or name a larger disk: TMPDIR for temporary files, --store "
                "for the store; then run again: finished work is kept"
            )
        if size * _TIGHT > free:
            log.warning("%s: %s of disk are free, and %s needed (%s)", folder, in_bytes(free),
                        in_bytes(size), parts)  # fmt: skip


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there: it will be made on the same disk."""
    return next(each for each in (folder, *folder.absolute().parents) if each.is_dir())


def state_bytes(model: Detector, optimizer: OptimizerKind) -> int:
    """Bytes of a resumable checkpoint: weights, their average, gradients, and the optimizer's."""
    moments = 1 if optimizer == "sgd" else 2
    entries = sum(tensor.numel() for tensor in model.state_dict().values())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return _FLOAT * (2 * entries + (1 + moments) * trained)


def activation_bytes(model: Detector, image_size: int) -> int:
    """Bytes that one picture's forward pass keeps for the backward pass; nothing is computed."""
    shadow = copy.deepcopy(model).to("meta").train()
    weights = {id(tensor) for tensor in shadow.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in weights:
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage  # held, so that no other one gets its address
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        shadow(torch.empty((1, 3, image_size, image_size), device="meta"))
    return sum(storage.nbytes() for storage in kept.values())


def in_flight_bytes(shapes_hw: np.ndarray, batch_size: int, workers: int) -> int:
    """Bytes of shared memory that a pass over a set takes at most.

    Each worker has two batches ready or in the making while one is used: measured, 2 * workers + 1
    batches and a page of targets for each.

    Args:
        shapes_hw: (batches, 2) height and width of each, pixels.
        batch_size: Pictures in a batch.
        workers: Processes that load; without any nothing is shared.
    """
    if workers == 0 or len(shapes_hw) == 0:
        return 0
    sizes = 3 * batch_size * shapes_hw.astype(np.int64).prod(1)
    pages = -(-sizes // _PAGE) * _PAGE + _PAGE
    together = min(_AHEAD * workers + 1, len(pages))
    return int(np.convolve(pages, np.ones(together, np.int64), "valid").max())


def in_bytes(size: int) -> str:
    """A number of bytes for people: 64.0 MB, 1.5 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _checkpoint_needs(
    context: StageContext, config: RetrainConfig, epoch: int, state: int
) -> list[Need]:
    """A store that is a folder holds a few; they are made in memory."""
    if context.store.folder is None:
        return []
    saves = min(config.epochs - epoch, 1 if config.nosave else _CHECKPOINTS)
    folder = context.store.folder / run_key(context.run, "checkpoints")
    there = sum(path.stat().st_size for path in folder.glob("*.pt"))
    return [Need(what="checkpoints", size=max(saves * state - there, 0), place=folder)]


def _shared_bytes(trainer: Trainer) -> int:
    """In training or in evaluation, whichever takes more; they take turns."""
    c, loader = trainer.config, trainer.loader
    side = c.image_size * (2 if c.quad else 1)
    size = loader.batch_size // (4 if c.quad else 1)
    shapes = np.full((len(loader), 2), side)
    if c.rect:
        shapes = _rectangles(trainer, trainer.train_reader, loader.batch_size, 0.0)
    validated = min(2 * c.batch_size, len(trainer.val_reader.records))
    return max(
        in_flight_bytes(shapes, size, c.workers),
        in_flight_bytes(_rectangles(trainer, trainer.val_reader, validated, 0.5), validated,
                        c.workers),
    )  # fmt: skip


def _rectangles(trainer: Trainer, reader: ImageReader, size: int, pad: float) -> np.ndarray:
    sizes = [(record.width, record.height) for record in reader.records]
    stride = max(trainer.model.max_stride, 32)
    return rectangular_batches(
        np.array(sizes, np.int64), size, reader.image_size, stride, pad
    ).shapes_hw


def _require_shared(size: int, config: RetrainConfig) -> None:
    disk = shutil.disk_usage(SHARED)
    text = (
        f"{SHARED}: {config.workers} workers hand over {in_bytes(size)} of pictures there, and of "
        f"{in_bytes(disk.total)} {in_bytes(disk.free)} are free; use fewer workers (0 needs none) "
        "or a smaller batch, or give the container more: docker run --shm-size, shm_size in "
        "prefect.yaml"
    )
    if size > disk.total:
        raise ConfigError(text)
    if size > disk.free:
        raise NoRoomError(f"{text}; or end what else uses it")
    if size * _TIGHT > disk.free:
        log.warning("tight, but enough: %s", text)


def _require_memory(trainer: Trainer, state: int, shared: int) -> int:
    """Memory that training still takes, once that is known to be there."""
    c, on_cpu = trainer.config, trainer.device.type == "cpu"
    side = c.image_size * (2 if c.quad else 1)
    batch = trainer.loader.batch_size // (4 if c.quad else 1)
    parts = {
        "a checkpoint before it is written": state,
        f"{c.workers} workers": c.workers * _WORKER,
    }
    parts["pictures on their way"] = shared
    if on_cpu:
        at_once = math.ceil(batch / trainer.policy.micro_batches)
        parts[f"a step of {at_once} pictures"] = at_once * activation_bytes(trainer.model, side)
    size = sum(parts.values())
    free, total = available_memory(), total_memory()
    text = (
        f"training takes {in_bytes(size)} of memory ("
        + ", ".join(f"{what} {in_bytes(part)}" for what, part in parts.items() if part)
        + f"), and of {in_bytes(total)} {in_bytes(free)} are free; use a smaller batch or image "
        "size or fewer workers, or give the container more memory"
    )
    if size > total:
        raise ConfigError(text)
    if size > free:
        raise NoRoomError(f"{text}; or end what else runs here")
    if size * _TIGHT > free:
        log.warning("tight: %s", text)
    return size
