"""A run on one page: what came of it beside the run before, then everything that explains it.

The facts are those of tasks/card_facts.py, plain values; the same facts give the same page.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from yolov5_core import promotion_text
from yolov5_core import run_card_changes as changes
from yolov5_core.page import Safe, badge, bullets, figures, page, paragraph, safe, section, table
from yolov5_core.run_card_changes import Difference, Figure, duration, moment
from yolov5_core.run_card_objects import objects, relative_link, versions
from yolov5_core.run_card_progress import classes, curves, trend
from yolov5_core.run_card_style import CARD_STYLE
from yolov5_core.run_card_timing import timing

_LOOKS: dict[changes.Verdict, str] = {  # the colour of each verdict
    "better": "pass",
    "same": "same",
    "worse": "warn",
    "first": "same",
    "failed": "stop",
    "stopped": "stop",
    "unfinished": "warn",
}
_SHOWN_SETTINGS = 40
_RULE = (
    f"Differences of mAP50-95 below {changes.SAME}, of one class below {changes.SAME_CLASS}, count "
    "as about the same. Larger ones may be chance too: each run is one measurement."
)

Facts = Mapping[str, Any]


def run_card_html(facts: Facts, pictures: Sequence[tuple[str, str]]) -> str:
    """The page of a run.

    Args:
        facts: Of tasks/card_facts.py.
        pictures: Captions and data URIs.
    """
    sections = (
        _header(facts),
        _fault(facts),
        _tiles(facts),
        _changed(facts),
        _promotion(facts),
        _data(facts),
        curves(facts),
        trend(facts),
        classes(facts),
        _pictures(pictures),
        timing(facts),
        versions(facts),
        objects(facts),
    )
    name = facts["name"] or facts["run"]
    return page(f"{changes.verdict(facts)}: {name}", sections, CARD_STYLE)


def _header(facts: Facts) -> Safe:
    is_soft = facts["fault"] and facts["fault"]["by"] == "interruption"
    look = "warn" if is_soft else _LOOKS[changes.verdict(facts)]
    night = facts["night"]
    parts = [f"run {facts['run']}"]
    if night["when"]:
        end = "last seen" if facts["status"] == "unfinished" else "ended"
        parts.append(f"{end} {moment(night['when'])}, after {duration(3600 * night['hours'])}")
    else:
        parts.append(f"created {moment(facts['created'])}")
    if facts["previous"]:
        before = facts["previous"]["night"]
        parts.append(f"compared with {before['run']}, {moment(before['when'])}")
    over = f"Run card{' of ' + facts['name'] if facts['name'] else ''}"
    return Safe(
        f'<header class="verdict {look}"><div class="over">{safe(over)}</div>'
        f"<h1>{safe(changes.headline(facts))}</h1>"
        f'<div class="over">{safe(" · ".join(parts))}</div>'
        f'<div class="over"><code>{safe(facts["place"])}</code></div></header>'
    )


def _fault(facts: Facts) -> Safe:
    """What failed, what it means, what to do, what is kept."""
    fault = facts["fault"]
    if not fault:
        return Safe("")
    parts = [
        f'<div class="message">{_whole(fault["message"])}</div>',
        f'<p><span class="pale">{safe(fault["kind"])}, exit code {fault["exit_code"]}.</span> '
        f"{safe(fault['meaning'])}</p>",
    ]
    if fault["by"] == "gate" and facts["data_page"]:
        link = relative_link(facts["data_page"], "data report")
        parts.append(
            f"<p>Correct the data as the {link} says, or accept it this once, then go on with the "
            "run.</p>"
        )
    parts.append("<h3>What to do</h3>")
    parts += [
        f'<div class="over">{safe(what)}</div><pre>{_whole(command)}</pre>'
        for what, command in fault["commands"]
    ]
    parts.append(f"<h3>What is kept</h3>{bullets(changes.kept(facts))}")
    if fault["trace"]:
        parts.append(
            '<details><summary class="line">Traceback</summary>'
            f"<pre>{_whole(fault['trace'])}</pre></details>"
        )
    soft = " soft" if fault["by"] == "interruption" else ""
    return Safe(f'<div class="fault{soft}">{"".join(parts)}</div>')


def _whole(text: str) -> Safe:
    """A text with its lines; what cannot be seen as escapes."""
    lines = (
        "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in text.split("\n")
    )
    return Safe(html.escape("\n".join(lines)))


def _tiles(facts: Facts) -> Safe:
    means = changes.metrics(facts)
    if means[0].now is None:
        return Safe("")
    cards = [_tile(mean.name, f"{mean.now:.3f}", _change(mean)) for mean in means]
    counts = facts["night"]["counts"]
    train = counts.get("train", {}).get("pictures")
    if train is not None:
        before = next(f for f in changes.data(facts) if f.name == "train pictures")
        remark = f"{before.change:+,} since before" if before.change else "validation "
        if not before.change:
            remark += f"{counts.get('val', {}).get('pictures', 0):,}"
        cards.append(_tile("training pictures", f"{train:,}", safe(remark)))
    return Safe(f'<div class="grid tiles">{"".join(cards)}</div>')


def _tile(what: str, value: str, remark: Safe) -> str:
    return (
        f'<div class="card"><div class="over">{safe(what)}</div><div class="big">{safe(value)}'
        f'</div><div class="over">{remark}</div></div>'
    )


def _change(mean: Figure) -> Safe:
    """A difference with its sign, in colour where it counts.

    Precision and recall are read at one confidence and pay for each other: no colour.
    """
    if mean.change is None:
        return safe("no run before")
    is_judged = mean.name.startswith("mAP")
    way = changes.direction(mean.change, changes.SAME) if is_judged else "same"
    style = {"better": "up", "worse": "down", "same": "pale"}[way]
    return Safe(f'<span class="change {style}">{mean.change:+.3f}</span> from {mean.before:.3f}')


def _changed(facts: Facts) -> Safe:
    """The notices of the first screen, then differences in full."""
    items = "".join(
        f'<li class="{notice.level}">{safe(notice.text)}</li>' for notice in changes.notices(facts)
    )
    parts = [Safe(f'<ul class="notices">{items}</ul>')] if items else []
    if standing := changes.rank(facts):
        parts.insert(0, Safe(f"<p>{safe(standing)}</p>"))
    if not facts["previous"]:
        parts.append(paragraph("No completed run of this name came before this one."))
        return section("What changed", *parts)
    cards = [
        _differences(what, found)
        for what, found in (
            ("setting", changes.settings(facts)),
            ("code or package", changes.versions(facts)),
        )
        if found
    ]
    if cards:
        inside = "".join(f'<div class="card">{card}</div>' for card in cards)
        parts.append(Safe(f'<div class="grid">{inside}</div>'))
    if facts["settings"] and facts["previous"]["settings"] is None:
        parts.append(paragraph("The settings of the previous run are gone: not compared."))
    if facts["night"]["metrics"]:
        parts.append(Safe(f'<div class="over">{safe(_RULE)}</div>'))
    return section("What changed since the previous run", *parts)


def _promotion(facts: Facts) -> Safe:
    """The comparison with the champion, class by class."""
    found = facts["promotion"]
    if not found or not found["numbers"]:
        return Safe("")
    numbers = found["numbers"]
    words = (
        f"Fitness {numbers['champion']:.4f} for the champion, {numbers['challenger']:.4f} for the "
        f"new model, on the same {numbers['images']:,} pictures: {numbers['gain']:+.4f}, ahead in "
        f"{100 * numbers['chance_of_better']:.0f} of 100 draws of them."
    )
    rows = [promotion_text.class_cells(row) for row in numbers["classes"]]
    shown = table(promotion_text.CLASS_COLUMNS, rows, "full")
    return section("Against the champion", paragraph(words), shown)


def _count(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign},.0f}"


def _differences(what: str, found: Sequence[Difference]) -> Safe:
    rows = [(d.name, d.before, d.now) for d in found[:_SHOWN_SETTINGS]]
    parts = [table((what, "before", "now"), rows, "full")]
    if len(found) > len(rows):
        parts.append(paragraph(f"{len(found) - len(rows)} more"))
    return Safe("".join(parts))


def _pictures(pictures: Sequence[tuple[str, str]]) -> Safe:
    if not pictures:
        return Safe("")
    return section("Examples", figures(pictures, "grid pictures"))


def _data(facts: Facts) -> Safe:
    """Verdict of the gates, and counts beside those of the previous run."""
    report, night = facts["data"], facts["night"]
    if not report and not night["counts"]:
        return Safe("")
    rows = [
        (f.name, _count(f.now), _count(f.before), _count(f.change or None, "+"))
        for f in changes.data(facts)
    ]
    cards = [table(("", "now", "previous run", "change"), rows, "full")]
    parts = []
    if report:
        parts.append(_data_verdict(facts))
        gates = [
            (g["name"], f"{g['value']:.3g}", f"{g['threshold']:.3g}", g["verdict"])
            for g in report["gates"]
        ]
        pictures = report["pictures"]
        words = (
            f"{pictures['used']:,} pictures used of {pictures['checked']:,}; "
            f"{pictures['new']:,} are new or changed and {pictures['removed']:,} are gone since "
            "the source was last prepared."
        )
        gate_table = table(("gate", "value", "allowed", "verdict"), gates, "full")
        cards.insert(0, Safe(f"{gate_table}{paragraph(words)}{_digest(facts)}"))
    inside = "".join(f'<div class="card">{card}</div>' for card in cards)
    parts.append(Safe(f'<div class="grid">{inside}</div>'))
    return section("Data", *parts)


def _digest(facts: Facts) -> Safe:
    digest = facts["night"]["data_digest"]
    if not digest:
        return Safe("")
    same = {True: ", as before", False: ", another than before", None: ""}
    told = same[changes.same_data(facts)]
    return Safe(f'<p class="pale">Digest{told}: <code>{safe(digest)}</code></p>')


def _data_verdict(facts: Facts) -> Safe:
    report = facts["data"]
    more = ""
    if facts["data_page"]:
        link = relative_link(facts["data_page"], "data report")
        more = f" Pictures, distributions and every fault: {link}"
    mark = badge(report["verdict"].upper(), report["verdict"])
    return Safe(f"<p>{mark} {safe(report['source'])}.{more}</p>")
