"""How far a data set has moved from another: class mix, box sizes, brightness, image sizes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from yolov5_core.histograms import EDGES, Binned

# Compared histograms: what they are called, and what lies below an edge of them.
_COMPARED: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "box_size": ("box size", lambda edge: f"boxes smaller than {percent(edge)} of the side"),
    "brightness": ("brightness", lambda edge: f"pictures darker than {edge:.0f} of 255"),
    "image_size": ("image size", lambda edge: f"pictures smaller than {edge:.0f} pixels"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Aspect:
    """One aspect of drift."""

    name: str
    histogram: str  # its name in histograms.binned
    value: float  # distance in [0, 1]
    old_count: int  # boxes or pictures compared
    new_count: int
    change: str  # in words, where the difference is largest
    gained: tuple[int, int]  # first bin of those that gained there, and the one behind the last


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassChange:
    """What became of one class."""

    name: str
    old_share: float  # of all boxes
    new_share: float

    @property
    def change(self) -> str:
        """In words."""
        return (
            f"boxes of {self.name}: {percent(self.old_share)} before, {percent(self.new_share)} now"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """How far a data set has moved."""

    aspects: tuple[Aspect, ...]
    classes: tuple[ClassChange, ...]  # of either set, the largest change first

    @property
    def worst(self) -> Aspect:
        """The aspect that moved most."""
        return max(self.aspects, key=lambda aspect: aspect.value)

    @property
    def largest(self) -> tuple[str, float]:
        """Name and distance of the aspect that moved most."""
        return self.worst.name, self.worst.value


def profile(
    bins: Mapping[str, Binned], chosen: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """Counts that describe a set of pictures, JSON-able and small: what nights are compared by.

    Args:
        bins: Of histograms.binned.
        chosen: (n,) bool, the pictures, by row of the index.
        class_names: By class number.
    """
    return {
        "pictures": int(np.count_nonzero(chosen)),
        "class_names": list(class_names),
        "class_counts": bins["class"].counts(chosen).tolist(),
        "histograms": {name: bins[name].counts(chosen).tolist() for name in EDGES},
    }


def drift(old: Mapping[str, Any], new: Mapping[str, Any]) -> Drift:
    """Compares two profiles.

    The distance of the class mix is the total variation: half the sum of all changes of shares. A
    class is known by its name, so that a new order changes nothing, and a class of one set alone
    has no share in the other. The distance of the others is the Kolmogorov-Smirnov statistic of
    their histograms: the largest difference of cumulative shares. Any distance is 1 if only one of
    the sets has something to compare.

    Small samples are noisy: two random halves of one set, n values each, differ by about
    1.2 / sqrt(n) in a histogram. Nothing is subtracted for it; the counts are there to judge by.
    """
    old_boxes, new_boxes = sum(old["class_counts"]), sum(new["class_counts"])
    changes = _class_changes(old, new)
    moved = sum(abs(c.new_share - c.old_share) for c in changes) / 2
    mix = Aspect(
        name="class mix",
        histogram="class",
        value=min(moved, 1.0) if old_boxes and new_boxes else float(old_boxes != new_boxes),
        old_count=old_boxes,
        new_count=new_boxes,
        change=_said(changes[0].change if changes else "", moved, old_boxes, new_boxes),
        gained=_gained_class(changes, new["class_names"]),
    )
    others = (_compared(h, old["histograms"][h], new["histograms"][h]) for h in _COMPARED)
    return Drift(aspects=(mix, *others), classes=tuple(changes))


def percent(share: float) -> str:
    """A share in words; only nothing is "0%" and only all is "100%"."""
    if 0 < share < 0.0001:
        return "<0.01%"
    if 0.9999 < share < 1:
        return ">99.99%"
    is_near_end = 0 < share < 0.001 or 0.999 < share < 1
    return f"{share:.2%}" if is_near_end else f"{share:.1%}".replace(".0%", "%")


def _compared(histogram: str, old: Sequence[int], new: Sequence[int]) -> Aspect:
    name, below = _COMPARED[histogram]
    counts = np.array([old, new], np.float64)
    totals = counts.sum(1, keepdims=True)
    cumulative = np.cumsum(counts, 1) / np.maximum(totals, 1)
    difference = cumulative[1, :-1] - cumulative[0, :-1]
    worst = int(np.abs(difference).argmax())
    before, now = (percent(share) for share in cumulative[:, worst].tolist())
    in_words = f"{below(float(EDGES[histogram][worst + 1]))}: {before} before, {now} now"
    value = float(abs(difference[worst]))
    old_count, new_count = int(totals[0, 0]), int(totals[1, 0])
    return Aspect(
        name=name,
        histogram=histogram,
        value=value if old_count and new_count else float(old_count != new_count),
        old_count=old_count,
        new_count=new_count,
        change=_said(in_words, value, old_count, new_count),
        gained=(0, worst + 1) if difference[worst] > 0 else (worst + 1, counts.shape[1]),
    )


def _said(change: str, value: float, old_count: int, new_count: int) -> str:
    """What to say of a change, if there is one."""
    if not (old_count and new_count):
        return "nothing to compare" + (" before" if new_count else " now" if old_count else "")
    return change if value > 0 else "no change"


def _class_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[ClassChange]:
    """Changes of all classes, largest first."""
    before, now = _shares(old), _shares(new)
    changes = [
        ClassChange(name=name, old_share=before.get(name, 0.0), new_share=now.get(name, 0.0))
        for name in {**before, **now}
    ]
    return sorted(changes, key=lambda c: (-abs(c.new_share - c.old_share), c.name))


def _gained_class(changes: Sequence[ClassChange], names: Sequence[str]) -> tuple[int, int]:
    """Number of the class that gained most and the number behind it; twice 0 without such."""
    most = max(changes, key=lambda c: c.new_share - c.old_share, default=None)
    if most is None or most.new_share <= most.old_share:
        return 0, 0
    number = list(names).index(most.name)
    return number, number + 1


def _shares(counted: Mapping[str, Any]) -> dict[str, float]:
    """Share of the boxes by class name."""
    total = max(sum(counted["class_counts"]), 1)
    shares: dict[str, float] = {}
    for name, count in zip(counted["class_names"], counted["class_counts"], strict=True):
        shares[name] = shares.get(name, 0.0) + count / total  # two classes may have one name
    return shares
