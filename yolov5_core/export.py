"""A checkpoint to files that other programs run, and how they compare with it on real pictures."""

import copy
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yolov5_core.augment import letterbox, to_rgb
from yolov5_core.checkpoint import build_detector
from yolov5_core.config import ConfigError
from yolov5_core.dataset import DataError
from yolov5_core.decode import PictureError, verify
from yolov5_core.durable import part_of, settle
from yolov5_core.export_formats import KINDS, ExportFacts, Format
from yolov5_core.files import LocalFiles, read_file
from yolov5_core.limits import MAX_PICTURE_BYTES
from yolov5_core.model import Detector
from yolov5_core.nms import NmsConfig, non_max_suppression
from yolov5_core.parity import Check, Tally, markdown, report

log = logging.getLogger(__name__)

PICTURES = 20  # compared, at most
_BATCH = 4  # pictures the original sees at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A checkpoint to export."""

    payload: Mapping[str, Any]  # of checkpoint.py
    name: str  # of its file, without .pt
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """What to make of it."""

    formats: tuple[Format, ...] = ("onnx",)
    image_hw: tuple[int, int] = (640, 640)  # pixels
    nms: NmsConfig | None = None  # suppression within the ONNX file
    exact_sums: bool = False  # in the ONNX file: closer to the original, and slower


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was written; whoever publishes it asks parity.require(checks) before."""

    models: tuple[Path, ...]
    reports: tuple[Path, ...]
    checks: tuple[Check, ...]
    own: Check  # of the original in float32


def read_pictures(paths: Sequence[str]) -> list[np.ndarray]:
    """Up to PICTURES of these, spread over all: (H, W, 3) uint8 BGR.

    Raises:
        DataError: One cannot be used.
    """
    count = min(len(paths), PICTURES)
    images = []
    for path in (paths[i * len(paths) // count] for i in range(count)):
        try:
            images.append(verify(read_file(LocalFiles(), path, MAX_PICTURE_BYTES))[0])
        except (OSError, PictureError) as error:
            raise DataError(f"{path}: {error}; take it away or name other pictures") from error
    return images


def export(
    source: Source, config: ExportConfig, images: Sequence[np.ndarray], folder: Path
) -> Exported:
    """Writes `<name>.onnx`, `<name>.torchscript` and the reports `<name>_parity.json` and `.md`.

    Args:
        source: The checkpoint.
        config: Formats, size, suppression.
        images: Real pictures to compare on, (H, W, 3) uint8 BGR of any size.
        folder: Made if it is not there.

    Raises:
        CheckpointError: Weights that do not fit their description.
        ConfigError: A size that the model cannot take, no pictures, or a package is missing.
        OSError: The folder cannot be written.
    """
    model = build_detector(source.payload, source.name)
    _require_fitting(config, model)
    if not images:
        raise ConfigError("no pictures to compare on; give some of the kind the model is made for")
    facts = ExportFacts(
        names=source.payload.get("names") or [str(i) for i in range(model.detect.nc)],
        image_hw=config.image_hw,
        sha256=source.sha256,
        nms=config.nms,
        exact_sums=config.exact_sums,
    )
    models = {kind: folder / f"{source.name}.{kind}" for kind in config.formats}
    for kind, path in models.items():
        _write(path, KINDS[kind].encode(model, facts))
    checks, own = _compare(model, models, facts, images)
    said = report(
        {
            "source": source.name,
            "source_sha256": source.sha256,
            "image_size": list(config.image_hw),
            "sha256": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in models.values()},
        },
        checks,
    )
    reports = tuple(folder / f"{source.name}_parity.{suffix}" for suffix in ("json", "md"))
    for path, text in zip(
        reports, (json.dumps(said, indent=1) + "\n", markdown(said)), strict=True
    ):
        _write(path, text.encode())
    return Exported(models=tuple(models.values()), reports=reports, checks=checks, own=own)


def _require_fitting(config: ExportConfig, model: Detector) -> None:
    for side in config.image_hw:
        if side < model.max_stride or side % model.max_stride:
            near = max(model.max_stride, round(side / model.max_stride) * model.max_stride)
            raise ConfigError(
                f"image size {side}: this model needs a multiple of {model.max_stride}, such as "
                f"{near}"
            )
    if model.description.channels != 3:
        raise ConfigError(f"the model takes {model.description.channels} channels, pictures have 3")


def _compare(
    model: Detector, models: Mapping[Format, Path], facts: ExportFacts, images: Sequence[np.ndarray]
) -> tuple[tuple[Check, ...], Check]:
    """Every file in every program, and the original in float32, beside the original in float64."""
    own = Tally("the original", f"torch {torch.__version__}", _BATCH)
    tallies = [
        (Tally(path.name, program.name, program.batch), program, kind)
        for kind, path in models.items()
        for program in KINDS[kind].programs(path, facts)
    ]
    exact = copy.deepcopy(model).double()
    for start in range(0, len(images), _BATCH):
        shown = [as_input(image, facts.image_hw) for image in images[start : start + _BATCH]]
        batch = np.stack(shown).astype(np.float32) / np.float32(255)
        with torch.inference_mode():
            original = torch.cat(
                [exact(each[None])[0] for each in torch.from_numpy(batch).double()]
            )
            own.add(original.numpy(), model(torch.from_numpy(batch))[0].numpy())
        for tally, program, kind in tallies:
            if kind == "onnx" and facts.nms is not None:
                kept = [d.numpy() for d in non_max_suppression(original.float(), facts.nms)]
                tally.add_detections(kept, program.run(batch))
            else:
                parts = [batch[i : i + program.batch] for i in range(0, len(batch), program.batch)]
                found = np.concatenate([program.run(part) for part in parts])
                tally.add(original.numpy(), found)
    own_error = own.check()
    checks = tuple(tally.check(own_error.boxes) for tally, _, _ in tallies)
    for check in checks:
        log.info(
            "%s in %s: boxes %.2g px, scores %.2g apart on %d pictures",
            check.file, check.program, check.boxes, check.scores, check.pictures,
        )  # fmt: skip
    return checks, own_error


def as_input(image: np.ndarray, image_hw: tuple[int, int]) -> np.ndarray:
    """A picture (H, W, 3) uint8 BGR as the model takes it: (3, h, w) uint8 RGB, padded."""
    canvas, _ = letterbox(image, image_hw)
    return np.ascontiguousarray(to_rgb(canvas, None).transpose(2, 0, 1))


def _write(path: Path, content: bytes) -> None:
    with part_of(path) as part:
        part.write_bytes(content)
        settle(part, path)
