"""The parts of a report's page, which needs nothing else: no scripts, nothing fetched.

Texts of a report come from file names, labels and errors of strangers: only `Safe` reaches a page
as it is, everything else is escaped.
"""

import html
from collections.abc import Iterable, Sequence

from yolov5_core.data_counts import printable
from yolov5_core.drift import percent
from yolov5_core.report_style import STYLE

_LONGEST = 400  # characters of one text


class Safe(str):
    """HTML that we made: it may go into a page as it is."""

    __slots__ = ()


def page(title: str, sections: Iterable[Safe], style: str = "") -> str:
    """A whole page; `style` is what it needs beyond the style of all reports."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{safe(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def safe(value: str | float) -> Safe:
    """A value for the page: counts with commas, shares in percent, texts escaped."""
    if isinstance(value, Safe):
        return value
    if isinstance(value, int):
        return Safe(f"{value:,}")
    if isinstance(value, float):
        return Safe(html.escape(percent(value)))
    return Safe(html.escape(printable(value, _LONGEST)))


def table(
    head: Sequence[str], rows: Iterable[Sequence[str | float]], style: str = "counted"
) -> Safe:
    """Rows of cells; numbers are set to the right, as is the head of a column of numbers."""
    cells = [list(row) for row in rows]
    is_number = [isinstance(cell, int | float) for cell in cells[0]] if cells else []
    is_number += [False] * (len(head) - len(is_number))
    lines = [(head, "th"), *((row, "td") for row in cells)]
    body = "".join(
        "<tr>"
        + "".join(
            f"<{tag}{' class=n' if right else ''}>{safe(cell)}</{tag}>"
            for cell, right in zip(row, is_number, strict=True)
        )
        + "</tr>"
        for row, tag in lines
    )
    return Safe(f'<div class="wide"><table class="{style}">{body}</table></div>')


def bullets(items: Iterable[str]) -> Safe:
    """A list."""
    return Safe("<ul>" + "".join(f"<li>{safe(item)}</li>" for item in items) + "</ul>")


def section(title: str, *parts: str) -> Safe:
    """Parts below a heading."""
    return Safe(f"<section><h2>{safe(title)}</h2>{''.join(map(safe, parts))}</section>")


def paragraph(text: str) -> Safe:
    """A remark."""
    return Safe(f'<p class="pale">{safe(text)}</p>')


def badge(text: str, style: str) -> Safe:
    """A word with a ground in the colour of `style`."""
    return Safe(f'<span class="badge {style}">{safe(text)}</span>')


def figures(pictures: Iterable[tuple[str, str]], style: str = "grid") -> Safe:
    """Pictures from captions and data URIs."""
    shown = "".join(
        f'<figure><img src="{html.escape(uri)}" alt=""><figcaption>{safe(caption)}</figcaption>'
        "</figure>"
        for caption, uri in pictures
    )
    return Safe(f'<div class="{style}">{shown}</div>')
