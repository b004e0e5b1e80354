"""The nightly flow: the chain of stages, nothing computed here."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime

from prefect import flow, runtime

from flows import stages
from flows.heartbeats import beating, our_heartbeats
from flows.report import report
from tasks.dispatch import require_deployments, run_elsewhere
from tasks.records import (
    Published,
    RunInfo,
    RunSummary,
    StageRecord,
    prepared_from,
    stages_of,
)
from tasks.run import begin_run, preflight
from tasks.settings import RetrainConfig
from tasks.stage import run_key
from tasks.store import open_store

log = logging.getLogger(__name__)


def _run_name() -> str:
    config = runtime.flow_run.parameters["config"]
    return " ".join(filter(None, ("retrain", config.name, config.resume)))


@flow(name="retrain", flow_run_name=_run_name, persist_result=False)
@beating
def retrain(config: RetrainConfig = RetrainConfig()) -> RunSummary:  # noqa: B008  it is frozen
    """Prepare, train, evaluate, finalize, upload, plot; then the run card, also after a failure.

    Stages that are done are skipped, so the same run can be started again after any fault.
    """
    stages.show_our_logs()
    preflight(config)
    if config.run_on != "here":
        require_deployments(config)
    started = runtime.flow_run.scheduled_start_time or datetime.now(UTC)
    info = begin_run(config, started)
    log.info("run %s in %s", info.run, open_store(info.config.store).url(run_key(info.run, "")))
    if info.config.run_on != config.run_on:  # it goes on where it began
        require_deployments(info.config)
    wanted = stages_of(info.config)
    try:
        for stage in wanted:
            _run(stage, info)
    except BaseException as error:  # SIGTERM too: the morning wants to know
        report(info, error)
        raise
    report(info, None)
    return _summary(info, {stage: stages.record_of(info, stage) for stage in wanted})


def _run(stage: str, info: RunInfo) -> None:
    if info.config.run_on == "here":
        with our_heartbeats():
            stages.STAGE_FLOWS[stage](info.config.store, info.run)
    else:
        run_elsewhere(stage, info)


def _summary(info: RunInfo, records: Mapping[str, StageRecord]) -> RunSummary:
    store = open_store(info.config.store)

    def url(name: str) -> str:
        return store.url(run_key(info.run, name))

    trained, finalized = records["train"].result, records["finalize"].result
    published = records["upload"].result["published"] if "upload" in records else ()
    return RunSummary(
        run=info.run,
        folder=url("").rstrip("/"),
        report=url("report.html"),
        data=store.url(prepared_from(records["prepare"].result).report),
        weights=tuple(url(name) for name in finalized["weights"]),
        results=url(finalized["results"]),
        plot=url("plots/results.png"),
        published=tuple(Published(**each) for each in published),
        metrics=records["evaluate"].result["metrics"],
        epochs=trained["epochs"],
        hours=trained["hours"],
    )
