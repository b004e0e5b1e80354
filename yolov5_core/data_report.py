"""The report about a prepared data set, and the numbers in it that can stop a night.

A report is a tree of plain values: what JSON holds, what report_html.py shows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from yolov5_core.data_counts import (
    EXAMPLES,
    count_classes,
    count_faults,
    count_histograms,
    count_sizes,
    count_splits,
    name_groups,
    name_leaks,
    printable,
    remarks,
)
from yolov5_core.drift import Drift, drift, profile
from yolov5_core.duplicates import Leakage, exact_groups, leakage, near_groups
from yolov5_core.faults import Fault
from yolov5_core.histograms import Binned, binned
from yolov5_core.index import Index

GateName = Literal["max_rejected", "max_leakage", "max_drift"]
Verdict = Literal["pass", "warn", "stop"]
_LONGEST = 300  # characters about one offender in a message
_GRAVITY = ("pass", "warn", "stop")
_MEANING: dict[GateName, str] = {
    "max_rejected": "share of the pictures looked at that is left out",
    "max_leakage": "share of the validation pictures that training has too, byte for byte",
    "max_drift": "largest distance from the previous accepted set",
}
_FIX: dict[GateName, str] = {
    "max_rejected": "correct or remove them, see Faults for each and what to do",
    "max_leakage": "remove one of each pair, see Copies and look-alikes",
    "max_drift": "look at the new pictures; if the data is meant to change, accept it once with a "
    "higher max_drift",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """A number that can stop a night."""

    name: GateName
    value: float  # in [0, 1]
    threshold: float  # 1 never stops
    offenders: tuple[str, ...]  # the worst, in words

    @property
    def exceeded(self) -> bool:
        """Whether it stops the night."""
        return self.value > self.threshold

    @property
    def verdict(self) -> Verdict:
        """Drift is never 0, so it warns above half its threshold; the others above 0."""
        if self.exceeded:
            return "stop"
        quiet = self.threshold / 2 if self.name == "max_drift" else 0.0
        return "warn" if self.value > quiet else "pass"


def data_report(  # noqa: PLR0913  facts of different origin, by keyword only
    *,
    index: Index,
    class_names: Sequence[str],
    faults: Sequence[Fault],
    checked: int,
    previous: Mapping[str, Any] | None,
    new_rows: np.ndarray,
    removed: int,
    thresholds: Mapping[str, float],
    source: str,
    understood: Sequence[str],
) -> dict[str, Any]:
    """Everything there is to say about a prepared set; plain finite values only.

    Args:
        index: The usable pictures.
        class_names: By class number.
        faults: All that were found.
        checked: Pictures looked at, those left out included.
        previous: The "profile" in the report of the previous accepted set; None without one.
        new_rows: (k,) rows of pictures that are new or changed since the previous preparation.
        removed: Pictures of the previous preparation that are gone.
        thresholds: By the names of the gates.
        source: Where the data is.
        understood: Lines about how it was read.
    """
    bins = binned(index, len(class_names))
    everything, is_new = np.ones(len(index), bool), np.zeros(len(index), bool)
    is_new[new_rows] = True
    now = profile(bins, everything, class_names)
    exact, near = exact_groups(index), near_groups(index)
    copied, similar = leakage(index, exact), leakage(index, near)
    similar = similar.without(copied.rows)
    counted = count_faults(faults)
    moved = drift(previous, now) if previous else None
    report: dict[str, Any] = {
        "source": source,
        "understood": list(understood),
        "pictures": {
            "checked": checked,
            "left_out": counted["left_out"],
            "used": len(index),
            "new": int(is_new.sum()),
            "removed": removed,
        },
        "splits": count_splits(index, bins),
        "classes": count_classes(index, bins, class_names),
        "histograms": count_histograms(index, bins, previous),
        "sizes": count_sizes(index),
        "faults": counted,
        "copies": name_groups(index, exact),
        "look_alikes": name_groups(index, near),
        "leaked_copies": name_leaks(index, copied),
        "leaked_look_alikes": name_leaks(index, similar),
        "drift": None,
        "remarks": remarks(index, bins, class_names),
        "profile": now,
    }
    if previous and moved:
        of_new = drift(previous, profile(bins, is_new, class_names)) if is_new.any() else None
        report["drift"] = _drift_values(previous, moved, of_new)
    gates = (
        _rejection_gate(counted, checked, thresholds["max_rejected"]),
        _leakage_gate(copied, report["leaked_copies"], thresholds["max_leakage"]),
        Gate(
            name="max_drift",
            value=moved.worst.value if moved else 0.0,
            threshold=thresholds["max_drift"],
            offenders=_drift_offenders(index, bins, moved, is_new) if moved else (),
        ),
    )
    report["gates"] = [_gate_values(gate) for gate in gates]
    report["verdict"], report["message"] = verdict(report)
    return report


def verdict(report: Mapping[str, Any]) -> tuple[Verdict, str]:
    """The gravest verdict of the gates, and a message with a line for each gate that spoke."""
    gates = report["gates"]
    gravest: Verdict = max((gate["verdict"] for gate in gates), key=_GRAVITY.index)
    if gravest == "pass":
        values = ", ".join(f"{gate['name']} {gate['value']:.4g}" for gate in gates)
        return gravest, f"The data passes all gates: {values}."
    lines = []
    for gate in sorted(gates, key=lambda gate: -_GRAVITY.index(gate["verdict"])):
        if gate["verdict"] == "pass":
            continue
        relation = ">" if gate["verdict"] == "stop" else "of at most"
        lines.append(
            f"{gate['verdict']}: {gate['name']} {gate['value']:.6g} {relation} "
            f"{gate['threshold']:.6g}, the {gate['meaning']}. Worst: "
            f"{'; '.join(gate['offenders'])}. What to do: {gate['fix']}."
        )
    return gravest, "\n".join(lines)


def _gate_values(gate: Gate) -> dict[str, Any]:
    fix = _FIX[gate.name]
    return {
        "name": gate.name,
        "value": gate.value,
        "threshold": gate.threshold,
        "verdict": gate.verdict,
        "meaning": _MEANING[gate.name],
        "offenders": [printable(offender, _LONGEST) for offender in gate.offenders],
        "fix": fix if gate.name == "max_drift" else f"{fix}; or raise {gate.name}",
    }


def _rejection_gate(counted: Mapping[str, Any], checked: int, threshold: float) -> Gate:
    first: dict[str, Mapping[str, str]] = {}
    for fault in counted["listed"]:
        first.setdefault(fault["kind"], fault)
    offenders = []
    for kind in counted["by_kind"]:
        if kind["effect"] == "picture left out" and kind["kind"] in first:
            fault = first[kind["kind"]]
            where = fault["where"] or fault["image"]
            offenders.append(f"{kind['kind']} ({kind['count']}), {where}: {fault['reason']}")
    value = counted["left_out"] / max(checked, counted["left_out"], 1)
    return Gate(
        name="max_rejected",
        value=value,
        threshold=threshold,
        offenders=tuple(offenders[:EXAMPLES]),
    )


def _leakage_gate(copied: Leakage, named: Mapping[str, Any], threshold: float) -> Gate:
    offenders = [f"{pair['val']} is {pair['train']}" for pair in named["listed"][:EXAMPLES]]
    return Gate(
        name="max_leakage",
        value=float(copied.share),
        threshold=threshold,
        offenders=tuple(offenders),
    )


def _drift_offenders(
    index: Index, bins: Mapping[str, Binned], moved: Drift, is_new: np.ndarray
) -> tuple[str, ...]:
    """What moved most, and the new pictures that lie furthest on the side that gained."""
    worst = moved.worst
    changes = [worst.change]
    if worst.histogram == "class":
        changes = [c.change for c in moved.classes[:EXAMPLES] if c.old_share != c.new_share]
    picture, number, _ = bins[worst.histogram]
    first, behind = worst.gained
    depth = np.where(first == 0, behind - number, number - first + 1)
    is_inside = (number >= first) & (number < behind) & is_new[picture]
    weight = np.bincount(picture[is_inside], depth[is_inside], minlength=len(index))
    order = np.argsort(-weight, kind="stable")[:EXAMPLES]
    named = [f"new picture {index.name(row)}" for row in order[weight[order] > 0].tolist()]
    return (f"{worst.name}: {'; '.join(changes)}", *named)


def _drift_values(
    previous: Mapping[str, Any], moved: Drift, of_new: Drift | None
) -> dict[str, Any]:
    new_values = [a.value for a in of_new.aspects] if of_new else [None] * len(moved.aspects)
    return {
        "pictures_before": previous["pictures"],
        "largest": list(moved.largest),
        "aspects": [
            {
                "name": aspect.name,
                "value": aspect.value,
                "before": aspect.old_count,
                "now": aspect.new_count,
                "change": aspect.change,
                "of_new_pictures": new_value,
            }
            for aspect, new_value in zip(moved.aspects, new_values, strict=True)
        ],
        "classes": [
            {"name": c.name, "before": c.old_share, "now": c.new_share} for c in moved.classes
        ],
    }
