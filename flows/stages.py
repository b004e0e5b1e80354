"""One small flow per stage: what the nightly flow calls, and what a person calls to retry a stage.

A stage finds all it needs under its run in the store: settings in run.json, what earlier stages
left in their records. By hand: `yolov5-retrain --only plot --run RUN`.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

from prefect import flow

from flows.heartbeats import beating
from tasks.records import Artifact, Prepared, Published, RunInfo, StageRecord, prepared_from
from tasks.run import load_run, require_own, save_run
from tasks.stage import read_stage
from tasks.store import open_store
from yolov5_core.config import ConfigError


@flow(name="prepare", flow_run_name="prepare {run}", persist_result=False)
@beating
def prepare(store: str, run: str) -> Prepared:
    """Checks the pictures and labels and writes the data set's manifest."""
    from tasks.prepare import prepare_data  # noqa: PLC0415  each stage loads only what it needs

    info = _info(store, run)
    prepared = prepare_data(run, info.config)
    if prepared.digest != info.data_digest:
        save_run(open_store(store), replace(info, data_digest=prepared.digest))
    return prepared


@flow(name="train", flow_run_name="train {run}", persist_result=False)
@beating
def train(store: str, run: str) -> StageRecord:
    """Trains the epochs that are not done yet."""
    from tasks.train import train_stage  # noqa: PLC0415  torch

    return train_stage(_info(store, run), _prepared(store, run))


@flow(name="evaluate", flow_run_name="evaluate {run}", persist_result=False)
@beating
def evaluate(store: str, run: str) -> StageRecord:
    """Evaluates the best checkpoint, class by class."""
    from tasks.evaluate import evaluate_model  # noqa: PLC0415  torch

    return evaluate_model(_info(store, run), _prepared(store, run), _record(store, run, "train"))


@flow(name="finalize", flow_run_name="finalize {run}", persist_result=False)
@beating
def finalize(store: str, run: str) -> StageRecord:
    """Renames and strips the checkpoints."""
    from tasks.finalize import finalize_run  # noqa: PLC0415  torch

    return finalize_run(_info(store, run), _record(store, run, "train"))


@flow(name="upload", flow_run_name="upload {run}", persist_result=False)
@beating
def upload(store: str, run: str) -> tuple[Published, ...]:
    """Publishes weights and results to the bucket."""
    from tasks.upload import upload_files  # noqa: PLC0415  as above

    config = _info(store, run).config
    files: tuple[Artifact, ...] = _record(store, run, "finalize").outputs
    return upload_files(store, run, config.bucket, config.name, files)


@flow(name="promote", flow_run_name="promote {run}", persist_result=False)
@beating
def promote(store: str, run: str) -> StageRecord:
    """Compares the new model with the champion; the better one is the champion then."""
    from tasks.promote import promote_model  # noqa: PLC0415  torch

    return promote_model(_info(store, run), _prepared(store, run), _record(store, run, "finalize"))


@flow(name="plot", flow_run_name="plot {run}", persist_result=False)
@beating
def plot(store: str, run: str) -> StageRecord:
    """Draws the pictures of the run."""
    from tasks.plot import plot_run  # noqa: PLC0415  matplotlib

    evaluated, finalized = (_record(store, run, stage) for stage in ("evaluate", "finalize"))
    return plot_run(_info(store, run), _prepared(store, run), evaluated, finalized)


STAGE_FLOWS: dict[str, Callable[[str, str], Any]] = {
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "finalize": finalize,
    "upload": upload,
    "promote": promote,
    "plot": plot,
}


def load(only: str) -> None:
    """Imports what the first stages need: as well while Prefect's server starts as later.

    Args:
        only: The one stage to be run, "" for all of them.
    """
    if only in ("", "prepare"):
        import_module("tasks.prepare")
    if only in ("", "train"):
        import_module("tasks.train")
        import_module("torch._dynamo")  # a second; building any optimizer imports it


def write_report(store: str, run: str) -> str:
    """Writes a run's card anew, from what the store says now; returns where it is.

    Raises:
        ConfigError: No such run.
        StoreError: The store failed.
    """
    from tasks.card import write_card  # noqa: PLC0415  as above

    return open_store(store).url(write_card(_info(store, run)).page.key)


def show_our_logs() -> None:
    """Lets our INFO lines through: Prefect gives extra loggers a handler, but no level."""
    for name in ("yolov5_core", "tasks", "flows"):
        logging.getLogger(name).setLevel(logging.INFO)


def _info(store: str, run: str) -> RunInfo:
    show_our_logs()
    info = load_run(open_store(store), run)
    if info is None:
        raise ConfigError(f"run={run}: {open_store(store).shown} holds no such run")
    require_own(info)
    # The store is where the run was found: it may be a relative folder, or one that was moved.
    return replace(info, config=replace(info.config, store=store))


def record_of(info: RunInfo, stage: str) -> StageRecord:
    """What a finished stage of a run left.

    Raises:
        ConfigError: It is not done yet.
    """
    return _record(info.config.store, info.run, stage)


def _record(store: str, run: str, stage: str) -> StageRecord:
    record = read_stage(open_store(store), run, stage)
    if record is None:
        raise ConfigError(f"run={run}: stage {stage} is not done yet; run it first")
    return record


def _prepared(store: str, run: str) -> Prepared:
    return prepared_from(_record(store, run, "prepare").result)
