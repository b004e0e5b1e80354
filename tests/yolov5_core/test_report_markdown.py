import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.yolov5_core.small_index import index_of, picture
from tests.yolov5_core.test_data_report import CAT, DOG, report_of
from tests.yolov5_core.test_report_html import busy_report
from yolov5_core.faults import KINDS, Fault
from yolov5_core.report_markdown import report_markdown

_BARE_PIPE = re.compile(r"(?<!\\)\|")


def table_widths(text: str) -> list[int]:
    return [len(_BARE_PIPE.findall(line)) for line in text.splitlines() if line.startswith("|")]


def many_faults(text: str) -> dict[str, Any]:
    faults = [
        Fault(kind=kind, image=f"{text}{i}", where=text, reason=text)
        for kind in KINDS
        for i in range(30)
    ]
    return report_of(index_of(), faults=faults, checked=len(faults), source=text)


def test_it_begins_with_the_verdict_and_says_what_speaks():
    lines = report_markdown(busy_report("gs://data/a")).splitlines()
    assert lines[0] == "# Data: stop"
    assert lines[2] == r"gs\://data/a"
    assert lines[4] == "- **stop** max_rejected: 0.2, allowed 0"
    assert "What to do" in "".join(lines)


def test_counts_faults_and_drift_are_tables():
    text = report_markdown(busy_report())
    assert "| train | 2 | 0 | 3 |" in text
    assert "| val | 2 | 2 | 0 |" in text
    assert "| 1 | image-empty | picture left out | remove or replace the picture |" in text
    assert "| brightness | 1 | pictures darker than 104 of 255: 0% before, 100% now |" in text
    assert "- name name" in text


def test_a_clean_first_night_is_a_few_lines():
    index = index_of(picture("a", boxes=[CAT, DOG]), picture("b", "val", boxes=[CAT, DOG]))
    text = report_markdown(report_of(index))
    assert "## Faults: 0" in text
    assert "no previous accepted set" in text
    assert len(text.splitlines()) < 22


@pytest.mark.parametrize(
    "text", ["a" * 5000, "|" * 300, "ü" * 500, "😀" * 500, "\u202e" * 100, "__" * 400]
)
def test_it_stays_small_whatever_the_names(text: str):
    markdown = report_markdown(many_faults(text))
    assert len(markdown.encode()) <= 5000
    assert "more on the report's page" in markdown


def test_twenty_of_many_faults_are_listed():
    text = report_markdown(many_faults("x"))
    assert text.count("\n- x x") == 20
    assert len(text.encode()) <= 5000


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a|b", r"a\|b"),
        ("<img src=x>", r"\<img src=x\>"),
        ("![x](y)", r"\!\[x\](y)"),
        ("`rm`", r"\`rm\`"),
        ("_x_ a_b", r"\_x\_ a_b"),
        ("ftp://x www.x", r"ftp\://x www\.x"),
        ("two\nlines", r"two\\nlines"),
    ],
)
def test_markup_in_names_is_shown_as_it_is(name: str, written: str):
    assert written in report_markdown(busy_report(name))


@given(st.text(max_size=20))
def test_no_name_adds_a_column_or_a_line(name: str):
    usual, other = report_markdown(busy_report()), report_markdown(busy_report(f"a{name}"))
    assert table_widths(other) == table_widths(usual)
    assert len(other.split("\n")) == len(usual.split("\n"))
