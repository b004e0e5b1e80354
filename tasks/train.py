"""Train stage: model, data and trainer of a run, then its epochs until training is over.

What an epoch leaves in the store is complete: any later attempt, in this process or another, goes
on from the newest checkpoint. Nothing else says whether there is anything left to train, so a run
that stopped early is over for every later attempt too.
"""

import gc
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from tasks import checkpoints
from tasks.batch_size import with_batch_size
from tasks.datasets import open_run_data
from tasks.device import pick_device, require_precision, tune_convolutions
from tasks.digests import file_sha256
from tasks.epochs import TrainingRun, run_epoch
from tasks.group import RESTARTS, RankLostError, Team, assembled
from tasks.inputs import identity, input_file
from tasks.interrupts import Termination, termination
from tasks.live import LiveView
from tasks.mlflow_tracker import MlflowTracker
from tasks.progress import progress_bar
from tasks.quotas import require_room
from tasks.records import Prepared, RunInfo, StageRecord
from tasks.recovery import remedy
from tasks.settings import CHAMPION
from tasks.stage import StageContext, code_identity, run_stage
from tasks.store import open_store
from tasks.time_limit import time_limit
from tasks.weights import fetch_weights, first_model
from yolov5_core import checkpoint
from yolov5_core.allocator import give_back_memory, keep_freed_memory
from yolov5_core.boxes import denormalise
from yolov5_core.config import ConfigError, TrainConfig, load_hyperparameters
from yolov5_core.dataset import Record
from yolov5_core.model import Detector
from yolov5_core.results import format_row
from yolov5_core.start import fit_anchors
from yolov5_core.step_policy import StepPolicy
from yolov5_core.trainer import Trainer

log = logging.getLogger(__name__)

_PLOTTED_BATCHES = 3


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
        "data": {"digest": prepared.digest, "single_cls": config.single_cls},
        "training": settings,
        "model": {
            "cfg": identity(info, "cfg"),
            "weights": identity(info, "weights"),
            "anchors": config.noautoanchor,
        },
        "when": {
            "notest": config.notest,
            "nosave": config.nosave,
            "save_period": config.save_period,
        },
    }

    def work(context: StageContext) -> Mapping[str, Any]:
        try:
            return _train(context, info, prepared)
        finally:
            give_back_memory()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def in_time(record: StageRecord) -> bool:
        """Whether a record counts: training that a limit ended goes on under another limit."""
        before = (record.result.get("max_hours", 0.0), record.result.get("ends", ""))
        by_time = record.result.get("stopped_by", "").startswith(("max_hours", "deadline"))
        return not by_time or before == (config.max_hours, info.ends)

    return run_stage(open_store(config.store), info.run, "train", inputs, work, in_time)


def train_config(info: RunInfo) -> TrainConfig:
    """The core's part of a run's settings."""
    c = info.config
    return TrainConfig(
        epochs=c.epochs,
        batch_size=c.batch_size,
        image_size=c.image_size,
        seed=c.seed,
        hyp=load_hyperparameters(input_file(info, "hyp")),
        lr_curve=c.lr_curve,
        iou=c.iou,
        autobalance=c.autobalance,
        optimizer=c.optimizer,
        precision=c.precision,
        freeze=c.freeze,
        multi_scale=c.multi_scale,
        rect=c.rect,
        quad=c.quad,
        image_weights=c.image_weights,
        patience=c.patience,
        cache_images=c.cache_images,
        workers=c.workers,
    )


