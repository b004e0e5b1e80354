"""Prediction on pictures from anywhere: reading, the network, files and figures."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tasks import champions
from tasks.device import pick_device
from tasks.out_folder import new_folder
from tasks.picture_sources import Picture, find_sources, read_pictures
from tasks.prediction_files import PredictionFiles, Wanted
from tasks.progress import progress_bar
from tasks.settings import CHAMPION
from tasks.store import open_store
from tasks.weights import ReadyModel, fetch_weights, read_model
from yolov5_core.boxes import round_up_image_size
from yolov5_core.config import ConfigError, nearest
from yolov5_core.dataset import DataError
from yolov5_core.nms import NmsConfig
from yolov5_core.predict import PredictConfig, Predictor, Times

log = logging.getLogger(__name__)

_IMAGE_SIZE = 640  # pixels, where the weights do not say


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictRequest:
    """What to look at, with what, and where the answers go."""

    sources: Sequence[str]
    weights: str  # path or URL of a .pt file, or "champion"
    bucket: str = ""  # whose champion
    name: str = ""
    out: str = ""  # folder; empty: predictions, predictions2 ...
    wanted: Wanted = field(default_factory=Wanted)
    image_size: int = 0  # pixels; 0: what the weights were trained with
    confidence: float = 0.25
    iou: float = 0.45
    max_detections: int = 1000  # a picture
    classes: Sequence[str] = ()  # names or numbers; empty: all
    agnostic: bool = False
    augmented: bool = False
    device: str = ""
    batch_size: int = 8
    limit: int = 0  # pictures and frames; 0: all


@dataclass(kw_only=True, slots=True)
class PredictSummary:
    """What came of it."""

    folder: Path
    device: str
    image_size: int
    done: int = 0
    found: Counter[str] = field(default_factory=Counter)  # boxes by class
    faults: list[str] = field(default_factory=list)  # place and reason of what was left out
    times: Times = field(default_factory=Times)
    read_s: float = 0.0  # waited for pictures
    write_s: float = 0.0
    wall_s: float = 0.0
    interrupted: bool = False


def predict(request: PredictRequest) -> PredictSummary:
    """Looks at every picture of some sources and writes what is in them.

    A picture that cannot be read is named in the log and left out. Ctrl-C ends it early, in order.

    Raises:
        ConfigError: Sources, weights, classes or a folder that cannot work.
        CheckpointError, ForeignCheckpointError: The weights are damaged, or of no known kind.
        DataError: Not one picture could be read.
        StoreError: A bucket failed.
    """
    with TemporaryDirectory(prefix="predict-") as scratch:
        device = pick_device(request.device)
        sources = find_sources(request.sources)
        ready = read_model(_weights(request, Path(scratch)))
        config = _config(request, ready)
        folder = new_folder(
            Path(request.out or "predictions"), request.sources, numbered=not request.out
        )
        predictor = Predictor(ready.model, config, device)
        summary = PredictSummary(
            folder=folder, device=str(device), image_size=config.image_size, times=predictor.times
        )
        started = time.perf_counter()
        with (
            PredictionFiles(folder, sources, ready.names, request.wanted) as files,
            progress_bar("predicting") as progress,
        ):
            reading = read_pictures(sources, request.batch_size, Path(scratch))
            try:
                while (batch := next(reading, None)) is not None:
                    summary.read_s = time.perf_counter() - started - _busy(summary)
                    left = request.limit - summary.done if request.limit else len(batch)
                    _look(predictor, batch[:left], files, summary, ready.names)
                    progress(summary.done + len(summary.faults), len(sources))
                    if request.limit and summary.done >= request.limit:
                        break
            except KeyboardInterrupt:  # how one stops a camera
                summary.interrupted = True
            finally:
                reading.close()
        summary.wall_s = time.perf_counter() - started
    if not summary.done and not summary.interrupted:
        raise DataError("not one picture could be read:\n  " + "\n  ".join(summary.faults[:20]))
    return summary


def _busy(summary: PredictSummary) -> float:
    """Seconds so far that were not spent waiting for pictures."""
    times = summary.times
    return times.prepare_s + times.network_s + times.nms_s + summary.write_s


def _look(
    predictor: Predictor,
    batch: Sequence[Picture],
    files: PredictionFiles,
    summary: PredictSummary,
    names: Sequence[str],
) -> None:
    for picture in batch:
        if picture.image is None:
            summary.faults.append(f"{picture.source.place}: {picture.fault}")
            log.warning("left out: %s", summary.faults[-1])
    readable = [picture for picture in batch if picture.image is not None]
    found = predictor.predict([p.image for p in readable if p.image is not None])
    started = time.perf_counter()
    for picture, detections in zip(readable, found, strict=True):
        files.add(picture, detections)
        summary.found.update(names[int(cls)] for cls in detections[:, 5])
        summary.done += 1
    summary.write_s += time.perf_counter() - started


def _weights(request: PredictRequest, scratch: Path) -> Path:
    if request.weights != CHAMPION:
        return fetch_weights(request.weights, scratch)
    if not request.bucket:
        raise ConfigError(f"--weights {CHAMPION}: give --bucket, whose champion it is")
    bucket = open_store(request.bucket)
    found = champions.newest(bucket, request.name)
    if found is None:
        model = champions.model_name(request.name)
        raise ConfigError(f"{bucket.shown} has no champion of {model} yet")
    number, champion = found
    log.info("champion %d, of run %s", number, champion.run)
    return bucket.get_file(champion.weights.key, scratch / "champion.pt", champion.weights)


def _config(request: PredictRequest, ready: ReadyModel) -> PredictConfig:
    size = request.image_size or ready.image_size or _IMAGE_SIZE
    try:
        nms = NmsConfig(
            confidence=request.confidence,
            iou=request.iou,
            agnostic=request.agnostic,
            classes=_class_numbers(request.classes, ready.names),
            max_detections=request.max_detections,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return PredictConfig(
        image_size=round_up_image_size(size, ready.model.max_stride),  # spec E.1
        nms=nms,
        augmented=request.augmented,
    )


def _class_numbers(wanted: Sequence[str], names: Sequence[str]) -> tuple[int, ...] | None:
    """Numbers of classes given by name or number; None for all."""
    numbers = {name: number for number, name in enumerate(names)}
    unknown = [word for word in wanted if word not in numbers and not _is_number(word, names)]
    if unknown:
        known = f"the classes are {', '.join(names[:20])}{' ...' if len(names) > 20 else ''}"
        hint = nearest(unknown[0], set(names))
        raise ConfigError(f"--classes {unknown[0]}: no such class{hint}; {known}")
    return tuple(numbers[w] if w in numbers else int(w) for w in wanted) or None


def _is_number(word: str, names: Sequence[str]) -> bool:
    return word.isascii() and word.isdigit() and int(word) < len(names)
