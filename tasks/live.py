"""Training as it goes on, in the UI: how far it is, and a table with a row an epoch.

They are for people. A server that is away must not cost a training run: it is left alone a while.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from yolov5_core.results import ResultsRow
from yolov5_core.trainer import Trainer

log = logging.getLogger(__name__)

_QUIET = 300.0  # seconds without another try after the server did not answer
_COLUMNS = ("P", "R", "mAP50", "mAP50-95", "val box", "val obj", "val cls")


class LiveView:
    """The two artifacts of a train stage; each is made once and then updated."""

    def __init__(self) -> None:
        self._progress: UUID | None = None
        self._table: UUID | None = None
        self._quiet_until = 0.0

    def show(self, trainer: Trainer) -> None:
        """Shows what is done so far."""
        percent = 100.0 if trainer.over else 100.0 * trainer.epoch / trainer.config.epochs
        self._try(lambda: self._show_progress(percent))
        if trainer.history:
            self._try(lambda: self._show_table(epoch_rows(trainer.history)))

    def _show_progress(self, percent: float) -> None:
        if self._progress is None:
            self._progress = create_progress_artifact(  # type: ignore[assignment]  # not async here
                percent, key="training", description="Epochs trained"
            )
        else:
            update_progress_artifact(self._progress, percent)

    def _show_table(self, rows: list[dict[str, Any]]) -> None:
        if self._table is None:
            self._table = create_table_artifact(  # type: ignore[assignment]  # not async here
                rows, key="epochs", description="Losses and validation metrics, newest epoch first"
            )
        else:
            with get_client(sync_client=True) as client:
                client.update_artifact(self._table, ArtifactUpdate(data=json.dumps(rows)))

    def _try(self, show: Callable[[], None]) -> None:
        if time.monotonic() < self._quiet_until:
            return
        try:
            show()
        except httpx.HTTPError as error:
            self._quiet_until = time.monotonic() + _QUIET
            log.warning("Prefect's server does not answer, training goes on: %s", error)


def epoch_rows(history: Sequence[tuple[ResultsRow, float]]) -> list[dict[str, Any]]:
    """Rows of the table, the newest first; one that was not evaluated has no metrics.

    Args:
        history: Rows and the Unix times at which their epochs ended.
    """
    best = max(range(len(history)), key=lambda i: history[i][0].fitness, default=0)
    rows: list[dict[str, Any]] = []
    for number, (row, ended) in enumerate(history):
        evaluated = row.is_evaluated
        rows.append(
            {
                "epoch": f"{row.epoch + 1}/{row.epochs}",
                "best": "best" if number == best and evaluated else "",
                **_rounded(("box", "obj", "cls"), row.losses[:3]),
                **(_rounded(_COLUMNS, row.results) if evaluated else dict.fromkeys(_COLUMNS, "")),
                "seconds": round(ended - history[number - 1][1], 1) if number else "",
            }
        )
    return rows[::-1]


def _rounded(names: Sequence[str], values: Sequence[float]) -> dict[str, float | str]:
    # as text where it is not finite: JSON has no NaN
    return {
        name: round(value, 4) if abs(value) < float("inf") else str(value)
        for name, value in zip(names, values, strict=True)
    }
