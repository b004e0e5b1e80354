"""Boxes that other formats give in pixels: judged, cut at the picture's edge, made fractions."""

from dataclasses import dataclass, field

import numpy as np

from yolov5_core.faults import Fault

_ROUNDING = 0.5  # pixels; a box that leaves the picture by less was rounded there: no fault


class AnnotationError(ValueError):
    """One entry of an annotation file is wrong; `kind` is one of faults.KINDS."""

    def __init__(self, kind: str, reason: str) -> None:
        self.kind = kind
        super().__init__(reason)


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxKinds:
    """What one format calls the faults that its boxes share with those of other formats."""

    no_area: str
    outside: str
    clipped: str
    duplicate: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelBoxes:
    """The boxes of one picture, one after the other."""

    size_wh: tuple[int, int]  # pixels of the decoded picture
    kinds: BoxKinds
    faults: list[Fault] = field(default_factory=list)
    _seen: dict[bytes, str] = field(default_factory=dict)  # row -> where it was first

    def row(self, class_index: int, box_xyxy: tuple[float, ...], where: str) -> np.ndarray:
        """The label row of a box; notes a fault where the box leaves the picture.

        Args:
            class_index: Ours, from 0.
            box_xyxy: Corners, pixels, finite or infinite, never NaN.
            where: The annotation, for messages.

        Returns:
            (5,) float32: class, normalised cx, cy, w, h, all within the picture.

        Raises:
            AnnotationError: No area, wholly outside, or the same row for the second time.
        """
        width, height = self.size_wh
        x1, y1, x2, y2 = box_xyxy
        if x2 <= x1 or y2 <= y1:
            raise AnnotationError(self.kinds.no_area, f"{_shown(box_xyxy)} has no area")
        if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
            reason = f"{_shown(box_xyxy)} lies outside the picture of {width}x{height} pixels"
            raise AnnotationError(self.kinds.outside, reason)
        # boxes.normalise for one box, which numpy would take ten times as long for
        left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
        centre = (left + right) / 2 / width, (top + bottom) / 2 / height
        sides = (right - left) / width, (bottom - top) / height
        row = np.array((class_index, *centre, *sides)).astype(np.float32)
        if not (row[3] and row[4]):
            reason = f"{_shown(box_xyxy)} has no area within the picture"
            raise AnnotationError(self.kinds.no_area, reason)
        key = row.tobytes()
        if key in self._seen:
            reason = f"the same class and box as {self._seen[key]}"
            raise AnnotationError(self.kinds.duplicate, reason)
        self._seen[key] = where
        if max(-x1, -y1, x2 - width, y2 - height) > _ROUNDING:
            reason = f"{_shown(box_xyxy)} cut to the picture of {width}x{height} pixels"
            self.note(self.kinds.clipped, where, reason)
        return row

    def note(self, kind: str, where: str, reason: str) -> None:
        """Notes a fault."""
        self.faults.append(Fault(kind=kind, image="", where=where, reason=reason))


def _shown(box_xyxy: tuple[float, ...]) -> str:
    corners = " ".join(f"{value:g}" for value in box_xyxy)
    return f"box {corners} (left top right bottom, pixels)"