def _train(context: StageContext, info: RunInfo, prepared: Prepared) -> Mapping[str, Any]:
    cv2.setNumThreads(0)  # its thread pool does not survive the fork of the loader's workers
    keep_freed_memory()
    changed: _Changed | None = None
    while True:
        with termination() as stop, assembled(info.config) as team:
            run = _begin(context, info, prepared, stop, team, changed)
            try:
                return _train_epochs(run)
            except Exception as error:
                changed = _changed(run, error, changed.groups_lost if changed else 0)
                if changed is None:
                    raise
        del run  # and with it the memory that was too little
        gc.collect()
        give_back_memory()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _train_epochs(run: TrainingRun) -> Mapping[str, Any]:
    trainer, context, started = run.trainer, run.context, time.monotonic()
    before = len(trainer.history)
    view, tracker = LiveView(), MlflowTracker(run.info)
    view.show(trainer)
    while not (trainer.over or run.out_of_time):
        run_epoch(run)
        view.show(trainer)
        tracker.show(trainer)
    stopped_by = "" if len(trainer.history) == run.info.config.epochs else _why_early(run)
    epochs, hours = len(trainer.history) - before, (time.monotonic() - started) / 3600
    if run.info.evolution:  # its numbers are all that a generation leaves
        measured = [repr(value) for value in trainer.history[-1][0].results]  # JSON has no NaN
        return {"results": measured, "epochs": epochs, "hours": hours}
    pointer = checkpoints.newest(context.store, context.run)
    if pointer is None or pointer.finished is None:  # without a finished epoch time was too short
        raise ConfigError(
            f"{run.limit.setting}: not even one epoch was done by then; give training more time "
            f"and resume run {run.info.run}: what was done is saved"
        )
    context.outputs.append(pointer.finished)
    if pointer.best is not None and pointer.best != pointer.finished:
        context.outputs.append(pointer.best)
    context.outputs.extend(  # whoever needs the room may delete one
        kept for kept in pointer.kept if context.store.size(kept.key) == kept.size
    )
    log.info("%d epochs completed in %.3f hours.", epochs, hours)
    return {
        "last": asdict(pointer.finished),
        "best": asdict(pointer.best) if pointer.best else None,
        "best_epoch": trainer.best_epoch,
        "best_fitness": trainer.best_fitness,
        "results": format_row(trainer.history[-1][0]).split(),  # as text: JSON has no NaN
        "stopped_early": bool(stopped_by),
        "stopped_by": stopped_by,
        "ends": run.info.ends,
        "max_hours": run.info.config.max_hours,
        "transferred": run.lineage.get("transferred", []),
        "changes": run.lineage.get("changes", []),
        "epochs": epochs,
        "hours": hours,
    }


def _why_early(run: TrainingRun) -> str:
    """The setting that ended training, and a log line that says how to go on."""
    trainer, config, done = run.trainer, run.info.config, len(run.trainer.history)
    if run.out_of_time:
        log.info(
            "training stopped in time, after epoch %d of %d: %s leaves none for another; to go on, "
            "resume run %s with more",
            done,
            config.epochs,
            run.limit.setting,
            run.info.run,
        )
        return run.limit.setting
    log.info(
        "training stopped early, after epoch %d of %d: no fitness above %.4g in the last %d "
        "evaluations (patience); to go on, resume run %s with more patience, 0 for all epochs",
        done,
        config.epochs,
        trainer.best_fitness,
        config.patience,
        run.info.run,
    )
    return f"patience={config.patience}"


class _Changed(NamedTuple):
    """What the next try does otherwise."""

    policy: StepPolicy
    notes: Sequence[Mapping[str, Any]]  # all there are, for the lineage
    groups_lost: int  # for the death of a rank, in this attempt


def _changed(run: TrainingRun, error: Exception, groups_lost: int) -> _Changed | None:
    """What another try in this process would change; None if there is none."""
    trainer, team = run.trainer, run.team
    if not team.may_restart:
        return None
    found = remedy(error, trainer.policy, run.info.config.batch_size)
    if found is None and isinstance(error, RankLostError) and groups_lost < RESTARTS:
        groups_lost += 1
        found = trainer.policy, f"a new group of {team.size} processes"
    if found is None:
        return None
    policy, change = found
    why = (str(error).splitlines() or [type(error).__name__])[0]
    log.warning("step %d failed: %s", trainer.step, why)
    log.warning("going on from the last saved state: %s", change)
    note = {"epoch": trainer.epoch, "step": trainer.step, "change": change, "why": why}
    return _Changed(policy, [*run.lineage.get("changes", ()), note], groups_lost)


