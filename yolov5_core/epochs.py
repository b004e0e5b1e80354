"""What finished epochs were like, and whether they still get better."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from yolov5_core.results import ResultsRow


@dataclass(frozen=True, slots=True)
class EpochReport:
    """What one epoch of training was like."""

    epoch: int
    losses: tuple[float, float, float, float]  # means: box, obj, cls, their sum
    targets: int  # labels in the last batch
    image_size: int  # pixels, width of the last batch
    memory: str  # "3.1G" reserved on the device; "0G" on a CPU
    lr: float  # of the last step


def report_from(saved: dict[str, Any] | None) -> EpochReport | None:
    """A report again, from asdict()."""
    return None if saved is None else EpochReport(**{**saved, "losses": tuple(saved["losses"])})


def row_and_time(entry: dict[str, Any]) -> tuple[ResultsRow, float]:
    """An entry of a saved history again: its row and the time at which the epoch ended."""
    values = dict(entry)
    time = values.pop("time")
    return ResultsRow(**values), time


def stalled(history: Sequence[tuple[ResultsRow, float]]) -> int:
    """Evaluated epochs since the last with a fitness above all before it; from the start, above 0.

    An equal fitness is none the better, so a run that finds nothing at all stalls too.
    """
    best, count = 0.0, 0
    for row, _ in history:
        if row.is_evaluated:
            better = row.fitness > best
            best, count = (row.fitness, 0) if better else (best, count + 1)
    return count
