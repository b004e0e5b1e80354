"""What is left of a prediction: drawn pictures and videos, label files, COCO JSON, cut-outs.

All of it goes below one folder that was new or empty; nothing else is ever written to.
"""

import logging
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from tasks.picture_sources import Picture, Source
from yolov5_core.pictures import Boxes, draw_picture, encode, write_encoded
from yolov5_core.predictions import (
    ImageId,
    PredictionsFile,
    category_ids,
    image_ids,
    yolo_rows,
)

log = logging.getLogger(__name__)

JSON = "predictions.json"
_UNSAFE = re.compile(r"[^\w.-]+")
_CODEC = "mp4v"  # what every build of OpenCV can write


class PredictionWriteError(RuntimeError):
    """A video that cannot be written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which files to write beside the JSON."""

    pictures: bool = True  # drawn pictures and videos
    txt: bool = False
    scores: bool = False  # in the label files too
    crops: bool = False


class PredictionFiles:
    """The files of one prediction, picture by picture; complete at the end of a `with` block."""

    def __init__(
        self, folder: Path, sources: Sequence[Source], names: Sequence[str], wanted: Wanted
    ) -> None:
        self.folder = folder
        self._names = names
        self._wanted = wanted
        ids = image_ids([source.file for source in sources])
        self._ids = {source.name: own for source, own in zip(sources, ids, strict=True)}
        self._json = PredictionsFile(folder / JSON, category_ids(names))
        self._open = ExitStack()
        self._video: _Video | None = None

    def __enter__(self) -> "PredictionFiles":
        self._open.enter_context(self._json)
        return self

    def __exit__(self, *_: object) -> None:
        if self._video is not None:
            self._video.close()
        self._open.close()

    def add(self, picture: Picture, detections: np.ndarray) -> None:
        """Writes what was found in one picture or frame.

        Args:
            picture: With its image.
            detections: (N, 6) xyxy native pixels, score, class; best first.

        Raises:
            PredictionWriteError: A video cannot be written.
        """
        assert picture.image is not None  # noqa: S101  one without has no detections
        self._json.add(self._id(picture), detections)
        if self._wanted.txt and len(detections):  # as label files: none for a background picture
            rows = yolo_rows(
                detections,
                (picture.image.shape[0], picture.image.shape[1]),
                with_scores=self._wanted.scores,
            )
            path = self.folder / "labels" / f"{picture.name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(rows, "ascii")
        if self._wanted.crops:
            self._cut_out(picture, picture.image, detections)
        if self._wanted.pictures:
            self._draw(picture, picture.image, detections)

    def _id(self, picture: Picture) -> ImageId:
        if picture.source.kind == "picture":
            return self._ids[picture.source.name]
        return PurePosixPath(picture.name).name

    def _cut_out(self, picture: Picture, image: np.ndarray, detections: np.ndarray) -> None:
        height, width = image.shape[:2]
        for number, (x1, y1, x2, y2, _, cls) in enumerate(detections.tolist(), 1):
            left, top = min(int(x1), width - 1), min(int(y1), height - 1)
            right, bottom = max(left + 1, -int(-x2 // 1)), max(top + 1, -int(-y2 // 1))
            cut = cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_BGR2RGB)
            path = self.folder / "crops" / _folder_name(self._names[int(cls)])
            write_encoded(path / f"{picture.name}-{number}.jpg", encode(cut, ".jpg"))

    def _draw(self, picture: Picture, image: np.ndarray, detections: np.ndarray) -> None:
        boxes = Boxes(xyxy=detections[:, :4], classes=detections[:, 5], scores=detections[:, 4])
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).transpose(2, 0, 1)
        drawn = draw_picture(rgb, boxes, self._names, 1.0)
        if picture.source.kind == "picture":
            suffix = ".png" if picture.source.file.lower().endswith(".png") else ".jpg"
            write_encoded(self.folder / f"{picture.name}{suffix}", encode(drawn, suffix))
            return
        path = self.folder / f"{picture.source.name}.mp4"
        if self._video is None or self._video.path != path:
            if self._video is not None:
                self._video.close()
            self._video = _Video(path, picture.fps, (drawn.shape[1], drawn.shape[0]))
        self._video.add(drawn)


class _Video:
    def __init__(self, path: Path, fps: float, size_wh: tuple[int, int]) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        codec = cv2.VideoWriter.fourcc(*_CODEC)
        self._writer = cv2.VideoWriter(str(path), codec, fps, size_wh)
        if not self._writer.isOpened():
            raise PredictionWriteError(f"{path}: OpenCV cannot write this video ({_CODEC})")

    def add(self, frame_rgb: np.ndarray) -> None:
        self._writer.write(cv2.cvtColor(frame_rgb, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        self._writer.release()


def _folder_name(name: str) -> str:
    """A class name as one part of a path: a checkpoint may call a class anything."""
    return _UNSAFE.sub("_", name).strip(".") or "_"
