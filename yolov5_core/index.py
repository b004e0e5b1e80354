"""The index of a prepared data set: every picture and label as flat arrays in one mapped file.

Rows are ordered by split, then name. Flat arrays, not objects, so that a million pictures cost no
memory in the loader's processes: the file is mapped and its pages are shared.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from yolov5_core.dataset import NO_SEGMENT, NO_TRUTH, Place, Record, Truth

SPLITS = ("train", "val")  # by number in the index
IMAGE = np.dtype(
    [
        ("name_end", "<i8"),  # where its name ends in `names`
        ("label_end", "<i8"),  # where its rows end in `labels`
        ("split", "u1"),  # number in SPLITS
        ("shard", "<i4"),  # number in the manifest's list of shards
        ("offset", "<i8"),  # bytes from the beginning of the shard
        ("size", "<i8"),  # bytes of the encoded picture
        ("sha256", "u1", (32,)),  # of the encoded picture
        ("width", "<i4"),  # pixels
        ("height", "<i4"),
        ("brightness", "<f4"),  # mean grey level, 0 to 255
        ("dhash", "<u8"),  # 64 bits that look-alikes share, see features.py
    ]
)
LABEL = np.dtype(
    [
        ("box", "<f4", (5,)),  # class, normalised cx, cy, w, h
        ("crowd", "?"),  # a region of many objects
        ("point_end", "<i8"),  # where its polygon ends in `points`
    ]
)
_CONTENT = ("name_end", "label_end", "split", "sha256", "width", "height")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Entry:
    """One picture before it becomes a row of an index."""

    name: str
    split: int  # number in SPLITS
    shard: int
    place: tuple[int, int]  # offset and size, bytes
    sha256: bytes
    size_wh: tuple[int, int]
    brightness: float
    dhash: int
    truth: Truth


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """All pictures of a data set."""

    names: np.ndarray  # uint8, UTF-8 of all names one after the other
    images: np.ndarray  # (n,) IMAGE
    labels: np.ndarray  # (m,) LABEL
    points: np.ndarray  # (p, 2) float32, normalised polygon points

    def __len__(self) -> int:
        return len(self.images)

    def name(self, row: int) -> str:
        """Name of a picture."""
        start = int(self.images["name_end"][row - 1]) if row else 0
        return self.names[start : int(self.images["name_end"][row])].tobytes().decode()

    def all_names(self) -> list[str]:
        """Names of all pictures."""
        blob, start, names = self.names.tobytes(), 0, []
        for end in self.images["name_end"].tolist():
            names.append(blob[start:end].decode())
            start = end
        return names

    def rows(self, split: str) -> tuple[int, int]:
        """First row of a split and the row behind its last."""
        number = SPLITS.index(split)
        first, last = np.searchsorted(self.images["split"], [number, number + 1])
        return int(first), int(last)

    def truth(self, row: int) -> Truth:
        """Labels of a picture, without faults."""
        ends = self.images["label_end"]
        first, last = int(ends[row - 1]) if row else 0, int(ends[row])
        if first == last:
            return NO_TRUTH
        labels = self.labels[first:last]
        boxes, is_crowd = labels["box"], labels["crowd"]
        ends = labels["point_end"].tolist()
        starts = [int(self.labels["point_end"][first - 1]) if first else 0, *ends[:-1]]
        if not is_crowd.any():
            if starts[0] == ends[-1]:  # boxes only: the usual case
                return Truth(labels=boxes.copy(), segments=(NO_SEGMENT,) * len(boxes))
            segments = [self.points[a:b] for a, b in zip(starts, ends, strict=True)]
            return Truth(labels=boxes.copy(), segments=tuple(segments))
        rows = zip(starts, ends, is_crowd.tolist(), strict=True)
        return Truth(
            labels=boxes[~is_crowd],
            segments=tuple(self.points[a:b] for a, b, crowd in rows if not crowd),
            crowd=boxes[is_crowd],
        )

    def take(self, order: np.ndarray) -> "Index":
        """The rows in another order, or some of them."""
        name_positions, name_end = _ragged(self.images["name_end"], order)
        label_positions, label_end = _ragged(self.images["label_end"], order)
        images = self.images[order]
        images["name_end"], images["label_end"] = name_end, label_end
        point_positions, point_end = _ragged(self.labels["point_end"], label_positions)
        labels = self.labels[label_positions]
        labels["point_end"] = point_end
        return Index(self.names[name_positions], images, labels, self.points[point_positions])

    def digest(self, class_names: Sequence[str]) -> str:
        """Sha256 over classes, names, splits, pictures and labels; hexadecimal.

        It depends on nothing else: not on shards, source folder or time.
        """
        digest = hashlib.sha256(json.dumps(list(class_names)).encode())
        digest.update(self.names.tobytes())
        for column in _CONTENT:
            digest.update(np.ascontiguousarray(self.images[column]).tobytes())
        for column in LABEL.names or ():
            digest.update(np.ascontiguousarray(self.labels[column]).tobytes())
        digest.update(self.points.tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> Path:
        """Writes the arrays into one uncompressed .npz, so that it can be mapped."""
        with path.open("wb") as file:
            np.savez(file, **{f.name: getattr(self, f.name) for f in fields(self)})
        return path


def load_index(path: Path) -> Index:
    """Maps an index that save() wrote: its pages are read when touched.

    Raises:
        ValueError: Not such a file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            arrays = [_mapped(path, members[f"{f.name}.npy"]) for f in fields(Index)]
    except (zipfile.BadZipFile, KeyError, OSError, EOFError) as error:
        raise ValueError(f"{path}: no index of a data set: {error}") from error
    if arrays[1].dtype != IMAGE or arrays[2].dtype != LABEL:
        raise ValueError(f"{path}: an index of another version; prepare the data again")
    return Index(*arrays)


