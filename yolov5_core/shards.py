"""Packed pictures: plain tar files in WebDataset naming, made of pieces that are checked apart.

A picture is two members: `00000012.jpg` with its bytes untouched and `00000012.json` with its name,
split, size and labels. Any tar program and any WebDataset reader can use them; we read pictures by
their offset. Nothing in a shard depends on time, machine or user.
"""

import errno
import hashlib
import json
import posixpath
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from yolov5_core.check import check
from yolov5_core.coco import coco_truth
from yolov5_core.dataset import NO_TRUTH, Truth
from yolov5_core.faults import Fault, FaultError
from yolov5_core.features import features
from yolov5_core.files import Files
from yolov5_core.index import SPLITS, Entry, Index, build_index
from yolov5_core.labels import parse_labels
from yolov5_core.limits import MAX_LABEL_BYTES
from yolov5_core.sources import Item
from yolov5_core.voc import voc_truth

SHARD_BYTES = 256_000_000  # about; the last shard of a preparation is smaller
CHECK_VERSION = 1  # raised when the check judges differently: then nothing old is reused
_BLOCK = tarfile.BLOCKSIZE
_GROUP = 32  # pictures read at once: a bucket answers them side by side


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Work for one process: some pictures, and where their tar members go."""

    items: tuple[Item, ...]
    first: int  # number of the first member, for its name
    files: Files
    class_names: tuple[str, ...]
    categories: Mapping[str, Mapping[int, int]]  # as in Sources
    output: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedPiece:
    """What became of a piece."""

    index: Index  # of the pictures that are used, offsets from the beginning of the output
    used: np.ndarray  # (n,) numbers of the items in it
    faults: tuple[tuple[int, Fault], ...]  # with the number of the item
    output: Path


def check_piece(piece: Piece) -> CheckedPiece:
    """Checks the pictures of a piece and packs the good ones; a pure function of the sources."""
    faults: list[tuple[int, Fault]] = []
    entries: list[Entry] = []
    used: list[int] = []
    with piece.output.open("wb") as output:
        for number, (item, image, truth) in enumerate(_contents(piece)):
            checked = check(item.name, item.image, image, lambda wh: _truth(piece, item, truth, wh))  # noqa: B023  called at once
            faults += [(number, fault) for fault in checked.faults]
            if checked.image is None or isinstance(image, OSError):
                continue
            height, width = checked.image.shape[:2]
            brightness, dhash = features(checked.image)
            digest = hashlib.sha256(image).digest()
            described = _description(item, (width, height), digest, checked.truth)
            stem = f"{piece.first + number:08d}"
            offset = _write_member(output, stem + posixpath.splitext(item.image)[1].lower(), image)
            _write_member(output, f"{stem}.json", described)
            used.append(number)
            entries.append(
                Entry(
                    name=item.name,
                    split=item.split,
                    shard=0,
                    place=(offset, len(image)),
                    sha256=digest,
                    size_wh=(width, height),
                    brightness=brightness,
                    dhash=dhash,
                    truth=checked.truth,
                )
            )
    return CheckedPiece(
        index=build_index(entries),
        used=np.array(used, np.int64),
        faults=tuple(faults),
        output=piece.output,
    )


def _contents(
    piece: Piece,
) -> Iterator[tuple[Item, bytes | OSError, bytes | OSError]]:
    """The items with the bytes of picture and label file."""
    for start in range(0, len(piece.items), _GROUP):
        group = piece.items[start : start + _GROUP]
        images = piece.files.read_many([item.image for item in group])
        has_file = [bool(item.truth) and item.format != "COCO" for item in group]
        paths = [item.truth for item, has in zip(group, has_file, strict=True) if has]
        truths = iter(piece.files.read_many(paths, MAX_LABEL_BYTES))
        for item, image, has in zip(group, images, has_file, strict=True):
            yield item, image, next(truths) if has else b""


def _truth(piece: Piece, item: Item, data: bytes | OSError, size_wh: tuple[int, int]) -> Truth:
    if not item.truth:
        return NO_TRUTH
    if isinstance(data, OSError):
        kind = "label-too-large" if data.errno == errno.EFBIG else "label-unreadable"
        raise FaultError(kind, item.truth, str(data))
    if item.annotations is not None:
        classes = piece.categories[item.truth]
        return coco_truth(item.annotations, classes, size_wh, item.truth)
    if item.format == "VOC":
        class_of = {name: number for number, name in enumerate(piece.class_names)}
        return voc_truth(data, item.truth, class_of, size_wh)
    return parse_labels(data, item.truth, len(piece.class_names))


def _description(item: Item, size_wh: tuple[int, int], digest: bytes, truth: Truth) -> bytes:
    doc = {
        "name": item.name,
        "split": SPLITS[item.split],
        "sha256": digest.hex(),
        "width": size_wh[0],
        "height": size_wh[1],
        "labels": truth.labels.tolist(),
        "segments": [segment.tolist() for segment in truth.segments if len(segment)],
        "crowd": truth.crowd.tolist(),
    }
    return json.dumps(doc, separators=(",", ":")).encode()


def _write_member(output: BinaryIO, name: str, data: bytes) -> int:
    """Adds a tar member; returns the offset of its data."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    output.write(info.tobuf(tarfile.USTAR_FORMAT))
    offset = output.tell()
    output.write(data)
    output.write(bytes(-len(data) % _BLOCK))
    return offset


class ShardWriter:
    """Puts pieces together to shards of about SHARD_BYTES, in the order of the pieces.

    Attributes:
        folder: Where they are written.
        paths: The shards so far; the last one is complete after close().
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self.paths: list[Path] = []
        self.folder = folder
        self._shard_bytes = shard_bytes
        self._file: BinaryIO | None = None
        self._split = -1

    def add(self, piece: CheckedPiece) -> Index:
        """Adds a piece, whose file goes away; returns its index with shard numbers and offsets.

        A shard holds one split only, so that the evaluation fetches no training pictures; a piece
        does too.
        """
        images = piece.index.images.copy()
        if len(images):
            split = int(images["split"][0])
            size = piece.output.stat().st_size
            if self._file and (
                split != self._split or self._file.tell() + size > self._shard_bytes
            ):
                self.close()
            self._split = split
            if self._file is None:
                self.paths.append(self.folder / shard_name(len(self.paths)))
                self._file = self.paths[-1].open("wb")
            images["shard"] = len(self.paths) - 1
            images["offset"] += self._file.tell()
            with piece.output.open("rb") as file:
                shutil.copyfileobj(file, self._file)
        piece.output.unlink()
        return Index(piece.index.names, images, piece.index.labels, piece.index.points)

    def close(self) -> None:
        """Finishes the shard at hand, if there is one."""
        if self._file is not None:
            self._file.write(bytes(2 * _BLOCK))  # the end of a tar archive
            self._file.close()
            self._file = None


def shard_name(number: int) -> str:
    """File name of a shard, as WebDataset readers expect it."""
    return f"shard-{number:06d}.tar"


def make_pieces(
    items: Sequence[Item], *, piece_bytes: int, piece_items: int
) -> list[tuple[int, int]]:
    """First and last item of each piece: of one split, bounded in bytes and number."""
    bounds, first, size = [], 0, 0
    for number, item in enumerate(items):
        full = size + item.size > piece_bytes or number - first >= piece_items
        if number > first and (full or item.split != items[number - 1].split):
            bounds.append((first, number))
            first, size = number, 0
        size += item.size
    if items:
        bounds.append((first, len(items)))
    return bounds
