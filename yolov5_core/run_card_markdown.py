"""A run card in short as Markdown: what a Prefect artifact shows."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from yolov5_core import run_card_changes as changes
from yolov5_core.report_markdown import Plain, markdown_table, plain_text
from yolov5_core.run_card_changes import duration, kept, moment
from yolov5_core.run_card_objects import size_text

_MAX_BYTES = 300_000  # above half a megabyte Prefect drops an artifact's event
_ROWS = (100, 30, 10, 3)  # of a table: the first number that fits
_LONGEST = (400, 400, 200, 80)  # characters of a text

Facts = Mapping[str, Any]


def run_card_markdown(facts: Facts) -> str:
    """Verdict, what failed, what changed, metrics and every object, in at most 300 KB."""
    text = ""
    for rows, longest in zip(_ROWS, _LONGEST, strict=True):
        text = "\n".join(_lines(facts, rows, partial(plain_text, longest=longest))) + "\n"
        if len(text.encode("utf-8", "backslashreplace")) <= _MAX_BYTES:
            break
    return text.encode("utf-8", "backslashreplace").decode()


def _lines(facts: Facts, rows: int, plain: Plain) -> Iterator[str]:
    night = facts["night"]
    yield f"# {plain(changes.headline(facts))}\n"
    ended = f", ended {moment(night['when'])}" if night["when"] else ""
    yield f"Run **{plain(facts['run'])}**{ended}, after {duration(3600 * night['hours'])}.\n"
    if facts["link"]:
        yield f"[The whole card](<{facts['link']}>) at {_code(facts['place'])}\n"
    else:
        yield f"The whole card: {_code(facts['place'] + '/report.html')}\n"
    if facts["fault"]:
        yield from _fault(facts, plain)
    yield from (f"- {_strong(n.level)}{plain(n.text)}" for n in changes.notices(facts)[:rows])
    if standing := changes.rank(facts):
        yield f"- {plain(standing)}"
    yield from _metrics(facts, rows, plain)
    yield from _differences(facts, rows, plain)
    yield from _objects(facts, rows)


def _strong(level: str) -> str:
    return "" if level == "info" else f"**{level}** "


def _fault(facts: Facts, plain: Plain) -> Iterator[str]:
    fault = facts["fault"]
    for line in fault["message"].splitlines()[:20]:
        yield f"> {plain(line)}"
    yield f"\n{plain(fault['kind'])}, exit code {fault['exit_code']}. {plain(fault['meaning'])}\n"
    yield "**What to do**\n"
    yield from (f"- {plain(what)}: {_code(command)}" for what, command in fault["commands"])
    yield "\n**What is kept**\n"
    yield from (f"- {plain(line)}" for line in kept(facts))
    yield ""


def _metrics(facts: Facts, rows: int, plain: Plain) -> Iterator[str]:
    means = [figure for figure in changes.metrics(facts) if figure.now is not None]
    if not means:
        return
    yield "\n## Metrics\n"
    per_class = [figure._replace(name=f"mAP50-95 of {figure.name}") for figure in
                 changes.classes(facts)[:rows]]  # fmt: skip
    yield from markdown_table(
        ("", "now", "previous run", "change"),
        [
            (f.name, _share(f.now), _share(f.before), _share(f.change, "+"))
            for f in (*means, *per_class)
        ],
        plain,
    )
    yield f"\nDifferences below {changes.SAME}, of one class below {changes.SAME_CLASS}, count as "
    yield "about the same; larger ones may be chance too."


def _share(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.3f}"


def _differences(facts: Facts, rows: int, plain: Plain) -> Iterator[str]:
    if not facts["previous"]:
        return
    found: Sequence[tuple[str, str, str]] = [
        *changes.settings(facts),
        *changes.versions(facts),
        *(
            (f.name, f"{f.before or 0:,.0f}", f"{f.now or 0:,.0f}")
            for f in changes.data(facts)
            if f.change
        ),
    ]
    if found:
        yield "\n## What else differs\n"
        yield from markdown_table(("", "previous run", "now"), found[:rows], plain)


def _objects(facts: Facts, rows: int) -> Iterator[str]:
    if facts["published"]:
        yield "\n## Published\n"
        yield from _object_table(facts["published"][:rows])
    if facts["objects"]:
        yield "\n## Objects of the run\n"
        yield from _object_table(facts["objects"][:rows])
        if (more := len(facts["objects"]) - rows) > 0:
            yield f"\n{more:,} more are on the card."


def _object_table(objects: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Where each is, as text, and a link where a browser can open it."""
    cells = [
        (_code(each["url"]), f"[open](<{each['link']}>)" if each["link"] else "",
         size_text(each["size"]), each["sha256"][:16])
        for each in objects
    ]  # fmt: skip
    yield from markdown_table(("where", "", "size", "sha256"), cells, str)


def _code(text: str) -> str:
    """Text in a fixed font; what could end it, or a table's cell, as an escape."""
    seen = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return "`" + seen.replace("`", r"\x60").replace("|", r"\x7c") + "`"
