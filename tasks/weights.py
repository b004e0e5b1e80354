"""The weights a run starts from: a checkpoint of ours or a public one, from a path or a URL."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.run import local_weights
from tasks.store import open_store
from yolov5_core.architecture import describe, from_mapping
from yolov5_core.checkpoint import build_detector, load
from yolov5_core.config import Hyperparameters
from yolov5_core.foreign import is_public_checkpoint, read_public_checkpoint
from yolov5_core.model import Detector
from yolov5_core.start import (
    FirstModel,
    ParentWeights,
    new_detector,
    transferred,
    with_anchor_count,
)

DEFAULT_VARIANT = "n"


def fetch_weights(weights: str, scratch: Path) -> Path:
    """A local file with the weights.

    Raises:
        ConfigError: No such file.
        StoreError: The URL cannot be read.
    """
    if "://" in weights:
        folder, _, name = weights.rpartition("/")
        return open_store(folder).get_file(name, scratch / "parent" / name)
    return local_weights(weights)


def read_parent(path: Path) -> ParentWeights:
    """Reads a checkpoint of either kind; nothing in it is executed.

    Raises:
        CheckpointError, ForeignCheckpointError: It is damaged, or of neither kind.
    """
    if is_public_checkpoint(path):
        public = read_public_checkpoint(path)
        description = from_mapping(public.description, str(path))
        return ParentWeights(description=description, state_dict=public.state_dict, where=str(path))
    payload = load(path)
    return ParentWeights(
        description=from_mapping(payload["description"], str(path)),
        state_dict=payload["model"],
        where=str(path),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadyModel:
    """A model to look at pictures with."""

    model: Detector  # float32, in evaluation mode, on the CPU
    names: tuple[str, ...]  # of its classes
    image_size: int  # pixels it was trained with, 0 if the file does not say


def read_model(path: Path) -> ReadyModel:
    """The whole model of a checkpoint of either kind; nothing in it is executed.

    Raises:
        CheckpointError, ForeignCheckpointError: It is damaged, of neither kind, or weights and
            description do not fit each other.
    """
    payload: dict[str, Any]
    if is_public_checkpoint(path):
        public = read_public_checkpoint(path)
        names, image_size = public.names, 0
        payload = {"description": public.description, "model": public.state_dict}
    else:
        payload = load(path)
        names, image_size = tuple(payload.get("names", ())), payload.get("image_size", 0)
    model = build_detector(payload, str(path))
    numbers = range(len(names), model.detect.nc)
    return ReadyModel(
        model=model, names=(*names, *(f"class{n}" for n in numbers)), image_size=image_size
    )


def first_model(
    *, cfg: str, weights: Path | None, num_classes: int, hyp: Hyperparameters, seed: int
) -> FirstModel:
    """The model a run starts with.

    Args:
        cfg: Variant or YAML file; "" takes the description of the weights, else variant n.
        weights: Checkpoint to start from, None from scratch.
        num_classes: Of the data.
        hyp: Its `anchors` overrides the description's.
        seed: Of the initial weights.

    Raises:
        ConfigError: Descriptions or weights that cannot work.

    Source: spec A.8.
    """
    parent = None if weights is None else read_parent(weights)
    if cfg or parent is None:
        description = describe(cfg or DEFAULT_VARIANT, num_classes)
    else:
        mapping = {**parent.description.to_mapping(), "nc": num_classes}
        description = from_mapping(mapping, parent.where)
    description = with_anchor_count(description, hyp.anchors)
    if parent is None:
        model = new_detector(description, seed)
        return FirstModel(model, 0, len(model.state_dict()))
    return transferred(description, parent, seed, skip_anchors=bool(cfg or hyp.anchors))
