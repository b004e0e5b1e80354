"""COCO JSON: which pictures it has, and the boxes, outlines and crowds of one of them.

Boxes are [x, y, w, h] pixels, x and y from the picture's left upper corner.
"""

import json
import math
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from yolov5_core.boxes import pairwise_iou
from yolov5_core.dataset import NO_BOXES, NO_SEGMENT, DataError, Truth
from yolov5_core.faults import Fault, FaultError
from yolov5_core.limits import MAX_COCO_LISTS, MAX_COCO_VALUES
from yolov5_core.pixel_boxes import AnnotationError, BoxKinds, PixelBoxes

_KINDS = BoxKinds(
    no_area="coco-bbox",
    outside="coco-outside",
    clipped="coco-clipped",
    duplicate="coco-duplicate",
)
_LISTS = ("images", "annotations", "categories")
_LARGEST_ID = 2**63
_JOINED_POINTS = 5000  # of all parts of one outline; joining compares each with each
_FITS = 0.5  # IoU of a box and the box around its outline; else one of them is wrong


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One entry under images with its annotations."""

    id: int
    file_name: str
    width: int  # pixels; 0 if the file does not say
    height: int
    annotations: tuple[Mapping[str, Any], ...]  # as they are, not yet checked


@dataclass(frozen=True, slots=True)
class CocoSet:
    """A COCO file as a whole."""

    images: tuple[CocoImage, ...]
    categories: tuple[tuple[int, str], ...]  # (id, name) in order of id
    faults: tuple[Fault, ...]  # entries that belong to no usable image


def parse_coco(data: bytes, where: str) -> CocoSet:
    """Reads a COCO file and gives every image its annotations.

    Args:
        data: Content of the file.
        where: Its name, for messages.

    Raises:
        DataError: Not JSON, or not a COCO file; says where and how to fix it.
    """
    content = _load(data, where)
    categories = _categories(content["categories"], where)
    faults: list[Fault] = []
    entries = _entries(content["images"], where, faults)
    annotations: dict[int, list[Mapping[str, Any]]] = {}
    known = {_whole(image.get("id")) for image in content["images"] if isinstance(image, dict)}
    for row, annotation in enumerate(content["annotations"]):
        image_id = _whole(annotation.get("image_id")) if isinstance(annotation, dict) else None
        if image_id is None:
            reason = "no object with the id of an image (a whole number) as image_id"
            faults.append(_fault("coco-annotation", f"{where}#annotations[{row}]", reason))
        elif image_id not in known:
            place = f"{where}#{_label(annotation) or f'annotations[{row}]'}"
            reason = f"image_id {image_id} is no image of this file"
            faults.append(_fault("coco-unknown-image", place, reason))
        else:
            annotations.setdefault(image_id, []).append(annotation)
    images = tuple(
        CocoImage(entry.id, entry.file_name, *entry.size_wh, tuple(annotations.get(entry.id, ())))
        for entry in entries
    )
    return CocoSet(images=images, categories=categories, faults=tuple(faults))


def coco_truth(
    image: CocoImage, class_of: Mapping[int, int], size_wh: tuple[int, int], where: str
) -> Truth:
    """Checks the annotations of one image.

    Args:
        image: From parse_coco.
        class_of: Our class of each category id.
        size_wh: Of the decoded picture, pixels.
        where: Name of the JSON file, for messages.

    Returns:
        Labels in the order of the annotations; a crowd (iscrowd 1) is no label. An object in
        several parts gets one outline, its parts joined by lines without width.

    Raises:
        FaultError: The file says another size than the picture has: its boxes would be wrong.
    """
    stated = (image.width, image.height)
    if any(s not in (0, actual) for s, actual in zip(stated, size_wh, strict=True)):
        turned = "; its EXIF orientation turns it" if stated == size_wh[::-1] else ""
        reason = f"{_size(stated)} pixels in the JSON file, {_size(size_wh)} as decoded{turned}"
        raise FaultError("coco-size", f"{where}#image {image.id}", reason)
    boxes = PixelBoxes(size_wh=size_wh, kinds=_KINDS)
    regions = PixelBoxes(size_wh=size_wh, kinds=_KINDS, faults=boxes.faults)
    labels: list[np.ndarray] = []
    segments: list[np.ndarray] = []
    crowds: list[np.ndarray] = []
    for number, annotation in enumerate(image.annotations, 1):
        place = f"{where}#{_label(annotation) or f'image {image.id}, annotation {number}'}"
        try:
            is_crowd = _is_crowd(annotation)
            box = (_class(annotation, class_of), _corners(annotation), place)
            if is_crowd:
                crowds.append(regions.row(*box))
                continue
            labels.append(boxes.row(*box))
            segments.append(NO_SEGMENT)  # stays if there is no usable outline
            segments[-1] = _outline(annotation, labels[-1], size_wh)
        except AnnotationError as error:
            boxes.note(error.kind, place, str(error))
    return Truth(
        labels=np.stack(labels) if labels else NO_BOXES,
        segments=tuple(segments),
        crowd=np.stack(crowds) if crowds else NO_BOXES,
        faults=tuple(boxes.faults),
    )


class _DoubledKeyError(ValueError):
    pass


def _load(data: bytes, where: str) -> Mapping[str, Any]:
    lists, values = data.count(b"[") + data.count(b"{"), data.count(b",")
    if lists > MAX_COCO_LISTS or values > MAX_COCO_VALUES:  # before Python makes objects of them
        raise DataError(
            f"{where}: {lists} lists and objects, {values} commas; a COCO file has at most "
            f"{MAX_COCO_LISTS} and {MAX_COCO_VALUES}: split it"
        )
    try:
        content = json.loads(data, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        place = f"{where}: line {error.lineno} column {error.colno}"
        reason = f"not JSON: {error.msg}; the file is cut or damaged: export it again"
        raise DataError(f"{place}: {reason}") from error
    except _DoubledKeyError as error:
        raise DataError(f"{where}: {error}; keep the right one") from error
    except RecursionError as error:
        reason = "lists or objects nested too deep; this is no COCO file"
        raise DataError(f"{where}: {reason}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: byte {error.start} is no UTF-8; save it as UTF-8") from error
    except ValueError as error:  # a whole number of thousands of digits
        raise DataError(f"{where}: a number that is no id or size: {error}") from error
    missing = [key for key in _LISTS if not isinstance(content, dict) or key not in content]
    if missing:
        reason = f"no COCO annotation file, it has no {', '.join(missing)}"
        raise DataError(f"{where}: {reason}; it must be an object of lists {', '.join(_LISTS)}")
    wrong = [key for key in _LISTS if not isinstance(content[key], list)]
    if wrong:
        raise DataError(f"{where}: {', '.join(wrong)} must be a list")
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; json itself would keep the last of two equal keys and say nothing."""
    made = dict(pairs)
    if len(made) != len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        reason = f"an object has the key {reprlib.repr(key)} more than once: {reprlib.repr(made)}"
        raise _DoubledKeyError(reason)
    return made


