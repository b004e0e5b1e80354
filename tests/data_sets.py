"""The same few pictures as YOLO, COCO and VOC data sets, in the usual layouts."""

import json
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

import cv2
import numpy as np

WIDTH, HEIGHT = 60, 40  # pixels
NAMES = ("cat", "dog")
# boxes of every picture, class and x1 y1 x2 y2 in pixels
BOXES: Mapping[str, list[tuple[int, int, int, int, int]]] = {
    "train/0": [(0, 6, 4, 30, 20)],
    "train/1": [(1, 12, 8, 24, 16), (0, 30, 20, 54, 36)],
    "train/2": [],
    "val/3": [(1, 0, 0, 60, 40)],
    "val/4": [(0, 6, 4, 12, 8)],
}


def picture(key: str) -> bytes:
    """A JPEG that no other key has."""
    rng = np.random.default_rng(int(key[-1]))
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    return bytes(cv2.imencode(".jpg", image)[1].tobytes())


def normalised(box: tuple[int, int, int, int, int]) -> tuple[float, ...]:
    """Class, cx, cy, w, h as fractions."""
    cls, x1, y1, x2, y2 = box
    centre = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT)
    return (cls, *centre, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)


def put(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_yolo(folder: Path) -> Path:
    """images/<split> and labels/<split>; picture train/2 has no label file."""
    for key, boxes in BOXES.items():
        put(folder / f"images/{key}.jpg", picture(key))
        rows = "".join(" ".join(f"{v:.6f}" for v in normalised(box)) + "\n" for box in boxes)
        if boxes:
            put(folder / f"labels/{key}.txt", rows.replace(".000000 ", " "))
    put(folder / "data.yaml", "train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return folder / "data.yaml"


def coco_doc(split: str) -> dict[str, object]:
    """Sparse category ids: 18 dog, 17 cat, in another order than our classes."""
    keys = [key for key in BOXES if key.startswith(split)]
    return {
        "images": [
            {"id": int(k[-1]), "file_name": f"{k[-1]}.jpg", "width": WIDTH, "height": HEIGHT}
            for k in keys
        ],
        "annotations": [
            {
                "id": 10 * int(key[-1]) + number,
                "image_id": int(key[-1]),
                "category_id": 17 + cls,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
            }
            for key in keys
            for number, (cls, x1, y1, x2, y2) in enumerate(BOXES[key])
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
    }


def write_coco(folder: Path) -> Path:
    """The layout of the COCO data set itself."""
    for key in BOXES:
        split, stem = key.split("/")
        put(folder / f"{split}2017/{stem}.jpg", picture(key))
    for split in ("train", "val"):
        put(folder / f"annotations/instances_{split}2017.json", json.dumps(coco_doc(split)))
    return folder


def write_roboflow_coco(folder: Path) -> Path:
    """train and valid, each with its pictures and _annotations.coco.json."""
    for key in BOXES:
        split, stem = key.replace("val/", "valid/").split("/")
        put(folder / f"{split}/{stem}.jpg", picture(key))
    for split, where in (("train", "train"), ("val", "valid")):
        put(folder / f"{where}/_annotations.coco.json", json.dumps(coco_doc(split)))
    return folder


def voc_xml(key: str) -> str:
    """Pixels from the edge of the picture, as most exporters write them."""
    objects = "".join(
        f"<object><name>{escape(NAMES[cls])}</name><difficult>0</difficult><bndbox>"
        f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>"
        for cls, x1, y1, x2, y2 in BOXES[key]
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><filename>{key[-1]}.jpg</filename>{size}{objects}</annotation>"


def write_voc(folder: Path) -> Path:
    """The layout of Pascal VOC itself: lists of stems."""
    for key in BOXES:
        put(folder / f"JPEGImages/{key[-1]}.jpg", picture(key))
        put(folder / f"Annotations/{key[-1]}.xml", voc_xml(key))
    for split in ("train", "val"):
        stems = [key[-1] for key in BOXES if key.startswith(split)]
        put(folder / f"ImageSets/Main/{split}.txt", "\n".join(stems) + "\n")
    return folder


def write_roboflow_voc(folder: Path) -> Path:
    """train and valid, XML files beside the pictures."""
    for key in BOXES:
        stem = key.replace("val/", "valid/")
        put(folder / f"{stem}.jpg", picture(key))
        put(folder / f"{stem}.xml", voc_xml(key))
    return folder


WRITERS = {
    "YOLO": write_yolo,
    "COCO": write_coco,
    "Roboflow COCO": write_roboflow_coco,
    "VOC": write_voc,
    "Roboflow VOC": write_roboflow_voc,
}
