"""The rows of results.txt: writing, reading, and the names that go with them.

One row per epoch, 15 columns, no header; read by people and by plots, so the format is exact.
"""

import re
from dataclasses import dataclass

_HEADER_FIELDS = ("Epoch", "gpu_mem", "GIoU", "obj", "cls", "total", "targets", "img_size")
_COLUMNS = 15
_EPOCH = re.compile(r"(\d+)/(\d+)", re.ASCII)

# Tags of ResultsRow.scalars, in order. "giou" is the traditional name of the box loss, whichever
# IoU it uses.
TENSORBOARD_TAGS = (
    "train/giou_loss",
    "train/obj_loss",
    "train/cls_loss",
    "metrics/precision",
    "metrics/recall",
    "metrics/mAP_0.5",
    "metrics/mAP_0.5:0.95",
    "val/giou_loss",
    "val/obj_loss",
    "val/cls_loss",
)


class ResultsError(ValueError):
    """A results.txt that is not what we write."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultsRow:
    """One epoch in results.txt."""

    epoch: int  # from 0
    epochs: int  # of the whole run
    memory: str  # "3.1G" reserved on the device, decimal; "0G" on a CPU
    losses: tuple[float, float, float, float]  # epoch means: box, obj, cls, total
    targets: int  # labels in the last batch
    image_size: int  # pixels, width of the last batch
    # precision, recall, mAP50, mAP50-95, val box, val obj, val cls; zeros when not evaluated
    results: tuple[float, float, float, float, float, float, float]

    @property
    def scalars(self) -> tuple[float, ...]:
        """The ten values of TENSORBOARD_TAGS."""
        return (*self.losses[:3], *self.results)

    @property
    def is_evaluated(self) -> bool:
        """Whether its model was evaluated: zeros if not."""
        return any(self.results)

    @property
    def fitness(self) -> float:
        """0.1 mAP50 + 0.9 mAP50-95; 0 when not evaluated."""
        return 0.1 * self.results[2] + 0.9 * self.results[3]


def header() -> str:
    """The line above an epoch's progress, begun by a newline.

    Source: spec F.1.
    """
    return "\n" + "".join(f"{field:>10}" for field in _HEADER_FIELDS)


def format_progress(row: ResultsRow) -> str:
    """The progress line: the first eight columns, without a newline.

    Source: spec F.1.
    """
    numbers = (*row.losses, row.targets, row.image_size)
    epoch = f"{row.epoch}/{row.epochs - 1}"
    return f"{epoch:>10}{row.memory:>10}" + "".join(f"{value:>10.4g}" for value in numbers)


def format_row(row: ResultsRow) -> str:
    """The row of results.txt, with its newline.

    Source: spec F.2.
    """
    return format_progress(row) + "".join(f"{value:>10.4g}" for value in row.results) + "\n"


def parse_results(text: str) -> list[ResultsRow]:
    """Reads a results.txt; blank lines and either kind of line end are accepted.

    Values come back as precise as they are written: four digits.

    Raises:
        ResultsError: a line is not one of our rows; the message names the line.
    """
    return [
        _parse_row(line, number)
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    ]


def result_suffix(name: str) -> str:
    """What a run's name adds to last.pt, best.pt and results.txt.

    Returns:
        "" without a name, the name itself when it is all digits, else "_" and the name.

    Source: spec D.9.
    """
    return name if not name or name.isdigit() else f"_{name}"


def _parse_row(line: str, number: int) -> ResultsRow:
    fields = line.split()
    if len(fields) != _COLUMNS:
        raise ResultsError(
            f"results line {number}: {len(fields)} columns, not {_COLUMNS}; remove the line or "
            f"restore it: {line.strip()!r}"
        )
    epoch = _EPOCH.fullmatch(fields[0])
    if epoch is None or int(epoch[1]) > int(epoch[2]):
        raise ResultsError(
            f"results line {number}: epoch {fields[0]!r} is not like 0/299; correct the line"
        )
    try:
        losses = tuple(float(field) for field in fields[2:6])
        targets, image_size = (int(float(field)) for field in fields[6:8])
        results = tuple(float(field) for field in fields[8:])
    except (ValueError, OverflowError) as error:  # the second: int(float("inf"))
        raise ResultsError(f"results line {number}: {error}; correct the line") from error
    return ResultsRow(
        epoch=int(epoch[1]),
        epochs=int(epoch[2]) + 1,
        memory=fields[1],
        losses=losses,  # type: ignore[arg-type]  # lengths follow from the 15 columns
        targets=targets,
        image_size=image_size,
        results=results,  # type: ignore[arg-type]
    )
