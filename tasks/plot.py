"""Plot stage: the pictures of a finished run, from its results and its evaluation alone.

No torch: this stage can run again on any small machine, and gives the same bytes.
"""

import base64
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from prefect import task
from prefect.artifacts import create_markdown_artifact

from tasks.datasets import open_run_data
from tasks.records import Prepared, RunInfo, StageRecord
from tasks.stage import StageContext, run_stage
from tasks.store import Store, open_store
from tasks.task_options import RETRIED
from tasks.transfers import in_parallel
from yolov5_core.boxes import rectangular_batches
from yolov5_core.evaluation import ImageDetections, load_evaluation
from yolov5_core.pictures import Boxes, Mark, draw_batch
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
from yolov5_core.worst import ImageErrors, worst_images

log = logging.getLogger(__name__)

_BATCHES = 3  # of the validation set, as labels and as predictions
_BATCH_PICTURES = 16
_SHOWN_CONFIDENCE = 0.25  # of predictions drawn, spec E.8
_SHOWN = {  # in the gallery, and what there is to say of them
    "results.png": "",
    "val_batch0_pred.jpg": "",
    "worst.jpg": "The most harmful errors above confidence 0.25 at IoU 0.5.",
    "confusion_matrix.png": "",
    "PR_curve.png": "",
}
# Prefect drops the event of an artifact above half a megabyte: of these widths (pixels) and JPEG
# qualities the first is taken that keeps a picture below its share.
_SHOWN_AS = ((900, 80), (800, 70), (700, 60), (600, 50), (450, 50))
_SHOWN_BYTES = 75_000
_STRIDE = 32
_CORRECT = Mark(colour=(46, 174, 79), meaning="correct", tagged=False)  # most boxes are
_FALSE = Mark(colour=(255, 159, 28), meaning="false detection")
_MISSED = Mark(colour=(230, 57, 70), meaning="missed label")


@task(name="plot", task_run_name="plot", **RETRIED)
def plot_run(
    info: RunInfo, prepared: Prepared, evaluated: StageRecord, finalized: StageRecord
) -> StageRecord:
    """The plot stage as a Prefect task, with the main pictures as an artifact."""
    record = plot_stage(info, prepared, evaluated, finalized)
    store = open_store(info.config.store)
    create_markdown_artifact(
        gallery(store, info.run, record), key="plots", description=f"Pictures of run {info.run}"
    )
    return record


def plot_stage(
    info: RunInfo, prepared: Prepared, evaluated: StageRecord, finalized: StageRecord
) -> StageRecord:
    """Draws results.png, the curves, the confusion matrix, validation batches, worst pictures.

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
        data = open_run_data(context.store, prepared, info.config, ("val",))
        names, splits = data.names, data.splits
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
        files += _draw_worst(reader, worst_images(found.images), names, folder)
        context.publish_all({f"plots/{path.name}": path for path in files})
        return {"plots": [path.name for path in files]}

    return run_stage(open_store(info.config.store), info.run, "plot", inputs, work)


def _draw_validation(
    reader: ImageReader, images: Sequence[ImageDetections], names: Sequence[str], folder: Path
) -> list[Path]:
    files = []
    for number in range(min(_BATCHES, -(-len(images) // _BATCH_PICTURES))):
        batch = images[number * _BATCH_PICTURES : (number + 1) * _BATCH_PICTURES]
        samples = _samples(reader, [image.index for image in batch])
        pictures = np.stack([sample.image for sample in samples])
        titles = [_file_name(reader, image.index) for image in batch]
        labels = [
            Boxes(xyxy=_on_canvas(i.labels[:, 1:], s), classes=i.labels[:, 0])
            for i, s in zip(batch, samples, strict=True)
        ]
        found = [_shown_predictions(i, s) for i, s in zip(batch, samples, strict=True)]
        for kind, boxes in (("labels", labels), ("pred", found)):
            path = folder / f"val_batch{number}_{kind}.jpg"
            files.append(draw_batch(pictures, boxes, titles, names, path))
    return files


def _draw_worst(
    reader: ImageReader, worst: Sequence[ImageErrors], names: Sequence[str], folder: Path
) -> list[Path]:
    """The pictures with the most harmful errors in one grid; no file without errors."""
    if not worst:
        return []
    samples = _samples(reader, [errors.index for errors in worst])
    pictures = np.stack([sample.image for sample in samples])
    boxes = [_marked(errors, sample) for errors, sample in zip(worst, samples, strict=True)]
    titles = [
        f"{len(e.missed)} missed, {len(e.false)} false  {_file_name(reader, e.index)}"
        for e in worst
    ]
    return [draw_batch(pictures, boxes, titles, names, folder / "worst.jpg")]


def _marked(errors: ImageErrors, sample: ValidationSample) -> Boxes:
    """Errors last, so that they lie on top."""
    found = np.concatenate((errors.correct, errors.false))
    xyxy = np.concatenate((found[:, :4], errors.missed[:, 1:]))
    return Boxes(
        xyxy=_on_canvas(xyxy, sample),
        classes=np.concatenate((found[:, 5], errors.missed[:, 0])),
        scores=np.concatenate((found[:, 4], np.full(len(errors.missed), np.nan))),
        marks=[
            *[_CORRECT] * len(errors.correct),
            *[_FALSE] * len(errors.false),
            *[_MISSED] * len(errors.missed),
        ],
    )


def _samples(reader: ImageReader, indices: Sequence[int]) -> list[ValidationSample]:
    """The pictures of these records on one canvas that holds them all."""
    records = [reader.records[index] for index in indices]
    shapes = np.array([(r.width, r.height) for r in records])
    rect = rectangular_batches(shapes, len(records), reader.image_size, _STRIDE, 0.0)
    height, width = rect.shapes_hw[0].tolist()
    return [validation_sample(reader, index, (height, width)) for index in indices]


def _file_name(reader: ImageReader, index: int) -> str:
    return PurePosixPath(reader.records[index].name).name


def _shown_predictions(image: ImageDetections, sample: ValidationSample) -> Boxes:
    rows = image.detections[image.detections[:, 4] > _SHOWN_CONFIDENCE]
    return Boxes(xyxy=_on_canvas(rows[:, :4], sample), classes=rows[:, 5], scores=rows[:, 4])


def _on_canvas(boxes: np.ndarray, sample: ValidationSample) -> np.ndarray:
    (gain, _), pad = sample.ratio_pad
    return boxes * gain + np.tile(np.array(pad), 2)


def gallery(store: Store, run: str, record: StageRecord) -> str:
    """Markdown with the main pictures inside it: works offline and for private buckets."""
    parts = [f"## Run {run}", f"All pictures: `{store.url(f'runs/{run}/plots')}`"]
    shown = [output for output in record.outputs if PurePosixPath(output.key).name in _SHOWN]
    pictures = in_parallel(lambda output: store.read_bytes(output.key), shown)
    for output, content in zip(shown, pictures, strict=True):
        name = PurePosixPath(output.key).name
        picture = f"![{name}]({data_uri(content)})"
        parts += [f"**{name}** {_SHOWN[name]}".rstrip(), picture]
    return "\n\n".join(parts)


def data_uri(picture: bytes) -> str:
    """A picture as text within Markdown, made small enough for an artifact."""
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("a picture this program drew cannot be decoded")
    for width, quality in _SHOWN_AS:
        scale = min(1.0, width / image.shape[1])
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if data.nbytes < _SHOWN_BYTES:
            break
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
