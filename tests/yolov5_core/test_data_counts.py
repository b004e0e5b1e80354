import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.yolov5_core.small_index import index_of, picture
from yolov5_core.data_counts import (
    count_classes,
    count_faults,
    count_histograms,
    count_sizes,
    count_splits,
    name_groups,
    name_leaks,
    printable,
    remarks,
)
from yolov5_core.duplicates import Leakage
from yolov5_core.faults import Fault
from yolov5_core.histograms import binned
from yolov5_core.index import Index

CAT, DOG = (0, 0.5, 0.5, 0.2, 0.2), (1, 0.5, 0.5, 0.2, 0.2)


def some_pictures() -> Index:
    return index_of(
        picture("a", boxes=[CAT, CAT, DOG], crowd=[DOG]),
        picture("b"),
        picture("c", boxes=[CAT], size_wh=(100, 50)),
        picture("d", "val", boxes=[DOG]),
    )


def fault(kind: str, image: str = "a.jpg", where: str = "") -> Fault:
    return Fault(kind=kind, image=image, where=where or image, reason="because")


def test_splits_are_counted():
    index = some_pictures()
    assert count_splits(index, binned(index, 2)) == {
        "train": {"pictures": 3, "background": 1, "boxes": 4, "crowd": 1},
        "val": {"pictures": 1, "background": 0, "boxes": 1, "crowd": 0},
    }


def test_classes_are_counted_by_boxes_and_by_pictures_that_have_one():
    index = some_pictures()
    assert count_classes(index, binned(index, 3), ["cat", "dog", "owl"]) == [
        {"name": "cat", "train": {"boxes": 3, "pictures": 2}, "val": {"boxes": 0, "pictures": 0}},
        {"name": "dog", "train": {"boxes": 1, "pictures": 1}, "val": {"boxes": 1, "pictures": 1}},
        {"name": "owl", "train": {"boxes": 0, "pictures": 0}, "val": {"boxes": 0, "pictures": 0}},
    ]


def test_histograms_have_each_split_and_the_previous_set():
    index = some_pictures()
    bins = binned(index, 2)
    first = count_histograms(index, bins, None)["boxes_per_picture"]
    assert first["train"] == [1, 1, 0, 1] + [0] * 7
    assert first["val"] == [0, 1] + [0] * 9
    assert first["previous"] is None
    previous = {"histograms": {name: [7] for name in count_histograms(index, bins, None)}}
    assert count_histograms(index, bins, previous)["brightness"]["previous"] == [7]


def test_the_most_frequent_sizes_come_first():
    assert count_sizes(some_pictures()) == {
        "different": 2,
        "listed": [
            {"width": 640, "height": 480, "pictures": 3},
            {"width": 100, "height": 50, "pictures": 1},
        ],
    }


def test_no_more_than_ten_sizes_are_listed():
    sizes = count_sizes(index_of(*(picture(f"{i}", size_wh=(50 + i, 50)) for i in range(12))))
    assert (sizes["different"], len(sizes["listed"])) == (12, 10)


def test_the_gravest_and_most_frequent_faults_come_first():
    found = count_faults(
        [
            fault("image-trailing-bytes", "z.jpg"),
            fault("label-duplicate", "y.jpg"),
            fault("image-empty", "b.jpg"),
            fault("label-outside", "c.jpg", "c.txt:1"),
            fault("image-empty", "a.jpg"),
        ]
    )
    kinds = ["image-empty", "label-outside", "label-duplicate", "image-trailing-bytes"]
    assert [(k["kind"], k["count"]) for k in found["by_kind"]] == list(
        zip(kinds, (2, 1, 1, 1), strict=True)
    )
    assert found["by_kind"][0]["action"] == "remove or replace the picture"
    assert [f["image"] for f in found["listed"]] == ["a.jpg", "b.jpg", "c.jpg", "y.jpg", "z.jpg"]
    assert found["listed"][2] == {
        "kind": "label-outside",
        "image": "c.jpg",
        "where": "c.txt:1",
        "reason": "because",
    }
    assert (found["total"], found["left_out"], found["more"]) == (5, 3, 0)


