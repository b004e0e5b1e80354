"""What is in a data set, counted for its report: splits, classes, sizes, faults, odd boxes.

All results are plain values that JSON holds; long lists are cut and say how much is missing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from yolov5_core.duplicates import Leakage
from yolov5_core.faults import KINDS, Fault
from yolov5_core.histograms import EDGES, Binned
from yolov5_core.index import SPLITS, Index

EXAMPLES = 5  # pictures named as examples
_MAX_FAULTS = 10_000  # listed: about 3 MB
_MAX_GROUPS = 1000  # listed groups, or pairs, of pictures
_MAX_IN_GROUP = 20
_MAX_SIZES = 10
_TINY_SIDE = 3  # pixels
_COVERING = 0.9  # of the picture's area
_MANY_BOXES = 300  # as many predictions are kept of one picture, spec E.2
_EFFECTS = ("picture left out", "box left out", "used")  # gravest first


def _encodable(text: str) -> str:
    """A file name of any bytes as text that UTF-8 can hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def printable(text: str, longest: int) -> str:
    """Text on one line, cut in the middle, what cannot be seen as escapes: names can be hostile."""
    seen = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: 2 * longest])
    if len(text) <= 2 * longest and len(seen) <= longest:
        return seen
    end = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[-longest:])
    return f"{seen[: longest // 2]}...{end[-(longest // 2 - 3) :]}"


def split_masks(index: Index) -> dict[str, np.ndarray]:
    """(n,) bool for each split."""
    return {split: index.images["split"] == i for i, split in enumerate(SPLITS)}


def count_splits(index: Index, bins: Mapping[str, Binned]) -> dict[str, dict[str, int]]:
    """Pictures, background pictures, boxes and crowd regions of each split."""
    return {
        split: {
            "pictures": int(np.count_nonzero(chosen)),
            "background": int(bins["boxes_per_picture"].counts(chosen)[0]),
            "boxes": int(bins["class"].counts(chosen).sum()),
            "crowd": int(bins["crowd"].counts(chosen)[0]),
        }
        for split, chosen in split_masks(index).items()
    }


