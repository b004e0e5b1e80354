"""A data report in a few lines of Markdown: what a Prefect artifact shows."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from yolov5_core.data_counts import printable

_MAX_BYTES = 5000
_ROWS = 20  # faults listed, and kinds of faults
_FEWEST_KINDS = 8
_OFFENDERS = 3  # of a gate
# What makes markup, and links of addresses; an underscore within a word makes none.
_MARKUP = re.compile(r"([\\`*\[\]<>|!~&#$@]|:(?=//)|(?<=www)\.|(?<![^\W_])_|_(?![^\W_]))")

Plain = Callable[[str], str]


def report_markdown(report: Mapping[str, Any]) -> str:
    """Verdict, counts, faults and drift in at most 5000 bytes, however long the names are."""
    text = ""
    for rows in range(_ROWS, -1, -1):  # fewer rows and shorter texts until it fits
        text = "\n".join(_lines(report, rows, partial(plain_text, longest=40 + 6 * rows))) + "\n"
        if len(text.encode()) <= _MAX_BYTES:
            break
    return text


def _lines(report: Mapping[str, Any], rows: int, plain: Plain) -> Iterable[str]:
    yield f"# Data: {report['verdict']}\n"
    yield f"{plain(report['source'])}\n"
    for gate in report["gates"]:
        yield (
            f"- **{gate['verdict']}** {gate['name']}: {gate['value']:.4g}, allowed "
            f"{gate['threshold']:.4g}"
        )
        if gate["verdict"] != "pass":
            yield from (f"    - {plain(offender)}" for offender in gate["offenders"][:_OFFENDERS])
            yield f"    - What to do: {gate['fix']}."
    pictures = report["pictures"]
    yield (
        f"\n{pictures['used']:,} pictures used of {pictures['checked']:,}: {pictures['new']:,} new "
        f"or changed, {pictures['removed']:,} gone, {pictures['left_out']:,} left out.\n"
    )
    counts = [(s, c["pictures"], c["background"], c["boxes"]) for s, c in report["splits"].items()]
    yield from markdown_table(("", "pictures", "without box", "boxes"), counts, plain)
    yield "\n## What changed\n"
    if report["drift"]:
        aspects = [
            (a["name"], f"{a['value']:.3g}", a["change"]) for a in report["drift"]["aspects"]
        ]
        yield from markdown_table(("", "distance", "where it is largest"), aspects, plain)
    else:
        yield "There is no previous accepted set to compare with."
    yield from _faults(report["faults"], rows, plain)


def _faults(faults: Mapping[str, Any], rows: int, plain: Plain) -> Iterable[str]:
    yield f"\n## Faults: {faults['total']:,}\n"
    if not faults["total"]:
        return
    kinds = faults["by_kind"][: max(rows, _FEWEST_KINDS)]
    yield from markdown_table(
        ("count", "kind", "effect", "what to do"),
        [(k["count"], k["kind"], k["effect"], k["action"]) for k in kinds],
        partial(plain_text, longest=100),
    )
    listed = faults["listed"][:rows]
    yield ""
    yield from (f"- {plain(f['where'] or f['image'])} {plain(f['reason'])}" for f in listed)
    if faults["total"] > len(listed):
        yield f"- and {faults['total'] - len(listed):,} more on the report's page"


def markdown_table(
    head: Sequence[str], rows: Iterable[Sequence[str | int]], plain: Plain
) -> Iterable[str]:
    """Lines of a table; texts go through `plain`, numbers get commas."""
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        cells = (plain(cell) if isinstance(cell, str) else f"{cell:,}" for cell in row)
        yield f"| {' | '.join(cells)} |"


def plain_text(text: str, longest: int) -> str:
    """Text that Markdown shows as it is."""
    return _MARKUP.sub(r"\\\1", printable(text, longest))
