import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov5_core.labels import LabelError, label_path, parse_label_text


def test_a_box_row_is_class_centre_and_size() -> None:
    parsed = parse_label_text("0 0.5 0.5 0.2 0.2\n2\t0.25  0.75 0.1 0.3\n", "a.txt")
    expected = np.array([[0, 0.5, 0.5, 0.2, 0.2], [2, 0.25, 0.75, 0.1, 0.3]], np.float32)
    np.testing.assert_array_equal(parsed.labels, expected)
    assert parsed.labels.dtype == np.float32
    assert [segment.shape for segment in parsed.segments] == [(0, 2), (0, 2)]
    assert parsed.messages == ()


@pytest.mark.parametrize("text", ["", "\n\n", "  \n\t\n"])
def test_an_empty_file_is_background(text: str) -> None:
    parsed = parse_label_text(text, "a.txt")
    assert parsed.labels.shape == (0, 5)
    assert parsed.segments == ()


def test_a_polygon_row_becomes_the_box_around_its_polygon() -> None:
    parsed = parse_label_text("3 0.25 0.25 0.75 0.25 0.5 0.5", "a.txt")
    np.testing.assert_array_equal(parsed.labels, [[3, 0.5, 0.375, 0.5, 0.25]])
    np.testing.assert_array_equal(parsed.segments[0], [[0.25, 0.25], [0.75, 0.25], [0.5, 0.5]])


def test_a_box_row_stays_a_box_in_a_file_with_polygons() -> None:
    text = "0 0.5 0.5 0.25 0.25\n1 0.25 0.25 0.75 0.25 0.5 0.5"
    parsed = parse_label_text(text, "a.txt")
    np.testing.assert_array_equal(parsed.labels[0], [0, 0.5, 0.5, 0.25, 0.25])
    assert [len(segment) for segment in parsed.segments] == [0, 3]


def test_a_class_may_be_written_with_a_decimal_point() -> None:
    assert parse_label_text("1.0 0.5 0.5 0.2 0.2", "a.txt").labels[0, 0] == 1


def test_windows_line_ends_are_read() -> None:
    assert len(parse_label_text("0 0.5 0.5 0.2 0.2\r\n1 0.5 0.5 0.2 0.2\r\n", "a.txt").labels) == 2


def test_duplicate_rows_are_removed_with_their_polygons_and_reported() -> None:
    text = "1 0.5 0.5 0.5 0.5\n0 0.25 0.25 0.75 0.25 0.5 0.5\n1 0.5 0.5 0.5 0.5\n"
    parsed = parse_label_text(text, "a.txt")
    assert parsed.labels[:, 0].tolist() == [0, 1]
    assert [len(segment) for segment in parsed.segments] == [3, 0]
    assert parsed.duplicates == 1
    assert parsed.messages == ("a.txt: 1 duplicate rows removed",)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("0 0.5 -0.01 0.2 0.2", "leaves [0, 1]"),
        ("0 0.5 0.5 0.2 1.01", "leaves [0, 1]"),
        ("0 320 240 64 64", "fractions of the image, not pixels"),
        ("0 0.5 0.5 nan 0.2", "NaN"),
        ("0 0.5 0.5 inf 0.2", "infinity"),
        ("cat 0.5 0.5 0.2 0.2", "not numbers only"),
        ("0 0.5 0.5 0.2 0.2x", "not numbers only"),
        ("0 0.5 0.5 0.2", "4 fields"),
        ("0 0.5 0.5 0.2 0.2 0.9", "6 fields"),
        ("-1 0.5 0.5 0.2 0.2", "class -1"),
        ("0.5 0.5 0.5 0.2 0.2", "class 0.5"),
        ("0 0.1 0.1 0.4 0.1 0.4 0.5 0.2", "odd number of fields"),
        ("0 0.1 0.1 0.4 0.1 0.4 nan", "NaN"),
        ("0 0.1 0.1 1.4 0.1 1.4 0.5", "leaves [0, 1]"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(row: str, reason: str) -> None:
    with pytest.raises(LabelError) as caught:
        parse_label_text(f"0 0.5 0.5 0.2 0.2\n{row}\n", "labels/a.txt")
    assert str(caught.value).startswith("labels/a.txt:2: ")
    assert reason in str(caught.value)


def test_five_and_a_half_columns_is_a_file_cut_in_the_middle_of_a_row() -> None:
    with pytest.raises(LabelError, match=r"a\.txt:2: 3 fields; a box row is"):
        parse_label_text("0 0.5 0.5 0.2 0.2\n1 0.5 0.", "a.txt")


def test_all_bad_rows_are_counted() -> None:
    with pytest.raises(LabelError, match=r"a\.txt:1: .*and 2 more bad lines"):
        parse_label_text("x\n0 2 2 2 2\n0 0.5", "a.txt")


_FRACTIONS = st.floats(0, 1, width=32)
_ROWS = st.tuples(st.integers(0, 99), _FRACTIONS, _FRACTIONS, _FRACTIONS, _FRACTIONS)


@given(st.lists(_ROWS, max_size=5, unique=True))
def test_every_row_written_is_read_back(rows: list[tuple[float, ...]]) -> None:
    text = "".join(f"{row[0]} {row[1]!r} {row[2]!r} {row[3]!r} {row[4]!r}\n" for row in rows)
    parsed = parse_label_text(text, "a.txt")
    read = sorted(map(tuple, parsed.labels.tolist()))
    assert read == sorted(tuple(map(float, row)) for row in dict.fromkeys(rows))
    assert len(parsed.segments) == len(rows)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(LabelError):  # any other error fails the test
        parsed = parse_label_text(text, "a.txt")
        assert ((parsed.labels[:, 1:] >= 0) & (parsed.labels[:, 1:] <= 1)).all()


def test_labels_lie_in_the_last_folder_named_images_turned_labels() -> None:
    assert label_path(Path("/d/images/images/a.b.jpg")) == Path("/d/images/labels/a.b.txt")
    assert label_path(Path("/d/my_images/a.PNG")) == Path("/d/my_images/a.txt")
    assert label_path(Path("/d/images.v2/train/images/a.jpg")) == Path(
        "/d/images.v2/train/labels/a.txt"
    )
