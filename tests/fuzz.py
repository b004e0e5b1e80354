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
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tests.data_sets import coco_doc, voc_xml
from tests.fuzz_grammars import (
    ODD_BYTES,
    ODD_NUMBERS,
    coco_files,
    label_files,
    voc_files,
    yaml_files,
)
from yolov5_core.coco import CocoImage, coco_truth, parse_coco
from yolov5_core.data_yaml import read_data_yaml
from yolov5_core.dataset import DataError, Truth
from yolov5_core.decode import PictureError, decode, verify
from yolov5_core.faults import KINDS, Fault, FaultError
from yolov5_core.files import FileInfo
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
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4, 8))):
        at = rng.randrange(len(data) + 1)
        if rng.random() < 0.3:  # headers decide most
            at = min(at, rng.randrange(64))
        end = min(at + rng.choice((1, 1, 2, 4, 16, 200)), len(data))
        match rng.randrange(11):
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
            case 7 | 8 | 9:
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


def _require_message(message: str, where: str = WHERE) -> None:
    assert message.startswith(where)
    assert len(message) > len(f"{where}: ")
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


class _OneFile:
    """A place with one data.yaml and a folder beside it, as files.Files."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def folder(self, _path: str) -> dict[str, FileInfo]:
        return {}

    def tree(self, _path: str) -> dict[str, FileInfo]:
        return {}

    def is_folder(self, path: str) -> bool:
        return path in ("/data", "/data/images")

    def is_file(self, path: str) -> bool:
        return path in ("/data/data.yaml", "/data/a.json")

    def read_many(self, paths: Sequence[str], _most: int = 0) -> list[bytes | OSError]:
        return [self.data for _ in paths]


def _check_yaml(data: bytes) -> bool:
    try:
        spec = read_data_yaml("/data/data.yaml", _OneFile(data))
    except DataError as error:
        _require_message(str(error), "/data/data.yaml")
        return False
    assert spec.train
    assert spec.val
    _require_text(spec.root, *spec.names, *spec.train, *spec.val, *spec.test)
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


_LABELS = (
    b"0 0.5 0.5 0.2 0.2\n1 0.25 0.75 0.1 0.3\n",
    b"2 0.1 0.1 0.4 0.1 0.4 0.5\r\n0 .5 .5 .25 .25\r\n1 0.6 0.6 0.9 0.6 0.9 0.8 0.6 0.8",
    b"\xef\xbb\xbf1.0 5e-1 0.5 0.2 0.2\n\n1 0.5 0.5 0.2 0.2\n",
)


_YAML = (
    b"path: .\ntrain: images\nval: images\nnc: 2\nnames: [cat, dog]\n",
    b"train: ['images', ./images]\nval: a.json\nnames: {0: &a cat, 1: \"dog\"}\ndownload: x # y\n",
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
    words = (*ODD_NUMBERS, *ODD_BYTES)
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
        "labels": Target(_LABELS, words, label_files(), _check_labels),
        "COCO": Target(coco, (*words, *json_words), coco_files(), _check_coco),
        "VOC": Target(voc, (*words, *xml_words), voc_files(), _check_voc),
        "data.yaml": Target(_YAML, words, yaml_files(), _check_yaml),
        "pictures": Target(pictures, (*marks, *ODD_BYTES), st.nothing(), _check_picture),
    }