def _mapped(path: Path, member: zipfile.ZipInfo) -> np.ndarray:
    """One stored array of a .npz, mapped; numpy itself maps only plain .npy files."""
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)
        lengths = file.read(4)  # of name and extra field in the local header
        file.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), 1)
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{path}: {member.filename}: not a version 1 array")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.asarray(np.memmap(path, dtype, "r", offset, shape))  # the plain type: faster to index


def build_index(entries: Iterator[Entry] | Sequence[Entry]) -> Index:
    """An index of entries, in their order."""
    names, images, labels, points = bytearray(), [], [], []
    num_labels = num_points = 0
    for e in entries:
        names += e.name.encode()
        for boxes, is_crowd in ((e.truth.labels, False), (e.truth.crowd, True)):
            rows = np.zeros(len(boxes), LABEL)
            rows["box"], rows["crowd"] = boxes, is_crowd
            if not is_crowd:
                lengths = np.array([len(s) for s in e.truth.segments], np.int64)
                rows["point_end"] = num_points + np.cumsum(lengths)
                points += [s for s in e.truth.segments if len(s)]
                num_points += int(lengths.sum())
            else:
                rows["point_end"] = num_points
            labels.append(rows)
            num_labels += len(rows)
        images.append(
            (
                *(len(names), num_labels, e.split, e.shard, *e.place),
                *(np.frombuffer(e.sha256, np.uint8), *e.size_wh, e.brightness, e.dhash),
            )
        )
    return Index(
        np.frombuffer(bytes(names), np.uint8),
        np.array(images, IMAGE),
        np.concatenate([np.zeros(0, LABEL), *labels]),
        np.concatenate([np.zeros((0, 2), np.float32), *points]).astype(np.float32),
    )


def concatenate(parts: Sequence[Index]) -> Index:
    """Several indices one after the other; shard numbers are kept as they are."""
    images, labels = (np.concatenate([getattr(p, n) for p in parts]) for n in ("images", "labels"))
    name_base = np.cumsum([0, *(len(p.names) for p in parts[:-1])])
    label_base = np.cumsum([0, *(len(p.labels) for p in parts[:-1])])
    point_base = np.cumsum([0, *(len(p.points) for p in parts[:-1])])
    images["name_end"] += np.repeat(name_base, [len(p) for p in parts])
    images["label_end"] += np.repeat(label_base, [len(p) for p in parts])
    labels["point_end"] += np.repeat(point_base, [len(p.labels) for p in parts])
    names, points = (np.concatenate([getattr(p, n) for p in parts]) for n in ("names", "points"))
    return Index(names, images, labels, points)


def sorted_order(index: Index) -> np.ndarray:
    """The order of rows by split, then name."""
    names, splits = index.all_names(), index.images["split"].tolist()
    return np.array(sorted(range(len(names)), key=lambda i: (splits[i], names[i])), np.int64)


def _ragged(ends: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the elements of chosen groups of a flat array, and the groups' new ends."""
    starts = np.concatenate(([0], ends[:-1])) if len(ends) else np.zeros(0, np.int64)
    starts, lengths = starts[order], (ends - starts)[order]
    new_ends = np.cumsum(lengths)
    first = np.repeat(starts - np.concatenate(([0], new_ends[:-1]))[: len(order)], lengths)
    return first + np.arange(len(first)), new_ends


class Records(Sequence[Record]):
    """One split of an index as records, made when asked for."""

    def __init__(
        self, index: Index, split: str, files: Sequence[Path], *, single_class: bool = False
    ) -> None:
        self._index = index
        self._first, self._last = index.rows(split)
        self._files = files  # by shard number
        self._single_class = single_class  # all classes are 0

    def __len__(self) -> int:
        return self._last - self._first

    def shapes_wh(self) -> np.ndarray:
        """(n, 2) int64 width and height of every picture, pixels; no record is made."""
        images = self._index.images[self._first : self._last]
        return np.stack((images["width"], images["height"]), axis=1).astype(np.int64)

    def __getitem__(self, number: int) -> Record:  # type: ignore[override]  # no slices needed
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        row = self._first + number % len(self)
        image, truth = self._index.images[row], self._index.truth(row)
        if self._single_class:
            truth.labels[:, 0] = truth.crowd[:, 0] = 0  # copies
        return Record(
            name=self._index.name(row),
            place=Place(self._files[image["shard"]], int(image["offset"]), int(image["size"])),
            width=int(image["width"]),
            height=int(image["height"]),
            labels=truth.labels,
            segments=truth.segments,
            crowd=truth.crowd,
        )
