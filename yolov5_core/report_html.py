"""A data report as one page that needs nothing else, the most important first, and in short."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from yolov5_core.drift import percent
from yolov5_core.histogram_svg import CHARTS, draw_histogram
from yolov5_core.page import Safe, badge, bullets, figures, page, paragraph, safe, section, table

_SHOWN_CLASSES = 200
_SHOWN_CHANGES = 10
_OPEN_AT_MOST = 10  # faults of a kind that are shown without a click
_BADGES = {"picture left out": "stop", "box left out": "warn", "used": "pass"}
_VERDICTS = {
    "pass": "The data passes all gates.",
    "warn": "The night goes on. Look at this when there is time.",
    "stop": "The night is stopped before training. This has to be decided first.",
}
_GATES = {
    "max_rejected": "Pictures left out",
    "max_leakage": "Validation pictures that are in training",
    "max_drift": "Drift from the previous accepted set",
}


def report_html(report: Mapping[str, Any], samples: Sequence[tuple[str, str]]) -> str:
    """The page of a data report.

    Args:
        report: Of data_report().
        samples: Captions and data URIs of pictures.
    """
    title = f"{report['verdict']}: data of {report['source']}"
    sections = (
        _header(report),
        _numbers(report),
        _drift(report),
        _faults(report["faults"]),
        _similar(report),
        _remarks(report["remarks"]),
        _classes(report),
        _histograms(report),
        _samples(samples),
        section("How the data was read", bullets(report["understood"])),
    )
    return page(title, sections)


def _meter(value: float, limit: float) -> Safe:
    """A bar from 0 to 1, or to twice the limit where that shows more, with a mark at the limit."""
    end = min(1.0, max(2 * limit, 1.1 * value)) or 1.0
    style = ' class="over-limit"' if value > limit else ""
    mark = f'<b style="left:calc({100 * limit / end:.1f}% - 1px)"></b>' if limit < end else ""
    return Safe(
        f'<div class="meter"><i{style} style="width:{100 * value / end:.1f}%"></i>{mark}</div>'
    )


def _header(report: Mapping[str, Any]) -> Safe:
    verdict = report["verdict"]
    stop, warn, quiet = (
        "".join(_gate(gate) for gate in report["gates"] if gate["verdict"] == v)
        for v in ("stop", "warn", "pass")
    )
    return Safe(
        f'<header><div class="over">Data report</div><h1>{safe(report["source"])}</h1>'
        f"<p>{badge(verdict.upper(), verdict)} {_VERDICTS[verdict]}</p>"
        f'{stop}{warn}<div class="grid">{quiet}</div></header>'
    )


def _gate(gate: Mapping[str, Any]) -> Safe:
    verdict = gate["verdict"]
    number = (
        f'<h3>{_GATES[gate["name"]]}</h3><div class="head"><span class="big">'
        f"{_gate_value(gate, 'value')}</span>{badge(verdict, verdict)}</div>"
        f"{_meter(gate['value'], gate['threshold'])}"
        f'<div class="over">{gate["name"]} {_gate_value(gate, "threshold")}</div>'
    )
    if verdict == "pass":
        return Safe(f'<div class="card gate pass">{number}</div>')
    words = f"{bullets(gate['offenders'])}<p><b>What to do:</b> {safe(gate['fix'])}.</p>"
    return Safe(f'<div class="card gate {verdict}"><div>{number}</div><div>{words}</div></div>')


def _gate_value(gate: Mapping[str, Any], key: str) -> Safe:
    """Drift is a distance, the others are shares."""
    value = float(gate[key])
    return Safe(f"{value:.3g}") if gate["name"] == "max_drift" else safe(value)


def _numbers(report: Mapping[str, Any]) -> Safe:
    pictures, splits = report["pictures"], report["splits"]
    tiles = (
        ("pictures used", pictures["used"], _of_splits(splits, "pictures")),
        ("new or changed", pictures["new"], "since the previous preparation"),
        ("gone", pictures["removed"], "since the previous preparation"),
        ("left out", pictures["left_out"], f"of {pictures['checked']:,} looked at"),
        ("boxes", _total(splits, "boxes"), _of_splits(splits, "boxes")),
        ("without any box", _total(splits, "background"), _of_splits(splits, "background")),
    )
    cards = "".join(
        f'<div class="card"><div class="over">{what}</div><div class="big">{safe(count)}</div>'
        f'<div class="over">{safe(remark)}</div></div>'
        for what, count, remark in tiles
    )
    return Safe(f'<div class="grid tiles">{cards}</div>')


def _total(splits: Mapping[str, Mapping[str, int]], key: str) -> int:
    return sum(split[key] for split in splits.values())


def _of_splits(splits: Mapping[str, Mapping[str, int]], key: str) -> str:
    return ", ".join(f"{name} {split[key]:,}" for name, split in splits.items())


def _drift(report: Mapping[str, Any]) -> Safe:
    title, moved = "What changed", report["drift"]
    if not moved:
        return section(title, paragraph("There is no previous accepted set to compare with."))
    limit = next(gate["threshold"] for gate in report["gates"] if gate["name"] == "max_drift")
    aspects = [
        (
            aspect["name"],
            Safe(f"<b>{aspect['value']:.3g}</b>{_meter(aspect['value'], limit)}"),
            aspect["change"],
            "-" if aspect["of_new_pictures"] is None else f"{aspect['of_new_pictures']:.3g}",
            aspect["before"],
            aspect["now"],
        )
        for aspect in moved["aspects"]
    ]
    head = ("", "distance", "where it is largest", "new pictures alone", "n before", "n now")
    changed = [c for c in moved["classes"] if c["before"] != c["now"]][:_SHOWN_CHANGES]
    classes = [
        (c["name"], c["before"], c["now"], f"{100 * (c['now'] - c['before']):+.2f} points")
        for c in changed
    ]
    explained = (
        f"Against the previous accepted set of {moved['pictures_before']:,} pictures; 0 is no "
        "change, 1 is nothing in common. The fewer boxes or pictures (n), the more of it is chance."
    )
    parts = [paragraph(explained), table(head, aspects)]
    if classes:
        parts.append(table(("share of the boxes", "before", "now", "change"), classes))
    return section(title, *parts)


def _faults(faults: Mapping[str, Any]) -> Safe:
    title = f"Faults: {faults['total']:,}"
    if not faults["total"]:
        return section(title, paragraph("Every picture and every label row is used as it is."))
    listed = {k: list(group) for k, group in groupby(faults["listed"], key=lambda f: f["kind"])}
    parts = [_fault_kind(kind, listed.get(kind["kind"], [])) for kind in faults["by_kind"]]
    if faults["more"]:
        parts.append(paragraph(f"{faults['more']:,} more are counted here but not listed."))
    return section(title, *parts)


def _fault_kind(kind: Mapping[str, Any], listed: Sequence[Mapping[str, str]]) -> Safe:
    is_open = " open" if kind["count"] <= _OPEN_AT_MOST and kind["effect"] != "used" else ""
    rows = [(fault["image"], fault["where"], fault["reason"]) for fault in listed]
    return Safe(
        f'<details{is_open}><summary><b class="n">{kind["count"]:,}</b>'
        f"<span>{safe(kind['kind'])}</span>{badge(kind['effect'], _BADGES[kind['effect']])}"
        f"<span>{safe(kind['action'])}</span></summary>"
        f"{table(('picture', 'where', 'reason'), rows, 'listed')}</details>"
    )


def _similar(report: Mapping[str, Any]) -> Safe:
    parts: list[Safe] = []
    for key, what in (
        ("leaked_copies", "validation pictures that training has too, byte for byte"),
        ("leaked_look_alikes", "validation pictures that look like one in training"),
    ):
        found = report[key]
        rows = [(pair["val"], pair["train"]) for pair in found["listed"]]
        summary = f"{found['pictures']:,} {what} ({percent(found['share'])})"
        parts.append(_details(summary, table(("validation", "training"), rows, "listed"), found))
    for key, what in (
        ("copies", "copies of one file"),
        ("look_alikes", "pictures that look alike"),
    ):
        found = report[key]
        names = [
            ", ".join(group["names"]) + (f" and {group['more']:,} more" if group["more"] else "")
            for group in found["listed"]
        ]
        summary = f"{found['groups']:,} groups of {what}, {found['pictures']:,} pictures"
        parts.append(_details(summary, bullets(names), found))
    explained = "Copies in validation flatter the score. Look-alikes are a hint, and stop nothing."
    return section("Copies and look-alikes", paragraph(explained), *parts)


def _details(summary: str, body: Safe, found: Mapping[str, Any]) -> Safe:
    if not found["listed"]:
        return Safe(f'<p class="pale none">{safe(summary)}</p>')
    missing = paragraph(f"{found['more']:,} more") if found["more"] else ""
    is_leak = "share" in found
    is_open = " open" if is_leak and len(found["listed"]) <= _OPEN_AT_MOST else ""
    head = f'<summary class="line">{safe(summary)}</summary>'
    return Safe(f"<details{is_open}>{head}{body}{missing}</details>")


def _remarks(remarks: Sequence[Mapping[str, Any]]) -> Safe:
    if not remarks:
        return Safe("")
    rows = [(r["count"], r["what"], r["why"], ", ".join(r["examples"])) for r in remarks]
    return section("Odd, but used", table(("", "", "why it matters", "for example"), rows))


def _classes(report: Mapping[str, Any]) -> Safe:
    classes = sorted(report["classes"], key=lambda c: -(c["train"]["boxes"] + c["val"]["boxes"]))
    totals = {s: max(counts["boxes"], 1) for s, counts in report["splits"].items()}
    longest = max(
        (c[s]["boxes"] / total for c in classes for s, total in totals.items()), default=0
    )
    rows = []
    for counted in classes[:_SHOWN_CLASSES]:
        shares = [counted[s]["boxes"] / totals[s] for s in totals]
        bars = "".join(f'<i style="width:{100 * s / (longest or 1):.1f}%"></i>' for s in shares)
        numbers = [
            (counted[s]["boxes"], shares[i], counted[s]["pictures"]) for i, s in enumerate(totals)
        ]
        rows.append(
            (counted["name"], *numbers[0], *numbers[1], Safe(f'<div class="bars">{bars}</div>'))
        )
    head = (
        *("class", "train boxes", "share", "pictures", "val boxes", "share", "pictures"),
        Safe(f"{_key('train', 'train')} {_key('val', 'val')}"),
    )
    parts = [table(head, rows)]
    if len(classes) > len(rows):
        parts.append(paragraph(f"{len(classes) - len(rows):,} classes with fewer boxes"))
    return section(f"Classes: {len(classes):,}", *parts)


def _key(style: str, text: str) -> Safe:
    return Safe(f'<span class="key {style}"></span>{text}')


def _histograms(report: Mapping[str, Any]) -> Safe:
    charts = "".join(
        f'<div class="card"><h3>{chart.title}</h3>'
        f"{draw_histogram(name, report['histograms'][name])}</div>"
        for name, chart in CHARTS.items()
    )
    sizes = [(f"{s['width']} x {s['height']}", s["pictures"]) for s in report["sizes"]["listed"]]
    frequent = table(("most frequent sizes", "pictures"), sizes)
    keys = [_key("train", "training"), _key("val", "validation")]
    if report["drift"]:
        keys.append(_key("previous", "previous accepted set"))
    return section(
        "Distributions",
        Safe(f'<p class="pale">Each in shares of its own set. {" ".join(keys)}</p>'),
        Safe(f'<div class="grid">{charts}<div class="card">{frequent}</div></div>'),
    )


def _samples(samples: Sequence[tuple[str, str]]) -> Safe:
    return section("Samples", figures(samples)) if samples else Safe("")
