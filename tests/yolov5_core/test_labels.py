"""YOLO label files: what is read, what is left out, what is refused, and where it says so."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov5_core.dataset import Truth
from yolov5_core.faults import FaultError
from yolov5_core.labels import label_path, parse_any_rows, parse_labels, plain_boxes

ROW = "0 0.5 0.5 0.2 0.2\n"


def parse(text: str, classes: int = 100) -> Truth:
    return parse_labels(text.encode(), "a.txt", classes)


def faults(truth: Truth) -> list[tuple[str, str, str]]:
    return [(fault.kind, fault.where, fault.reason) for fault in truth.faults]


def refusal(data: bytes | str, classes: int = 100) -> FaultError:
    with pytest.raises(FaultError) as caught:
        parse_labels(data.encode() if isinstance(data, str) else data, "a.txt", classes)
    return caught.value


def test_a_box_row_is_class_centre_and_size() -> None:
    truth = parse("0 0.5 0.5 0.2 0.2\n2\t0.25  0.75 0.1 0.3\n")
    expected = np.array([[0, 0.5, 0.5, 0.2, 0.2], [2, 0.25, 0.75, 0.1, 0.3]], np.float32)
    np.testing.assert_array_equal(truth.labels, expected)
    assert truth.labels.dtype == np.float32
    assert [segment.shape for segment in truth.segments] == [(0, 2), (0, 2)]
    assert truth.faults == ()


@pytest.mark.parametrize("text", ["", "\n\n", "  \n\t\n", "\ufeff", "\r\n\r"])
def test_an_empty_file_is_background(text: str) -> None:
    truth = parse(text)
    assert truth.labels.shape == (0, 5)
    assert truth.segments == truth.faults == ()


def test_a_polygon_row_becomes_the_box_around_its_polygon() -> None:
    truth = parse("3 0.25 0.25 0.75 0.25 0.5 0.5")
    np.testing.assert_array_equal(truth.labels, [[3, 0.5, 0.375, 0.5, 0.25]])
    np.testing.assert_array_equal(truth.segments[0], [[0.25, 0.25], [0.75, 0.25], [0.5, 0.5]])


def test_a_box_row_stays_a_box_in_a_file_with_polygons() -> None:
    truth = parse("0 0.5 0.5 0.25 0.25\n1 0.25 0.25 0.75 0.25 0.5 0.5")
    np.testing.assert_array_equal(truth.labels[0], [0, 0.5, 0.5, 0.25, 0.25])
    assert [len(segment) for segment in truth.segments] == [0, 3]


def test_a_polygon_may_leave_the_image_as_a_box_may() -> None:
    truth = parse("0 -0.25 0.25 0.75 0.25 0.5 0.75")
    np.testing.assert_array_equal(truth.labels, [[0, 0.25, 0.5, 1, 0.5]])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_line_ends_of_any_system_and_a_byte_order_mark_are_read(start: str, end: str) -> None:
    truth = parse(f"{start}0 0.5 0.5 0.2 0.2{end}1 0.5 0.5 0.2 0.2{end}")
    assert truth.labels[:, 0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ("1.0 .5 5e-1 0.2 0.2", [1, 0.5, 0.5, 0.2, 0.2]),
        ("+1 +0.5 0.5 0.2E0 2e-01", [1, 0.5, 0.5, 0.2, 0.2]),
        ("-0 -0.0 0.5 1. 0.2", [0, 0, 0.5, 1, 0.2]),
        ("0 1.00000001 0.5 0.2 0.2", [0, 1, 0.5, 0.2, 0.2]),  # 1 as the float32 it becomes
    ],
)
def test_numbers_may_be_written_in_any_usual_way(row: str, value: list[float]) -> None:
    labels = parse(row).labels
    np.testing.assert_array_equal(labels[0], np.array(value, np.float32))
    assert not np.signbit(labels).any()


def test_duplicate_rows_are_removed_with_their_polygons_and_reported() -> None:
    text = "1 0.5 0.5 0.5 0.5\n\n0 0.25 0.25 0.75 0.25 0.5 0.5\n1 0.5 0.5 0.5 0.50\n"
    truth = parse(text)
    assert truth.labels[:, 0].tolist() == [0, 1]
    assert [len(segment) for segment in truth.segments] == [3, 0]
    assert faults(truth) == [("label-duplicate", "a.txt:4", "1 duplicate rows removed")]


def test_all_duplicate_rows_are_named_by_line() -> None:
    truth = parse(ROW * 3 + "1 .5 .5 .1 .1\n" * 2)
    reason = "3 duplicate rows removed (lines 2, 3, 5)"
    assert faults(truth) == [("label-duplicate", "a.txt:2", reason)]


@pytest.mark.parametrize(
    "row",
    [
        "1 0.5 0.5 0 0.2",
        "1 0.5 0.5 0.2 0.0",
        "1 0.5 0.5 0.2 1e-60",
        "1 0.1 0.1 0.4 0.1 0.3 0.1",
        "1 0.5 0.5 0.5 0.5 0.5 0.5",
    ],
)
def test_a_row_without_area_is_left_out_and_reported(row: str) -> None:
    truth = parse(f"{ROW}{row}\n2 0.5 0.5 0.1 0.1\n")
    assert truth.labels[:, 0].tolist() == [0, 2]
    assert faults(truth) == [("label-no-area", "a.txt:2", "1 rows without area left out")]


def test_rows_without_area_are_never_duplicates_of_each_other() -> None:
    truth = parse("0 .5 .5 0 0\n" * 12 + ROW * 2)
    assert len(truth.labels) == len(truth.segments) == 1
    lines = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ..."
    assert faults(truth) == [
        ("label-no-area", "a.txt:1", f"12 rows without area left out (lines {lines})"),
        ("label-duplicate", "a.txt:14", "1 duplicate rows removed"),
    ]


def test_a_file_of_nothing_but_flat_boxes_is_background_with_a_remark() -> None:
    truth = parse("0 .5 .5 .1 0")
    assert truth.labels.shape == (0, 5)
    assert [fault.kind for fault in truth.faults] == ["label-no-area"]


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        ("0 0.5 -0.01 0.2 0.2", "label-outside", "box 0.5 -0.01 0.2 0.2 (cx cy w h) leaves [0, 1]"),
        ("0 0.5 0.5 0.2 1.01", "label-outside", "leaves [0, 1]"),
        ("0 0.5 0.5 -0.2 0.2", "label-outside", "leaves [0, 1]"),
        ("0 320 240 64 64", "label-outside", "fractions of the image, not pixels"),
        ("0 0.1 0.1 1.4 0.1 1.4 0.5", "label-outside", "leaves [0, 1]"),
        ("0 3e38 0.1 3e38 0.1 3e38 0.5", "label-outside", "leaves [0, 1]"),
        ("0 0.5 0.5 nan 0.2", "label-not-finite", "NaN"),
        ("0 0.5 0.5 -Infinity 0.2", "label-not-finite", "infinity"),
        ("0 0.5 0.5 1e400 0.2", "label-not-finite", "'0 0.5 0.5 1e400 0.2' holds"),
        ("0 0.5 0.5 3.5e38 0.2", "label-not-finite", "infinity"),
        ("0 0.1 0.1 0.4 0.1 0.4 nan", "label-not-finite", "NaN"),
        ("cat 0.5 0.5 0.2 0.2", "label-not-a-number", "not numbers only"),
        ("0 0.5 0.5 0.2 0.2x", "label-not-a-number", "not numbers only"),
        ("1_0 0.5 0.5 0.2 0.2", "label-not-a-number", "'1_0 0.5 0.5 0.2 0.2' is not numbers"),
        ("0 0.5 0.5 0.2 0x1", "label-not-a-number", "not numbers only"),
        ("0 0.5 0.5 0,2 0.2", "label-not-a-number", "not numbers only"),
        ("0, 0.5, 0.5, 0.2, 0.2", "label-not-a-number", "not numbers only"),
        ("\u0660 0.5 0.5 0.2 0.2", "label-not-a-number", "'\u0660 0.5"),  # an Arabic zero
        ("0\u00a00.5 0.5 0.2 0.2", "label-not-a-number", "not numbers only"),
        ("0 0.5 0.5 0.2 0.2\0", "label-not-a-number", r"0.2\x00' is not numbers"),
        ("0 0.5 0.5 0.2", "label-fields", "4 fields"),
        ("0 0.5 0.5 0.2 0.2 0.9", "label-fields", "6 fields"),
        ("-1 0.5 0.5 0.2 0.2", "label-class", "class -1"),
        ("0.5 0.5 0.5 0.2 0.2", "label-class", "class 0.5"),
        ("0.99999999999 0.5 0.5 0.2 0.2", "label-class", "must be a whole number"),
        ("100 0.5 0.5 0.2 0.2", "label-class-unknown", "class 100 of 100 classes (0 to 99)"),
        ("1e30 0.5 0.5 0.2 0.2", "label-class-unknown", "class 1e+30 of 100"),
        ("0 0.1 0.1 0.4 0.1 0.4 0.5 0.2", "label-polygon", "odd number of fields"),
    ],
)
def test_a_bad_row_is_named_by_kind_file_and_line(row: str, kind: str, reason: str) -> None:
    error = refusal(f"{ROW}{row}\n")
    assert (error.kind, error.where) == (kind, "a.txt:2")
    assert reason in error.reason


def test_two_points_are_no_polygon() -> None:
    error = refusal("0 0.1 0.1 0.4 0.1 0.4 0.5\n0 0.1 0.1 0.4 0.1 0.4\n")
    assert (error.kind, error.where) == ("label-polygon", "a.txt:2")


@pytest.mark.parametrize(
    "data", [b"\xff\xfe0\x00 \x00", b"0 0.5 0.5 0.2 0.2\x80", b"\xed\xa0\x80", b"\x89PNG\r\n"]
)
def test_what_is_no_text_is_named(data: bytes) -> None:
    error = refusal(data)
    assert (error.kind, error.where) == ("label-not-text", "a.txt")
    assert "cannot be read as text" in error.reason


def test_a_file_of_more_than_ten_megabytes_is_no_label_file() -> None:
    assert refusal(b"\n" * 10_000_001).kind == "label-too-large"
    blank = b" " * 999_980 + b"\n"
    assert len(parse_labels(blank * 9 + ROW.encode(), "a.txt", 1).labels) == 1


def test_a_file_of_too_many_or_too_long_lines_is_no_label_file() -> None:
    for data in (b"\n" * 100_001, b"0 " + b"0.5 " * 300_000):
        error = refusal(data)
        assert error.kind == "label-too-large"
        assert "a label file has at most 100000 lines of 1000000 bytes" in str(error)


def test_five_and_a_half_columns_is_a_file_cut_in_the_middle_of_a_row() -> None:
    assert str(refusal(f"{ROW}1 0.5 0.")).startswith("a.txt:2: 3 fields; a box row is")


def test_all_bad_rows_are_counted() -> None:
    error = refusal("x\n0 2 2 2 2\n0 0.5")
    assert str(error).startswith("a.txt:1: 'x' is not numbers only (and 2 more bad lines)")


_FRACTIONS = st.floats(0, 1, width=32)
_SIDES = st.floats(2**-20, 1, width=32)
_ROWS = st.tuples(st.integers(0, 99), _FRACTIONS, _FRACTIONS, _SIDES, _SIDES)


@given(st.lists(_ROWS, max_size=5, unique=True))
def test_every_row_written_is_read_back(rows: list[tuple[float, ...]]) -> None:
    text = "".join(f"{row[0]} {row[1]!r} {row[2]!r} {row[3]!r} {row[4]!r}\n" for row in rows)
    truth = parse(text)
    read = sorted(map(tuple, truth.labels.tolist()))
    assert read == sorted(tuple(map(float, row)) for row in rows)
    assert len(truth.segments) == len(rows)


_ODD = "0 1 -0 7 .5 1. 1e-40 1e-50 1.00000001 1.0000001 inf nan -1 1_0 0x1 1e400 1e39 x 1e +1"
_NUMBERS = st.one_of(
    _FRACTIONS.map(repr), st.sampled_from([*_ODD.split(), "0.1\0", "\u0661", "", "\f"])
)
_PLAIN = st.tuples(st.sampled_from("0123456789"), *[_FRACTIONS.map(repr)] * 4).map(list)
_ENDS = st.sampled_from(["\n", "\r\n", "\r", "\n\n", " \n", "\v", "\x1c", "\u2028"])


@given(
    st.lists(
        st.tuples(st.one_of(_PLAIN, st.lists(_NUMBERS, min_size=3, max_size=9)), _ENDS), max_size=5
    ),
    st.sampled_from(["", "\ufeff"]),
    st.sampled_from([" ", "\t", "  "]),
)
def test_the_fast_path_gives_what_the_careful_one_gives(
    rows: list[tuple[list[str], str]], start: str, blank: str
) -> None:
    data = (start + "".join(blank.join(row) + end for row, end in rows)).encode()
    fast = plain_boxes(data, 8)
    if fast is None:
        return
    careful = parse_any_rows(data, "a.txt", 8)
    assert fast.labels.tobytes() == careful.labels.tobytes()
    assert fast.labels.shape == careful.labels.shape
    assert fast.labels.dtype == careful.labels.dtype
    assert [s.shape for s in fast.segments] == [s.shape for s in careful.segments]
    assert fast.faults == careful.faults == ()


@given(st.lists(_ROWS, min_size=1, max_size=5, unique=True))
def test_plain_files_take_the_fast_path(rows: list[tuple[float, ...]]) -> None:
    text = "".join(" ".join(f"{value:.9f}" for value in row) + "\n" for row in rows)
    fast = plain_boxes(text.encode(), 100)
    careful = parse_any_rows(text.encode(), "a.txt", 100)
    if careful.faults:  # rounded to the same row, or to nothing
        assert fast is None
    else:
        assert fast is not None
        assert fast.labels.tobytes() == careful.labels.tobytes()


@given(st.one_of(st.text(max_size=40).map(str.encode), st.binary(max_size=40)))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(FaultError):  # any other error fails the test
        truth = parse_labels(data, "a.txt", 100)
        assert ((truth.labels[:, 1:] >= 0) & (truth.labels[:, 1:] <= 1)).all()


def test_labels_lie_in_the_last_folder_named_images_turned_labels() -> None:
    assert label_path(Path("/d/images/images/a.b.jpg")) == Path("/d/images/labels/a.b.txt")
    assert label_path(Path("/d/my_images/a.PNG")) == Path("/d/my_images/a.txt")
    assert label_path(Path("/d/images.v2/train/images/a.jpg")) == Path(
        "/d/images.v2/train/labels/a.txt"
    )
