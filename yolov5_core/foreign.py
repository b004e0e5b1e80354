"""Strict reader of public YOLOv5 `.pt` files (v5, v6, v7; v2 and v3 keys): it executes nothing.

Such a file is a zip of one pickle and the raw memory of its tensors (torch_archive.py). The pickle
is read as inert data (inert_pickle.py), every claim it makes about a tensor is checked against the
memory that is really there, and the weights are collected by walking the recorded modules.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from yolov5_core.inert_pickle import InertArray, InertObject, StoredTensor
from yolov5_core.limits import MAX_CHECKPOINT_BYTES, MAX_PICKLE_BYTES
from yolov5_core.torch_archive import ArchiveError, TorchArchive, kind_of
from yolov5_core.zips import ZIP_FAULTS, open_zip

log = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 2 * 2**30
_MAX_DEPTH = 32  # nested modules or lists; public models need below 10
_MAX_VISITS = 200_000  # modules or values walked: shared ones can multiply without end
_ACTIVATIONS = ("SiLU", "LeakyReLU", "Hardswish")

Source = Literal["ema", "model"]


class ForeignCheckpointError(ValueError):
    """A file that is no readable public checkpoint; says what, which file and the fix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicCheckpoint:
    """What a public checkpoint says, without its code.

    `state_dict` is float32 (integers int64) under the public keys, `anchor_grid` left out;
    `description` is the model's YAML mapping, with `activation` added where an old file's differs
    from SiLU. The anchors that count are those in `state_dict`: auto-anchor does not update the
    description.
    """

    state_dict: dict[str, Tensor]
    description: dict[str, Any]
    names: tuple[str, ...]
    num_classes: int
    strides: tuple[float, ...]  # pixels a cell, finest level first
    epoch: int  # last finished one, -1 when stripped
    best_fitness: float | None
    training_results: str | None  # text of results.txt, v2 and v3 only
    hyp: dict[str, Any]  # the hyperparameters it was trained with, {} if not recorded
    which: Source  # the entry the weights were taken from


def is_public_checkpoint(path: Path) -> bool:
    """Tells whether a file looks like a public YOLOv5 checkpoint, without reading its pickle."""
    try:
        with path.open("rb") as file, open_zip(file, MAX_CHECKPOINT_BYTES) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                return False
            with archive.open(names[0]) as member:
                return b"models.yolo" in member.read(MAX_PICKLE_BYTES)
    except ZIP_FAULTS:
        return False


def read_public_checkpoint(
    path: Path, *, prefer: Source = "ema", max_bytes: int = DEFAULT_MAX_BYTES
) -> PublicCheckpoint:
    """Reads a public `.pt` file; nothing in it is executed.

    Args:
        path: The file.
        prefer: "ema" takes the average if the file has one, "model" always the raw weights.
        max_bytes: Largest file, and largest memory of its weights in float32, to accept.

    Raises:
        ForeignCheckpointError: Not such a file, damaged, too large, or asking for anything
            outside the list of spec A.8.

    Source: spec A.8.
    """
    try:
        with TorchArchive(path, max_bytes) as archive:
            return _read(archive, prefer)
    except ArchiveError as error:
        raise ForeignCheckpointError(str(error)) from error


def _read(archive: TorchArchive, prefer: Source) -> PublicCheckpoint:
    content = archive.content()
    which: Source = "ema" if prefer == "ema" and content.get("ema") is not None else "model"
    model = content.get(which)
    if not isinstance(model, InertObject) or not model.name.startswith("models.yolo."):
        raise archive.error(
            f"its `{which}` entry is {kind_of(model)}, not a pickled YOLOv5 model",
            "a bare state_dict has no description: use the file the trainer wrote",
        )
    modules = list(_walk(model, archive))
    description = _description(model, modules, archive)
    return PublicCheckpoint(
        state_dict=_state_dict(modules, archive),
        description=description,
        names=_names(model, description["nc"], archive),
        num_classes=description["nc"],
        strides=_strides(model, modules, archive),
        epoch=_typed(content, "epoch", int, archive, -1),
        best_fitness=_fitness(content.get("best_fitness"), archive),
        training_results=_typed(content, "training_results", str, archive, None),
        hyp=_hyp(model, content, archive),
        which=which,
    )


def _walk(model: InertObject, archive: TorchArchive) -> Iterator[tuple[str, InertObject]]:
    """Modules with their key prefix ("model.0.conv."), parents before children, in order."""
    open_modules = [("", model, 0)]
    for _ in range(_MAX_VISITS):
        if not open_modules:
            return
        prefix, module, depth = open_modules.pop()
        yield prefix, module
        children = _dict_of(module, "_modules", archive)
        for name, child in reversed(children.items()):
            if child is None:
                continue
            if not isinstance(child, InertObject) or depth == _MAX_DEPTH:
                raise archive.damaged(f"{prefix}{name} is no module, or nested too deeply")
            open_modules.append((f"{prefix}{name}.", child, depth + 1))
    raise archive.damaged(f"more than {_MAX_VISITS} modules")


