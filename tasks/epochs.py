"""One epoch of a run, each step of it a Prefect task of its own.

The model stays in memory across the tasks.
"""

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from prefect import task
from tqdm import tqdm

from tasks import checkpoints
from tasks.errors import StoreError
from tasks.progress import progress_bar
from tasks.records import RunInfo
from tasks.stage import StageContext
from tasks.store import open_store
from tasks.task_options import PLAIN, RETRIED
from tasks.upload import publish_results
from yolov5_core import checkpoint
from yolov5_core.evaluation import Evaluation
from yolov5_core.events import write_events
from yolov5_core.results import format_progress, format_row, header
from yolov5_core.trainer import EpochReport, Trainer

log = logging.getLogger(__name__)

_METRICS = ("precision", "recall", "map50", "map50_95", "val_box", "val_obj", "val_cls")


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """What the epochs of one attempt share."""

    context: StageContext
    info: RunInfo
    names: tuple[str, ...]
    trainer: Trainer
    lineage: Mapping[str, str]


def run_epoch(run: TrainingRun) -> None:
    """Train, evaluate, record, save: in the order of the design's run semantics.

    The planned last epoch is known before it is evaluated. One that ends training early is known
    only after, and that is soon enough: it was evaluated, or there would be no fitness to stop by,
    and what is left of a last epoch is its save.
    """
    trainer, config = run.trainer, run.info.config
    epoch = trainer.epoch
    title = f"{epoch + 1}/{config.epochs}"
    report = train_epoch.with_options(task_run_name=f"train_epoch {title}")(trainer, epoch)
    found: Evaluation | None = None
    if not config.notest or epoch + 1 == config.epochs:
        found = evaluate_epoch.with_options(task_run_name=f"evaluate_epoch {title}")(trainer)
    is_best = trainer.record(report, found, time.time())
    log.info("%s", format_row(trainer.history[-1][0]).rstrip())
    record.with_options(task_run_name=f"record {title}")(run)
    if not config.nosave or trainer.over:
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
    trainer, context, period = run.trainer, run.context, run.info.config.save_period
    context.lease.check()
    payload = {**trainer.state(), **_description(run, found)}
    path = context.scratch / "checkpoint.pt"
    checkpoint.save(payload, path)
    checkpoints.commit(
        context.store,
        context.run,
        path,
        checkpoints.Saved(
            epoch=trainer.epoch - 1,
            is_best=is_best,
            best_fitness=trainer.best_fitness,
            is_kept=period > 0 and trainer.epoch % period == 0,
        ),
    )


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
