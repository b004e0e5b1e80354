"""How often the champion gate decides rightly, on simulated nights.

    python -m benchmarks.promotion --nights 300

Two detectors see the same 100 pictures with about 400 labels of three classes. The champion's boxes
fit with 0.7 in all classes; the challenger is equal, better, worse, or has one broken class.
"""

import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.measure import parser, report
from tests.simulated import simulated_pictures
from yolov5_core.bootstrap import compare
from yolov5_core.promotion import judge

_NAMES = ("disc", "square", "star")
_SCENARIOS: dict[str, dict[int, float]] = {
    "equal": {},
    "better: 0.72 in all classes": dict.fromkeys(range(3), 0.72),
    "better: 0.75 in all classes": dict.fromkeys(range(3), 0.75),
    "worse: 0.68 in all classes": dict.fromkeys(range(3), 0.68),
    "worse: 0.65 in all classes": dict.fromkeys(range(3), 0.65),
    "broken: 0.85, 0.85 and 0.6": {0: 0.85, 1: 0.85, 2: 0.6},
    "broken: 0.85, 0.85 and 0.5": {0: 0.85, 1: 0.85, 2: 0.5},
}


def promotions(quality: Mapping[int, float], nights: int, pictures: int) -> tuple[int, float]:
    """How often a challenger was promoted, and how much fitness it gained on average."""
    promoted, gained = 0, 0.0
    for night in range(nights):
        champion = simulated_pictures(night, pictures, {}, seed=1)
        challenger = simulated_pictures(night, pictures, quality, seed=2)
        found = compare(champion, challenger, seed=night, draws=400)
        gained += found.gain / nights
        promoted += judge(found, _NAMES, min_gain=0.0, max_class_loss=0.05).promoted
    return promoted, gained


def main() -> None:
    """Simulates, and writes how often each challenger was promoted."""
    arguments = parser(__doc__)
    arguments.add_argument("--nights", type=int, default=300, help="simulated, of each kind")
    arguments.add_argument("--pictures", type=int, default=100, help="of the validation set")
    given = arguments.parse_args()
    rows: list[tuple[str, str]] = []
    figures: dict[str, Any] = {"nights": given.nights, "pictures": given.pictures}
    for name, quality in _SCENARIOS.items():
        count, gained = promotions(quality, given.nights, given.pictures)
        share = count / given.nights
        figures[name] = {"promoted": count, "share": share, "mean_gain": gained}
        said = f"promoted in {count} of {given.nights} nights ({share:.1%})"
        rows.append((name, f"{said}, mean gain {gained:+.4f}"))
        sys.stderr.write(f"{name}: {said}\n")
    report(figures, rows, given.json)


if __name__ == "__main__":
    main()
