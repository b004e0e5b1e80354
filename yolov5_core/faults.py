"""Every kind of fault a data set can have, what is done about it, and what its owner can do."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Effect = Literal["picture left out", "box left out", "used"]


class Kind(NamedTuple):
    """What all faults of one kind have in common."""

    effect: Effect
    action: str  # what the owner can do


_PICTURE: Effect = "picture left out"
_BOX: Effect = "box left out"
_USED: Effect = "used"
_REPLACE = "remove or replace the picture"
_LABELS = "correct the label file"
_COCO, _VOC = "correct the annotation in the JSON file", "correct the XML file"
KINDS: dict[str, Kind] = {
    # pictures
    "image-missing": Kind(_PICTURE, "put the picture back, or take it off the list"),
    "image-unreadable": Kind(_PICTURE, "make the file readable, or remove it"),
    "image-empty": Kind(_PICTURE, _REPLACE),
    "image-format": Kind(_PICTURE, "convert it to JPEG or PNG"),
    "image-undecodable": Kind(_PICTURE, _REPLACE),
    "image-truncated": Kind(_PICTURE, "copy the whole file again"),
    "image-too-small": Kind(_PICTURE, _REPLACE),
    "image-too-large": Kind(_PICTURE, "scale the picture down"),
    "image-trailing-bytes": Kind(_USED, "nothing: the picture is complete"),
    "image-name": Kind(_PICTURE, "give the file a name in UTF-8"),
    "image-listed-twice": Kind(_USED, "take one of the lines off the list"),
    # YOLO label files
    "label-unreadable": Kind(_PICTURE, "make the label file readable"),
    "label-too-large": Kind(_PICTURE, "this is no label file: replace it"),
    "label-not-text": Kind(_PICTURE, "save the label file as UTF-8 text"),
    "label-fields": Kind(_PICTURE, _LABELS),
    "label-not-a-number": Kind(_PICTURE, _LABELS),
    "label-not-finite": Kind(_PICTURE, _LABELS),
    "label-class": Kind(_PICTURE, _LABELS),
    "label-class-unknown": Kind(_PICTURE, "correct the label file, or add the class to names"),
    "label-outside": Kind(_PICTURE, _LABELS),
    "label-polygon": Kind(_PICTURE, _LABELS),
    "label-duplicate": Kind(_BOX, "nothing: the row is kept once"),
    "label-no-area": Kind(_BOX, "remove the row"),
    "label-orphan": Kind(_USED, "add the picture, or remove the label file"),
    "label-shared": Kind(_USED, "rename one of the pictures, and give it labels of its own"),
    # COCO JSON
    "coco-image": Kind(_PICTURE, "correct the entry under images"),
    "coco-image-id": Kind(_PICTURE, "give every image an id of its own"),
    "coco-size": Kind(_PICTURE, "correct width and height, or replace the picture"),
    "coco-annotation": Kind(_BOX, _COCO),
    "coco-category": Kind(_BOX, "add the category, or correct category_id"),
    "coco-unknown-image": Kind(_BOX, "remove the annotation, or add its image"),
    "coco-bbox": Kind(_BOX, _COCO),
    "coco-outside": Kind(_BOX, _COCO),
    "coco-clipped": Kind(_USED, "nothing: the box is cut at the picture's edge"),
    "coco-segmentation": Kind(_USED, "nothing: the box is used without its outline"),
    "coco-duplicate": Kind(_BOX, "nothing: the box is kept once"),
    "coco-unlisted": Kind(_USED, "add the picture to the JSON file, or remove it"),
    # Pascal VOC XML
    "voc-not-xml": Kind(_PICTURE, _VOC),
    "voc-forbidden": Kind(_PICTURE, "remove the DTD or entities from the XML file"),
    "voc-size": Kind(_PICTURE, "correct size in the XML file, or replace the picture"),
    "voc-object": Kind(_BOX, _VOC),
    "voc-class-unknown": Kind(_BOX, "correct the name, or add it to names"),
    "voc-bndbox": Kind(_BOX, _VOC),
    "voc-outside": Kind(_BOX, _VOC),
    "voc-clipped": Kind(_USED, "nothing: the box is cut at the picture's edge"),
    "voc-duplicate": Kind(_BOX, "nothing: the box is kept once"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Something wrong in a data set."""

    kind: str  # one of KINDS
    image: str  # name of the picture; empty for a fault of a whole file
    where: str  # the file at fault, with line, row or id as far as known
    reason: str

    @property
    def effect(self) -> Effect:
        """What was done about it."""
        return KINDS[self.kind].effect

    @property
    def action(self) -> str:
        """What the owner can do about it."""
        return KINDS[self.kind].action


class FaultError(ValueError):
    """Raised by a parser: the picture cannot be used because of this."""

    def __init__(self, kind: str, where: str, reason: str) -> None:
        self.kind, self.where, self.reason = kind, where, reason
        super().__init__(f"{where}: {reason}")
