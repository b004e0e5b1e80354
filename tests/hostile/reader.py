"""Reads one kind of hostile files in a process of its own, and says what came of each.

A line of JSON for each file: its name, what was said, the kind of error, seconds, and by how many
megabytes the process has grown at most since it began with the corpus.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tasks.settings_files import config_from_yaml
from tasks.weights import read_parent
from tests.hostile.corpus import CORPUS
from yolov5_core.architecture import describe
from yolov5_core.check import yolo_truth
from yolov5_core.coco import parse_coco
from yolov5_core.config import load_hyperparameters
from yolov5_core.data_yaml import read_data_yaml
from yolov5_core.decode import PictureError, verify
from yolov5_core.evaluation import load_evaluation
from yolov5_core.files import LocalFiles, read_file
from yolov5_core.limits import MAX_COCO_BYTES, MAX_PICTURE_BYTES, MAX_VOC_BYTES
from yolov5_core.voc import voc_truth


def _picture(path: Path) -> None:
    try:
        verify(read_file(LocalFiles(), str(path), MAX_PICTURE_BYTES))
    except PictureError as error:  # its callers add the name
        raise PictureError(error.kind, f"{path}: {error}") from error


def _yaml(path: Path) -> None:
    """Four readers; all must refuse it."""
    said = []
    for read in (config_from_yaml, lambda p: describe(str(p)), lambda p: read_data_yaml(str(p)),
                 lambda p: load_hyperparameters(str(p))):  # fmt: skip
        try:
            read(path)  # type: ignore[operator]
        except ValueError as error:
            said.append(error)
    assert len(said) == 4, said
    raise said[0]


READERS: dict[str, Callable[[Path], object]] = {
    "checkpoint": read_parent,
    "picture": _picture,
    "label": lambda p: yolo_truth(p, 3),
    "coco": lambda p: parse_coco(read_file(LocalFiles(), str(p), MAX_COCO_BYTES), str(p)),
    "voc": lambda p: voc_truth(read_file(LocalFiles(), str(p), MAX_VOC_BYTES), str(p), {}, (9, 9)),
    "yaml": _yaml,
    "arrays": load_evaluation,
}


def main(kind: str, folder: Path, canary: Path) -> None:
    """Reads them all."""
    folder.mkdir(parents=True)
    files = list(CORPUS[kind](folder, canary)) if kind != "coco" else CORPUS[kind](folder, canary)
    for path in files:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun = time.monotonic()
        said, error_kind = "accepted", ""
        try:
            READERS[kind](path)
        except Exception as error:  # noqa: BLE001  the test judges it
            said, error_kind = str(error), type(error).__name__
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        line = {
            "file": path.name,
            "said": said[:3000],
            "kind": error_kind,
            "seconds": round(time.monotonic() - begun, 2),
            "mb": round((after - before) / 1000),
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