def test_a_picture_with_two_faults_is_left_out_once():
    assert count_faults([fault("coco-image"), fault("coco-size")])["left_out"] == 1
    nameless = [fault("coco-image", "", "x.json: image 3"), fault("coco-image", "", "x.json: 4")]
    assert count_faults(nameless)["left_out"] == 2


def test_ten_thousand_faults_are_listed_and_the_others_counted():
    found = count_faults([fault("image-empty", f"{i}.jpg") for i in range(10_007)])
    assert (found["total"], len(found["listed"]), found["more"]) == (10_007, 10_000, 7)


def test_a_name_that_is_no_text_becomes_text():
    (listed,) = count_faults(
        [fault("image-empty", b"\xff.jpg".decode("utf-8", "surrogateescape"))]
    )["listed"]
    assert listed["image"] == "\\udcff.jpg"
    assert listed["where"].encode()


def test_groups_are_named_largest_first_and_cut():
    index = index_of(*(picture(f"{i:02}") for i in range(30)))
    found = name_groups(index, [np.array([0, 1]), np.arange(2, 30)])
    assert (found["groups"], found["pictures"], found["more"]) == (2, 30, 0)
    assert found["listed"][0]["names"] == [f"{i:02}" for i in range(2, 22)]
    assert found["listed"][0]["more"] == 8
    assert found["listed"][1] == {"names": ["00", "01"], "more": 0}


def test_leaks_are_named_with_their_twins():
    index = index_of(picture("a"), picture("b", "val"))
    found = name_leaks(index, Leakage(pairs=np.array([[0, 1]]), share=1.0))
    pair = {"train": "a", "val": "b"}
    assert found == {"pictures": 1, "share": 1.0, "listed": [pair], "more": 0}


def remarked(index: Index, *names: str) -> dict[str, tuple[int, list[str]]]:
    found = remarks(index, binned(index, len(names)), names)
    return {remark["what"]: (remark["count"], remark["examples"]) for remark in found}


def test_classes_without_boxes_are_remarked():
    assert remarked(some_pictures(), "cat", "dog", "owl") == {
        "classes without a box in train": (1, ["owl"]),
        "classes without a box in val": (2, ["cat", "owl"]),
    }


@pytest.mark.parametrize(
    ("box", "what"),
    [
        ((0, 0.5, 0.5, 2.9 / 640, 0.5), "boxes with a side under 3 pixels"),
        ((0, 0.5, 0.5, 0.5, 2.9 / 480), "boxes with a side under 3 pixels"),
        ((0, 0.5, 0.5, 0.96, 0.95), "boxes over 90% of their picture"),
    ],
)
def test_odd_boxes_are_remarked_with_their_pictures(box, what: str):
    usual = (0, 0.5, 0.5, 3.1 / 640, 0.9)
    index = index_of(
        picture("odd", boxes=[box, box, usual]),
        picture("usual", boxes=[usual, (0, 0.5, 0.5, 0.94, 0.95)]),
        picture("val", "val", boxes=[usual], crowd=[box]),
    )
    assert remarked(index, "cat") == {what: (2, ["odd"])}


def test_pictures_with_more_boxes_than_can_be_found_are_remarked():
    index = index_of(
        picture("a", boxes=[CAT] * 301),
        picture("b", boxes=[CAT] * 300),
        picture("c", "val", boxes=[CAT]),
    )
    assert remarked(index, "cat") == {"pictures with more than 300 boxes": (1, ["a"])}


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain name.jpg", "plain name.jpg"),
        ("größe.jpg", "größe.jpg"),
        ("two\nlines", "two\\nlines"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("gpj.\u202ecod", "gpj.\\u202ecod"),
    ],
)
def test_what_cannot_be_seen_is_printed_as_an_escape(text: str, seen: str):
    assert printable(text, 50) == seen


def test_a_long_text_is_cut_in_its_middle():
    assert printable("abcdefghijklmnopqrstuvwxyz", 11) == "abcde...yz"
    assert printable("abcdefghijk", 11) == "abcdefghijk"


@given(st.text(), st.integers(10, 40))
def test_printed_text_is_short_and_visible(text: str, longest: int):
    seen = printable(text, longest)
    assert len(seen) <= longest
    assert seen.isprintable()
