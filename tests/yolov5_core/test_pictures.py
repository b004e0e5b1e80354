import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolov5_core.pictures import MAX_PICTURES, Boxes, Mark, colour, draw_batch, write_encoded

NO_BOXES = Boxes(xyxy=np.zeros((0, 4), np.float32), classes=np.zeros(0))


def flat_images(count: int, height: int = 64, width: int = 64) -> np.ndarray:
    """Picture i is grey of level 10 + 10 i."""
    levels = 10 + 10 * np.arange(count, dtype=np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, 3, height, width)).copy()


def drawn(images: np.ndarray, path: Path, boxes: list[Boxes] | None = None) -> np.ndarray:
    boxes = boxes or [NO_BOXES] * len(images)
    titles = [f"{index}.jpg" for index in range(len(images))]
    draw_batch(images, boxes, titles, ["cat", "dog"], path)
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_colours_repeat_after_the_palette_and_differ_within_it():
    assert len({colour(index) for index in range(20)}) == 20
    assert colour(3) == colour(23)
    assert all(0 <= value <= 255 for index in range(20) for value in colour(index))


def test_pictures_fill_the_grid_column_by_column(tmp_path: Path):
    grid = drawn(flat_images(6), tmp_path / "grid.png")
    rows, columns = 3, 2  # ceil(sqrt(6)) = 3 cells a side; the third column would be empty
    for index in range(6):
        column, row = divmod(index, rows)
        y = round((row + 0.5) * grid.shape[0] / rows)
        x = round((column + 0.5) * grid.shape[1] / columns)
        assert (grid[y, x] == 10 + 10 * index).all()


def test_no_more_than_sixteen_pictures_are_drawn(tmp_path: Path):
    many = drawn(flat_images(20), tmp_path / "many.png")
    some = drawn(flat_images(20)[:MAX_PICTURES], tmp_path / "some.png")
    assert np.array_equal(many, some)


@pytest.mark.parametrize("count", [0, 1, 2, 5, 16])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 160), (700, 500)])
def test_batches_of_any_size_are_drawn(tmp_path: Path, count: int, height: int, width: int):
    grid = drawn(flat_images(count, height, width), tmp_path / "grid.jpg")
    assert max(grid.shape) < 2600


def test_a_box_is_drawn_in_the_colour_of_its_class_where_it_lies(tmp_path: Path):
    boxes = Boxes(xyxy=np.array([[16, 24, 48, 56]], np.float32), classes=np.array([1.0]))
    plain = drawn(flat_images(1), tmp_path / "plain.png")
    grid = drawn(flat_images(1), tmp_path / "boxed.png", [boxes])
    changed = (plain != grid).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    scale = 360 / 64
    margin = 40  # title strip, tag above the box, line width
    assert abs(columns[0] - 16 * scale) < 10
    assert abs(columns[-1] - 48 * scale) < 10
    assert 24 * scale - margin < rows[0] < 24 * scale + margin
    assert abs(rows[-1] - 56 * scale) < margin
    assert (grid == colour(1)).all(axis=2).sum() > 200


def test_scores_are_written_with_the_name(tmp_path: Path):
    box = np.array([[16, 24, 48, 56]], np.float32)
    label = Boxes(xyxy=box, classes=np.array([1]))
    prediction = Boxes(xyxy=box, classes=np.array([1]), scores=np.array([0.87]))
    without = drawn(flat_images(1), tmp_path / "label.png", [label])
    with_score = drawn(flat_images(1), tmp_path / "pred.png", [prediction])
    assert (with_score == colour(1)).all(axis=2).sum() > (without == colour(1)).all(axis=2).sum()


def test_a_mark_gives_the_colour_and_may_take_the_text_away(tmp_path: Path):
    boxes = np.array([[4, 24, 28, 56], [36, 24, 60, 56]], np.float32)
    red, green = (250, 10, 10), (10, 250, 10)
    plain = Boxes(xyxy=boxes, classes=np.array([0, 0]), scores=np.array([0.5, np.nan]))
    marks = [Mark(colour=red, meaning="a"), Mark(colour=green, meaning="b", tagged=False)]
    marked = dataclasses.replace(plain, marks=marks)
    before = drawn(flat_images(1), tmp_path / "plain.png", [plain])
    after = drawn(flat_images(1), tmp_path / "marked.png", [marked])
    picture = after[: len(before)]

    def area(part: np.ndarray, ink: tuple[int, int, int]) -> int:
        return int((part == ink).all(axis=2).sum())

    assert area(after, colour(0)) == 0
    assert area(picture, red) > 1.2 * area(picture, green) > 200  # one with text, one without
    assert 20 < len(after) - len(before) < 40  # the legend
    assert area(after[len(before) :], red) == area(after[len(before) :], green) > 50


def test_a_label_among_predictions_has_no_score(tmp_path: Path):
    box = np.array([[16, 24, 48, 56]], np.float32)
    label = Boxes(xyxy=box, classes=np.array([1]))
    among = Boxes(xyxy=box, classes=np.array([1]), scores=np.array([np.nan]))
    assert np.array_equal(
        drawn(flat_images(1), tmp_path / "a.png", [label]),
        drawn(flat_images(1), tmp_path / "b.png", [among]),
    )


def test_boxes_outside_the_picture_and_unknown_classes_do_no_harm(tmp_path: Path):
    wild = np.array([[-1e9, -5, 1e9, 70], [60, 60, 64, 64], [0, 0, 1, 1]], np.float32)
    boxes = Boxes(xyxy=wild, classes=np.array([0, 77, 1]), scores=np.array([0.5, 0.6, 0.7]))
    drawn(flat_images(1), tmp_path / "grid.png", [boxes])


def test_long_titles_and_names_do_no_harm(tmp_path: Path):
    boxes = Boxes(xyxy=np.array([[1, 1, 9, 9]]), classes=np.array([0]))
    draw_batch(flat_images(4), [boxes] * 4, ["x" * 300] * 4, ["n" * 300], tmp_path / "a.jpg")
    assert (tmp_path / "a.jpg").stat().st_size > 1000


def test_the_batch_is_not_changed_and_equal_batches_give_equal_bytes(tmp_path: Path):
    images = flat_images(4)
    images.flags.writeable = False
    boxes = [Boxes(xyxy=np.array([[8.0, 8, 40, 40]]), classes=np.array([0]))] * 4
    for name in ("a.jpg", "b.jpg"):
        draw_batch(images, boxes, ["t"] * 4, ["cat"], tmp_path / name)
    assert np.array_equal(images, flat_images(4))
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()


@pytest.mark.parametrize(
    "images", [np.zeros((1, 3, 8, 8), np.float32), np.zeros((1, 8, 8, 3), np.uint8)]
)
def test_images_of_another_layout_or_type_are_refused(tmp_path: Path, images: np.ndarray):
    with pytest.raises(ValueError, match=r"pass \(B, 3, H, W\) uint8 RGB"):
        draw_batch(images, [NO_BOXES], ["t"], ["cat"], tmp_path / "a.jpg")


def test_a_file_is_replaced_whole_and_its_folder_made(tmp_path: Path):
    path = tmp_path / "new" / "a.bin"
    write_encoded(path, b"old")
    assert write_encoded(path, b"new") == path
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]
