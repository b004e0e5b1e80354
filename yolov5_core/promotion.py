"""Whether a new model takes the place of the champion: the rule, and its verdict with all numbers.

It does if both hold:

- its fitness is higher by `min_gain` or more, and by more than chance: 95 of 100 draws of the
  pictures leave it ahead;
- no class has lost more than `max_class_loss` of its AP, unless that may be chance: 95 of 100 draws
  leave the class behind.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from yolov5_core.bootstrap import Comparison, fitness

CONFIDENCE = 0.95  # one-sided


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What became of a challenger."""

    promoted: bool
    reason: str  # one sentence
    numbers: Mapping[str, Any]  # JSON types; {} where nothing was compared


def judge(
    comparison: Comparison, names: Sequence[str], min_gain: float, max_class_loss: float
) -> Verdict:
    """Applies the rule.

    Args:
        comparison: Challenger against champion.
        names: Of the classes.
        min_gain: Of fitness, 0 or more.
        max_class_loss: Of a class's AP, 0 or more.
    """
    rows = _class_rows(comparison, names, max_class_loss)
    low, high = comparison.interval(2 * CONFIDENCE - 1)
    numbers = {
        "champion": round(float(fitness(comparison.champion)), 6),
        "challenger": round(float(fitness(comparison.challenger)), 6),
        "gain": round(comparison.gain, 6),
        "low": round(low, 6),
        "high": round(high, 6),
        "chance_of_better": round(comparison.chance_of_better, 4),
        "min_gain": min_gain,
        "max_class_loss": max_class_loss,
        "images": comparison.images,
        "draws": len(comparison.gains),
        "classes": rows,
    }
    found = f"fitness {comparison.gain:+.4f} (90 of 100 draws between {low:+.4f} and {high:+.4f})"
    lost = [row for row in rows if row["lost"]]
    if comparison.gain < min_gain:
        reason = f"{found} is less than the gain wanted, {min_gain:g}"
    elif low <= 0:
        share = 100 * comparison.chance_of_better
        reason = f"{found} may be chance: it is ahead in {share:.0f} of 100 draws, 95 are needed"
    elif lost:
        worst = min(lost, key=lambda row: row["gain"])
        others = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        reason = (
            f"class {worst['class']}{others} lost {-worst['gain']:.3f} of mAP50-95, at most "
            f"{max_class_loss:g} is allowed; {found}"
        )
    else:
        return Verdict(promoted=True, reason=f"{found} is better", numbers=numbers)
    return Verdict(promoted=False, reason=reason, numbers=numbers)


def _class_rows(
    comparison: Comparison, names: Sequence[str], max_class_loss: float
) -> list[dict[str, Any]]:
    before, after = comparison.champion.mean(1), comparison.challenger.mean(1)
    rows = []
    for row, cls in enumerate(comparison.classes):
        gains = comparison.class_gains[:, row]
        gains = gains[np.isfinite(gains)]  # every label is in some draw
        low, high = np.quantile(gains, [1 - CONFIDENCE, CONFIDENCE])
        gain = float(after[row] - before[row])
        rows.append(
            {
                "class": names[cls],
                "labels": int(comparison.labels_per_class[row]),
                "champion": round(float(before[row]), 6),
                "challenger": round(float(after[row]), 6),
                "gain": round(gain, 6),
                "low": round(float(low), 6),
                "high": round(float(high), 6),
                "lost": bool(gain < -max_class_loss and high < 0 and not math.isnan(gain)),
            }
        )
    return rows
