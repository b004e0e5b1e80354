import re
from functools import cache
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.yolov5_core.small_index import PLAIN_HASH, index_of, picture
from tests.yolov5_core.test_data_report import CAT, DOG, report_of
from yolov5_core.faults import Fault
from yolov5_core.report_html import report_html

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style><b>",
    "&lt;b&gt;",
    "<!-- ",
    "]]>",
)
URI = "data:image/jpeg;base64,AAAA"
ALONE = {"meta", "img"}  # without an end


class Page(HTMLParser):
    """Every tag with its attributes, and the text; fails where tags are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(attrs)))
        if tag not in ALONE:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def busy_report(text: str = "name") -> dict[str, Any]:
    """A report with something in each part, and one text everywhere that strangers can write."""
    before = report_of(index_of(picture("a", boxes=[CAT], brightness=250)))["profile"]
    index = index_of(
        picture(f"{text}1", boxes=[CAT, DOG], content="x"),
        picture(f"{text}2", boxes=[(0, 0.5, 0.5, 1, 1)], dhash=PLAIN_HASH ^ 1),
        picture(f"{text}3", "val", content="x"),
        picture(f"{text}4", "val", dhash=PLAIN_HASH ^ 2),
    )
    kinds = ("image-empty", "label-duplicate", "image-trailing-bytes")
    return report_of(
        index,
        class_names=[f"{text} cat", f"{text} dog"],
        faults=[Fault(kind=kind, image=text, where=text, reason=text) for kind in kinds],
        checked=5,
        previous=before,
        new_rows=index.images["split"].nonzero()[0],
        thresholds={"max_rejected": 0.0, "max_leakage": 0.9, "max_drift": 0.3},
        source=text,
        understood=[text],
    )


def test_the_title_has_the_verdict_and_the_data_set():
    page = Page(report_html(busy_report("gs://data"), []))
    assert "stop: data of gs://data" in page.text


def test_the_important_things_come_first():
    text = Page(report_html(busy_report(), [("sample", URI)])).text
    places = [
        text.index(part)
        for part in (
            *("The night is stopped", "Pictures left out", "What to do:", "What changed"),
            *("Faults: 3", "Copies in validation", "Odd, but used", "Classes: 2"),
            *("Distributions", "Samples", "How the data was read"),
        )
    ]
    assert places == sorted(places)


def test_every_fault_is_there_with_place_reason_and_what_to_do():
    faults = [
        Fault(kind="label-outside", image=f"{i}.jpg", where=f"{i}.txt:{i}", reason=f"reason {i}")
        for i in range(50)
    ]
    text = Page(report_html(report_of(index_of(), faults=faults, checked=50), [])).text
    assert all(f"{i}.jpg{i}.txt:{i}reason {i}" in text for i in range(50))
    assert "50label-outsidepicture left outcorrect the label file" in text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_name_becomes_markup(hostile: str):
    page = Page(report_html(busy_report(hostile), [(hostile, URI)]))
    assert page.tags == usual_page().tags
    assert f"{hostile}1" in page.text


@settings(max_examples=40)  # each builds a page
@given(st.text(max_size=30))
def test_no_text_at_all_becomes_markup(text: str):
    page = Page(report_html(busy_report(f"a{text}"), [(text, URI)]))
    assert page.tags == usual_page().tags


@cache
def usual_page() -> Page:
    return Page(report_html(busy_report(), [("name", URI)]))


def test_a_uri_cannot_leave_its_attribute():
    page = Page(report_html(busy_report(), [("a", '" onerror="alert(1)')]))
    images = [dict(attributes) for tag, attributes in page.tags if tag == "img"]
    assert images == [{"src": '" onerror="alert(1)', "alt": ""}]


def test_the_page_needs_nothing_else_and_runs_nothing():
    html = report_html(busy_report(), [("a", URI)])
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not {"link", "iframe", "a"} & {tag for tag, _ in page.tags}
    names = {name for _, attributes in page.tags for name, _ in attributes}
    assert not [name for name in names if name.startswith("on") or name == "href"]
    assert [dict(a)["src"] for tag, a in page.tags if tag == "img"] == [URI]
    assert "url(" not in html
    assert "default-src 'none'" in html


def test_the_page_can_be_written_whatever_bytes_a_name_has():
    name = b"\xff.jpg".decode("utf-8", "surrogateescape")
    fault = Fault(kind="image-empty", image=name, where=name, reason=name)
    assert report_html(report_of(index_of(), faults=[fault], checked=1), [(name, URI)]).encode()


def test_a_first_clean_night_is_short():
    index = index_of(picture("a", boxes=[CAT, DOG]), picture("b", "val", boxes=[CAT, DOG]))
    text = Page(report_html(report_of(index), [])).text
    assert "no previous accepted set" in text
    assert "Faults: 0" in text
    assert "What to do" not in text
    assert "Odd, but used" not in text
    assert "Samples" not in text


def test_changes_are_shown_in_words():
    text = Page(report_html(busy_report(), [])).text
    assert "pictures darker than 104 of 255: 0% before, 100% now" in text
    assert "nothing in common" in text


def test_no_picture_at_all_makes_a_page():
    assert "Classes: 0" in Page(report_html(report_of(index_of(), class_names=[]), [])).text


def test_long_lists_say_what_is_missing():
    pictures = [picture(f"t{i}", content=f"{i}", dhash=0) for i in range(1020)]
    pictures += [picture(f"v{i}", "val", content=f"{i}", dhash=0) for i in range(1020)]
    names = [f"class {i}" for i in range(250)]
    text = Page(report_html(report_of(index_of(*pictures), class_names=names), [])).text
    assert text.count("20 more") == 2  # pairs, and groups of copies
    assert "50 classes with fewer boxes" in text


def test_what_stops_is_told_before_what_warns():
    index = index_of(picture("a", content="x"), picture("b", "val", content="x"))
    fault = Fault(kind="image-empty", image="c", where="c", reason="empty")
    thresholds = {"max_rejected": 0.9, "max_leakage": 0.1, "max_drift": 1.0}
    report = report_of(index, faults=[fault], checked=3, thresholds=thresholds)
    text = Page(report_html(report, [])).text
    assert text.index("max_leakage 10%") < text.index("max_rejected 90%")


def test_the_longest_bar_of_the_classes_fills_its_place():
    index = index_of(picture("a", boxes=[CAT, CAT, CAT, DOG]), picture("b", "val", boxes=[DOG]))
    html = report_html(report_of(index), [])
    assert re.findall(r'<div class="bars">(.*?)</div>', html) == [
        '<i style="width:75.0%"></i><i style="width:0.0%"></i>',
        '<i style="width:25.0%"></i><i style="width:100.0%"></i>',
    ]
