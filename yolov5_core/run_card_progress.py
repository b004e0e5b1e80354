"""How a run learned, epoch by epoch, how the last nights went, and each class."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from yolov5_core import run_card_changes as changes
from yolov5_core.line_chart_svg import Line, LineChart, draw_lines
from yolov5_core.page import Safe, paragraph, safe, section, table
from yolov5_core.run_card_changes import duration, moment

_SHOWN_CLASSES = 200
_SPAN = 0.05  # of a metric's axis at least: noise must not look like mountains
_BEYOND = 5  # times the values of the second half: higher early ones would flatten all others
_STYLES = "abc"

Facts = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]


def curves(facts: Facts) -> Safe:
    """Losses and metrics over the epochs, the best one marked."""
    rows: Rows = facts["results"]
    if not rows:
        return Safe("")
    cards = [
        _epochs(facts, "mAP", {"mAP50-95": "map50_95", "mAP50": "map50"}, _SPAN),
        _epochs(
            facts, "Precision and recall", {"precision": "precision", "recall": "recall"}, _SPAN
        ),
        _epochs(facts, "Box loss", {"training": "box", "validation": "val_box"}),
        _epochs(facts, "Objectness loss", {"training": "obj", "validation": "val_obj"}),
        _epochs(facts, "Class loss", {"training": "cls", "validation": "val_cls"}),
        _best(facts),
    ]
    words = "Epochs count from 0, as in results.txt; the dashed line is the best one."
    return section("Training", paragraph(words), Safe(f'<div class="grid">{"".join(cards)}</div>'))


def _best(facts: Facts) -> str:
    """How far the training came, and its best epoch."""
    rows: Rows = facts["results"]
    lines = [f"{len(rows)} of {facts['planned']} epochs"]
    if facts["stopped_early"]:
        lines[0] += ", stopped early"
    found = next((row for row in rows if row["epoch"] == facts["best_epoch"]), None)
    if found:
        lines.append(f"best: epoch {found['epoch']}")
        lines += [f"{name} {_share(found[key])}" for key, name in changes.METRICS.items()]
    items = "".join(f"<div>{safe(line)}</div>" for line in lines)
    return f'<div class="card"><h3>How far</h3>{items}</div>'


def _epochs(facts: Facts, title: str, named: Mapping[str, str], span: float = 0.0) -> str:
    """A chart of metrics, or without a span of losses, whose early peaks are cut."""
    rows: Rows = facts["results"]
    epochs = [row["epoch"] for row in rows]
    best = facts["best_epoch"]
    ceiling = math.inf if span else _loss_ceiling(rows, named.values())
    is_cut = any((row[key] or 0.0) > ceiling for row in rows for key in named.values())
    return _card(
        LineChart(
            title=f"{title}, early peaks cut" if is_cut else title,
            lines=_lines({name: [row[key] for row in rows] for name, key in named.items()}),
            ceiling=ceiling if is_cut else math.inf,
            points=[f"epoch {epoch}" for epoch in epochs],
            ticks=[str(epoch) for epoch in epochs],
            marked=epochs.index(best) if best in epochs else None,
            least_span=span,
            from_zero=True,
        )
    )


def _loss_ceiling(rows: Rows, keys: Iterable[str]) -> float:
    """What losses stay below once the training has settled."""
    late = [row[key] for row in rows[len(rows) // 2 :] for key in keys if row[key] is not None]
    return _BEYOND * max(late, default=0.0) or math.inf


def _lines(named: Mapping[str, Sequence[float | None]]) -> list[Line]:
    return [
        Line(style, name, values)
        for style, (name, values) in zip(_STYLES, named.items(), strict=False)
    ]


def _card(chart: LineChart) -> str:
    """A chart with its title, and a key where there are several lines."""
    keys = "".join(
        f'<span class="key {line.style}"></span><span>{safe(line.name)}</span>'
        for line in chart.lines
    )
    shown = f'<div class="keys">{keys}</div>' if len(chart.lines) > 1 else ""
    return f'<div class="card"><h3>{safe(chart.title)}</h3>{shown}{draw_lines(chart)}</div>'


def trend(facts: Facts) -> Safe:
    """The last nights of this name, this one the last."""
    nights: Rows = facts["nights"]
    if len(nights) < 2:
        return Safe("")
    cards = [
        _nights(nights, "mAP50-95", lambda n: n["metrics"].get("map50_95"), _SPAN),
        _nights(
            nights, "Training pictures", lambda n: n["counts"].get("train", {}).get("pictures"), 1.0
        ),
        _nights(nights, "Hours", lambda n: n["hours"], 0.01),
    ]
    lost = sum(night["status"] != "completed" for night in nights)
    words = f"The last {len(nights)} runs of this name, oldest first"
    words += f"; {lost} did not complete (crosses)." if lost else "; all completed."
    rows = [_night(night) for night in reversed(nights)]
    head = ("run", "created", "outcome", "mAP50-95", "mAP50", "precision", "recall", "epochs",
            "took", "code")  # fmt: skip
    return section(
        f"The last {len(nights)} runs",
        paragraph(words),
        Safe(f'<div class="grid">{"".join(cards)}</div>'),
        Safe(f'<details><summary class="line">As a table</summary>{table(head, rows)}</details>'),
    )


def _nights(
    nights: Rows, title: str, value: Callable[[Mapping[str, Any]], float | None], span: float
) -> str:
    """A figure of the nights that completed."""
    values = [value(night) if night["status"] == "completed" else None for night in nights]
    return _card(
        LineChart(
            title=title,
            lines=[Line("a", title, values)],
            points=[f"{night['run']}, {moment(night['created'])}" for night in nights],
            ticks=[night["created"][5:10] for night in nights],
            crossed=[i for i, night in enumerate(nights) if night["status"] != "completed"],
            least_span=span,
        )
    )


def _night(night: Mapping[str, Any]) -> tuple[str, ...]:
    found = [night["metrics"].get(key) for key in changes.METRICS]
    return (
        night["run"],
        moment(night["created"]),
        night["status"],
        *("-" if value is None else f"{value:.3f}" for value in found),
        str(night["epochs"]),
        duration(3600 * night["hours"]),
        night["code"],
    )


def classes(facts: Facts) -> Safe:
    """Each class with its figures, and what they were before."""
    found = facts["evaluation"]
    if not found:
        return Safe("")
    before = facts["previous"]["night"]["classes"] if facts["previous"] else {}
    mean_before = changes.metrics(facts)[0].before
    rows = [
        _class(row, mean_before if i == 0 else before.get(row["class"]), i == 0)
        for i, row in enumerate(found["classes"][: _SHOWN_CLASSES + 1])
    ]
    head = ("class", "boxes", "precision", "recall", "mAP50", "mAP50-95", "", "previous run",
            "change")  # fmt: skip
    parts = [table(head, rows, "full")]
    if (more := len(found["classes"]) - len(rows)) > 0:
        parts.append(paragraph(f"{more:,} more classes are in evaluation/evaluation.json."))
    gone = [name for name in before if name not in facts["night"]["classes"]]
    if gone:
        parts.append(paragraph(f"The previous run also had: {', '.join(gone[:20])}."))
    sizes = [
        (row["size"], row["labels"], *(_share(row[k]) for k in ("R", "mAP50", "mAP50-95")))
        for row in found["sizes"]
    ]
    parts.append(table(("size of the box", "boxes", "recall", "mAP50", "mAP50-95"), sizes))
    words = (
        f"Measured with epoch {found['epoch']} on the validation pictures; precision and recall at "
        f"confidence {found['confidence']}. Small is up to 32 x 32 pixels, large from 96 x 96."
    )
    return section("Classes", paragraph(words), *parts)


def _class(row: Mapping[str, Any], before: float | None, is_mean: bool) -> list[str | float]:
    now = row["mAP50-95"]
    same = changes.SAME if is_mean else changes.SAME_CLASS
    mark = "" if before is None else f'<b style="left:calc({100 * before:.1f}% - 1px)"></b>'
    width = 100 * (now or 0.0)
    name = Safe(f"<b>{safe(row['class'])}</b>") if is_mean else row["class"]
    return [
        name,
        row["labels"],
        *(_share(row[key]) for key in ("P", "R", "mAP50", "mAP50-95")),
        Safe(f'<div class="share"><i style="width:{width:.1f}%"></i>{mark}</div>'),
        _share(before),
        _change(changes.Figure(row["class"], now, before).change, same),
    ]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _change(change: float | None, same: float) -> Safe:
    if change is None:
        return Safe("-")
    way = {"better": "up", "worse": "down", "same": "pale"}[changes.direction(change, same)]
    return Safe(f'<span class="change {way}">{change:+.3f}</span>')