def _categories(rows: Sequence[Any], where: str) -> tuple[tuple[int, str], ...]:
    found: dict[int, str] = {}
    names: set[str] = set()
    for row, category in enumerate(rows):
        place = f"{where}#categories[{row}]"
        if not isinstance(category, dict):
            raise DataError(f"{place}: must be an object with id and name")
        number, name = _whole(category.get("id")), category.get("name")
        if number is None:
            raise DataError(
                f"{place}: id must be a whole number, got {reprlib.repr(category.get('id'))}"
            )
        if not isinstance(name, str) or not name.strip() or not _is_writable(name):
            raise DataError(f"{place}: name must be a text, got {reprlib.repr(name)}")
        if number in found:
            raise DataError(f"{place}: id {number} twice; give every category an id of its own")
        if name in names:
            raise DataError(f"{place}: name {name!r} twice; merge the categories or rename one")
        found[number] = name
        names.add(name)
    if not found:
        raise DataError(f"{where}: categories is empty; name at least one category")
    return tuple(sorted(found.items()))


@dataclass(frozen=True, slots=True)
class _Entry:
    """A usable entry under images."""

    id: int
    file_name: str
    size_wh: tuple[int, int]


def _entries(rows: Sequence[Any], where: str, faults: list[Fault]) -> list[_Entry]:
    """The usable entries; of those that share an id or a file none can be trusted."""
    good: list[_Entry] = []
    ids: Counter[int | None] = Counter()
    for row, image in enumerate(rows):
        try:
            ids[_whole(image.get("id")) if isinstance(image, dict) else None] += 1
            good.append(_entry(image))
        except AnnotationError as error:
            name = image.get("file_name") if isinstance(image, dict) else None
            place = f"{where}#images[{row}]"
            usable = isinstance(name, str) and _is_writable(name)
            faults.append(_fault(error.kind, place, str(error), str(name) if usable else ""))
    files = Counter(entry.file_name for entry in good)
    alone = []
    for entry in good:
        place = f"{where}#image {entry.id}"
        if ids[entry.id] > 1:
            reason = f"{ids[entry.id]} images have the id {entry.id}"
            faults.append(_fault("coco-image-id", place, reason, entry.file_name))
        elif files[entry.file_name] > 1:
            reason = f"{files[entry.file_name]} entries have this file_name"
            faults.append(_fault("coco-image", place, reason, entry.file_name))
        else:
            alone.append(entry)
    return alone


