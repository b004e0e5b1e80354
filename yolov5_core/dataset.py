"""What a data set is made of: pictures in their places, and their labels."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from yolov5_core.faults import Fault

NO_BOXES = np.zeros((0, 5), np.float32)  # never written to
NO_SEGMENT = np.zeros((0, 2), np.float32)  # the polygon of a label that has only a box
_LISTED = 10  # files named in one error


def _no_boxes() -> np.ndarray:
    return NO_BOXES


class DataError(ValueError):
    """A data set that cannot be used; the message names the file and the fix."""


class Place(NamedTuple):
    """Where the encoded bytes of a picture are: in a file of its own or inside a shard."""

    file: Path
    offset: int  # bytes
    size: int  # bytes

    def read(self) -> bytes:
        """The bytes.

        Raises:
            OSError: The file is gone or too short.
        """
        descriptor = os.open(self.file, os.O_RDONLY)
        try:
            data = os.pread(descriptor, self.size, self.offset)
        finally:
            os.close(descriptor)
        if len(data) != self.size:
            raise OSError(f"{self.file}: ends before byte {self.offset + self.size}")
        return data


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Record:
    """One usable picture and its labels."""

    name: str  # path below the data set's root, with "/"
    place: Place
    width: int  # pixels as decoded, after EXIF orientation
    height: int
    labels: np.ndarray  # (m, 5) float32: class, normalised cx, cy, w, h
    segments: tuple[np.ndarray, ...]  # m polygons (k, 2) float32, normalised; (0, 2) without one
    crowd: np.ndarray = field(default_factory=_no_boxes)  # (k, 5) as labels: never trained on


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Truth:
    """What is annotated in one picture: row i of labels belongs to segments[i]."""

    labels: np.ndarray  # (m, 5) float32: class, normalised cx, cy, w, h
    segments: tuple[np.ndarray, ...]  # m polygons (k, 2) float32, normalised; (0, 2) without one
    crowd: np.ndarray = field(default_factory=_no_boxes)  # (k, 5) as labels; COCO iscrowd
    faults: tuple[Fault, ...] = ()  # boxes left out, remarks


NO_TRUTH = Truth(labels=NO_BOXES, segments=())


def first_lines(lines: Sequence[str]) -> str:
    """The first of many lines for one error message."""
    shown = list(lines[:_LISTED])
    if len(lines) > _LISTED:
        shown.append(f"... and {len(lines) - _LISTED} more")
    return "\n".join(shown)
