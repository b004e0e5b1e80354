"""Hostile input for every parser of users' files, and what must hold whatever the input is.

A target is one parser: files it reads, words that mean something to it, a strategy that writes
files of its grammar with anything in their places, and a check. The check lets only the documented
exceptions pass, and looks at what was read.
"""

import io
import json
import pickle
import random
import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tests.data_sets import coco_doc, voc_xml
from yolov5_core.coco import CocoImage, coco_truth, parse_coco
from yolov5_core.dataset import DataError, Truth
from yolov5_core.decode import PictureError, decode, verify
from yolov5_core.faults import KINDS, Fault, FaultError
from yolov5_core.labels import parse_any_rows, parse_labels, plain_boxes
from yolov5_core.voc import voc_names, voc_truth

WHERE = "folder/file"
_CLASSES = 3
_LARGEST_SIDE = 5000  # pixels of a picture that COCO annotations are tried on


class Target(NamedTuple):
    """One parser."""

    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...]
    grammar: st.SearchStrategy[bytes]
    check: Callable[[bytes], bool]  # whether it was read; AssertionError: something is wrong

    @property
    def inputs(self) -> st.SearchStrategy[bytes]:
        """Files of the grammar, damaged ones, and anything."""
        damaged = st.integers(0, 2**64 - 1).map(lambda seed: mutated(randomness(seed), self))
        return st.one_of(self.grammar, damaged, st.binary(max_size=200))


def randomness(seed: int) -> random.Random:
    """A generator for mutated; numpy's takes ten times as long for single numbers."""
    return random.Random(seed)  # noqa: S311  to repeat a run, not to keep a secret


