"""The only module that saves or loads tensors: one data format, no pickled code.

A checkpoint is a dictionary of tensors and plain values:

    format, version     what it is
    epoch               the last finished epoch, -1 when stripped
    best_fitness        best so far
    training_results    full text of results.txt
    model               EMA state_dict
    optimizer           state, None when stripped
    description, names, nc, stride, hyp, metrics, lineage    plain values
    resume              what else an exact continuation needs, None when stripped
"""

import io
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolov5_core.architecture import from_mapping
from yolov5_core.durable import FULL, part_of, settle
from yolov5_core.limits import MAX_CHECKPOINT_BYTES
from yolov5_core.model import Detector
from yolov5_core.torch_archive import ArchiveError, TorchArchive

FORMAT = "yolov5-retrain checkpoint"
VERSION = 1


class CheckpointError(ValueError):
    """A file that is no usable checkpoint of ours."""


class CheckpointWriteError(RuntimeError):
    """A checkpoint that could not be written; its cause, an OSError, says whether to try again."""


def encode(payload: Mapping[str, Any]) -> bytes:
    """The content of a checkpoint's file."""
    return _encode({"format": FORMAT, "version": VERSION, **payload})


def save(payload: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint so that the file is either whole or not there.

    Raises:
        CheckpointWriteError: The disk is full or not writable; an older file at `path` is
            untouched.
    """
    _write(encode(payload), path)


def save_state_dict(state_dict: Mapping[str, Tensor], path: Path) -> None:
    """Writes weights alone: an OrderedDict of tensors, for other programs.

    Raises:
        CheckpointWriteError: As `save`.
    """
    _write(_encode(OrderedDict(state_dict)), path)


def _encode(content: Any) -> bytes:
    # In memory, even for a file: torch answers a write that failed, or that a signal cut off, with
    # an error of its own, which says neither "disk full" nor "terminated".
    encoded = io.BytesIO()
    torch.save(content, encoded)
    return encoded.getvalue()  # no copy


def _write(content: bytes, path: Path) -> None:
    try:
        with part_of(path) as part:
            part.write_bytes(content)
            settle(part, path)
    except OSError as error:
        full = error.errno in FULL
        why = "no space left on the disk" if full else str(error)
        fix = "free some space" if full else "make the folder writable"
        raise CheckpointWriteError(
            f"{path}: could not save the checkpoint: {why}; {fix} or choose another place, then "
            "run this again, or resume the run: what was saved before is intact"
        ) from error


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of ours to the CPU; nothing in the file is executed.

    Raises:
        CheckpointError: Missing, truncated, damaged, too large, forged, not ours, or of a newer
            version.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        # torch compares no checksums, and believes what a file says of its sizes
        with TorchArchive(path, MAX_CHECKPOINT_BYTES) as archive:
            archive.require_plain()
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except ArchiveError as error:
        raise CheckpointError(str(error)) from error
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: damaged, torch cannot read it: {reason}") from error
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of this program")
    if payload.get("version") != VERSION:  # there was none before 1
        raise CheckpointError(
            f"{path}: written by a newer version (format {payload.get('version')}, this program "
            f"reads {VERSION}): update yolov5-retrain"
        )
    return payload


def build_detector(payload: Mapping[str, Any], where: str) -> Detector:
    """The model of a checkpoint in float32 and evaluation mode.

    Raises:
        CheckpointError: The weights do not fit the description they came with.
    """
    model = Detector(from_mapping(payload["description"], where))
    try:
        model.load_state_dict(payload["model"])
    except RuntimeError as error:
        raise CheckpointError(f"{where}: weights do not fit their description: {error}") from error
    return model.float().eval()


def strip(source: Path, target: Path) -> int:
    """Writes the deliverable of a checkpoint: EMA weights in fp16, nothing to resume.

    The source stays as it is.

    Returns:
        Size of the new file in bytes.

    Raises:
        CheckpointError: The source is unusable.
        CheckpointWriteError: The target cannot be written.

    Source: design, Checkpoint; spec D.9.
    """
    payload = load(source)
    payload.update(model=halved(payload["model"]), optimizer=None, epoch=-1, resume=None)
    save(payload, target)
    return target.stat().st_size


def halved(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating point entries in fp16, others as they are."""
    return {k: v.half() if v.is_floating_point() else v for k, v in state_dict.items()}
