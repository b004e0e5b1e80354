"""Runs beside each other as a table of text: what differs, and by how much from the first one.

A run is told by the facts of its run card. One run is one measurement: differences have a size and
are never called significant.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from yolov5_core.run_card_changes import (
    Difference,
    Figure,
    classes,
    data,
    duration,
    metrics,
    moment,
    same_data,
    settings,
    versions,
)

Facts = Mapping[str, Any]

_DIGEST = 12  # characters


class Row(NamedTuple):
    """One line: what it is about, and a cell for each run."""

    name: str
    cells: Sequence[str]


def comparison(runs: Sequence[Facts]) -> list[tuple[str, list[Row]]]:
    """Titled parts of a table, the runs from left to right; a part of no rows is left out.

    Args:
        runs: Facts of two or more run cards; changes are against the first.
    """
    pairs = [_pair(runs[0], run) for run in runs]
    parts = {
        "run": list(_outcome(runs, pairs)),
        "metrics": list(_figures([metrics(pair) for pair in pairs], "{:.3f}")),
        "mAP50-95 by class": list(_figures([classes(pair) for pair in pairs], "{:.3f}")),
        "data": list(_figures([data(pair) for pair in pairs], "{:,.0f}")),
        "settings that differ": list(_differences([settings(pair) for pair in pairs])),
        "versions that differ": list(_differences([versions(pair) for pair in pairs])),
        "time of the stages": list(_times(runs)),
    }
    return [(title, rows) for title, rows in parts.items() if rows]


def comparison_text(runs: Sequence[Facts]) -> str:
    """The table for a terminal, with what to bear in mind below."""
    parts = comparison(runs)
    every = [Row("", [run["run"] for run in runs]), *(row for _, rows in parts for row in rows)]
    first = max(len(_plain(f"  {row.name}")) for row in every)
    widths = [max(len(_plain(row.cells[i])) for row in every) for i in range(len(runs))]

    def line(row: Row) -> str:
        cells = (_plain(cell).ljust(width) for cell, width in zip(row.cells, widths, strict=True))
        return "  ".join([_plain(f"  {row.name}").ljust(first), *cells]).rstrip()

    lines = [line(every[0])]
    for title, rows in parts:
        lines += [title, *map(line, rows)]
    return "\n".join([*lines, *_remarks(runs)])


def _pair(first: Facts, run: Facts) -> Facts:
    """The facts of a run whose previous one is the first."""
    previous = {key: first[key] for key in ("night", "settings", "versions")}
    return {**run, "previous": previous}


def _outcome(runs: Sequence[Facts], pairs: Sequence[Facts]) -> Iterator[Row]:
    yield Row("status", [run["status"] for run in runs])
    yield Row("created", [moment(run["created"]) for run in runs])
    yield Row("epochs", [str(run["night"]["epochs"]) for run in runs])
    best = [run["best_epoch"] for run in runs]
    yield Row("best epoch", ["-" if epoch is None else str(epoch) for epoch in best])
    yield Row("time in all", [duration(run["night"]["hours"] * 3600) for run in runs])
    cells = []
    for number, pair in enumerate(pairs):
        digest = pair["night"]["data_digest"][:_DIGEST] or "-"
        cells.append(f"{digest} (the same)" if number and same_data(pair) else digest)
    yield Row("data digest", cells)


def _figures(runs: Sequence[Sequence[Figure]], form: str) -> Iterator[Row]:
    """Numbers and their change against the first run."""
    by_name = [{figure.name: figure for figure in figures} for figures in runs]
    for name in dict.fromkeys(name for figures in by_name for name in figures):
        cells = []
        for number, figures in enumerate(by_name):
            figure = figures.get(name, Figure(name, None, None))
            text = "-" if figure.now is None else form.format(figure.now)
            change = f" ({_signed(form).format(figure.change)})" if figure.change else ""
            cells.append(text + (change if number else ""))
        if set(cells) != {"-"}:
            yield Row(name, cells)


def _signed(form: str) -> str:
    return form.replace("{:", "{:+")


def _differences(runs: Sequence[Sequence[Difference]]) -> Iterator[Row]:
    """Values that are not the first run's in every run."""
    by_name = [{difference.name: difference for difference in found} for found in runs]
    for name in dict.fromkeys(name for found in by_name for name in found):
        first = next(found[name].before for found in by_name if name in found)
        yield Row(name, [found[name].now if name in found else first for found in by_name])


def _times(runs: Sequence[Facts]) -> Iterator[Row]:
    seconds = [run["night"]["seconds"] for run in runs]
    for stage in dict.fromkeys(stage for times in seconds for stage in times):
        yield Row(stage, [duration(t[stage]) if stage in t else "-" for t in seconds])


def _remarks(runs: Sequence[Facts]) -> Iterator[str]:
    digests = {run["night"]["data_digest"] for run in runs}
    if len(digests) > 1:
        yield (
            "The data sets are not the same: where the validation pictures differ, metrics are "
            "not measured on the same ground."
        )
    for run in runs:
        yield from (_plain(f"{run['run']}: not shown: {each}") for each in run["remarks"])


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
