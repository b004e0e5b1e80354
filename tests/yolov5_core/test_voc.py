"""Pascal VOC XML: every kind of fault it can have, and the two ways to count pixels."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov5_core.dataset import Truth
from yolov5_core.faults import FaultError
from yolov5_core.voc import voc_names, voc_truth

CLASSES = {"dog": 0, "person": 1}
SIZE_WH = (200, 100)
SIZE = "<size><width>200</width><height>100</height><depth>3</depth></size>"
OFFICIAL = "<source><annotation>PASCAL VOC2007</annotation></source>"
GBK, HEX = (b'<?xml version="1.0" encoding="%s"?><annotation/>' % e for e in (b"gbk", b"hex"))


def box(x1: Any = 20, y1: Any = 10, x2: Any = 120, y2: Any = 60) -> str:
    return f"<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"


def dog(bndbox: str) -> str:
    return f"<object><name>dog</name>{bndbox}</object>"


def document(*objects: str, head: str = SIZE) -> bytes:
    return f"<annotation>\n{head}\n{''.join(objects)}</annotation>".encode()


def truth(*objects: str, head: str = SIZE) -> Truth:
    return voc_truth(document(*objects, head=head), "a.xml", CLASSES, SIZE_WH)


def refusal(data: bytes) -> FaultError:
    assert voc_names(data, "a.xml") == set()
    with pytest.raises(FaultError) as caught:
        voc_truth(data, "a.xml", CLASSES, SIZE_WH)
    return caught.value


def faults(found: Truth) -> list[tuple[str, str]]:
    return [(fault.kind, fault.where) for fault in found.faults]


def test_corners_lie_on_the_lines_between_pixels_as_most_programs_write_them() -> None:
    found = truth(
        dog(box(20, 10, 120, 60)), f"<object>{box(0, 0, 200, 100)}<name>person</name></object>"
    )
    np.testing.assert_array_equal(
        found.labels, np.float32([[0, 0.35, 0.35, 0.5, 0.5], [1, 0.5, 0.5, 1, 1]])
    )
    assert found.labels.dtype == np.float32
    assert [s.shape for s in found.segments] == [(0, 2), (0, 2)]
    assert found.faults == ()


def test_files_of_pascal_voc_itself_count_pixels_from_one_with_both_ends_included() -> None:
    found = truth(dog(box(1, 1, 200, 100)), dog(box(11, 11, 20, 20)), head=SIZE + OFFICIAL)
    expected = np.float32([[0, 0.5, 0.5, 1, 1], [0, 0.075, 0.15, 0.05, 0.1]])
    np.testing.assert_array_equal(found.labels, expected)


@pytest.mark.parametrize("difficult", ["0", "1", ""])
def test_a_difficult_object_is_a_label_like_any_other(difficult: str) -> None:
    extra = f"<difficult>{difficult}</difficult><truncated>1</truncated><pose>Left</pose>"
    assert len(truth(dog(box() + extra)).labels) == 1


def test_parts_of_an_object_are_no_objects() -> None:
    part = f"<part><name>head</name>{box(30, 20, 40, 30)}</part>"
    found = truth(dog(box() + part))
    assert len(found.labels) == 1
    assert found.faults == ()
    assert voc_names(document(dog(box() + part)), "a.xml") == {"dog"}


def test_names_are_those_of_all_objects_without_blanks_around() -> None:
    objects = ["<object><name> dog\n</name></object>", "<object><name>cat &amp; co</name></object>"]
    objects += ["<object/>", "<object><name/></object>"]
    assert voc_names(document(*objects, *objects), "a.xml") == {"dog", "cat & co"}


@pytest.mark.parametrize(
    ("data", "kind", "where", "reason"),
    [
        (b"", "voc-not-xml", "a.xml:1", "not XML: no element found"),
        (b"<annotation>\n<size>\n", "voc-not-xml", "a.xml:3", "not XML: no element found"),
        (b"<annotation>\n<size></annotation>", "voc-not-xml", "a.xml:2", "mismatched tag"),
        (b"<annotation>\n\xff</annotation>", "voc-not-xml", "a.xml:2", "not well-formed"),
        (b"<annotation>&x;</annotation>", "voc-not-xml", "a.xml:1", "undefined entity"),
        (b"<annotation/><annotation/>", "voc-not-xml", "a.xml:1", "junk after document"),
        (b"<html/>", "voc-not-xml", "a.xml", "the root element is html, not annotation"),
        (b"<annotation>" + b"<a>" * 1_000_000, "voc-not-xml", "a.xml", "within each other"),
        (b" " * 10_000_001, "voc-not-xml", "a.xml", "10000001 bytes"),
        (GBK, "voc-not-xml", "a.xml", "encoding 'gbk'; save the file as UTF-8"),
        (HEX, "voc-not-xml", "a.xml", "encoding 'hex'"),
        (b"<!DOCTYPE annotation><annotation/>", "voc-forbidden", "a.xml", "a DTD (DOCTYPE)"),
        (
            b'<!DOCTYPE a [<!ENTITY x "x"><!ENTITY y "&x;&x;">]><annotation>&y;</annotation>',
            "voc-forbidden",
            "a.xml",
            "entities, which are never expanded",
        ),
        (
            b'<!DOCTYPE a SYSTEM "file:///etc/hostname"><annotation>&x;</annotation>',
            "voc-forbidden",
            "a.xml",
            "DTD",
        ),
    ],
)
def test_a_file_that_is_no_plain_voc_file_is_refused(
    data: bytes, kind: str, where: str, reason: str
) -> None:
    error = refusal(data)
    assert (error.kind, error.where) == (kind, where)
    assert reason in error.reason


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1", "US-ASCII"])
def test_the_encodings_that_xml_itself_knows_are_read(encoding: str) -> None:
    name = "dog" if encoding == "US-ASCII" else "d\u00f6g"
    start = f'<?xml version="1.0" encoding="{encoding}"?>'
    text = f"{start}<annotation><object><name>{name}</name></object></annotation>"
    assert voc_names(text.encode(encoding), "a.xml") == {name}


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (
            "<size><width>100</width><height>200</height></size>",
            "'100', the picture's width is 200",
        ),
        ("<size><width>200</width><height>99</height></size>", "size/height is '99'"),
        ("<size><width>wide</width></size>", "size/width is 'wide'"),
        ("<size><width>nan</width></size>", "size/width is 'nan'"),
        ("<size><width></width></size>", "size/width is ''"),
        (SIZE + "<size><width>100</width></size>", "size/width is '200 and 100'"),
    ],
)
def test_a_picture_of_another_size_is_refused(head: str, reason: str) -> None:
    with pytest.raises(FaultError) as caught:
        truth(head=head)
    assert (caught.value.kind, caught.value.where) == ("voc-size", "a.xml")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "head", ["", "<size/>", "<size><width>0</width></size>", "<size><width>200.0</width></size>"]
)
def test_a_size_that_the_file_does_not_say_is_not_compared(head: str) -> None:
    assert len(truth(dog(box()), head=head).labels) == 1


@pytest.mark.parametrize(
    ("wrong", "kind", "reason"),
    [
        (f"<object>{box()}</object>", "voc-object", "no name in the object; there must be one"),
        (f"<object><name/>{box()}</object>", "voc-object", "name is empty"),
        (f"<object><name>dog</name><name>cat</name>{box()}</object>", "voc-object", "2 name in"),
        (f"<object><name>cat</name>{box()}</object>", "voc-class-unknown", "'cat' is none of the"),
        (f"<object><name>Dog</name>{box()}</object>", "voc-class-unknown", "'Dog' is none of the"),
        (dog(""), "voc-bndbox", "no bndbox/xmin in the object"),
        (dog("<bndbox><xmin>1</xmin></bndbox>"), "voc-bndbox", "no bndbox/ymin in the object"),
        (dog(box() + box()), "voc-bndbox", "2 bndbox/xmin in the object"),
        (dog(box("left")), "voc-bndbox", "bndbox/xmin is 'left', not a number"),
        (dog(box("")), "voc-bndbox", "bndbox/xmin is '', not a number"),
        (dog(box("2_0")), "voc-bndbox", "bndbox/xmin is '2_0', not a number"),
        (dog(box("\u0662")), "voc-bndbox", "not a number"),
        (dog(box("nan")), "voc-bndbox", "not a number"),
        (dog(box(x2="1e999")), "voc-bndbox", "bndbox/xmax is '1e999', not a number"),
        (dog(box(120, 10, 20, 60)), "voc-bndbox", "box 120 10 20 60 (left top"),
        (dog(box(20, 10, 20, 60)), "voc-bndbox", "has no area"),
        (dog(box(200, 10, 220, 60)), "voc-outside", "outside the picture of 200x100 pixels"),
        (dog(box(-20, 10, 0, 60)), "voc-outside", "outside the picture"),
        (dog(box(1, 1, 9, 9)), "voc-duplicate", "the same class and box as a.xml#object 1"),
    ],
)
def test_an_object_that_cannot_be_used_is_left_out_and_named(
    wrong: str, kind: str, reason: str
) -> None:
    found = truth(dog(box(1, 1, 9, 9)), wrong, dog(box(2, 2, 9, 9)))
    assert len(found.labels) == len(found.segments) == 2
    assert faults(found) == [(kind, "a.xml#object 2")]
    assert reason in found.faults[0].reason


def test_a_box_that_leaves_the_picture_is_cut_and_reported() -> None:
    found = truth(dog(box(-20, 50, 40, 150)))
    np.testing.assert_array_equal(found.labels, np.float32([[0, 0.1, 0.75, 0.2, 0.5]]))
    assert faults(found) == [("voc-clipped", "a.xml#object 1")]


def test_a_file_without_objects_is_background() -> None:
    found = truth()
    assert found.labels.shape == (0, 5)
    assert found.segments == found.faults == ()


_SIDE = st.one_of(st.integers(-50, 5050), st.floats(allow_nan=False, allow_infinity=False))


@given(st.tuples(_SIDE, _SIDE, _SIDE, _SIDE), st.integers(1, 5000), st.integers(1, 5000))
def test_every_box_is_left_out_or_lies_within_the_picture(
    corners: tuple[float, ...], width: int, height: int
) -> None:
    data = document(dog(box(*corners)), head="")
    found = voc_truth(data, "a.xml", CLASSES, (width, height))
    assert len(found.labels) or found.faults
    for _, cx, cy, w, h in found.labels.astype(float):
        assert min(w, h) > 0
        assert min(cx - w / 2, cy - h / 2) >= -1e-6
        assert max(cx + w / 2, cy + h / 2) <= 1 + 1e-6
