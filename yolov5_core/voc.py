"""Pascal VOC XML: the objects of one picture.

Corners lie on the lines between pixels, counted from 0: what labelImg, CVAT and their like write.
The files of Pascal VOC itself (their source/annotation is PASCAL VOC...) number pixels from 1, both
ends included; there one is taken off left and top.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

import numpy as np

from yolov5_core.dataset import NO_BOXES, NO_SEGMENT, Truth
from yolov5_core.faults import FaultError
from yolov5_core.limits import MAX_VOC_BYTES, MAX_VOC_DEPTH
from yolov5_core.pixel_boxes import AnnotationError, BoxKinds, PixelBoxes

_KINDS = BoxKinds(
    no_area="voc-bndbox",
    outside="voc-outside",
    clipped="voc-clipped",
    duplicate="voc-duplicate",
)
# What expat reads without Python's codecs, some of which do more than decode.
_ENCODINGS = frozenset(("utf-8", "utf-16", "iso-8859-1", "us-ascii"))
_FROM_ONE = "PASCAL VOC"  # beginning of source/annotation
_Texts = dict[str, list[str]]  # path of an element -> what is written in each such element


def voc_names(data: bytes, where: str) -> set[str]:
    """The names of a file's objects; none if the file cannot be used."""
    try:
        content = _read(data, where)
    except FaultError:
        return set()
    names = [texts.get("name", []) for texts in content.objects]
    return {name[0] for name in names if len(name) == 1 and name[0]}


def voc_truth(
    data: bytes, where: str, class_of: Mapping[str, int], size_wh: tuple[int, int]
) -> Truth:
    """Checks the objects of one picture; those marked difficult are labels like any other.

    Args:
        data: Content of the XML file.
        where: Its name, for messages.
        class_of: Our class of each name.
        size_wh: Of the decoded picture, pixels.

    Raises:
        FaultError: No VOC XML, a DTD or entities, or another size than the picture has.
    """
    content = _read(data, where)
    _require_size(content.head, where, size_wh)
    first = 1 if content.head.get("source/annotation", [""])[0].startswith(_FROM_ONE) else 0
    boxes = PixelBoxes(size_wh=size_wh, kinds=_KINDS)
    labels = []
    for number, texts in enumerate(content.objects, 1):
        place = f"{where}#object {number}"
        try:
            class_index = _class(texts, class_of)
            labels.append(boxes.row(class_index, _corners(texts, first), place))
        except AnnotationError as error:
            boxes.note(error.kind, place, str(error))
    return Truth(
        labels=np.stack(labels) if labels else NO_BOXES,
        segments=(NO_SEGMENT,) * len(labels),
        faults=tuple(boxes.faults),
    )


@dataclass(frozen=True, slots=True)
class _Content:
    """The texts of a file, by their path below the root or below their object."""

    head: _Texts = field(default_factory=dict)
    objects: list[_Texts] = field(default_factory=list)


def _read(data: bytes, where: str) -> _Content:
    if len(data) > MAX_VOC_BYTES:
        reason = f"{len(data)} bytes; the XML file of a picture has at most {MAX_VOC_BYTES}"
        raise FaultError("voc-not-xml", where, reason)
    reader = _Reader(where)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.texts.append
    parser.XmlDeclHandler = reader.require_encoding
    parser.StartDoctypeDeclHandler = reader.refuse  # without a DTD there are no entities
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise FaultError("voc-not-xml", f"{where}:{error.lineno}", f"not XML: {error}") from error
    return reader.content


class _Reader:
    """Collects texts while expat reads; keeps no tree, so no file can make it large."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.content = _Content()
        self.path: list[str] = []
        self.texts: list[str] = []

    def start(self, name: str, _attributes: Mapping[str, str]) -> None:
        if not self.path and name != "annotation":
            reason = f"the root element is {name[:60]}, not annotation"
            raise FaultError("voc-not-xml", self.where, reason)
        if len(self.path) == MAX_VOC_DEPTH:
            reason = f"more than {MAX_VOC_DEPTH} elements within each other"
            raise FaultError("voc-not-xml", self.where, reason)
        self.path.append(name)
        self.texts.clear()
        if self.path[1:] == ["object"]:
            self.content.objects.append({})

    def end(self, _name: str) -> None:
        path, text = self.path[1:], "".join(self.texts).strip()
        self.texts.clear()
        self.path.pop()
        if path[:1] == ["object"]:
            self.content.objects[-1].setdefault("/".join(path[1:]), []).append(text)
        else:
            self.content.head.setdefault("/".join(path), []).append(text)

    def require_encoding(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.lower() not in _ENCODINGS:
            reason = f"encoding {encoding[:60]!r}; save the file as UTF-8"
            raise FaultError("voc-not-xml", self.where, reason)

    def refuse(self, *_details: object) -> None:
        reason = "a DTD (DOCTYPE); it may hold entities, which are never expanded"
        raise FaultError("voc-forbidden", self.where, reason)


def _require_size(head: _Texts, where: str, size_wh: tuple[int, int]) -> None:
    for side, actual in zip(("width", "height"), size_wh, strict=True):
        texts = head.get(f"size/{side}", ["0"])
        stated = _number(texts[0])
        if len(texts) > 1 or stated not in (0, actual):  # 0: programs that do not know
            given = " and ".join(texts[:3])[:60]
            reason = f"size/{side} is {given!r}, the picture's {side} is {actual} pixels"
            raise FaultError("voc-size", where, reason)


def _class(texts: _Texts, class_of: Mapping[str, int]) -> int:
    name = _only(texts, "name", "voc-object")
    if not name:
        raise AnnotationError("voc-object", "name is empty")
    if name not in class_of:
        raise AnnotationError("voc-class-unknown", f"{name[:60]!r} is none of the names")
    return class_of[name]


def _corners(texts: _Texts, first: int) -> tuple[float, float, float, float]:
    corners = []
    for key in ("xmin", "ymin", "xmax", "ymax"):
        text = _only(texts, f"bndbox/{key}", "voc-bndbox")
        number = _number(text)
        if number is None:
            raise AnnotationError("voc-bndbox", f"bndbox/{key} is {text[:60]!r}, not a number")
        corners.append(number)
    x1, y1, x2, y2 = corners
    return x1 - first, y1 - first, x2, y2


def _only(texts: _Texts, key: str, kind: str) -> str:
    found = texts.get(key, [])
    if len(found) != 1:
        raise AnnotationError(kind, f"{len(found) or 'no'} {key} in the object; there must be one")
    return found[0]


def _number(text: str) -> float | None:
    """A finite number in plain digits, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and text.isascii() and "_" not in text else None
