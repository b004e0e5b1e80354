"""The same for COCO JSON and Pascal VOC XML: data sets to spoil, and ways to spoil them."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from tests.fault_injection import Injected
from tests.fault_search import Search
from yolov5_core.boxes import denormalise
from yolov5_core.index import SPLITS

COCO_FILE = "_annotations.coco.json"
_FOLDERS = ("train", "valid")  # of SPLITS


def write_coco(source: Search, folder: Path) -> Path:
    """Writes what a search found usable as COCO: train and valid with a JSON file each."""
    for split, name in zip(SPLITS, _FOLDERS, strict=True):
        (folder / name).mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for row in range(*source.index.rows(split)):
            width, height = _size(source, row)
            file_name = _write_picture(source, row, folder / name)
            images.append({"id": row, "file_name": file_name, "width": width, "height": height})
            truth = source.index.truth(row)
            boxes = denormalise(truth.labels[:, 1:].astype(np.float64), width, height)
            for label, box, segment in zip(truth.labels, boxes, truth.segments, strict=True):
                x1, y1, x2, y2 = box.round(2).tolist()
                polygon = (segment * (width, height)).round(2).ravel().tolist()
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": row,
                        "category_id": 10 + 7 * int(label[0]),  # sparse, as COCO's own are
                        "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                        "iscrowd": 0,
                        "segmentation": [polygon] if polygon else [],
                    }
                )
        categories = [{"id": 10 + 7 * i, "name": n} for i, n in enumerate(source.class_names)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (folder / name / COCO_FILE).write_text(json.dumps(document))
    return folder


def write_voc(source: Search, folder: Path) -> Path:
    """Writes what a search found usable as VOC: train and valid, XML files beside the pictures."""
    for split, name in zip(SPLITS, _FOLDERS, strict=True):
        (folder / name).mkdir(parents=True)
        for row in range(*source.index.rows(split)):
            width, height = _size(source, row)
            file_name = _write_picture(source, row, folder / name)
            labels = source.index.truth(row).labels
            boxes = denormalise(labels[:, 1:].astype(np.float64), width, height).round(2)
            objects = [
                _object(source.class_names[int(cls)], box)
                for cls, box in zip(labels[:, 0], boxes.tolist(), strict=True)
            ]
            size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
            text = "\n".join(["<annotation>", size, *objects, "</annotation>"])
            (folder / name / file_name).with_suffix(".xml").write_text(text)
    names = json.dumps(source.class_names)
    (folder / "data.yaml").write_text(f"train: train\nval: valid\nnames: {names}\n")
    return folder


def _size(source: Search, row: int) -> tuple[int, int]:
    image = source.index.images[row]
    return int(image["width"]), int(image["height"])


def _write_picture(source: Search, row: int, folder: Path) -> str:
    name = f"{row:06}-{Path(source.index.name(row)).name}"
    (folder / name).write_bytes(source.picture(row))
    return name


def _object(name: str, box: Iterable[Any]) -> str:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    inner = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
    return f"<object><name>{escape(name)}</name><bndbox>{inner}</bndbox></object>"


@dataclass(frozen=True)
class CocoTarget:
    """One image of a COCO file to spoil."""

    folder: Path  # of the JSON file and the pictures
    document: dict[str, Any]
    image: dict[str, Any]
    annotation: dict[str, Any]  # one of its
    number: int  # of the fault

    def add(self, key: str, entry: Any) -> str:
        """Adds an entry to one of the lists; returns how it is called when it has no id."""
        self.document[key].append(entry)
        return f"{COCO_FILE}#{key}[{len(self.document[key]) - 1}]"

    @property
    def place(self) -> str:
        """How its image is called in a report."""
        return f"{COCO_FILE}#image {self.image['id']}"


def inject_coco(
    json_path: Path, count: int, seed: int, avoid: Iterable[str] = ()
) -> list[Injected]:
    """Spoils a COCO file as write_coco wrote it; see fault_injection.inject."""
    document = json.loads(json_path.read_text())
    first = {annotation["image_id"]: annotation for annotation in document["annotations"]}
    names = {Path(name).name for name in avoid}
    images = [i for i in document["images"] if i["id"] in first and i["file_name"] not in names]
    ways = list(COCO_WAYS.items())
    injected = []
    for number, place in enumerate(_chosen(len(images), count, len(ways), seed)):
        image = images[place]
        way, (kind, spoil) = ways[number % len(ways)]
        target = CocoTarget(json_path.parent, document, image, first[image["id"]], number)
        name = f"{json_path.parent.name}/{image['file_name']}"
        where = f"{json_path.parent.name}/{spoil(target)}"
        injected.append(Injected(way, kind, "" if kind in _OF_NO_IMAGE else name, where))
    json_path.write_text(json.dumps(document))
    return injected


def _chosen(images: int, count: int, ways: int, seed: int) -> list[int]:
    if not ways <= count <= images:
        raise ValueError(f"{ways} to {images} faults are possible here, not {count}")
    return np.random.default_rng(seed).permutation(images)[:count].tolist()


_OF_NO_IMAGE = ("coco-unknown-image", "coco-unlisted")  # and the picture at hand stays as it is


def _changed(key: str, value: Any) -> Callable[[CocoTarget], str]:
    """Another value in an annotation."""

    def spoil(t: CocoTarget) -> str:
        t.annotation[key] = value
        return f"{COCO_FILE}#annotation {t.annotation['id']}"

    return spoil


def _size_changed(key: str, change: Callable[[int], int]) -> Callable[[CocoTarget], str]:
    def spoil(t: CocoTarget) -> str:
        t.image[key] = change(t.image[key])
        return t.place

    return spoil


def _entry_changed(key: str, value: Any) -> Callable[[CocoTarget], str]:
    """Another value in the entry of an image, which makes it useless."""

    def spoil(t: CocoTarget) -> str:
        t.image[key] = value
        return f"{COCO_FILE}#images[{t.document['images'].index(t.image)}]"

    return spoil


def _box(change: Callable[[float, float, float, float], list[Any]]) -> Callable[[CocoTarget], str]:
    """Another box, from the picture's width and height and the old width and height."""

    def spoil(t: CocoTarget) -> str:
        _, _, w, h = t.annotation["bbox"]
        t.annotation["bbox"] = change(t.image["width"], t.image["height"], w, h)
        return f"{COCO_FILE}#annotation {t.annotation['id']}"

    return spoil


