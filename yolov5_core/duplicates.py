"""Copies and look-alikes among the pictures of a data set, and those that leak into validation.

Rows are rows of an index. A group is an array of two or more rows, ascending; groups are ordered by
their first row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yolov5_core.index import SPLITS, Index

# A hash with fewer bits of one kind says nothing: flat, empty and shaded pictures have it. Of
# random hashes one in 10^10 does.
_FEWEST_BITS = 8
_COMPARISONS = 8_000_000  # of hashes, in each of the sorted orders: about 0.1 s


def exact_groups(index: Index) -> list[np.ndarray]:
    """Groups of pictures whose encoded bytes are equal."""
    return _groups(_first_copy(index))


def near_groups(index: Index, max_distance: int = 3) -> list[np.ndarray]:
    """Groups of pictures that look alike, without groups of nothing but copies of one file.

    Two pictures look alike if their difference hashes differ in few bits; a group is what such
    pairs connect, so its ends may differ more. Pictures without contrast belong to no group.

    The 64 bits are cut into max_distance + 1 bands: hashes that differ in max_distance bits agree
    in at least one band, so sorting by each band in turn brings them near each other. Where
    thousands of different hashes agree in a band (pictures of one fixed camera), only those nearest
    in the order are compared, which bounds the time; such groups can come out in parts.

    Args:
        index: n pictures.
        max_distance: Largest number of different bits, 0 to 63.
    """
    hashes = np.ascontiguousarray(index.images["dhash"])
    bits = np.bitwise_count(hashes)
    rows = np.flatnonzero((bits >= _FEWEST_BITS) & (bits <= 64 - _FEWEST_BITS))
    distinct, first, number = np.unique(hashes[rows], return_index=True, return_inverse=True)
    component = _look_alikes(distinct, max_distance)
    first_row = rows[first]
    np.minimum.at(first_row, component, rows[first])
    label = np.arange(len(index))
    label[rows] = first_row[component][number]
    copy = _first_copy(index)
    has_others = np.zeros(len(index), bool)  # by label
    has_others[label[copy != copy[label]]] = True
    return _groups(np.where(has_others[label], label, np.arange(len(index))))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Leakage:
    """Validation pictures that training has seen."""

    pairs: np.ndarray  # (k, 2) int64: row in training, row in validation; one for each of the rows
    share: float  # of all validation pictures

    @property
    def rows(self) -> np.ndarray:
        """(k,) validation rows, ascending."""
        return self.pairs[:, 1]

    def without(self, rows: np.ndarray) -> "Leakage":
        """The same without some validation rows."""
        pairs = self.pairs[~np.isin(self.rows, rows)]
        return Leakage(pairs=pairs, share=self.share * len(pairs) / max(len(self.pairs), 1))


def leakage(index: Index, groups: Sequence[np.ndarray]) -> Leakage:
    """Finds the groups with training and validation pictures.

    Each such validation picture is paired with a training picture of its group: the more similar of
    the two beside it when the group is sorted by hash.
    """
    rows = np.concatenate([np.zeros(0, np.int64), *groups])
    group = np.repeat(np.arange(len(groups)), [len(g) for g in groups])
    hashes = np.ascontiguousarray(index.images["dhash"])
    order = np.lexsort((rows, hashes[rows], group))
    rows, group = rows[order], group[order]
    splits = index.images["split"]
    is_train = splits[rows] == SPLITS.index("train")
    place = np.arange(len(rows))
    before = np.maximum.accumulate(np.where(is_train, place, -1))
    after = np.minimum.accumulate(np.where(is_train, place, len(rows))[::-1])[::-1]
    pairs, distances = [], []
    val = np.flatnonzero(splits[rows] == SPLITS.index("val"))
    for neighbour in (before[val], after[val]):
        inside = np.clip(neighbour, 0, max(len(rows) - 1, 0))
        found = (inside == neighbour) & (group[inside] == group[val])
        bits = np.bitwise_count(hashes[rows[inside]] ^ hashes[rows[val]])
        pairs.append(np.stack((rows[inside], rows[val]), 1))
        distances.append(np.where(found, bits, 255))
    nearest = np.where((distances[0] <= distances[1])[:, None], *pairs)
    nearest = nearest[np.minimum(*distances) < 255]
    nearest = nearest[np.argsort(nearest[:, 1])]
    num_val = int(np.count_nonzero(splits == SPLITS.index("val")))
    return Leakage(pairs=nearest, share=len(nearest) / max(num_val, 1))


def _first_copy(index: Index) -> np.ndarray:
    """(n,) the first row that has the same encoded bytes."""
    keys = np.ascontiguousarray(index.images["sha256"]).view("<u8")  # (n, 4)
    order = np.lexsort(keys.T)  # stable: the first of equal ones is the first row
    is_new = np.ones(len(order), bool)
    is_new[1:] = (keys[order[1:]] != keys[order[:-1]]).any(1)
    copy = np.empty(len(order), np.int64)
    copy[order] = order[np.maximum.accumulate(np.where(is_new, np.arange(len(order)), 0))]
    return copy


def _groups(label: np.ndarray) -> list[np.ndarray]:
    """Rows with equal labels; the label of a group is its first row."""
    order = np.argsort(label, kind="stable")
    bounds = np.flatnonzero(np.diff(label[order], prepend=-1, append=-1))
    is_group = np.diff(bounds) > 1
    starts, ends = bounds[:-1][is_group], bounds[1:][is_group]
    return [order[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]


def _look_alikes(hashes: np.ndarray, max_distance: int) -> np.ndarray:
    """(m,) for each of m different hashes the number of the first one it is connected with."""
    label = np.arange(len(hashes))
    width = 64 // (max_distance + 1)
    for band_number in range(max_distance + 1):
        shift = np.uint64(band_number * width)
        rotated = (hashes << shift) | (hashes >> (np.uint64(64) - shift))  # by 64 gives 0
        order = np.argsort(rotated)
        rotated = rotated[order]
        band = rotated >> np.uint64(64 - width)
        left, distance, comparisons = np.arange(len(hashes)), 0, 0
        while comparisons < _COMPARISONS:
            distance += 1
            left = left[left + distance < len(hashes)]
            left = left[band[left] == band[left + distance]]
            if not len(left):
                break
            comparisons += len(left)
            differing = np.bitwise_count(rotated[left] ^ rotated[left + distance])
            close = left[differing <= max_distance]
            label = _joined(label, order[close], order[close + distance])
    return label


def _joined(label: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Labels after connecting elements a with elements b; a label is its group's first element."""
    while True:
        a, b = label[a], label[b]
        is_apart = a != b
        if not is_apart.any():
            return label
        a, b = a[is_apart], b[is_apart]
        np.minimum.at(label, np.maximum(a, b), np.minimum(a, b))
        while (label[label] != label).any():  # until labels point at first elements again
            label = label[label]
