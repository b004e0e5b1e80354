"""Train stage: the epochs of a run, each step of an epoch a Prefect task of its own.

The model stays in memory across the tasks. What an epoch leaves in the store is complete: any
later attempt, in this process or another, goes on from the newest checkpoint.
"""

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import torch
from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from tqdm import tqdm

from tasks import checkpoints
from tasks.errors import StoreError
from tasks.prepare import load_manifest
from tasks.progress import progress_bar
from tasks.records import Prepared, RunInfo, StageRecord
from tasks.stage import StageContext, code_version, run_stage
from tasks.store import open_store
from tasks.task_options import PLAIN, RETRIED
from tasks.upload import publish_results
from tasks.weights import fetch_weights, file_digest, first_model
from yolov5_core import checkpoint
from yolov5_core.boxes import denormalise
from yolov5_core.config import ConfigError, TrainConfig, load_hyperparameters
from yolov5_core.dataset import Record
from yolov5_core.evaluation import Evaluation
from yolov5_core.events import write_events
from yolov5_core.model import Detector
from yolov5_core.pictures import Boxes, draw_batch
from yolov5_core.plots import plot_labels
from yolov5_core.results import format_progress, format_row, header
from yolov5_core.start import fit_anchors
from yolov5_core.trainer import EpochReport, Trainer

log = logging.getLogger(__name__)

_PLOTTED_BATCHES = 3


@dataclass(frozen=True, slots=True)
class _Run:
    """What the epochs of one attempt share."""

    context: StageContext
    info: RunInfo
    names: tuple[str, ...]
    trainer: Trainer
    lineage: Mapping[str, str]

    @property
    def last_epoch(self) -> int:
        return self.info.config.epochs - 1


def train_stage(info: RunInfo, prepared: Prepared) -> StageRecord:
    """The train stage of a run.

    Raises:
        ConfigError, DataError, CheckpointError: Settings, data or weights that cannot work.
        TrainingDivergedError: The loss is no longer finite.
        StoreError: The store failed.
    """
    config = info.config
    settings = asdict(train_config(info))
    settings.pop("workers")
    settings.pop("cache_images")
    inputs = {
        "data": prepared.digest,
        "training": settings,
        "model": {"cfg": config.cfg, "weights": config.weights, "anchors": config.noautoanchor},
        "when": {"notest": config.notest, "nosave": config.nosave},
    }

    def work(context: StageContext) -> Mapping[str, Any]:
        try:
            return _train(context, info, prepared)
        finally:
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    return run_stage(open_store(config.store), info.run, "train", inputs, work)


def train_config(info: RunInfo) -> TrainConfig:
    """The core's part of a run's settings."""
    c = info.config
    return TrainConfig(
        epochs=c.epochs,
        batch_size=c.batch_size,
        image_size=c.image_size,
        seed=c.seed,
        hyp=load_hyperparameters(c.hyp),
        lr_curve=c.lr_curve,
        iou=c.iou,
        autobalance=c.autobalance,
        adam=c.adam,
        freeze=c.freeze,
        multi_scale=c.multi_scale,
        rect=c.rect,
        image_weights=c.image_weights,
        cache_images=c.cache_images,
        workers=c.workers,
    )


def pick_device(device: str) -> torch.device:
    """The device of a run, ready for reproducible work.

    Args:
        device: "" for the first GPU or else the CPU, "cpu", or a GPU's number.

    Raises:
        ConfigError: No such GPU.
    """
    found = torch.cuda.device_count()
    if device == "cpu" or (device == "" and found == 0):
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid, slow
        return torch.device("cpu")
    number = int(device or 0)
    if number >= found:
        raise ConfigError(f"device={device}: this machine has {found} GPUs; use device=cpu")
    return torch.device("cuda", number)