def _same_id(t: CocoTarget) -> str:
    again = f"again-{t.number}.jpg"
    shutil.copy(t.folder / t.image["file_name"], t.folder / again)
    t.add("images", {**t.image, "file_name": again})
    return t.place


def _same_file(t: CocoTarget) -> str:
    t.add("images", {**t.image, "id": 10**6 + t.number})
    return t.place


def _unknown_image(t: CocoTarget) -> str:
    t.add("annotations", {**t.annotation, "id": 10**6 + t.number, "image_id": 10**7})
    return f"{COCO_FILE}#annotation {10**6 + t.number}"


def _doubled(t: CocoTarget) -> str:
    t.add("annotations", {**t.annotation, "id": 10**6 + t.number})
    return f"{COCO_FILE}#annotation {10**6 + t.number}"


def _unlisted(t: CocoTarget) -> str:
    shutil.copy(t.folder / t.image["file_name"], t.folder / f"unlisted-{t.number}.jpg")
    return f"unlisted-{t.number}.jpg"


def _no_image(t: CocoTarget) -> str:
    return t.add("annotations", {"id": 10**6 + t.number, "bbox": [0, 0, 9, 9]})


CocoWay = tuple[str, Callable[[CocoTarget], str]]
COCO_WAYS: dict[str, CocoWay] = {
    "image without file_name": ("coco-image", _entry_changed("file_name", None)),
    "two entries of one file": ("coco-image", _same_file),
    "width as text": ("coco-image", _entry_changed("width", "640")),
    "one id of two images": ("coco-image-id", _same_id),
    "another width": ("coco-size", _size_changed("width", lambda w: w + 7)),
    "another height": ("coco-size", _size_changed("height", lambda h: 2 * h)),
    "annotation of no image": ("coco-annotation", _no_image),
    "iscrowd of 2": ("coco-annotation", _changed("iscrowd", 2)),
    "unknown category": ("coco-category", _changed("category_id", 11)),
    "category as text": ("coco-category", _changed("category_id", "10")),
    "annotation of an unknown image": ("coco-unknown-image", _unknown_image),
    "no bbox": ("coco-bbox", _changed("bbox", None)),
    "three numbers": ("coco-bbox", _box(lambda *_: [0, 0, 9])),
    "NaN in a bbox": ("coco-bbox", _box(lambda *_: [0, float("nan"), 9, 9])),
    "a number of 400 digits": ("coco-bbox", _box(lambda *_: [0, 0, 10**400, 9])),
    "bbox without width": ("coco-bbox", _box(lambda *_: [5, 5, 0, 9])),
    "bbox of negative height": ("coco-bbox", _box(lambda *_: [5, 5, 9, -9])),
    "bbox right of the picture": ("coco-outside", _box(lambda w, _, *wh: [w + 1, 0, *wh])),
    "bbox above the picture": ("coco-outside", _box(lambda *wh: [0, -wh[3] - 1, *wh[2:]])),
    "bbox over the edge": ("coco-clipped", _box(lambda w, _, __, h: [w - 2, 0, 9, h])),
    "RLE of no crowd": ("coco-segmentation", _changed("segmentation", {"counts": "x"})),
    "polygon, odd": ("coco-segmentation", _changed("segmentation", [[0, 0, 9, 0, 9, 9, 5]])),
    "polygon of another object": (
        "coco-segmentation",
        _changed("segmentation", [[0, 0, 0.5, 0, 0.5, 0.5]]),
    ),
    "box twice": ("coco-duplicate", _doubled),
    "picture not in the file": ("coco-unlisted", _unlisted),
}


