"""The check of every image and label file of a data set; nothing here ever writes to it."""

import io
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from yolov5_core.labels import LabelError, ParsedLabels, label_path, parse_label_text

_FORMATS = frozenset(("bmp", "dng", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp", "pfm"))
_SHORTEST_SIDE = 10  # pixels, spec C.3
_LISTED = 10  # files named in one error
_JPEG_FORMATS = ("jpeg", "mpo")
_JPEG_END = b"\xff\xd9"
# what PIL raises on damaged files, depending on format and damage
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
_NO_LABELS = ParsedLabels(labels=np.zeros((0, 5), np.float32), segments=())


class DataError(ValueError):
    """A data set that cannot be used; the message names the file and the fix."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Record:
    """One usable image and its labels."""

    path: Path
    width: int  # pixels as decoded, after EXIF orientation
    height: int
    labels: np.ndarray  # (m, 5) float32: class, normalised cx, cy, w, h
    segments: tuple[np.ndarray, ...]  # m polygons (k, 2) float32, normalised; (0, 2) without one


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """One image left out."""

    path: str  # the image
    where: str  # the file, and line if known, that is at fault
    reason: str
    action: str  # what to do about it


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """The result of checking a list of images, in the order of the list."""

    records: tuple[Record, ...]
    rejections: tuple[Rejection, ...]
    messages: tuple[str, ...]  # about images that are used all the same
    found: int  # images with a label file, left out or not
    missing: int  # usable images without a label file: background
    empty: int  # usable images with an empty label file: background
    corrupt: int  # images left out
    duplicates: int  # label rows removed


@dataclass(frozen=True, kw_only=True, slots=True)
class _Checked:
    """One image's share of a Scan."""

    record: Record | None = None
    rejection: Rejection | None = None
    messages: tuple[str, ...] = ()
    has_label_file: bool = False
    duplicates: int = 0


def read_image(path: Path) -> np.ndarray:
    """Decodes one image, EXIF orientation applied.

    Returns:
        (H, W, 3) uint8 BGR.

    Raises:
        DataError: Missing, unreadable or damaged.
    """
    try:
        return _decode(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}; remove or replace the image") from error


def scan(
    paths: Sequence[Path],
    num_classes: int,
    *,
    single_class: bool,
    progress: Callable[[int, int], None],
    workers: int,
) -> Scan:
    """Decodes every image and reads its labels; leaves out and reports what cannot be used.

    Args:
        paths: Images, absolute.
        num_classes: Classes of the data set.
        single_class: All classes become 0.
        progress: Called with (done, total) after each image.
        workers: Threads, at least 1; the result does not depend on it.

    Raises:
        DataError: A label of a class the data set does not have (all such files in one message).

    Source: spec C.3, except that a JPEG with bytes after its end is used as it is, never rewritten.
    """
    results: list[_Checked] = []
    with ThreadPoolExecutor(max_workers=max(workers, 1)) as pool:
        for done, result in enumerate(pool.map(_check, paths), 1):
            results.append(result)
            progress(done, len(paths))
    records = tuple(r.record for r in results if r.record is not None)
    if single_class:
        records = tuple(replace(r, labels=_as_class_zero(r.labels)) for r in records)
    _require_known_classes(records, num_classes)
    rejections = tuple(r.rejection for r in results if r.rejection is not None)
    usable = [r for r in results if r.record is not None]
    return Scan(
        records=records,
        rejections=rejections,
        messages=tuple(message for r in results for message in r.messages),
        found=sum(r.has_label_file for r in results),
        missing=sum(not r.has_label_file for r in usable),
        empty=sum(r.has_label_file and not len(r.record.labels) for r in usable if r.record),
        corrupt=len(rejections),
        duplicates=sum(r.duplicates for r in results),
    )


def require_images(result: Scan, where: str) -> None:
    """Raises DataError when no image of a split is usable; where names the split."""
    if result.records:
        return
    reasons = [f"{r.where}: {r.reason}" for r in result.rejections]
    raise DataError(f"{where}: none of {result.corrupt} images can be used:\n{_first(reasons)}")


def require_labels(result: Scan, where: str) -> None:
    """Raises DataError when a split has no label at all: nothing can be learned from it.

    Args:
        result: The split's scan.
        where: Names the split, for the message.

    Source: spec C.3, "with augmentation on, no labels found is fatal".
    """
    require_images(result, where)
    if any(len(record.labels) for record in result.records):
        return
    example = result.records[0].path
    raise DataError(
        f"{where}: no labels in {len(result.records)} images ({result.missing} without a label "
        f"file, {result.empty} with an empty one); the labels of {example} are looked for at "
        f"{label_path(example)}"
    )


def _check(path: Path) -> _Checked:
    labels_path = label_path(path)
    has_label_file = labels_path.is_file()
    try:
        height, width, messages = _verify_image(path)
    except _DAMAGED as error:
        return _rejected(path, str(path), str(error), "remove or replace the image", has_label_file)
    parsed = _NO_LABELS
    if has_label_file:
        try:
            parsed = parse_label_text(labels_path.read_text("utf-8-sig"), str(labels_path))
        except LabelError as error:
            where = f"{labels_path}:{error.line}"
            return _rejected(path, where, error.reason, "correct the label file", has_label_file)
        except (OSError, UnicodeDecodeError) as error:
            reason = f"cannot be read as text: {error}"
            action = "correct the label file"
            return _rejected(path, str(labels_path), reason, action, has_label_file)
    return _Checked(
        record=Record(
            path=path, width=width, height=height, labels=parsed.labels, segments=parsed.segments
        ),
        messages=messages + parsed.messages,
        has_label_file=has_label_file,
        duplicates=parsed.duplicates,
    )


def _rejected(path: Path, where: str, reason: str, action: str, has_label_file: bool) -> _Checked:
    rejection = Rejection(path=str(path), where=where, reason=reason, action=action)
    return _Checked(rejection=rejection, has_label_file=has_label_file)


def _verify_image(path: Path) -> tuple[int, int, tuple[str, ...]]:
    """Height and width as decoded, and remarks; raises one of _DAMAGED."""
    data = path.read_bytes()
    if not data:
        raise ValueError("the file is empty")
    image_format = _format_of(data)
    messages: tuple[str, ...] = ()
    if image_format in _JPEG_FORMATS and not data.endswith(_JPEG_END):
        _load_fully(data)  # OpenCV paints the missing part of a cut JPEG grey and says nothing
        messages = (f"{path}: bytes after the end of the JPEG data; the picture is complete",)
    height, width = _decode(data).shape[:2]
    if min(height, width) < _SHORTEST_SIDE:
        raise ValueError(f"{width}x{height} pixels; both sides must be at least {_SHORTEST_SIDE}")
    return height, width, messages


def _format_of(data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as image:
        image_format = (image.format or "unknown").lower()
        if image_format not in _FORMATS:
            raise ValueError(f"format {image_format}; use one of {', '.join(sorted(_FORMATS))}")
        if image_format == "png":
            image.verify()  # checksums: finds cut and flipped bytes
    if image_format not in (*_JPEG_FORMATS, "png"):
        _load_fully(data)  # the rare formats, whose verify checks nothing
    return image_format


def _load_fully(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        image.load()


def _decode(data: bytes) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:  # no bytes at all, or more pixels than OpenCV allows
        raise ValueError(f"OpenCV cannot decode it: {error}") from error
    if image is None:
        raise ValueError("OpenCV cannot decode it")
    return image


def _as_class_zero(labels: np.ndarray) -> np.ndarray:
    labels = labels.copy()
    labels[:, 0] = 0
    return labels


def _require_known_classes(records: Sequence[Record], num_classes: int) -> None:
    problems = []
    for record in records:
        unknown = record.labels[record.labels[:, 0] >= num_classes, 0]
        counts = Counter(int(c) for c in unknown)
        problems += [
            f"{label_path(record.path)}: class {c} ({n} rows) of {num_classes} classes"
            for c, n in sorted(counts.items())
        ]
    if problems:
        raise DataError(
            f"labels of classes the data set does not have (nc={num_classes}, so classes are 0 to "
            f"{num_classes - 1}); correct them or add the class to names:\n{_first(problems)}"
        )


def _first(lines: Sequence[str]) -> str:
    shown = list(lines[:_LISTED])
    if len(lines) > _LISTED:
        shown.append(f"... and {len(lines) - _LISTED} more")
    return "\n".join(shown)
