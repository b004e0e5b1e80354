"""Evaluate stage: the best checkpoint of a run on the validation set, class by class."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact

from tasks.prepare import load_manifest
from tasks.progress import progress_bar
from tasks.records import Artifact, Prepared, RunInfo, StageRecord
from tasks.stage import StageContext, run_stage
from tasks.store import open_store
from tasks.task_options import RETRIED
from tasks.train import pick_device, train_config
from yolov5_core import checkpoint
from yolov5_core.dataset import Record
from yolov5_core.evaluate import evaluate
from yolov5_core.evaluation import Evaluation, save_evaluation
from yolov5_core.loader import validation_loader
from yolov5_core.loss import DetectionLoss
from yolov5_core.metrics import table_rows
from yolov5_core.samples import ImageReader

log = logging.getLogger(__name__)


@task(name="evaluate", task_run_name="evaluate", **RETRIED)
def evaluate_model(info: RunInfo, prepared: Prepared, trained: StageRecord) -> StageRecord:
    """The evaluate stage as a Prefect task, with the table of classes as an artifact."""
    record = evaluate_stage(info, prepared, trained)
    create_table_artifact(
        list(record.result["classes"]),
        key="metrics",
        description=f"Validation metrics of epoch {record.result['epoch']}",
    )
    return record


def evaluate_stage(info: RunInfo, prepared: Prepared, trained: StageRecord) -> StageRecord:
    """Evaluates the best checkpoint, the last one where no best was saved.

    Raises:
        CheckpointError, DataError, StoreError: Checkpoint, data or store are not what they were.
    """
    source = Artifact(**(trained.result["best"] or trained.result["last"]))
    inputs = {"checkpoint": source.sha256, "data": prepared.digest}

    def work(context: StageContext) -> Mapping[str, Any]:
        names, splits = load_manifest(context.store, prepared)
        payload = checkpoint.load(context.fetch(source))
        found = evaluate_checkpoint(payload, source.key, splits["val"], info)
        for line in table_rows(found.metrics, names, len(splits["val"])):
            log.info("%s", line)
        context.publish(
            save_evaluation(found, context.scratch / "evaluation.npz"), "evaluation/evaluation.npz"
        )
        result = {"epoch": payload["epoch"], **_result(found, names, len(splits["val"]))}
        text = context.scratch / "evaluation.json"
        text.write_text(json.dumps(result, indent=1), "utf-8")
        context.publish(text, "evaluation/evaluation.json")
        return result

    return run_stage(open_store(info.config.store), info.run, "evaluate", inputs, work)


def evaluate_checkpoint(
    payload: Mapping[str, Any], where: str, records: tuple[Record, ...], info: RunInfo
) -> Evaluation:
    """Evaluates the model of a checkpoint on records, at the run's image size."""
    device = pick_device(info.config.device)
    training = train_config(info)
    model = checkpoint.build_detector(payload, where).to(device)
    detect = model.detect
    gains = training.hyp.loss_config(
        num_levels=detect.nl,
        num_classes=detect.nc,
        image_size=training.image_size,
        iou=training.iou,
    )
    loss = DetectionLoss(detect.anchors, detect.stride, detect.nc, gains)
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

        return evaluate(model, batches, loss, device, advance)


def _result(found: Evaluation, names: tuple[str, ...], images: int) -> dict[str, Any]:
    m = found.metrics
    rows = [
        {
            "class": "all",
            "images": images,
            "labels": int(m.labels_per_class.sum()),
            "P": round(m.mean_precision, 4),
            "R": round(m.mean_recall, 4),
            "mAP50": round(m.map50, 4),
            "mAP50-95": round(m.map50_95, 4),
        }
    ]
    rows += [
        {
            "class": names[cls],
            "images": images,
            "labels": int(m.labels_per_class[i]),
            "P": round(float(m.precision[i]), 4),
            "R": round(float(m.recall[i]), 4),
            "mAP50": round(float(m.ap50[i]), 4),
            "mAP50-95": round(float(m.ap[i].mean()), 4),
        }
        for i, cls in enumerate(m.classes)
    ]
    metrics = {
        "precision": m.mean_precision,
        "recall": m.mean_recall,
        "map50": m.map50,
        "map50_95": m.map50_95,
    }
    return {"metrics": metrics, "classes": rows}
