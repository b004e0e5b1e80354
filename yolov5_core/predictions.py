"""Detections as COCO result JSON and as YOLO label files, for other programs to read."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from yolov5_core.boxes import normalise
from yolov5_core.evaluation import ImageDetections

ImageId = int | str

_COCO_IDS = (
    *(*range(1, 12), *range(13, 26), 27, 28, *range(31, 45), *range(46, 66)),
    *(67, 70, *range(72, 83), *range(84, 91)),
)  # COCO numbers its 80 classes up to 90


def category_ids(names: Sequence[str]) -> tuple[int, ...]:
    """The COCO category id of each class: its index, COCO's own numbers for COCO's 80 classes.

    Source: spec E.7.
    """
    is_coco = len(names) == len(_COCO_IDS) and (names[0], names[-1]) == ("person", "toothbrush")
    return _COCO_IDS if is_coco else tuple(range(len(names)))


def image_ids(names: Sequence[str]) -> list[ImageId]:
    """The COCO id of each picture: its stem, as a number where it is one.

    Pictures whose stems are the same, in different folders, get their whole names.

    Args:
        names: Paths below the data set's root, with "/".

    Source: spec E.7.
    """
    stems = [PurePosixPath(name).stem for name in names]
    ids: list[ImageId] = [int(s) if s.isascii() and s.isdigit() else s for s in stems]
    counts = Counter(ids)
    return [own if counts[own] == 1 else name for own, name in zip(ids, names, strict=True)]


def save_predictions(
    images: Sequence[ImageDetections],
    ids: Sequence[ImageId],
    categories: Sequence[int],
    path: Path,
) -> Path:
    """Writes every detection of a set: image_id, category_id, bbox x y w h in native pixels, score.

    Args:
        images: The set.
        ids: COCO image id of each record.
        categories: COCO category id of each class.
        path: The .json file; one detection a line.

    Source: spec E.7, box to 3 decimals and score to 5.
    """
    with PredictionsFile(path, categories) as file:
        for image in images:
            file.add(ids[image.index], image.detections)
    return path


class PredictionsFile:
    """The same, picture by picture; the list is closed at the end of a `with` block."""

    def __init__(self, path: Path, categories: Sequence[int]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8")
        self._categories = categories
        self._separator = "[\n"

    def __enter__(self) -> "PredictionsFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.write("[]\n" if self._separator == "[\n" else "\n]\n")
        self._file.close()

    def add(self, image_id: ImageId, detections: np.ndarray) -> None:
        """Writes the detections of one picture, (N, 6) xyxy native pixels, score, class."""
        image = json.dumps(image_id, ensure_ascii=False)
        for x1, y1, x2, y2, score, cls in detections.astype(np.float64).tolist():
            # by hand: there can be a million of them, and json takes four times as long
            self._file.write(
                f'{self._separator}{{"image_id": {image}, '
                f'"category_id": {self._categories[int(cls)]}, '
                f'"bbox": [{x1:.3f}, {y1:.3f}, {x2 - x1:.3f}, {y2 - y1:.3f}], '
                f'"score": {score:.5f}}}'
            )
            self._separator = ",\n"


def yolo_rows(detections: np.ndarray, native_hw: tuple[int, int], *, with_scores: bool) -> str:
    """The label file of a picture: rows `class x y w h`, fractions of the picture, `%g`.

    Args:
        detections: (N, 6) xyxy native pixels, score, class.
        native_hw: Height and width of the picture.
        with_scores: A sixth column with the score.

    Source: spec E.7.
    """
    height, width = native_hw
    boxes = normalise(detections[:, :4].astype(np.float64), width, height)
    columns = [detections[:, 5:], boxes, *([detections[:, 4:5]] if with_scores else [])]
    rows = np.concatenate(columns, 1).tolist()
    return "".join(" ".join(f"{value:g}" for value in row) + "\n" for row in rows)
