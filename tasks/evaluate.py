"""Evaluate stage: the best checkpoint of a run on the validation set, class by class."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact

from tasks.datasets import Dataset, open_run_data
from tasks.device import pick_device
from tasks.progress import progress_bar
from tasks.records import Artifact, Prepared, RunInfo, StageRecord
from tasks.stage import StageContext, run_stage
from tasks.store import open_store
from tasks.task_options import RETRIED
from tasks.train import train_config
from yolov5_core import checkpoint
from yolov5_core.dataset import Record
from yolov5_core.evaluate import evaluate, evaluate_augmented
from yolov5_core.evaluation import Evaluation, save_evaluation
from yolov5_core.evaluation_report import evaluation_report, more_tables
from yolov5_core.loader import validation_loader
from yolov5_core.metrics import table_rows
from yolov5_core.predictions import category_ids, image_ids, save_predictions
from yolov5_core.samples import ImageReader
from yolov5_core.trainer import loss_of

log = logging.getLogger(__name__)


@task(name="evaluate", task_run_name="evaluate", **RETRIED)
def evaluate_model(info: RunInfo, prepared: Prepared, trained: StageRecord) -> StageRecord:
    """The evaluate stage as a Prefect task, with the table of classes as an artifact."""
    record = evaluate_stage(info, prepared, trained)
    epoch = f"epoch {record.result['epoch']}"
    if info.config.test_time_augmentation:
        epoch += ", with test-time augmentation"
    create_table_artifact(
        list(record.result["classes"]),
        key="metrics",
        description=f"Validation metrics of {epoch}; COCO AP is that of pycocotools",
    )
    create_table_artifact(
        list(record.result["sizes"]),
        key="metrics-by-size",
        description=f"Small (to 32 x 32 pixels), medium and large (from 96 x 96) objects, {epoch}",
    )
    return record


def evaluate_stage(info: RunInfo, prepared: Prepared, trained: StageRecord) -> StageRecord:
    """Evaluates the best checkpoint, the last one where no best was saved.

    Raises:
        CheckpointError, DataError, StoreError: Checkpoint, data or store are not what they were.
    """
    source = Artifact(**(trained.result["best"] or trained.result["last"]))
    inputs = {
        "checkpoint": source.sha256,
        "data": {"digest": prepared.digest, "single_cls": info.config.single_cls},
        "category_ids": list(prepared.category_ids),
        "test_time_augmentation": info.config.test_time_augmentation,
    }

    def work(context: StageContext) -> Mapping[str, Any]:
        data = open_run_data(context.store, prepared, info.config, ("val",))
        payload = checkpoint.load(context.fetch(source))
        found = evaluate_checkpoint(payload, source.key, data.splits["val"], info)
        return _publish(context, found, data, payload["epoch"])

    return run_stage(open_store(info.config.store), info.run, "evaluate", inputs, work)


def _publish(
    context: StageContext, found: Evaluation, data: Dataset, epoch: int
) -> Mapping[str, Any]:
    """Stores arrays, detections and report of an evaluation; returns the report's main part."""
    folder, names = context.scratch, data.names
    pictures = [record.name for record in data.splits["val"]]
    report = {"epoch": epoch, **evaluation_report(found, names, pictures)}
    for line in (*table_rows(found.metrics, names, len(pictures)), *more_tables(report)):
        log.info("%s", line)
    text = folder / "evaluation.json"
    text.write_text(json.dumps(report, indent=1, allow_nan=False), "utf-8")
    detections = folder / "predictions.json"
    categories = data.category_ids or category_ids(names)
    save_predictions(found.images, image_ids(pictures), categories, detections)
    arrays = save_evaluation(found, folder / "evaluation.npz")
    context.publish_all({f"evaluation/{p.name}": p for p in (arrays, detections, text)})
    return {key: value for key, value in report.items() if key != "confusion"}  # it may be large


def evaluate_checkpoint(
    payload: Mapping[str, Any], where: str, records: Sequence[Record], info: RunInfo
) -> Evaluation:
    """Evaluates the model of a checkpoint on records, at the run's image size.

    With test-time augmentation the losses are NaN.
    """
    device = pick_device(info.config.device)
    training = train_config(info)
    model = checkpoint.build_detector(payload, where).to(device)
    batches = validation_loader(
        ImageReader(records, training.image_size, augmenting=False),
        batch_size=2 * training.batch_size,
        workers=training.workers,
        stride=max(model.max_stride, 32),
        pin=device.type == "cuda",
    )
    with progress_bar("evaluating") as progress:
        done = 0

        def advance(images: int) -> None:
            nonlocal done
            done += images
            progress(done, len(records))

        if info.config.test_time_augmentation:
            return evaluate_augmented(model, batches, device, advance)
        return evaluate(model, batches, loss_of(model, training).fixed(), device, advance)