def _begin(
    context: StageContext,
    info: RunInfo,
    prepared: Prepared,
    stop: Termination,
    team: Team,
    changed: _Changed | None,
) -> TrainingRun:
    """Model, data and trainer, at the newest checkpoint if there is one."""
    config, training = info.config, train_config(info)
    device = pick_device(config.device)
    require_precision(device, training.precision)
    tune_convolutions(training)
    data = open_run_data(context.store, prepared, config)
    names, splits = data.names, data.splits
    pointer = checkpoints.resume(context.store, context.run, context.lease.attempt)
    parent: Mapping[str, Any]
    trained_s = 0.0
    first_look: Callable[[], None] | None = None
    if pointer is None:
        model, parent = _first_model(context, info, splits["train"], len(names))
        if config.auto_batch:
            training = with_batch_size(training, model, device, len(splits["train"]))
        trainer = Trainer(training, model, splits["train"], splits["val"], device)
        if not info.evolution:
            first_look = partial(_draw_inputs, context, trainer, splits["train"], names)
    else:  # all it takes is in the checkpoint: the parent weights may be gone
        state = checkpoint.load(context.fetch(pointer.last))
        model, parent = checkpoint.build_detector(state, pointer.last.key), state["lineage"]
        training = replace(training, batch_size=parent.get("batch_size", config.batch_size))
        trainer = Trainer(training, model, splits["train"], splits["val"], device)
        trainer.restore(state)
        trained_s = state["resume"].get("trained_s", 0.0)  # earlier versions did not count
        log.info("continuing after epoch %d%s from %s", pointer.epoch + 1,
                 f" and {pointer.batch} batches" if pointer.batch else "",
                 pointer.last.key)  # fmt: skip
    if changed:
        trainer.use(changed.policy)
    changes = list(changed.notes if changed else parent.get("changes", ()))
    lineage = {
        "run": info.run,
        "data": prepared.digest,
        "code": code_identity(),
        "parent": config.weights,
        "parent_sha256": parent["parent_sha256"],
        "batch_size": training.batch_size,
        **({"transferred": parent["transferred"]} if "transferred" in parent else {}),
        **({"changes": changes} if changes else {}),
    }
    reserve = require_room(context, trainer, config)
    if config.cache_images:
        with progress_bar("caching pictures") as progress:
            trainer.cache_images(progress, reserve)
    team.join(trainer, config, prepared)
    log.info(
        "training on %s: %d pictures, %d validation pictures, %d classes",
        device,
        len(splits["train"]),
        len(splits["val"]),
        len(names),
    )
    return TrainingRun(
        context=context,
        info=info,
        names=names,
        trainer=trainer,
        lineage=lineage,
        team=team,
        stop=stop,
        limit=time_limit(config.max_hours, trained_s, config.deadline, info.ends),
        trained_s=trained_s,
        first_look=first_look,
    )


def _first_model(
    context: StageContext, info: RunInfo, records: Sequence[Record], num_classes: int
) -> tuple[Detector, Mapping[str, Any]]:
    """The model of a run's first attempt, with anchors that fit, and what its parent gave."""
    config, hyp = info.config, train_config(info).hyp
    named = input_file(info, "weights")
    if named == CHAMPION:  # there was none when the run began
        named = ""
    weights = fetch_weights(named, context.scratch) if named else None
    model, done, entries = first_model(
        cfg=input_file(info, "cfg"),
        weights=weights,
        num_classes=num_classes,
        hyp=hyp,
        seed=config.seed,
    )
    _require_fitting_size(config.image_size, model.max_stride)
    if not config.noautoanchor:
        fit_anchors(model, records, config.image_size, hyp.anchor_t, config.seed)
    elif isinstance(model.description.anchors, int):
        raise ConfigError("noautoanchor: this model's anchors are to be found from the data")
    if weights is None:
        return model, {"parent_sha256": ""}
    return model, {"parent_sha256": file_sha256(weights), "transferred": [done, entries]}


def _require_fitting_size(image_size: int, stride: int) -> None:
    if image_size % stride:
        near = max(stride, round(image_size / stride) * stride)
        raise ConfigError(
            f"image_size={image_size}: this model needs a multiple of {stride}, such as {near}"
        )


def _draw_inputs(
    context: StageContext, trainer: Trainer, records: Sequence[Record], names: tuple[str, ...]
) -> None:
    """labels.png and the first training batches, as the model will see them."""
    from yolov5_core.pictures import Boxes, draw_batch  # noqa: PLC0415  the first step comes first
    from yolov5_core.plots import plot_labels  # noqa: PLC0415  as above

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
        titles = [Path(records[i].name).name for i in batch.indices]
        path = folder / f"train_batch{number}.jpg"
        files.append(draw_batch(batch.images.numpy(), boxes, titles, names, path))
    context.publish_all({f"plots/{path.name}": path for path in files})
