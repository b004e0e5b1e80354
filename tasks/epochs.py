"""One epoch of a run, each step of it a Prefect task of its own.

The model stays in memory across the tasks.
"""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from prefect import task
from tqdm import tqdm

from tasks import checkpoints
from tasks.errors import StoreError
from tasks.group import Team
from tasks.interrupts import Termination
from tasks.progress import progress_bar
from tasks.records import RunInfo
from tasks.stage import StageContext
from tasks.store import open_store
from tasks.task_options import PLAIN, RETRIED
from tasks.time_limit import TimeLimit
from tasks.upload import publish_results
from yolov5_core import checkpoint
from yolov5_core.epochs import EpochReport
from yolov5_core.evaluation import Evaluation
from yolov5_core.events import write_events
from yolov5_core.loss_watch import TrainingDivergedError
from yolov5_core.results import format_progress, format_row, header
from yolov5_core.trainer import Trainer

log = logging.getLogger(__name__)

_METRICS = ("precision", "recall", "map50", "map50_95", "val_box", "val_obj", "val_cls")


class _TimeUpError(Exception):
    """Inside an epoch; nothing is wrong."""


@dataclass(kw_only=True, slots=True)
class TrainingRun:
    """What the epochs of one attempt share."""

    context: StageContext
    info: RunInfo
    names: tuple[str, ...]
    trainer: Trainer
    lineage: Mapping[str, Any]
    team: Team
    stop: Termination
    limit: TimeLimit
    trained_s: float  # seconds of training in earlier attempts
    first_look: Callable[[], None] | None = None  # draws what the model sees, after its first step
    started: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)  # when the state was, last
    longest_s: float = 0.0  # longest epoch of this attempt
    out_of_time: bool = False


def run_epoch(run: TrainingRun) -> None:
    """Train, evaluate, record, save: in the order of the design's run semantics.

    The planned last epoch is known before it is evaluated, as is one after which there is no time
    for another. One that ends training by its fitness is known only after, and that is soon enough:
    it was evaluated, or there would be no fitness to stop by, and what is left of a last epoch is
    its save.
    """
    trainer, config, begun = run.trainer, run.info.config, time.monotonic()
    trained = trainer.unrecorded
    epoch = trained.epoch if trained else trainer.epoch
    title = f"{epoch + 1}/{config.epochs}"
    report = trained or train_epoch.with_options(task_run_name=f"train_epoch {title}")(run)
    if report is None:
        run.out_of_time = True
        return
    run.out_of_time = run.limit.left < max(run.longest_s, time.monotonic() - begun)
    found: Evaluation | None = None
    if not config.notest or run.out_of_time or epoch + 1 == config.epochs:
        found = evaluate_epoch.with_options(task_run_name=f"evaluate_epoch {title}")(run)
    is_best = trainer.record(report, found, time.time())
    log.info("%s", format_row(trainer.history[-1][0]).rstrip())
    record.with_options(task_run_name=f"record {title}")(run)
    is_last = trainer.over or run.out_of_time
    if not config.nosave or (is_last and not run.info.evolution):
        save_checkpoint.with_options(task_run_name=f"checkpoint {title}")(run, found, is_best)
    run.longest_s = max(run.longest_s, time.monotonic() - begun)
    if run.stop.asked:
        run.stop.strike()


@task(name="train_epoch", **PLAIN)
def train_epoch(run: TrainingRun) -> EpochReport | None:
    """One epoch of training, or its rest, with a progress bar on a terminal.

    Not retried: after an error the state in memory is no longer the last saved one. What comes from
    outside of a step, such as a picture that vanished, costs none of the steps done.

    Returns:
        None if the time was up before its end; the state is saved then.
    """
    trainer, visible = run.trainer, sys.stderr.isatty()
    if visible:
        tqdm.write(header(), file=sys.stderr)
    with tqdm(total=len(trainer.loader), initial=trainer.batch, disable=not visible) as bar:

        def advance(report: EpochReport) -> None:
            if visible:
                bar.set_description_str(format_progress(trainer.row(report, None)))
            bar.update()
            _between_steps(run)

        try:
            run.team.begin_epoch(trainer)
            return trainer.train_epoch(advance)
        except _TimeUpError:
            return None
        except Exception as error:
            if trainer.settled:
                if run.first_look is None:  # else the next attempt begins anew, and draws it
                    _save_if_possible(run)
            elif lost := run.team.lost(error):
                raise lost from error
            raise


