"""Where the time of a run went: every attempt of every stage on one line of time."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from yolov5_core.data_counts import printable
from yolov5_core.page import Safe, paragraph, safe, section, table
from yolov5_core.run_card_changes import duration, is_good, moment

_IDLE = 0.1  # of the busy time: a longer pause is drawn as this much
_SHORT = 120  # characters of an error; the whole is above or in the log
_CONTAINER = 12  # characters of a container's id, as Docker shows it

Facts = Mapping[str, Any]


class Span(NamedTuple):
    """One attempt of a stage; seconds since 1970."""

    stage: str
    number: int
    began: float
    ended: float
    is_good: bool
    where: str
    outcome: str


def timing(facts: Facts) -> Safe:
    """A bar for every attempt, with where it ran and how it ended."""
    spans = [span for stage in facts["stages"] for span in _spans(stage)]
    if not spans:
        return Safe("")
    places, is_cut = _places(spans)
    rows = [
        (
            span.stage,
            str(span.number),
            Safe(f'<span class="nowrap">{safe(_clock(span.began))}</span>'),
            Safe(f'<span class="nowrap">{safe(duration(span.ended - span.began))}</span>'),
            _bar(left, width, is_good=span.is_good),
            span.outcome,
            span.where,
        )
        for span, (left, width) in zip(spans, places, strict=True)
    ]
    head = ("stage", "attempt", "began (UTC)", "took", "", "outcome", "where")
    busy = sum(stage["done"]["seconds"] for stage in facts["stages"] if stage["done"])
    words = (
        f"From {moment(_stamp(spans[0].began))} to {moment(facts['night']['when'])}, "
        f"{duration(3600 * facts['night']['hours'])}."
    )
    if busy:
        words += (
            f" Stages that are done took {duration(busy)} of it; the rest is starting, waiting and "
            "attempts that did not finish."
        )
    if is_cut:
        words += " Long pauses are drawn short."
    return section("Time", paragraph(words), table(head, rows, "full"))


def _spans(stage: Mapping[str, Any]) -> list[Span]:
    """Attempts of a stage; of one without a record, to its last sign of life."""
    spans, done = [], stage["done"]
    for attempt in stage["attempts"]:
        is_record = bool(done and done["attempt"] == attempt["number"])
        began = _seconds(done["started"] if is_record else attempt["started"])
        last = _seconds(attempt["last_sign"] or attempt["started"])
        ended = began + done["seconds"] if is_record else last
        container = attempt["container"][:_CONTAINER]
        where = f"{attempt['host']} {container}".strip()
        good = is_good(stage, attempt)
        spans.append(
            Span(
                stage=stage["stage"],
                number=attempt["number"],
                began=began,
                ended=max(began, ended),
                is_good=good,
                where=where,
                outcome=_outcome(attempt, is_record=is_record, good=good),
            )
        )
    return spans


def _outcome(attempt: Mapping[str, Any], *, is_record: bool, good: bool) -> str:
    if is_record:
        return "done"
    if good:
        return "was done already"
    if attempt["is_over"]:
        return f"{attempt['kind']}: {printable(attempt['error'], _SHORT)}"
    return "no end recorded" if attempt["last_sign"] else "no sign of life recorded"


def _places(spans: Sequence[Span]) -> tuple[list[tuple[float, float]], bool]:
    """Left end and width of each bar in percent, long pauses cut; whether any was cut."""
    busy = sum(span.ended - span.began for span in spans) or 1.0
    longest, covered, shift, is_cut = _IDLE * busy, 0.0, 0.0, False
    moved: dict[int, float] = {}
    order = sorted(range(len(spans)), key=lambda i: spans[i].began)
    for i in order:
        if covered and (pause := spans[i].began - covered) > longest:
            shift, is_cut = shift + pause - longest, True
        moved[i] = spans[i].began - shift
        covered = max(covered, spans[i].ended)
    first = min(moved.values())
    whole = max(moved[i] + spans[i].ended - spans[i].began for i in order) - first or 1.0
    return [
        (100 * (moved[i] - first) / whole, 100 * (span.ended - span.began) / whole)
        for i, span in enumerate(spans)
    ], is_cut


def _bar(left: float, width: float, *, is_good: bool) -> Safe:
    left = min(left, 99.0)  # a mark at the end has room
    style = "" if is_good else ' class="lost"'
    return Safe(
        f'<div class="track"><i{style} style="left:{left:.2f}%;width:{width:.2f}%"></i></div>'
    )


def _seconds(stamp: str) -> float:
    try:
        return datetime.fromisoformat(stamp).timestamp()
    except ValueError:
        return 0.0


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat() if seconds else ""


def _clock(seconds: float) -> str:
    return _stamp(seconds)[11:19] or "-"