def mutated(rng: random.Random, target: Target) -> bytes:
    """A file of a target with some bytes changed, moved, put in or taken out."""
    data = bytearray(rng.choice(target.seeds))
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(data) + 1)
        if rng.random() < 0.4:  # headers decide most
            at = min(at, rng.randrange(64))
        end = min(at + rng.choice((1, 1, 2, 4, 16, 200)), len(data))
        match rng.randrange(9):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.choice((0, 1, 0x20, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                data[at:at] = rng.randbytes(rng.randint(1, 9))
            case 3:
                del data[at:end]
            case 4:
                data[at:at] = data[at:end] * rng.choice((1, 2, 50))
            case 5:
                other = rng.choice(target.seeds)
                data[at:] = other[rng.randrange(len(other) + 1) :]
            case 6:
                data[at:at] = rng.choice(target.words)
            case 7:
                numbers = list(re.finditer(rb"-?\d[\d.]*", data))
                if numbers:
                    data[slice(*rng.choice(numbers).span())] = rng.choice(target.words)
            case _:
                del data[end:]
    return bytes(data)


def _require_text(*texts: str) -> None:
    for text in texts:
        text.encode()  # half characters cannot be written into a report


def _require_faults(faults: tuple[Fault, ...], *, of_boxes: bool) -> None:
    for fault in faults:
        assert not of_boxes or fault.effect != "picture left out"
        assert fault.where.startswith(WHERE)
        assert fault.reason
        _require_text(fault.image, fault.where, fault.reason)


def _require_refusal(kind: str, message: str) -> None:
    assert KINDS[kind].effect == "picture left out"
    _require_message(message)


def _require_message(message: str) -> None:
    assert message.startswith(WHERE)
    assert len(message) > len(f"{WHERE}: ")
    _require_text(message)


def _require_truth(truth: Truth, classes: int, *, inside: bool) -> None:
    """What a trainer relies on; inside: boxes of pixels are cut, fractions are as written."""
    assert len(truth.segments) == len(truth.labels)
    for boxes in (truth.labels, truth.crowd):
        assert boxes.dtype == np.float32
        assert boxes.shape == (len(boxes), 5)
        assert np.isfinite(boxes).all()
        assert not np.signbit(boxes).any()
        assert (boxes[:, 1:] <= 1).all()
        assert (boxes[:, 3:] > 0).all()
        assert (boxes[:, 0] < classes).all()
        assert (boxes[:, 0] % 1 == 0).all()
        assert len(np.unique(boxes, axis=0)) == len(boxes)
        low, high = boxes[:, 1:3] - boxes[:, 3:] / 2, boxes[:, 1:3] + boxes[:, 3:] / 2
        assert not inside or ((low > -1e-6) & (high < 1 + 1e-6)).all()
    for segment in truth.segments:
        assert segment.dtype == np.float32
        assert segment.shape == (len(segment), 2)
        assert len(segment) == 0 or len(segment) >= 3
        assert np.isfinite(segment).all()
        assert not inside or ((segment >= 0) & (segment <= 1)).all()
    _require_faults(truth.faults, of_boxes=True)


def _check_labels(data: bytes) -> bool:
    fast = plain_boxes(data, _CLASSES)
    try:
        truth = parse_labels(data, WHERE, _CLASSES)
    except FaultError as error:
        assert fast is None
        _require_refusal(error.kind, str(error))
        return False
    _require_truth(truth, _CLASSES, inside=False)
    if fast is not None:
        slow = parse_any_rows(data, WHERE, _CLASSES)
        assert slow.faults == ()
        assert (slow.labels.tobytes(), slow.labels.shape) == (
            truth.labels.tobytes(),
            truth.labels.shape,
        )
    return True


def _check_coco(data: bytes) -> bool:
    try:
        coco = parse_coco(data, WHERE)
    except DataError as error:
        _require_message(str(error))
        return False
    _require_faults(coco.faults, of_boxes=False)
    assert coco.categories
    _require_text(*(name for _, name in coco.categories))
    assert len({image.id for image in coco.images}) == len(coco.images)
    class_of = {number: i for i, (number, _) in enumerate(coco.categories)}
    for image in coco.images:
        _require_text(image.file_name)
        json.dumps(image.annotations, sort_keys=True)  # as stamps are made of them
        pickle.dumps(image)  # as they go to other processes
        _check_image(image, class_of)
    return True


def _check_image(image: CocoImage, class_of: dict[int, int]) -> None:
    size_wh = tuple(min(side or 64, _LARGEST_SIDE) for side in (image.width, image.height))
    try:
        truth = coco_truth(image, class_of, (size_wh[0], size_wh[1]), WHERE)
    except FaultError as error:
        _require_refusal(error.kind, str(error))
    else:
        _require_truth(truth, len(class_of), inside=True)
        assert len(truth.labels) + len(truth.crowd) <= len(image.annotations)


def _check_voc(data: bytes) -> bool:
    names = voc_names(data, WHERE)
    _require_text(*names)
    class_of = {name: i for i, name in enumerate(sorted(names - {"dog"}))}
    try:
        truth = voc_truth(data, WHERE, class_of, (60, 40))
    except FaultError as error:
        _require_refusal(error.kind, str(error))
        return False
    _require_truth(truth, len(class_of), inside=True)
    return True


def _check_picture(data: bytes) -> bool:
    try:
        image, remark = verify(data)
    except PictureError as error:
        _require_refusal(error.kind, f"{WHERE}: {error}")
        return False
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert min(image.shape[:2]) >= 10
    _require_text(remark)
    for reduce in (2, 4, 8):
        small = decode(data, reduce)
        assert small.dtype == np.uint8
        assert small.shape[2] == 3
    return True


_ODD_NUMBERS = (
    *(b"0", b"-0", b"1", b"-1", b"2", b"3", b"0.5", b".5", b"1.", b"1.0000001", b"1.00000001"),
    *(b"1e400", b"-1e400", b"1e39", b"1e-50", b"1e-400", b"1e30", b"nan", b"NaN", b"-inf"),
    *(b"Infinity", b"1_0", b"0x10", b"\xd9\xa1", b"9" * 400, b"9" * 5000, b"0." + b"3" * 400),
    *(b"16777217", b"2147483648", b"9223372036854775808", b"1e", b"+1", b"--1", b"1,5", b"''"),
)
_BYTES = (b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r", b"\n", b"\t", b" ", b"\x85")
_LABELS = (
    b"0 0.5 0.5 0.2 0.2\n1 0.25 0.75 0.1 0.3\n",
    b"2 0.1 0.1 0.4 0.1 0.4 0.5\r\n0 .5 .5 .25 .25\r\n1 0.6 0.6 0.9 0.6 0.9 0.8 0.6 0.8",
    b"\xef\xbb\xbf1.0 5e-1 0.5 0.2 0.2\n\n1 0.5 0.5 0.2 0.2\n",
)


def _label_files() -> st.SearchStrategy[bytes]:
    fractions = st.floats(0, 1).map(lambda value: repr(value).encode())
    fields = st.one_of(fractions, fractions, st.sampled_from((*_ODD_NUMBERS, *_BYTES)))
    row = st.one_of(
        st.tuples(st.sampled_from((b"0", b"1", b"2", b"3")), *[fractions] * 4),
        st.lists(fields, max_size=12).map(tuple),
    )
    rows = st.lists(row.map(b" ".join), max_size=6)
    ends = st.sampled_from((b"\n", b"\r\n", b"\r", b"\n\n"))
    return st.tuples(rows, ends).map(lambda pair: pair[1].join(pair[0]))


_KEYS = (
    *("id", "image_id", "category_id", "file_name", "width", "height", "bbox", "iscrowd", "name"),
    *("segmentation", "images", "annotations", "categories", "counts", "size"),
)


def _coco_files() -> st.SearchStrategy[bytes]:
    numbers = st.one_of(
        st.integers(-3, 30),
        st.sampled_from((10**19, -(10**400), 1e308, -1e308, 5e-324, float("nan"), float("inf"))),
        st.floats(-100, 200),
    )
    texts = st.one_of(
        st.sampled_from(("a.jpg", "b.jpg", "cat", "", "\ud800", "\0", "../x")), st.text(max_size=4)
    )
    leaves = st.one_of(st.none(), st.booleans(), numbers, texts)
    anything = st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=6),
            st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4),
        ),
        max_leaves=12,
    )

    def mostly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.integers(0, 9).flatmap(lambda n: anything if n == 0 else usual)

    def entry(**usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return mostly(st.fixed_dictionaries({}, optional={k: mostly(v) for k, v in usual.items()}))

    ids = st.integers(0, 3)
    sides = st.sampled_from((0, 60, 40, None))
    polygon = st.lists(st.integers(-9, 70), min_size=6, max_size=10)
    document = st.fixed_dictionaries(
        {
            "images": mostly(
                st.lists(entry(id=ids, file_name=texts, width=sides, height=sides), max_size=4)
            ),
            "annotations": mostly(
                st.lists(
                    entry(
                        id=ids,
                        image_id=ids,
                        category_id=ids,
                        bbox=st.lists(numbers, min_size=4, max_size=4),
                        iscrowd=st.sampled_from((0, 1, True)),
                        segmentation=st.lists(polygon, max_size=3),
                    ),
                    max_size=6,
                )
            ),
            "categories": mostly(
                st.lists(
                    st.tuples(ids, texts).map(lambda p: {"id": p[0], "name": f"{p[0]}{p[1]}"}),
                    min_size=1,
                    max_size=3,
                    unique_by=lambda category: category["id"],
                )
            ),
        }
    )
    return st.one_of(document, document, anything).map(lambda value: json.dumps(value).encode())


_TAGS = (
    *("annotation", "object", "name", "bndbox", "xmin", "ymin", "xmax", "ymax", "size", "width"),
    *("height", "source", "part", "difficult", "x"),
)


def _voc_files() -> st.SearchStrategy[bytes]:
    numbers = st.one_of(
        st.integers(-5, 65).map(str),
        st.floats().map(repr),
        st.text(max_size=5),
        st.sampled_from(("1_0", "\u0661", "1e999", " 7 ", "&amp;", "&#x0;", "&x;", "<!--5-->6")),
    )

    def element(tag: str, inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return inner.map(lambda text: f"<{tag}>{text}</{tag}>")

    def joined(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.tuples(*parts).map("".join)

    box = element(
        "bndbox", joined(*(element(t, numbers) for t in ("xmin", "ymin", "xmax", "ymax")))
    )
    names = st.one_of(st.sampled_from(("cat", "dog", "", " ")), st.text(max_size=5))
    thing = element("object", joined(element("name", names), box))
    anything = st.recursive(
        st.text(max_size=5),
        lambda inner: st.tuples(st.sampled_from(_TAGS), st.lists(inner, max_size=4)).map(
            lambda pair: f"<{pair[0]}>{''.join(pair[1])}</{pair[0]}>"
        ),
        max_leaves=15,
    )
    size = st.sampled_from(("", "<size><width>60</width><height>40</height></size>"))
    official = st.sampled_from(("", "<source><annotation>PASCAL VOC2007</annotation></source>"))
    things = st.lists(st.one_of(thing, thing, anything), max_size=4).map("".join)
    document = element("annotation", joined(size, official, things))
    starts = st.sampled_from(
        (
            "",
            "\ufeff",
            '<?xml version="1.0"?>',
            '<?xml version="1.0" encoding="utf-16"?>',
            "<!DOCTYPE a>",
        )
    )
    return joined(starts, st.one_of(document, document, anything)).map(
        lambda text: text.encode("utf-8", "surrogatepass")
    )


def _pictures() -> tuple[bytes, ...]:
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    image = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        *((kind, "RGB", {}) for kind in ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "MPO", "GIF")),
        *((kind, "L", {}) for kind in ("JPEG", "PNG", "BMP", "TIFF", "WEBP")),
        *((kind, "P", {}) for kind in ("PNG", "BMP", "TIFF")),
        *((kind, "1", {}) for kind in ("PNG", "BMP", "TIFF")),
        *((kind, "RGBA", {}) for kind in ("PNG", "TIFF", "WEBP")),
        *((kind, "CMYK", {}) for kind in ("JPEG", "TIFF")),
        *((kind, "I;16", {}) for kind in ("PNG", "TIFF")),
        *(("TIFF", "RGB", {"compression": c}) for c in ("tiff_lzw", "jpeg", "tiff_deflate")),
        *(("JPEG", "RGB", options) for options in ({"progressive": True}, {"exif": exif})),
    ]
    found = []
    for kind, mode, options in kinds:
        out = io.BytesIO()
        image.convert(mode).save(out, kind, **options)
        found.append(out.getvalue())
    return tuple(found)


@cache
def targets() -> dict[str, Target]:
    """Every parser of files that users bring."""
    coco = tuple(json.dumps(coco_doc(split)).encode() for split in ("train", "val"))
    voc = tuple(voc_xml(key).encode() for key in ("train/0", "train/1"))
    words = (*_ODD_NUMBERS, *_BYTES)
    json_words = (
        b"null",
        b"true",
        b"{}",
        b"[]",
        b'"\\ud800"',
        b"[" * 2000,
        b'{"a":' * 2000,
        b'"id":',
    )
    xml_words = (
        *(b"<object>", b"</object>", b"<bndbox/>", b"&amp;", b"&x;", b"<!DOCTYPE a [", b"]>"),
        *(b"<![CDATA[", b"]]>", b"<!--", b"<?xml ", b'encoding="gbk"', b"<a>" * 99),
    )
    marks = (b"\xff\xd9", b"\xff\xd8", b"\xff\xc0", b"\xff\xda", b"IHDR", b"IDAT", b"IEND", b"RIFF")
    pictures = _pictures()
    return {
        "labels": Target(_LABELS, words, _label_files(), _check_labels),
        "COCO": Target(coco, (*words, *json_words), _coco_files(), _check_coco),
        "VOC": Target(voc, (*words, *xml_words), _voc_files(), _check_voc),
        "pictures": Target(pictures, (*marks, *_BYTES), st.nothing(), _check_picture),
    }