def inject_voc(folder: Path, count: int, seed: int, avoid: Iterable[str] = ()) -> list[Injected]:
    """Spoils a VOC data set as write_voc wrote it; see fault_injection.inject."""
    names = {Path(name).name for name in avoid}
    paths = [
        path
        for path in sorted(folder.glob("*/*.xml"))
        if "<object>" in path.read_text() and _picture_of(path) not in names
    ]
    ways = list(VOC_WAYS.items())
    injected = []
    for number, place in enumerate(_chosen(len(paths), count, len(ways), seed)):
        way, (kind, spoil) = ways[number % len(ways)]
        path = paths[place]
        picture = _picture_of(path)
        where = f"{path.parent.name}/{spoil(path)}"
        image = "" if kind == "label-orphan" else f"{path.parent.name}/{picture}"
        injected.append(Injected(way, kind, image, where))
    return injected


def _picture_of(xml: Path) -> str:
    return next(p.name for p in xml.parent.glob(f"{xml.stem}.*") if p != xml)


def _file(change: Callable[[str], str | bytes]) -> Callable[[Path], str]:
    """Another content of the whole file, which makes it useless."""

    def spoil(path: Path) -> str:
        content = change(path.read_text())
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path.name

    return spoil


def _damaged(change: Callable[[str], str]) -> Callable[[Path], str]:
    """A content that is no XML; the fault lies in its last line."""

    def spoil(path: Path) -> str:
        text = change(path.read_text())
        path.write_text(text)
        return f"{path.name}:{text.count(chr(10)) + 1}"

    return spoil