def _train(context: StageContext, info: RunInfo, prepared: Prepared) -> Mapping[str, Any]:
    cv2.setNumThreads(0)  # its thread pool does not survive the fork of the loader's workers
    run = _begin(context, info, prepared)
    trainer, started = run.trainer, time.monotonic()
    first_epoch = trainer.epoch
    progress = create_progress_artifact(
        100.0 * first_epoch / info.config.epochs, key="training", description="Epochs trained"
    )
    while trainer.epoch <= run.last_epoch:
        _one_epoch(run)
        update_progress_artifact(progress, 100.0 * trainer.epoch / info.config.epochs)  # type: ignore[arg-type]
    pointer = checkpoints.newest(context.store, context.run)
    if pointer is None:  # not reachable: the final epoch always saves
        raise StoreError(f"{context.store.url(context.run)}: the checkpoint log is gone")
    context.outputs.append(pointer.last)
    if pointer.best is not None and pointer.best != pointer.last:
        context.outputs.append(pointer.best)
    epochs, hours = trainer.epoch - first_epoch, (time.monotonic() - started) / 3600
    log.info("%d epochs completed in %.3f hours.", epochs, hours)
    return {
        "last": asdict(pointer.last),
        "best": asdict(pointer.best) if pointer.best else None,
        "best_epoch": trainer.best_epoch,
        "best_fitness": trainer.best_fitness,
        "results": format_row(trainer.history[-1][0]).split(),  # as text: JSON has no NaN
        "epochs": epochs,
        "hours": hours,
    }


def _begin(context: StageContext, info: RunInfo, prepared: Prepared) -> _Run:
    """Model, data and trainer, at the newest checkpoint if there is one."""
    config, training = info.config, train_config(info)
    device = pick_device(config.device)
    names, splits = load_manifest(context.store, prepared)
    pointer = checkpoints.newest(context.store, context.run)
    if pointer is None:
        model, parent = _first_model(context, info, splits["train"], len(names))
        trainer = Trainer(training, model, splits["train"], splits["val"], device)
        _draw_inputs(context, trainer, splits["train"], names)
    else:  # all it takes is in the checkpoint: the parent weights may be gone
        state = checkpoint.load(context.fetch(pointer.last))
        model, parent = checkpoint.build_detector(state, pointer.last.key), state["lineage"]
        trainer = Trainer(training, model, splits["train"], splits["val"], device)
        trainer.restore(state)
        log.info("continuing after epoch %d from %s", pointer.epoch, pointer.last.key)
    lineage = {
        "run": info.run,
        "data": prepared.digest,
        "code": code_version(),
        "parent": config.weights,
        "parent_sha256": parent["parent_sha256"],
    }
    if config.cache_images:
        with progress_bar("caching pictures") as progress:
            trainer.cache_images(progress)
    log.info(
        "training on %s: %d pictures, %d validation pictures, %d classes",
        device,
        len(splits["train"]),
        len(splits["val"]),
        len(names),
    )
    return _Run(context, info, names, trainer, lineage)


def _first_model(
    context: StageContext, info: RunInfo, records: tuple[Record, ...], num_classes: int
) -> tuple[Detector, Mapping[str, str]]:
    """The model of a run's first attempt, with anchors that fit, and its parent's digest."""
    config, hyp = info.config, load_hyperparameters(info.config.hyp)
    weights = fetch_weights(config.weights, context.scratch) if config.weights else None
    model = first_model(
        cfg=config.cfg, weights=weights, num_classes=num_classes, hyp=hyp, seed=config.seed
    )
    _require_fitting_size(config.image_size, model.max_stride)
    if not config.noautoanchor:
        fit_anchors(model, records, config.image_size, hyp.anchor_t, config.seed)
    elif isinstance(model.description.anchors, int):
        raise ConfigError("noautoanchor: this model's anchors are to be found from the data")
    return model, {"parent_sha256": file_digest(weights)}


def _require_fitting_size(image_size: int, stride: int) -> None:
    if image_size % stride:
        near = max(stride, round(image_size / stride) * stride)
        raise ConfigError(
            f"image_size={image_size}: this model needs a multiple of {stride}, such as {near}"
        )


def _draw_inputs(
    context: StageContext, trainer: Trainer, records: tuple[Record, ...], names: tuple[str, ...]
) -> None:
    """labels.png and the first training batches, as the model will see them."""
    folder = context.scratch / "plots"
    files = [plot_labels(np.concatenate([r.labels for r in records]), names, folder / "labels.png")]
    for number, keys in enumerate(trainer.plan()[:_PLOTTED_BATCHES]):
        batch = trainer.loader.batch(keys)
        height, width = batch.images.shape[2:]
        targets = batch.targets.numpy()
        boxes = [
            Boxes(
                xyxy=denormalise(targets[targets[:, 0] == i, 2:], width, height),
                classes=targets[targets[:, 0] == i, 1],
            )
            for i in range(len(batch.images))
        ]
        titles = [records[i].path.name for i in batch.indices]
        path = folder / f"train_batch{number}.jpg"
        files.append(draw_batch(batch.images.numpy(), boxes, titles, names, path))
    for path in files:
        context.publish(path, f"plots/{path.name}")