def _state_dict(modules: list[tuple[str, InertObject]], archive: TorchArchive) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    room = archive.max_bytes
    for prefix, module in modules:
        volatile = module.attributes.get("_non_persistent_buffers_set", frozenset())
        skipped = {"anchor_grid", *(volatile if isinstance(volatile, frozenset) else ())}
        buffers = _dict_of(module, "_buffers", archive).items()
        own = [
            *_dict_of(module, "_parameters", archive).items(),
            *((name, value) for name, value in buffers if name not in skipped),
        ]
        for name, value in own:
            if value is None:
                continue
            key = f"{prefix}{name}"
            if not isinstance(value, StoredTensor) or key in state:
                raise archive.damaged(f"{key} is {kind_of(value)} or occurs twice")
            array = archive.array(value, key)
            if array.dtype != np.int64:
                array = array.astype(np.float32)
            room -= array.nbytes
            if room < 0:
                raise archive.error(
                    f"its weights need over {archive.max_bytes} bytes", "raise max_bytes"
                )
            state[key] = torch.from_numpy(array)
    if not state:
        raise archive.damaged("its model has no weights")
    return state


def _description(
    model: InertObject, modules: list[tuple[str, InertObject]], archive: TorchArchive
) -> dict[str, Any]:
    description = _plain(model.attributes.get("yaml"), "yaml", archive)
    if not isinstance(description, dict) or type(description.get("nc")) is not int:
        raise archive.error(
            "its model has no `yaml` description with `nc`", "use a file of v3 or later"
        )
    found: Counter[str] = Counter()
    for _, module in modules:
        name = module.name.rpartition(".")[2]
        if name in _ACTIVATIONS:
            slope = module.attributes.get("negative_slope")
            is_leaky = name == "LeakyReLU" and isinstance(slope, int | float)
            found[f"nn.{name}({slope})" if is_leaky else f"nn.{name}()"] += 1
    if found and not description.get("activation"):
        ((usual, _), *others) = found.most_common()
        if others:  # v4 mixes two; a description knows one
            log.warning("%s: activations %s; taken: %s", archive.path, dict(found), usual)
        if usual != "nn.SiLU()":
            description["activation"] = usual
    return description


def _names(model: InertObject, num_classes: int, archive: TorchArchive) -> tuple[str, ...]:
    names = _plain(model.attributes.get("names"), "names", archive)
    if isinstance(names, dict):  # v7: index -> name
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise archive.damaged("the keys of `names` are not 0 to the number of classes")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise archive.damaged(f"`names` is {kind_of(names)}, not a list of texts")
    if len(names) != num_classes:
        raise archive.damaged(f"{len(names)} names for nc={num_classes}")
    return tuple(names)


def _strides(
    model: InertObject, modules: list[tuple[str, InertObject]], archive: TorchArchive
) -> tuple[float, ...]:
    heads = [module for _, module in modules if module.name == "models.yolo.Detect"]
    for module in (model, *heads):
        stride = module.attributes.get("stride")
        if isinstance(stride, StoredTensor):
            return tuple(float(s) for s in archive.array(stride, "stride").reshape(-1))
    raise archive.damaged("its model has no `stride`")


def _fitness(value: Any, archive: TorchArchive) -> float | None:
    if isinstance(value, InertArray) and len(value.values) == 1:
        value = value.values[0]
    if value is None or isinstance(value, int | float):
        return None if value is None else float(value)
    raise archive.damaged(f"`best_fitness` is {kind_of(value)}, not a number")


def _hyp(model: InertObject, content: Mapping[Any, Any], archive: TorchArchive) -> dict[str, Any]:
    options = content.get("opt")
    if isinstance(options, InertObject):  # very old: argparse.Namespace
        options = options.attributes
    recorded = options.get("hyp") if isinstance(options, dict) else None
    for value in (model.attributes.get("hyp"), recorded):  # `opt` may name a file instead
        if isinstance(value, dict):
            return _plain(value, "hyp", archive)
    return {}


def _typed(
    content: Mapping[Any, Any], key: str, kind: type, archive: TorchArchive, default: Any
) -> Any:
    value = content.get(key, default)
    if value is not None and not isinstance(value, kind):
        raise archive.damaged(f"`{key}` is {kind_of(value)}, not {kind.__name__}")
    return default if value is None else value


def _dict_of(module: InertObject, attribute: str, archive: TorchArchive) -> dict[str, Any]:
    value = module.attributes.get(attribute, {})
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise archive.damaged(f"a {module.name} whose {attribute} is {kind_of(value)}")
    return value


def _plain(value: Any, where: str, archive: TorchArchive) -> Any:
    """A deep copy of plain values; refuses others, endless nesting and multiplied sharing."""
    visits = 0

    def copy(item: Any, depth: int) -> Any:
        nonlocal visits
        visits += 1
        if depth > _MAX_DEPTH or visits > _MAX_VISITS:
            raise archive.damaged(f"`{where}` is nested without end")
        if isinstance(item, dict):
            return {key: copy(inner, depth + 1) for key, inner in item.items()}
        if isinstance(item, list | tuple):
            return [copy(inner, depth + 1) for inner in item]
        if isinstance(item, InertArray):
            return list(item.values)
        if item is None or isinstance(item, str | int | float):
            return item
        raise archive.damaged(f"`{where}` holds {kind_of(item)}")

    return copy(value, 0)