def _another(new: str | Callable[[str], str]) -> Callable[[Path], str]:
    """One more object, made of the last one or new."""

    def spoil(path: Path) -> str:
        text = path.read_text()
        last = text[text.rindex("<object>") : text.index("</annotation>")].strip()
        added = new if isinstance(new, str) else new(last)
        path.write_text(text.replace("</annotation>", f"{added}\n</annotation>"))
        return f"{path.name}#object {text.count('<object>') + 1}"

    return spoil


def _placed(box: Callable[[int, int], Iterable[Any]]) -> Callable[[Path], str]:
    """One more object, of the last one's class, at a place found from the picture's size."""

    def spoil(path: Path) -> str:
        text = path.read_text()
        width, height = (int(_between(text, f"<{side}>")) for side in ("width", "height"))
        return _another(lambda last: _object(_between(last, "<name>"), box(width, height)))(path)

    return spoil


def _between(text: str, tag: str) -> str:
    start = text.index(tag) + len(tag)
    return text[start : text.index("<", start)]


def _folder(path: Path) -> str:
    path.unlink()
    path.mkdir()
    return path.name


def _orphan(path: Path) -> str:
    orphan = path.with_name(f"orphan-{path.name}")
    shutil.copy(path, orphan)
    return orphan.name


_BOMB = '<!DOCTYPE a [<!ENTITY x "lol"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;&x;&x;">]>'
_OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>'
VOC_WAYS: dict[str, tuple[str, Callable[[Path], str]]] = {
    "XML, cut": ("voc-not-xml", _damaged(lambda text: text[: text.index("</annotation>")])),
    "no XML": ("voc-not-xml", _damaged(lambda _: "0 0.5 0.5 0.2 0.2")),
    "tags that cross": ("voc-not-xml", _damaged(lambda _: "<annotation><object></annotation>")),
    "another root": ("voc-not-xml", _file(lambda text: text.replace("annotation>", "html>"))),
    "another encoding": (
        "voc-not-xml",
        _file(lambda text: f'<?xml version="1.0" encoding="gbk"?>{text}'),
    ),
    "entity bomb": (
        "voc-forbidden",
        _file(lambda text: _BOMB + text.replace("<name>", "<name>&y;")),
    ),
    "entity of a file": (
        "voc-forbidden",
        _file(lambda text: _OUTSIDE + text.replace("<name>", "<name>&x;")),
    ),
    "another width": ("voc-size", _file(lambda text: text.replace("<width>", "<width>9"))),
    "height as text": ("voc-size", _file(lambda text: text.replace("<height>", "<height>h"))),
    "XML is a folder": ("label-unreadable", _folder),
    "XML without picture": ("label-orphan", _orphan),
    "object without name": ("voc-object", _another("<object><pose>Left</pose></object>")),
    "empty name": ("voc-object", _another("<object><name> </name></object>")),
    "two names": (
        "voc-object",
        _another(lambda last: last.replace("<name>", "<name>a</name><name>")),
    ),
    "unknown name": ("voc-class-unknown", _another(_object("unheard of", (1, 1, 9, 9)))),
    "no bndbox": (
        "voc-bndbox",
        _another(lambda last: last[: last.index("<bndbox>")] + "</object>"),
    ),
    "xmin as text": ("voc-bndbox", _placed(lambda *_: ("left", 1, 9, 9))),
    "NaN in a bndbox": ("voc-bndbox", _placed(lambda *_: (1, "nan", 9, 9))),
    "xmax before xmin": ("voc-bndbox", _placed(lambda *_: (9, 1, 1, 9))),
    "bndbox without height": ("voc-bndbox", _placed(lambda *_: (1, 5, 9, 5))),
    "bndbox below the picture": ("voc-outside", _placed(lambda w, h: (0, h, w, h + 9))),
    "bndbox over the edge": ("voc-clipped", _placed(lambda w, h: (w - 3, h - 3, w + 9, h))),
    "object twice": ("voc-duplicate", _another(lambda last: last)),
}