def _between_steps(run: TrainingRun) -> None:
    if run.first_look is not None:  # while workers make the next batches; before, it would delay
        log.info("first step done; drawing what the model sees")
        run.first_look()
        run.first_look = None
    period = run.info.config.checkpoint_minutes * 60
    if run.stop.asked:
        save_state(run)
        run.stop.strike()
    elif run.limit.left <= 0:
        save_state(run)
        raise _TimeUpError
    elif period and time.monotonic() - run.saved > period:
        save_state(run)


def _save_if_possible(run: TrainingRun) -> None:
    try:
        save_state(run)
    except (StoreError, TrainingDivergedError) as error:
        log.warning("the state after step %d is not saved: %s", run.trainer.step, error)


@task(name="evaluate_epoch", **PLAIN)
def evaluate_epoch(run: TrainingRun) -> Evaluation:
    """The EMA model on the validation set."""
    trainer = run.trainer
    with progress_bar("evaluating") as progress:
        total, done = len(trainer.val_reader.records), 0

        def advance(images: int) -> None:
            nonlocal done
            done += images
            progress(done, total)
            if run.stop.asked:
                save_state(run)
                run.stop.strike()

        return trainer.evaluate(advance)


@task(name="record", **RETRIED)
def record(run: TrainingRun) -> None:
    """Puts results.txt and the TensorBoard events into the store, results.txt into the bucket."""
    context, config = run.context, run.info.config
    context.lease.check()
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
def save_checkpoint(run: TrainingRun, found: Evaluation | None, is_best: bool) -> None:
    """Saves the complete state as last, when best as best, and at its period once more to keep."""
    period = run.info.config.save_period
    _save(run, found, is_best=is_best, is_kept=period > 0 and run.trainer.epoch % period == 0)


def save_state(run: TrainingRun) -> None:
    """Saves the complete state inside an epoch, unless no epoch is to be saved; no Prefect task.

    Raises:
        TrainingDivergedError: The loss is no number.
        StoreError: It could not be saved.
    """
    trainer = run.trainer
    if run.info.config.nosave or trainer.report is None:
        return
    started = time.monotonic()
    _save(run, None, is_best=False, is_kept=False)
    log.info("state saved after step %d, batch %d of epoch %d, in %.1f s",
             trainer.step, trainer.batch or len(trainer.loader), trainer.report.epoch + 1,
             time.monotonic() - started)  # fmt: skip


def _save(run: TrainingRun, found: Evaluation | None, *, is_best: bool, is_kept: bool) -> None:
    trainer, context = run.trainer, run.context
    context.lease.check()
    payload = {**trainer.state(), **_description(run, found)}
    payload["resume"]["trained_s"] = run.trained_s + time.monotonic() - run.started
    under_way = 0 if trainer.report is None else trainer.batch or len(trainer.loader)
    checkpoints.commit(
        context.store,
        context.run,
        checkpoint.encode(payload),
        checkpoints.Saved(
            epoch=len(trainer.history) - 1,
            is_best=is_best,
            best_fitness=trainer.best_fitness,
            is_kept=is_kept,
            step=trainer.step,
            batch=under_way,
            attempt=context.lease.attempt,
        ),
    )
    run.saved = time.monotonic()


def _description(run: TrainingRun, found: Evaluation | None) -> dict[str, Any]:
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
