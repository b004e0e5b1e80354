"""Where the label file of a picture is, by the picture's own path."""

import posixpath
from typing import Literal, NamedTuple

Format = Literal["YOLO", "COCO", "VOC"]

_VOC_FOLDERS = ("Annotations", "annotations", "xml")  # for JPEGImages or images


def stem(name: str) -> str:
    """A file name without its suffix."""
    dot = name.rfind(".")
    return name[:dot] if dot > 0 else name


class LabelRule(NamedTuple):
    """Where the label file of a picture is: a folder of another name, the same stem."""

    format: Format
    suffix: str
    old: str  # the last folder of this name in the path
    new: str  # is this one instead

    def folder(self, folder: str) -> str:
        """Folder of the label files of the pictures in a folder."""
        head, marker, tail = f"{folder}/".rpartition(f"/{self.old}/")
        return f"{head}/{self.new}/{tail}"[:-1] if marker and self.old else folder

    def path(self, image: str) -> str:
        """Label file of a picture."""
        folder, name = posixpath.split(image)
        return posixpath.join(self.folder(folder), f"{stem(name)}{self.suffix}")


YOLO = LabelRule("YOLO", ".txt", "images", "labels")
RULES = (
    YOLO,
    LabelRule("VOC", ".xml", "", ""),
    *(LabelRule("VOC", ".xml", "JPEGImages", new) for new in _VOC_FOLDERS),
    *(LabelRule("VOC", ".xml", "images", new) for new in _VOC_FOLDERS),
)


def yolo_label_path(image: str) -> str:
    """The YOLO label file of a picture: see labels.label_path."""
    return YOLO.path(image)