def _one_epoch(run: _Run) -> None:
    """Train, evaluate, record, save: in the order of the design's run semantics."""
    trainer, config = run.trainer, run.info.config
    epoch, last = trainer.epoch, run.last_epoch
    title = f"{epoch + 1}/{config.epochs}"
    report = train_epoch.with_options(task_run_name=f"train_epoch {title}")(trainer, epoch)
    found: Evaluation | None = None
    if not config.notest or epoch == last:
        found = evaluate_epoch.with_options(task_run_name=f"evaluate_epoch {title}")(trainer)
    is_best = trainer.record(report, found, time.time())
    log.info("%s", format_row(trainer.history[-1][0]).rstrip())
    record.with_options(task_run_name=f"record {title}")(run)
    if not config.nosave or epoch == last:
        save_checkpoint.with_options(task_run_name=f"checkpoint {title}")(run, found, is_best)


@task(name="train_epoch", **PLAIN)
def train_epoch(trainer: Trainer, epoch: int) -> EpochReport:
    """One epoch of training, with a progress bar on a terminal.

    Not retried: after an error the state in memory is no longer the last saved one.
    """
    visible = sys.stderr.isatty()
    if visible:
        tqdm.write(header(), file=sys.stderr)
    with tqdm(total=len(trainer.loader), disable=not visible) as bar:

        def advance(report: EpochReport) -> None:
            if visible:
                bar.set_description_str(format_progress(trainer.row(report, None)))
            bar.update()

        log.debug("epoch %d begins", epoch)
        return trainer.train_epoch(advance)


@task(name="evaluate_epoch", **PLAIN)
def evaluate_epoch(trainer: Trainer) -> Evaluation:
    """The EMA model on the validation set."""
    with progress_bar("evaluating") as progress:
        total, done = len(trainer.val_reader.records), 0

        def advance(images: int) -> None:
            nonlocal done
            done += images
            progress(done, total)

        return trainer.evaluate(advance)


@task(name="record", **RETRIED)
def record(run: _Run) -> None:
    """Puts results.txt and the TensorBoard events into the store, results.txt into the bucket."""
    context, config = run.context, run.info.config
    results = context.scratch / "results.txt"
    results.write_text(run.trainer.results_text, "ascii")
    context.store.put_file(results, context.key("results.txt"))
    events = write_events(
        run.trainer.history, context.scratch / f"events.out.tfevents.{run.info.run}"
    )
    context.store.put_file(events, context.key(f"tensorboard/{events.name}"))
    if config.bucket and config.name:
        try:
            publish_results(open_store(config.bucket), config.name, results)
        except StoreError as error:  # the upload stage will publish it; the night goes on
            log.warning("results not published this epoch: %s", error)


@task(name="checkpoint", **RETRIED)
def save_checkpoint(run: _Run, found: Evaluation | None, is_best: bool) -> None:
    """Saves the complete state as last and, when best, as best."""
    trainer, context = run.trainer, run.context
    payload = {**trainer.state(), **_description(run, found)}
    path = context.scratch / "checkpoint.pt"
    checkpoint.save(payload, path)
    checkpoints.commit(
        context.store,
        context.run,
        path,
        epoch=trainer.epoch - 1,
        is_best=is_best,
        best_fitness=trainer.best_fitness,
    )


def _description(run: _Run, found: Evaluation | None) -> dict[str, Any]:
    """What a checkpoint says of its model beside the weights."""
    model = run.trainer.model
    metrics = dict(zip(_METRICS, found.results, strict=True)) if found else {}
    return {
        "description": model.description.to_mapping(),
        "names": list(run.names),
        "nc": len(run.names),
        "stride": model.stride.tolist(),
        "image_size": run.info.config.image_size,
        "hyp": asdict(run.trainer.config.hyp),
        "metrics": metrics,
        "lineage": dict(run.lineage),
    }


_METRICS = ("precision", "recall", "map50", "map50_95", "val_box", "val_obj", "val_cls")
