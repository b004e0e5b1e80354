"""COCO JSON: every kind of fault it can have, and what its boxes, outlines and crowds become."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov5_core.coco import CocoImage, CocoSet, coco_truth, parse_coco
from yolov5_core.dataset import DataError, Truth
from yolov5_core.faults import FaultError

SIZE_WH = (200, 100)
CLASSES = {1: 0, 18: 1}  # sparse ids, as COCO's own


def document(**changes: Any) -> dict[str, Any]:
    """One picture of 200x100 pixels with one box, in two categories."""
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 200, "height": 100}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 18, "bbox": [20, 10, 100, 50]}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        **changes,
    }


def parse(**changes: Any) -> CocoSet:
    return parse_coco(json.dumps(document(**changes)).encode(), "d/a.json")


def refusal(data: bytes | dict[str, Any]) -> str:
    with pytest.raises(DataError) as caught:
        parse_coco(data if isinstance(data, bytes) else json.dumps(data).encode(), "d/a.json")
    assert str(caught.value).startswith("d/a.json")
    return str(caught.value)


def truth(*annotations: Mapping[str, Any], size_wh: tuple[int, int] = SIZE_WH) -> Truth:
    rows = tuple({"id": i, "category_id": 1, **a} for i, a in enumerate(annotations, 1))
    return coco_truth(CocoImage(7, "a.jpg", *SIZE_WH, rows), CLASSES, size_wh, "a.json")


def faults(found: Truth | CocoSet) -> list[tuple[str, str]]:
    return [(fault.kind, fault.where) for fault in found.faults]


def test_each_image_gets_its_annotations_and_categories_come_by_id() -> None:
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in (9, 4)]
    annotations = [{"image_id": i, "id": n} for n, i in enumerate((4, 9, 4))]
    coco = parse(images=images, annotations=annotations)
    assert [(i.id, i.file_name, i.width, i.height) for i in coco.images] == [
        (9, "9.jpg", 0, 0),
        (4, "4.jpg", 0, 0),
    ]
    assert [[a["id"] for a in image.annotations] for image in coco.images] == [[1], [0, 2]]
    assert coco.categories == ((1, "person"), (18, "dog"))
    assert coco.faults == ()


def test_a_byte_order_mark_and_whole_numbers_written_as_floats_are_read() -> None:
    text = json.dumps(document(images=[{"id": 7.0, "file_name": "a.jpg", "width": 200.0}]))
    coco = parse_coco(b"\xef\xbb\xbf" + text.encode(), "a.json")
    assert (coco.images[0].id, coco.images[0].width, coco.images[0].height) == (7, 200, 0)
    assert len(coco.images[0].annotations) == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "line 1 column 1: not JSON"),
        (b'{"images": [\n1,\n', "line 3 column 1: not JSON: Expecting value; the file is cut"),
        (b"\xff\xfe", "not JSON"),
        (b'{"\x80": 1}', "byte 2 is no UTF-8; save it as UTF-8"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"1" * 5000, "a number that is no id or size"),
        (b"[]", "no COCO annotation file, it has no images, annotations, categories"),
        (b"null", "it has no images"),
        (b'{"images": [], "annotations": []}', "it has no categories; it must be an object"),
        (document(images={}), "images must be a list"),
        (document(annotations=None, categories=3), "annotations, categories must be a list"),
        (document(categories=[]), "categories is empty"),
        (document(categories=["dog"]), "#categories[0]: must be an object with id and name"),
        (document(categories=[{"id": "1", "name": "dog"}]), "id must be a whole number, got '1'"),
        (document(categories=[{"id": True, "name": "dog"}]), "whole number, got True"),
        (document(categories=[{"id": 1, "name": " "}]), "name must be a text, got ' '"),
        (document(categories=[{"id": 1, "name": "\ud800"}]), r"name must be a text, got '\ud800'"),
        (document(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]), "[1]: id 1 twice"),
        (
            document(categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]),
            "#categories[1]: name 'a' twice; merge the categories or rename one",
        ),
        (b'{"images": [], "images": []}', "an object has the key 'images' more than once"),
    ],
)
def test_a_file_that_is_no_coco_file_is_refused_with_place_and_fix(
    data: bytes | dict[str, Any], words: str
) -> None:
    assert words in refusal(data)


def test_a_key_twice_in_an_annotation_is_refused_and_shown() -> None:
    text = json.dumps(document()).replace('"bbox"', '"bbox": [0, 0, 1, 1], "bbox"')
    assert "the key 'bbox' more than once: {'bbox': [20, 10, 100, 50]" in refusal(text.encode())


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (3, "must be an object, got 3"),
        ({"file_name": "b.jpg"}, "id must be a whole number, got None"),
        ({"id": "8", "file_name": "b.jpg"}, "id must be a whole number, got '8'"),
        ({"id": 1e300, "file_name": "b.jpg"}, "id must be a whole number"),
        ({"id": 8}, "file_name must be the name of a file, got None"),
        ({"id": 8, "file_name": ""}, "file_name must be"),
        ({"id": 8, "file_name": ["b.jpg"]}, "file_name must be"),
        ({"id": 8, "file_name": "b\0.jpg"}, "file_name must be"),
        ({"id": 8, "file_name": "\udfff.jpg"}, r"got '\udfff.jpg'"),
        ({"id": 8, "file_name": "b.jpg", "width": -1}, "width and height must be whole pixels"),
        ({"id": 8, "file_name": "b.jpg", "height": 1.5}, "got None and 1.5"),
        ({"id": 8, "file_name": "b.jpg", "width": "200"}, "got '200' and None"),
    ],
)
def test_an_image_entry_that_cannot_be_used_is_left_out_and_named(image: Any, reason: str) -> None:
    coco = parse(images=[*document()["images"], image])
    assert [i.id for i in coco.images] == [7]
    assert faults(coco) == [("coco-image", "d/a.json#images[1]")]
    assert reason in coco.faults[0].reason


def test_images_that_share_an_id_are_left_out_because_boxes_cannot_be_told_apart() -> None:
    images = [{"id": i, "file_name": f"{n}.jpg"} for n, i in enumerate((7, 8, 7))]
    coco = parse(images=images)
    assert [image.id for image in coco.images] == [8]
    assert faults(coco) == [("coco-image-id", "d/a.json#image 7")] * 2
    assert [fault.image for fault in coco.faults] == ["0.jpg", "2.jpg"]


def test_entries_that_share_a_file_are_left_out_because_each_has_part_of_the_boxes() -> None:
    images = [{"id": i, "file_name": "a.jpg"} for i in (7, 8)]
    coco = parse(images=images)
    assert coco.images == ()
    assert faults(coco) == [("coco-image", "d/a.json#image 7"), ("coco-image", "d/a.json#image 8")]


@pytest.mark.parametrize(
    ("annotation", "kind", "place"),
    [
        (None, "coco-annotation", "annotations[1]"),
        ({"id": 5}, "coco-annotation", "annotations[1]"),
        ({"id": 5, "image_id": [7]}, "coco-annotation", "annotations[1]"),
        ({"id": 5, "image_id": 99}, "coco-unknown-image", "annotation 5"),
        ({"image_id": 99}, "coco-unknown-image", "annotations[1]"),
    ],
)
def test_an_annotation_without_a_known_image_is_named(
    annotation: Any, kind: str, place: str
) -> None:
    coco = parse(annotations=[*document()["annotations"], annotation])
    assert faults(coco) == [(kind, f"d/a.json#{place}")]
    assert len(coco.images[0].annotations) == 1


def test_a_box_becomes_class_centre_and_size() -> None:
    found = truth({"category_id": 18, "bbox": [20, 10, 100, 50]}, {"bbox": [0, 0, 200.0, 100]})
    expected = np.array([[1, 0.35, 0.35, 0.5, 0.5], [0, 0.5, 0.5, 1, 1]], np.float32)
    np.testing.assert_array_equal(found.labels, expected)
    assert found.labels.dtype == np.float32
    assert [s.shape for s in found.segments] == [(0, 2), (0, 2)]
    assert found.faults == ()


def test_an_image_without_annotations_is_background() -> None:
    found = truth()
    assert found.labels.shape == found.crowd.shape == (0, 5)
    assert found.segments == found.faults == ()


def test_a_crowd_is_kept_apart_and_never_a_label() -> None:
    rle = {"counts": [1, 2], "size": [100, 200]}
    found = truth(
        {"bbox": [0, 0, 20, 10], "iscrowd": 1, "segmentation": rle},
        {"bbox": [0, 0, 20, 10], "iscrowd": 0},
        {"bbox": [20, 0, 20, 10], "iscrowd": True},
    )
    assert len(found.labels) == 1
    np.testing.assert_array_equal(found.crowd[0], found.labels[0])
    assert len(found.crowd) == 2
    assert found.faults == ()


@pytest.mark.parametrize("size_wh", [(100, 200), (200, 101), (199, 100)])
def test_a_picture_of_another_size_is_refused_because_its_boxes_would_be_wrong(
    size_wh: tuple[int, int],
) -> None:
    with pytest.raises(FaultError) as caught:
        truth({"bbox": [0, 0, 1, 1]}, size_wh=size_wh)
    assert (caught.value.kind, caught.value.where) == ("coco-size", "a.json#image 7")
    assert f"200x100 pixels in the JSON file, {size_wh[0]}x{size_wh[1]}" in str(caught.value)
    assert ("EXIF" in str(caught.value)) == (size_wh == (100, 200))


def test_sizes_that_the_file_does_not_say_are_not_compared() -> None:
    image = CocoImage(7, "a.jpg", 0, 100, ({"category_id": 1, "bbox": [0, 0, 5, 5]},))
    assert len(coco_truth(image, CLASSES, (50, 100), "a.json").labels) == 1
    with pytest.raises(FaultError):
        coco_truth(image, CLASSES, (50, 90), "a.json")


@pytest.mark.parametrize(
    ("annotation", "kind", "reason"),
    [
        ({"bbox": [0, 0, 5, 5], "category_id": 2}, "coco-category", "category_id 2 is none"),
        ({"bbox": [0, 0, 5, 5], "category_id": "1"}, "coco-category", "category_id '1' is none"),
        ({"bbox": [0, 0, 5, 5], "category_id": None}, "coco-category", "category_id None"),
        ({"bbox": [0, 0, 5, 5], "iscrowd": 2}, "coco-annotation", "iscrowd must be 0 or 1, got 2"),
        ({"bbox": [0, 0, 5, 5], "iscrowd": ["x"]}, "coco-annotation", "got ['x']"),
        ({}, "coco-bbox", "bbox must be four numbers [x, y, w, h], got None"),
        ({"bbox": [0, 0, 5]}, "coco-bbox", "got [0, 0, 5]"),
        ({"bbox": [0, 0, "5", 5]}, "coco-bbox", "got [0, 0, '5', 5]"),
        ({"bbox": [0, 0, True, 5]}, "coco-bbox", "got [0, 0, True, 5]"),
        ({"bbox": {"x": 1}}, "coco-bbox", "got {'x': 1}"),
        ({"bbox": [0, 0, float("nan"), 5]}, "coco-bbox", "got [0, 0, nan, 5]"),
        ({"bbox": [0, 0, float("inf"), 5]}, "coco-bbox", "got [0, 0, inf, 5]"),
        ({"bbox": [0, 0, 10**400, 5]}, "coco-bbox", "bbox must be four numbers"),
        ({"bbox": [0, 0, 0, 5]}, "coco-bbox", "box 0 0 0 5 (left top right bottom, pixels) has no"),
        ({"bbox": [9, 9, -5, 5]}, "coco-bbox", "has no area"),
        ({"bbox": [9, 9, 1e-300, 5]}, "coco-bbox", "has no area"),
        ({"bbox": [0, 0, 1e-60, 5]}, "coco-bbox", "has no area within the picture"),
        ({"bbox": [200, 0, 5, 5]}, "coco-outside", "outside the picture of 200x100 pixels"),
        ({"bbox": [0, -9, 5, 9]}, "coco-outside", "outside the picture"),
    ],
)
def test_a_box_that_cannot_be_used_is_left_out_and_named(
    annotation: dict[str, Any], kind: str, reason: str
) -> None:
    found = truth({"bbox": [0, 0, 9, 9]}, annotation, {"bbox": [9, 9, 9, 9]})
    assert len(found.labels) == len(found.segments) == 2
    assert faults(found) == [(kind, "a.json#annotation 2")]
    assert reason in found.faults[0].reason


def test_an_annotation_without_an_id_is_named_by_its_number_in_the_image() -> None:
    found = truth({"id": None, "bbox": []})
    assert faults(found) == [("coco-bbox", "a.json#image 7, annotation 1")]


def test_a_box_that_leaves_the_picture_is_cut_and_reported() -> None:
    found = truth({"bbox": [-20, 50, 60, 100]})
    np.testing.assert_array_equal(found.labels, np.float32([[0, 0.1, 0.75, 0.2, 0.5]]))
    assert faults(found) == [("coco-clipped", "a.json#annotation 1")]
    assert "box -20 50 40 150 (left top right bottom, pixels) cut to" in found.faults[0].reason


def test_a_box_that_was_only_rounded_over_the_edge_is_cut_without_a_word() -> None:
    found = truth({"bbox": [-0.4, 0, 100.4, 100.5]})
    np.testing.assert_array_equal(found.labels, np.float32([[0, 0.25, 0.5, 0.5, 1]]))
    assert found.faults == ()


def test_the_same_box_of_the_same_class_is_kept_once() -> None:
    box = {"bbox": [5, 5, 9, 9]}
    found = truth(box, {**box, "category_id": 18}, box)
    assert found.labels[:, 0].tolist() == [0, 1]
    assert faults(found) == [("coco-duplicate", "a.json#annotation 3")]
    assert found.faults[0].reason == "the same class and box as a.json#annotation 1"


def test_an_outline_is_made_fractions() -> None:
    found = truth({"bbox": [20, 10, 100, 50], "segmentation": [[20, 10, 120, 10, 120, 60]]})
    np.testing.assert_array_equal(
        found.segments[0], np.float32([[0.1, 0.1], [0.6, 0.1], [0.6, 0.6]])
    )
    assert found.segments[0].dtype == np.float32
    assert found.faults == ()


def test_an_outline_is_cut_at_the_edge_with_its_box() -> None:
    polygon = [-40, 0, 80, 0, 80, 50, -40, 50]
    found = truth({"bbox": [-40, 0, 120, 50], "segmentation": [polygon]})
    expected = np.float32([[0, 0], [0.4, 0], [0.4, 0.5], [0, 0.5]])
    np.testing.assert_array_equal(found.segments[0], expected)


def test_an_object_in_parts_has_one_outline_around_all_of_them() -> None:
    left, right = [0, 0, 40, 0, 40, 100, 0, 100], [160, 0, 200, 0, 200, 100, 160, 100]
    found = truth({"bbox": [0, 0, 200, 100], "segmentation": [left, right]})
    outline = found.segments[0] * SIZE_WH
    expected = [[0, 0], [40, 0], [160, 0], [200, 0], [200, 100], [160, 100], [160, 0], [40, 0]]
    np.testing.assert_allclose(outline, [*expected, [40, 100], [0, 100]], atol=1e-4)
    x, y = outline.T  # the shoelace formula: the joining lines add no area
    area = abs((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2
    assert area == pytest.approx(8000)


@pytest.mark.parametrize("nothing", [None, []])
def test_a_box_without_an_outline_is_no_fault(nothing: Any) -> None:
    found = truth({"bbox": [0, 0, 9, 9], "segmentation": nothing})
    assert found.segments[0].shape == (0, 2)
    assert found.faults == ()


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ({"counts": "abc", "size": [1, 1]}, "no list of polygons (RLE is for crowds)"),
        ("x", "no list of polygons"),
        ([[0, 0, 9, 0]], "no polygon of three points or more: [0, 0, 9, 0]"),
        ([[0, 0, 9, 0, 9, 9, 5]], "no polygon of three points"),
        ([0, 0, 9, 0, 9, 9], "no polygon of three points or more: 0"),
        ([[0, 0, 9, 0, 9, "9"]], "no polygon of three points"),
        ([[0, 0, 9, 0, 9, float("inf")]], "no polygon of three points"),
        ([[0, 0, 9, 0, 9, 9], [1, 2]], "no polygon of three points or more: [1, 2]"),
        ([[50, 50, 59, 50, 59, 59]], "the outline does not fit the box"),
        ([[0, 0, 9, 0, 4, 0]], "the outline does not fit the box"),
        ([[0, 0, 9, 0, 9, 9] * 600] * 3, "more than 5000 points in several parts"),
    ],
)
def test_a_box_is_used_without_an_outline_that_is_wrong(segmentation: Any, reason: str) -> None:
    found = truth({"bbox": [0, 0, 9, 9], "segmentation": segmentation})
    assert len(found.labels) == 1
    assert found.segments[0].shape == (0, 2)
    assert faults(found) == [("coco-segmentation", "a.json#annotation 1")]
    assert reason in found.faults[0].reason


_SIDE = st.floats(-1e6, 1e6)


@given(st.tuples(_SIDE, _SIDE, _SIDE, _SIDE), st.integers(1, 5000), st.integers(1, 5000))
def test_every_box_is_left_out_or_lies_within_the_picture(
    bbox: tuple[float, ...], width: int, height: int
) -> None:
    image = CocoImage(1, "a.jpg", 0, 0, ({"category_id": 1, "bbox": list(bbox)},))
    found = coco_truth(image, CLASSES, (width, height), "a.json")
    assert len(found.labels) or found.faults
    for _, cx, cy, w, h in found.labels.astype(float):
        assert min(w, h) > 0
        assert min(cx - w / 2, cy - h / 2) >= -1e-6
        assert max(cx + w / 2, cy + h / 2) <= 1 + 1e-6


_CORNERS = st.tuples(
    st.integers(0, 399), st.integers(0, 199), st.integers(1, 400), st.integers(1, 200)
)


@given(_CORNERS)
def test_a_box_within_the_picture_is_read_back_to_the_pixel(box: tuple[int, ...]) -> None:
    x, y, w, h = (value / 2 for value in box)
    x, y = min(x, 200 - w), min(y, 100 - h)
    found = truth({"bbox": [x, y, w, h]})
    _, cx, cy, fw, fh = found.labels[0].astype(float)
    back = [(cx - fw / 2) * 200, (cy - fh / 2) * 100, fw * 200, fh * 100]
    np.testing.assert_allclose(back, [x, y, w, h], atol=1e-4)
    assert found.faults == ()
