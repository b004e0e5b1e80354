"""The check of one picture and its labels; nothing here ever writes to a data set."""

import errno
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from yolov5_core.dataset import NO_TRUTH, Place, Record, Truth
from yolov5_core.decode import PictureError, verify
from yolov5_core.faults import Fault, FaultError
from yolov5_core.files import LocalFiles
from yolov5_core.labels import label_path, parse_labels
from yolov5_core.limits import MAX_LABEL_BYTES

TruthReader = Callable[[tuple[int, int]], Truth]  # gets width and height of the picture


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """One picture after its check."""

    image: np.ndarray | None  # (H, W, 3) uint8 BGR; None if the picture is left out
    truth: Truth
    faults: tuple[Fault, ...]


def check(name: str, where: str, data: bytes | OSError, read_truth: TruthReader) -> Checked:
    """Decodes a picture fully, then reads its labels.

    Args:
        name: Of the picture, below the data set's root.
        where: Its whole path or URL, for messages.
        data: The image file, or why it cannot be read.
        read_truth: Reads the labels; may raise FaultError.

    Source: spec C.3, except that a JPEG with bytes after its end is used as it is, never rewritten.
    """
    faults: list[Fault] = []
    try:
        image, remark = _picture(data, where)
        if remark:
            faults.append(
                Fault(kind="image-trailing-bytes", image=name, where=where, reason=remark)
            )
        truth = read_truth((image.shape[1], image.shape[0]))
    except FaultError as error:
        faults.append(Fault(kind=error.kind, image=name, where=error.where, reason=error.reason))
        return Checked(image=None, truth=NO_TRUTH, faults=tuple(faults))
    faults += [replace(fault, image=name) for fault in truth.faults]
    return Checked(image=image, truth=truth, faults=tuple(faults))


def _picture(data: bytes | OSError, where: str) -> tuple[np.ndarray, str]:
    if isinstance(data, FileNotFoundError):
        raise FaultError("image-missing", where, str(data))
    if isinstance(data, OSError):
        raise FaultError("image-unreadable", where, str(data))
    try:
        return verify(data)
    except PictureError as error:
        raise FaultError(error.kind, where, str(error)) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """The result of checking a list of local pictures with YOLO label files."""

    records: tuple[Record, ...]  # in the order of the list
    faults: tuple[Fault, ...]
    found: int  # pictures with a label file, left out or not
    missing: int  # usable pictures without a label file: background
    empty: int  # usable pictures with an empty label file: background

    @property
    def left_out(self) -> int:
        """Pictures left out."""
        return sum(fault.effect == "picture left out" for fault in self.faults)


def scan(images: Sequence[str] | Sequence[Path], num_classes: int, workers: int = 1) -> Scan:
    """Checks pictures where they lie; the records then name the files themselves.

    Args:
        images: Pictures, absolute.
        num_classes: Classes of the data set.
        workers: Threads, at least 1; the result does not depend on it.
    """
    paths = [Path(image) for image in images]
    with ThreadPoolExecutor(max_workers=max(workers, 1)) as pool:
        checked = list(pool.map(partial(_check_file, num_classes=num_classes), paths))
    has_file = [label_path(path).is_file() for path in paths]
    rows = list(zip(paths, checked, has_file, strict=True))
    return Scan(
        records=tuple(_record(path, c) for path, c, _ in rows if c.image is not None),
        faults=tuple(fault for c in checked for fault in c.faults),
        found=sum(has_file),
        missing=sum(c.image is not None and not has for _, c, has in rows),
        empty=sum(c.image is not None and has and not len(c.truth.labels) for _, c, has in rows),
    )


def _check_file(path: Path, num_classes: int) -> Checked:
    (data,) = LocalFiles().read_many([str(path)])
    return check(
        path.name, str(path), data, lambda _size_wh: yolo_truth(label_path(path), num_classes)
    )


def yolo_truth(path: Path, num_classes: int) -> Truth:
    """Reads the YOLO label file of a picture; without one the picture is background."""
    (data,) = LocalFiles().read_many([str(path)], MAX_LABEL_BYTES)
    if isinstance(data, FileNotFoundError):
        return NO_TRUTH
    if isinstance(data, OSError):
        kind = "label-too-large" if data.errno == errno.EFBIG else "label-unreadable"
        raise FaultError(kind, str(path), str(data))
    return parse_labels(data, str(path), num_classes)


def _record(path: Path, checked: Checked) -> Record:
    if checked.image is None:
        raise ValueError(f"{path}: was left out")
    height, width = checked.image.shape[:2]
    return Record(
        name=path.name,
        place=Place(path, 0, path.stat().st_size),
        width=width,
        height=height,
        labels=checked.truth.labels,
        segments=checked.truth.segments,
        crowd=checked.truth.crowd,
    )
