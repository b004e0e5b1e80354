import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov5_core.results import (
    TENSORBOARD_TAGS,
    ResultsError,
    ResultsRow,
    format_progress,
    format_row,
    header,
    parse_results,
    result_suffix,
)

ROW = ResultsRow(
    epoch=3,
    epochs=50,
    memory="3.1G",
    losses=(0.1, 0.02, 0.003, 0.123),
    targets=17,
    image_size=640,
    results=(0.5, 0.25, 0.4, 0.2, 0.01, 0.02, 0.03),
)
LOSSES = st.floats(0, 2.0**30, width=32)  # no three-digit exponents: those overflow a column


def test_a_row_has_fifteen_columns_of_ten_characters() -> None:
    text = format_row(ROW)
    assert len(text) == 151
    assert text.endswith("\n")
    assert [text[i : i + 10].strip() for i in range(0, 150, 10)] == [
        *("3/49", "3.1G", "0.1", "0.02", "0.003", "0.123", "17", "640"),
        *("0.5", "0.25", "0.4", "0.2", "0.01", "0.02", "0.03"),
    ]


def test_the_row_begins_with_the_progress_line_and_the_header_lines_up() -> None:
    assert format_row(ROW).startswith(format_progress(ROW))
    assert len(format_progress(ROW)) == len(header().strip("\n")) == 80


def test_rows_read_back_as_written() -> None:
    rows = [replace(ROW, epoch=epoch) for epoch in range(3)]
    assert parse_results("".join(map(format_row, rows))) == rows


@given(
    losses=st.tuples(*[LOSSES] * 4),
    results=st.tuples(*[LOSSES] * 7),
    targets=st.integers(0, 10**9),
)
def test_reading_loses_no_more_than_the_fifth_digit(
    losses: tuple[float, float, float, float],
    results: tuple[float, float, float, float, float, float, float],
    targets: int,
) -> None:
    row = replace(ROW, losses=losses, results=results, targets=targets)
    (back,) = parse_results(format_row(row))
    assert back.losses == pytest.approx(losses, rel=1e-3)
    assert back.results == pytest.approx(results, rel=1e-3)
    assert back.targets == pytest.approx(targets, rel=1e-3)
    assert format_row(back) == format_row(row)


def test_windows_line_ends_and_blank_lines_are_accepted() -> None:
    text = "\r\n" + format_row(ROW).replace("\n", "\r\n") + "  \r\n" + format_row(ROW).rstrip()
    assert parse_results(text) == [ROW, ROW]


def test_no_text_gives_no_rows() -> None:
    assert parse_results("") == []


def test_losses_that_are_not_numbers_of_a_diverged_run_can_be_read() -> None:
    (row,) = parse_results(format_row(replace(ROW, losses=(math.nan, math.inf, 0, math.nan))))
    assert math.isnan(row.losses[0])
    assert row.losses[1] == math.inf


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("      0.03\n", "\n", "14 columns"),
        ("      0.03\n", "      0.03 7\n", "16 columns"),
        ("3/49", "   3", "epoch '3'"),
        ("3/49", "9/49x", "epoch '9/49x'"),
        ("3/49", "50/49", "epoch '50/49'"),
        ("0.123", "O.123", "O.123"),
        ("640", "inf", "infinity"),
        ("640", "nan", "NaN"),
    ],
)
def test_a_malformed_row_is_refused_by_its_line_number(old: str, new: str, reason: str) -> None:
    text = format_row(ROW) + "\n" + format_row(ROW).replace(old, new)
    with pytest.raises(ResultsError, match=f"line 3: .*{reason}"):
        parse_results(text)


@pytest.mark.parametrize(
    ("name", "suffix"), [("", ""), ("7", "7"), ("007", "007"), ("cars", "_cars"), ("v2", "_v2")]
)
def test_a_name_of_digits_needs_no_underscore(name: str, suffix: str) -> None:
    assert result_suffix(name) == suffix


def test_every_scalar_has_its_tag() -> None:
    scalars = dict(zip(TENSORBOARD_TAGS, ROW.scalars, strict=True))
    assert scalars["train/cls_loss"] == 0.003  # not the total
    assert scalars["metrics/mAP_0.5:0.95"] == 0.2
    assert scalars["val/giou_loss"] == 0.01
