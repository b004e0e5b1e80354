"""What a run is made from and what it left: versions, and every object with its checksum."""

import html
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any
from urllib.parse import quote

from yolov5_core.page import Safe, paragraph, safe, section, table

_SHOWN = 300  # objects

Facts = Mapping[str, Any]


def relative_link(name: str, text: str) -> Safe:
    """A link to an object of the same run: the page lies beside it."""
    address = quote(name, errors="surrogateescape")  # a file name may hold any bytes
    return Safe(f'<a href="./{html.escape(address)}">{safe(text)}</a>')


def versions(facts: Facts) -> Safe:
    """Code and packages of the run, and where a stage ran with other code."""
    rows = list(facts["versions"].items())
    rows += [
        (f"code of {stage['stage']}", stage["done"]["code"])
        for stage in facts["stages"]
        if stage["done"] and stage["done"]["code"] != facts["versions"]["code"]
    ]
    told = [(key, str(value)) for key, value in facts["settings"].items()]
    settings = (
        f'<details><summary class="line">All settings and hyperparameters: {len(told)}</summary>'
        f"{table(('', ''), told)}</details>"
    )
    return section("Versions and settings", table(("", ""), rows), Safe(settings))


def objects(facts: Facts) -> Safe:
    """Published objects, then those of each stage, with size and sha256."""
    shown: Sequence[Mapping[str, Any]] = facts["objects"][:_SHOWN]
    parts = []
    if facts["published"]:
        rows = [(_published(p), size_text(p["size"]), _digest(p)) for p in facts["published"]]
        parts += [Safe("<h3>Published</h3>"), table(("where", "size", "sha256"), rows, "full")]
    for stage, group in groupby(shown, key=lambda each: each["stage"]):
        rows = [
            (relative_link(o["name"], o["name"]), size_text(o["size"]), _digest(o)) for o in group
        ]
        parts += [
            Safe(f"<h3>{safe(stage)}</h3>"),
            table(("in the run's folder", "size", "sha256"), rows, "full"),
        ]
    if (more := len(facts["objects"]) - len(shown)) > 0:
        parts.append(paragraph(f"{more:,} more objects are in the records of the stages."))
    return section("Objects", *parts) if parts else Safe("")


def size_text(size: int) -> str:
    """Bytes for people."""
    if size < 1000:
        return f"{size} B"
    return f"{size / 1e3:.1f} kB" if size < 1_000_000 else f"{size / 1e6:,.1f} MB"


def _published(each: Mapping[str, Any]) -> Safe:
    place = f"<code>{safe(each['url'])}</code>"
    if not each["link"]:
        return Safe(place)
    return Safe(f'<a href="{html.escape(each["link"])}">{place}</a>')


def _digest(each: Mapping[str, Any]) -> Safe:
    return Safe(f"<code>{safe(each['sha256'])}</code>")