def count_classes(
    index: Index, bins: Mapping[str, Binned], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """For each class its name, and for each split its boxes and the pictures that have it."""
    picture, number, num_classes = bins["class"]
    keys = np.sort(picture * max(num_classes, 1) + number)
    once = keys[np.diff(keys, prepend=-1) > 0]
    pictures = Binned(*np.divmod(once, max(num_classes, 1)), num_classes)
    counts = {
        split: (bins["class"].counts(chosen).tolist(), pictures.counts(chosen).tolist())
        for split, chosen in split_masks(index).items()
    }
    return [
        {"name": name, **{s: {"boxes": b[i], "pictures": p[i]} for s, (b, p) in counts.items()}}
        for i, name in enumerate(class_names)
    ]


def count_histograms(
    index: Index, bins: Mapping[str, Binned], previous: Mapping[str, Any] | None
) -> dict[str, dict[str, list[float] | None]]:
    """Every histogram: edges, counts of each split, and those of the previous set or None."""
    return {
        name: {
            "edges": edges.tolist(),
            **{s: bins[name].counts(chosen).tolist() for s, chosen in split_masks(index).items()},
            "previous": list(previous["histograms"][name]) if previous else None,
        }
        for name, edges in EDGES.items()
    }


def count_sizes(index: Index) -> dict[str, Any]:
    """The most frequent picture sizes."""
    both = index.images["width"].astype(np.int64) << 32 | index.images["height"]
    sizes, counts = np.unique(both, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_MAX_SIZES]
    listed = [
        {"width": size >> 32, "height": size & 0xFFFFFFFF, "pictures": count}
        for size, count in zip(sizes[order].tolist(), counts[order].tolist(), strict=True)
    ]
    return {"different": len(sizes), "listed": listed}


def count_faults(faults: Sequence[Fault]) -> dict[str, Any]:
    """Faults by kind, gravest and most frequent first, and a list of them in the same order."""
    numbers = Counter(fault.kind for fault in faults)
    kinds = sorted(numbers, key=lambda k: (_EFFECTS.index(KINDS[k].effect), -numbers[k], k))
    rank = {kind: i for i, kind in enumerate(kinds)}
    by_rank = sorted(faults, key=lambda fault: (rank[fault.kind], fault.image, fault.where))
    return {
        "total": len(faults),
        "left_out": len({f.image or f.where for f in faults if f.effect == "picture left out"}),
        "by_kind": [{"kind": k, "count": numbers[k], **KINDS[k]._asdict()} for k in kinds],
        "listed": [
            {"kind": f.kind, **{k: _encodable(getattr(f, k)) for k in ("image", "where", "reason")}}
            for f in by_rank[:_MAX_FAULTS]
        ],
        "more": max(0, len(faults) - _MAX_FAULTS),
    }


def name_groups(index: Index, groups: Sequence[np.ndarray]) -> dict[str, Any]:
    """Groups of similar pictures by name, the largest first."""
    listed = sorted(groups, key=len, reverse=True)[:_MAX_GROUPS]
    return {
        "groups": len(groups),
        "pictures": sum(map(len, groups)),
        "listed": [
            {
                "names": [index.name(row) for row in group[:_MAX_IN_GROUP].tolist()],
                "more": max(0, len(group) - _MAX_IN_GROUP),
            }
            for group in listed
        ],
        "more": len(groups) - len(listed),
    }


def name_leaks(index: Index, leaks: Leakage) -> dict[str, Any]:
    """Validation pictures that training has seen, with their twins, by name."""
    return {
        "pictures": len(leaks.pairs),
        "share": float(leaks.share),
        "listed": [
            {"train": index.name(train), "val": index.name(val)}
            for train, val in leaks.pairs[:_MAX_GROUPS].tolist()
        ],
        "more": max(0, len(leaks.pairs) - _MAX_GROUPS),
    }


def remarks(
    index: Index, bins: Mapping[str, Binned], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """What is odd but no fault: classes nobody can learn or measure, and odd boxes."""
    masks = split_masks(index)
    found = []
    for split, chosen, why in (
        ("train", masks["train"], "cannot be learned"),
        ("val", masks["val"], "is not measured"),
    ):
        missing = np.flatnonzero(bins["class"].counts(chosen)[: len(class_names)] == 0).tolist()
        names = [class_names[i] for i in missing]
        found.append((f"classes without a box in {split}", why, len(missing), names[:EXAMPLES]))
    labels = index.labels[~index.labels["crowd"]]["box"]
    picture, images = bins["class"].picture, index.images
    width, height = (
        labels[:, 3] * images["width"][picture],
        labels[:, 4] * images["height"][picture],
    )
    for what, why, is_odd in (
        (
            f"boxes with a side under {_TINY_SIDE} pixels",
            "too small to be seen",
            np.minimum(width, height) < _TINY_SIDE,
        ),
        (
            f"boxes over {_COVERING:.0%} of their picture",
            "often a default nobody drew",
            labels[:, 3] * labels[:, 4] > _COVERING,
        ),
    ):
        rows = picture[is_odd]
        found.append((what, why, len(rows), _names(index, np.unique(rows))))
    crowded = np.flatnonzero(np.bincount(picture, minlength=len(index)) > _MANY_BOXES)
    what = f"pictures with more than {_MANY_BOXES} boxes"
    found.append((what, "not all can be found", len(crowded), _names(index, crowded)))
    keys = ("what", "why", "count", "examples")
    return [dict(zip(keys, remark, strict=True)) for remark in found if remark[2]]


def _names(index: Index, rows: np.ndarray) -> list[str]:
    return [index.name(row) for row in rows[:EXAMPLES].tolist()]
