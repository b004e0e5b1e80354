"""The run card: what a person sees first in the morning, also of a night that failed."""

import logging

from prefect import task
from prefect.artifacts import create_markdown_artifact

from tasks.records import RunInfo
from tasks.task_options import PLAIN

log = logging.getLogger(__name__)


@task(name="report", task_run_name="report", **PLAIN)
def report(info: RunInfo, fault: BaseException | None) -> None:
    """Writes a run's card to the store and shows it in the UI, and in MLflow if it is told to.

    It tells what happened, and must not change it: a card that fails is a warning.
    """
    _show_card(info, fault)
    if info.config.mlflow:
        from tasks.mlflow_tracker import MlflowTracker  # noqa: PLC0415  as little as can fail

        MlflowTracker(info).end(fault)


def _show_card(info: RunInfo, fault: BaseException | None) -> None:
    try:
        from tasks.card import write_card  # noqa: PLC0415  as little as can fail

        card = write_card(info, fault)
    except Exception as error:  # noqa: BLE001  the run's own outcome counts, whatever this is
        log.warning("no run card: %s: %s", type(error).__name__, error)
        return
    create_markdown_artifact(card.markdown, key="run", description=f"Run {info.run}")
    log.info("run card: %s", card.page.key)
