"""Plot stage: the pictures of a finished run, from its results and its evaluation alone.

No torch: this stage can run again on any small machine, and gives the same bytes.
"""

import base64
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from prefect import task
from prefect.artifacts import create_markdown_artifact

from tasks.prepare import load_manifest
from tasks.records import Prepared, RunInfo, StageRecord
from tasks.stage import StageContext, run_stage
from tasks.store import Store, open_store
from tasks.task_options import RETRIED
from yolov5_core.boxes import rectangular_batches
from yolov5_core.dataset import Record
from yolov5_core.evaluation import ImageDetections, load_evaluation
from yolov5_core.pictures import Boxes, draw_batch
from yolov5_core.plots import (
    plot_confusion,
    plot_f1_curve,
    plot_p_curve,
    plot_pr_curve,
    plot_r_curve,
    plot_results,
)
from yolov5_core.results import parse_results
from yolov5_core.samples import ImageReader, ValidationSample, validation_sample

log = logging.getLogger(__name__)

_BATCHES = 3  # of the validation set, as labels and as predictions
_BATCH_PICTURES = 16
_SHOWN_CONFIDENCE = 0.25  # of predictions drawn, spec E.8
_SHOWN = ("results.png", "val_batch0_pred.jpg", "confusion_matrix.png", "PR_curve.png")
_SHOWN_WIDTH = 900  # pixels; Prefect drops the event of artifacts that get too large
_STRIDE = 32


@task(name="plot", task_run_name="plot", **RETRIED)
def plot_run(
    info: RunInfo, prepared: Prepared, evaluated: StageRecord, finalized: StageRecord
) -> StageRecord:
    """The plot stage as a Prefect task, with the main pictures as an artifact."""
    record = plot_stage(info, prepared, evaluated, finalized)
    store = open_store(info.config.store)
    create_markdown_artifact(
        _gallery(store, info.run, record), key="plots", description=f"Pictures of run {info.run}"
    )
    return record


def plot_stage(
    info: RunInfo, prepared: Prepared, evaluated: StageRecord, finalized: StageRecord
) -> StageRecord:
    """Draws results.png, the curves, the confusion matrix and the validation batches.

    Raises:
        ResultsError, DataError, StoreError: Results, data or store are not what they were.
    """
    sources = {output.key: output for output in (*evaluated.outputs, *finalized.outputs)}
    inputs = {
        "results": finalized.result["results"],
        "sources": {
            key: artifact.sha256
            for key, artifact in sources.items()
            if key.endswith((".npz", ".txt"))
        },
    }

    def work(context: StageContext) -> Mapping[str, Any]:
        folder = context.scratch / "plots"
        names, splits = load_manifest(context.store, prepared)
        results = context.fetch(sources[context.key(finalized.result["results"])])
        rows = parse_results(results.read_text("ascii"))
        found = load_evaluation(context.fetch(sources[context.key("evaluation/evaluation.npz")]))
        files = [
            plot_results({info.config.name or info.run: rows}, folder / "results.png"),
            plot_pr_curve(found.metrics, names, folder / "PR_curve.png"),
            plot_f1_curve(found.metrics, names, folder / "F1_curve.png"),
            plot_p_curve(found.metrics, names, folder / "P_curve.png"),
            plot_r_curve(found.metrics, names, folder / "R_curve.png"),
            plot_confusion(found.confusion, names, folder / "confusion_matrix.png"),
        ]
        reader = ImageReader(splits["val"], info.config.image_size, augmenting=False)
        files += _draw_validation(reader, found.images, names, folder)
        for path in files:
            context.publish(path, f"plots/{path.name}")
        return {"plots": [path.name for path in files]}

    return run_stage(open_store(info.config.store), info.run, "plot", inputs, work)


def _draw_validation(
    reader: ImageReader, images: Sequence[ImageDetections], names: Sequence[str], folder: Path
) -> list[Path]:
    files = []
    for number in range(min(_BATCHES, -(-len(images) // _BATCH_PICTURES))):
        batch = images[number * _BATCH_PICTURES : (number + 1) * _BATCH_PICTURES]
        records = [reader.records[image.index] for image in batch]
        canvas_hw = _canvas(records, reader.image_size)
        samples = [validation_sample(reader, image.index, canvas_hw) for image in batch]
        pictures = np.stack([sample.image for sample in samples])
        titles = [record.path.name for record in records]
        labels = [
            Boxes(xyxy=_on_canvas(i.labels[:, 1:], s), classes=i.labels[:, 0])
            for i, s in zip(batch, samples, strict=True)
        ]
        found = [_shown_predictions(i, s) for i, s in zip(batch, samples, strict=True)]
        for kind, boxes in (("labels", labels), ("pred", found)):
            path = folder / f"val_batch{number}_{kind}.jpg"
            files.append(draw_batch(pictures, boxes, titles, names, path))
    return files


def _canvas(records: Sequence[Record], image_size: int) -> tuple[int, int]:
    shapes = np.array([(r.width, r.height) for r in records])
    rect = rectangular_batches(shapes, len(records), image_size, _STRIDE, 0.0)
    height, width = rect.shapes_hw[0].tolist()
    return height, width


def _shown_predictions(image: ImageDetections, sample: ValidationSample) -> Boxes:
    rows = image.detections[image.detections[:, 4] > _SHOWN_CONFIDENCE]
    return Boxes(xyxy=_on_canvas(rows[:, :4], sample), classes=rows[:, 5], scores=rows[:, 4])


def _on_canvas(boxes: np.ndarray, sample: ValidationSample) -> np.ndarray:
    (gain, _), pad = sample.ratio_pad
    return boxes * gain + np.tile(np.array(pad), 2)


def _gallery(store: Store, run: str, record: StageRecord) -> str:
    """Markdown with the main pictures inside it: works offline and for private buckets."""
    parts = [f"## Run {run}", f"All pictures: `{store.url(f'runs/{run}/plots')}`"]
    for output in record.outputs:
        name = output.key.rsplit("/", 1)[1]
        if name in _SHOWN:
            parts.append(f"**{name}**\n\n![{name}]({_data_uri(store.read_bytes(output.key))})")
    return "\n\n".join(parts)


def _data_uri(picture: bytes) -> str:
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("a picture this program drew cannot be decoded")
    height, width = image.shape[:2]
    if width > _SHOWN_WIDTH:
        size = (_SHOWN_WIDTH, round(height * _SHOWN_WIDTH / width))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
