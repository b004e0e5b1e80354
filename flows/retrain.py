"""The nightly flow: the chain of stages, nothing computed here."""

import logging
from datetime import UTC, datetime

from prefect import flow, runtime
from prefect.artifacts import create_markdown_artifact

from flows import stages
from tasks.records import Prepared, Published, RunInfo, RunSummary, StageRecord
from tasks.run import begin_run, preflight
from tasks.settings import RetrainConfig
from tasks.stage import run_key
from tasks.store import open_store

log = logging.getLogger(__name__)


def _run_name() -> str:
    config = runtime.flow_run.parameters["config"]
    return " ".join(filter(None, ("retrain", config.name, config.resume)))


@flow(name="retrain", flow_run_name=_run_name, persist_result=False)
def retrain(config: RetrainConfig = RetrainConfig()) -> RunSummary:  # noqa: B008  it is frozen
    """Prepare, train, evaluate, finalize, upload, plot.

    Stages that are done are skipped, so the same run can be started again after any fault.
    """
    stages.show_our_logs()
    preflight(config)
    started = runtime.flow_run.scheduled_start_time or datetime.now(UTC)
    info = begin_run(config, started)
    store, run = info.config.store, info.run
    log.info("run %s in %s", run, open_store(store).url(run_key(run, "")))
    prepared = stages.prepare(store, run)
    trained = stages.train(store, run)
    evaluated = stages.evaluate(store, run)
    finalized = stages.finalize(store, run)
    published = stages.upload(store, run)
    stages.plot(store, run)
    summary = _summary(info, prepared, trained, evaluated, finalized, published)
    create_markdown_artifact(_links(summary), key="run", description=f"Run {run}")
    return summary


def _summary(
    info: RunInfo,
    prepared: Prepared,
    trained: StageRecord,
    evaluated: StageRecord,
    finalized: StageRecord,
    published: tuple[Published, ...],
) -> RunSummary:
    store = open_store(info.config.store)

    def url(name: str) -> str:
        return store.url(run_key(info.run, name))

    return RunSummary(
        run=info.run,
        folder=url("").rstrip("/"),
        data=store.url(prepared.report),
        weights=tuple(url(name) for name in finalized.result["weights"]),
        results=url(finalized.result["results"]),
        plot=url("plots/results.png"),
        published=published,
        metrics=evaluated.result["metrics"],
        epochs=trained.result["epochs"],
        hours=trained.result["hours"],
    )


def _links(summary: RunSummary) -> str:
    rows = [("run", summary.folder), ("data", summary.data), ("results", summary.results)]
    rows += [("plots", summary.plot)]
    rows += [("weights", url) for url in summary.weights]
    rows += [("published", p.url) for p in summary.published]
    metrics = " · ".join(f"{name} **{value:.3f}**" for name, value in summary.metrics.items())
    table = "\n".join(f"| {what} | `{where}` |" for what, where in rows)
    return f"## {summary.run}\n\n{metrics}\n\n| what | where |\n|---|---|\n{table}\n"