def _entry(image: Any) -> _Entry:
    if not isinstance(image, dict):
        raise AnnotationError("coco-image", f"must be an object, got {reprlib.repr(image)}")
    number, name = _whole(image.get("id")), image.get("file_name")
    if number is None:
        reason = f"id must be a whole number, got {reprlib.repr(image.get('id'))}"
        raise AnnotationError("coco-image", reason)
    if not isinstance(name, str) or not name.strip() or not _is_writable(name):
        reason = f"file_name must be the name of a file, got {reprlib.repr(name)}"
        raise AnnotationError("coco-image", reason)
    sides = [_whole(image.get(key) or 0) for key in ("width", "height")]
    width, height = sides
    if width is None or height is None or width < 0 or height < 0:
        shown = f"{reprlib.repr(image.get('width'))} and {reprlib.repr(image.get('height'))}"
        raise AnnotationError("coco-image", f"width and height must be whole pixels, got {shown}")
    return _Entry(number, name, (width, height))


def _is_crowd(annotation: Mapping[str, Any]) -> bool:
    value = annotation.get("iscrowd") or 0
    if _whole(int(value) if isinstance(value, bool) else value) not in (0, 1):
        raise AnnotationError(
            "coco-annotation", f"iscrowd must be 0 or 1, got {reprlib.repr(value)}"
        )
    return bool(value)


def _class(annotation: Mapping[str, Any], class_of: Mapping[int, int]) -> int:
    value = annotation.get("category_id")
    number = _whole(value)
    if number is None or number not in class_of:
        raise AnnotationError(
            "coco-category", f"category_id {reprlib.repr(value)} is none of the categories"
        )
    return class_of[number]


def _corners(annotation: Mapping[str, Any]) -> tuple[float, float, float, float]:
    value = annotation.get("bbox")
    numbers = _numbers(value)
    if numbers is None or len(numbers) != 4:
        raise AnnotationError(
            "coco-bbox", f"bbox must be four numbers [x, y, w, h], got {reprlib.repr(value)}"
        )
    x, y, w, h = numbers
    return x, y, x + w, y + h


def _outline(
    annotation: Mapping[str, Any], row: np.ndarray, size_wh: tuple[int, int]
) -> np.ndarray:
    """(k, 2) float32, normalised, cut at the picture's edge; (0, 2) without one."""
    value = annotation.get("segmentation")
    if value is None or value == []:
        return NO_SEGMENT
    if not isinstance(value, list):
        raise AnnotationError("coco-segmentation", "no list of polygons (RLE is for crowds)")
    parts = []
    for polygon in value:
        numbers = _numbers(polygon)
        if numbers is None or len(numbers) < 6 or len(numbers) % 2:
            reason = f"no polygon of three points or more: {reprlib.repr(polygon)}"
            raise AnnotationError("coco-segmentation", reason)
        points = np.array(numbers).reshape(-1, 2).clip(0, size_wh) / size_wh
        parts.append(points)
    if len(parts) > 1 and sum(map(len, parts)) > _JOINED_POINTS:
        raise AnnotationError(
            "coco-segmentation", f"more than {_JOINED_POINTS} points in several parts"
        )
    outline = _joined(parts)
    around = np.concatenate((outline.min(0), outline.max(0)))
    (cx, cy, w, h) = row[1:].astype(np.float64)
    box = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    if pairwise_iou(around[None] * 1000, box[None] * 1000)[0, 0] < _FITS:  # its eps is for pixels
        raise AnnotationError("coco-segmentation", "the outline does not fit the box")
    return outline.astype(np.float32)


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """One outline (k, 2) of several: there and back between the nearest points of two parts."""
    outline = parts[0]
    for part in parts[1:]:
        x, y = (np.subtract.outer(outline[:, axis], part[:, axis]) for axis in (0, 1))
        distance = x * x + y * y
        here, there = divmod(int(distance.argmin()), len(part))
        around = np.roll(part, -there, 0)
        outline = np.concatenate((outline[: here + 1], around, around[:1], outline[here:]))
    return outline


def _numbers(value: Any) -> list[float] | None:
    """A list of finite numbers, or None."""
    if not isinstance(value, list) or any(type(v) not in (int, float) for v in value):
        return None
    try:
        numbers = [*map(float, value)]
    except OverflowError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _whole(value: Any) -> int | None:
    """A whole number, which some programs write as 1.0; else None."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and abs(value) < _LARGEST_ID else None


def _is_writable(text: str) -> bool:
    """Whether a text can be in a file's name and in a report."""
    try:
        return b"\0" not in text.encode("utf-8")
    except UnicodeEncodeError:  # JSON may hold halves of characters
        return False


def _label(annotation: Mapping[str, Any]) -> str:
    number = _whole(annotation.get("id"))
    return "" if number is None else f"annotation {number}"


def _size(size_wh: tuple[int, int]) -> str:
    return f"{size_wh[0]}x{size_wh[1]}"


def _fault(kind: str, where: str, reason: str, image: str = "") -> Fault:
    return Fault(kind=kind, image=image, where=where, reason=reason)
