"""Whether an exported model says what the original says: largest differences, and the gate.

numpy only. Axes: B pictures, N predictions of a picture, C classes, n detections.

The original is computed in float64, so what is told is the exported model's error alone. Boxes must
agree to 0.001 pixels. Where a network's boxes are large, float32 itself is less exact than that:
the original in float32 is then as far from itself in float64. There the limit is four times the
original's own error.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

MAX_BOXES = 1e-3  # pixels
MAX_SCORES = 1e-4  # objectness and probabilities, or scores behind suppression
DETECTED = 0.25  # a prediction that scores more is shown by default
_OWN_ERRORS = 4  # programs that add up in another order had up to 2; as much for chance


class ParityError(ValueError):
    """An exported model that differs from its original; it must not be published."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One file in one program, against the original: largest absolute differences."""

    file: str
    program: str  # with its version
    batch: int  # pictures run at once
    pictures: int
    boxes: float  # pixels, of every prediction
    detected: float  # pixels, of those that score above DETECTED
    detections: int  # how many these are
    scores: float  # of objectness and probabilities, or of scores
    limit: float = MAX_BOXES  # pixels, for boxes
    remark: str = ""  # what else is wrong

    @property
    def passed(self) -> bool:
        """Whether the differences are within the limits; NaN is not."""
        return not self.remark and self.boxes < self.limit and self.scores < MAX_SCORES


def boxes_limit(own_error: float) -> float:
    """How far boxes may be apart, pixels, by the original's own error in float32."""
    return max(MAX_BOXES, _OWN_ERRORS * own_error)


class Tally:
    """The largest differences so far of one file in one program."""

    def __init__(self, file: str, program: str, batch: int) -> None:
        self._file, self._program, self._batch = file, program, batch
        self._boxes = self._detected = self._scores = 0.0
        self._pictures = self._numbers = self._detections = 0
        self._remark = ""

    def add(self, original: np.ndarray, exported: np.ndarray) -> None:
        """Compares predictions.

        Args:
            original: (B, N, 5 + C) cx, cy, w, h in pixels, objectness, probabilities.
            exported: The same, of the exported model.
        """
        self._pictures += len(original)
        if original.shape != exported.shape:
            self._remark = f"an output of {exported.shape} instead of {original.shape}"
            return
        best = original[..., 4] * original[..., 5:].max(-1)
        self._widen(original[..., :4], exported[..., :4], best)
        self._scores = _larger(self._scores, original[..., 4:], exported[..., 4:])

    def add_detections(self, original: Sequence[np.ndarray], exported: np.ndarray) -> None:
        """Compares what is left behind suppression; other boxes kept is more than a difference.

        Args:
            original: B arrays (n, 6) xyxy, score, class.
            exported: (n, 7) picture of the batch, xyxy, score, class, of all B pictures.
        """
        for index, expected in enumerate(original):
            self._pictures += 1
            found = exported[exported[:, 0] == index, 1:]
            if sorted(found[:, 5]) == sorted(expected[:, 5]):
                same = found[_partners(expected, found)]
                self._widen(expected[:, :4], same[:, :4], expected[:, 4])
                self._scores = _larger(self._scores, expected[:, 4], same[:, 4])
            else:
                self._remark = (
                    f"picture {self._pictures} has {len(found)} detections instead of "
                    f"{len(expected)}, or other classes"
                )

    def check(self, own_error: float = 0.0) -> Check:
        """What was found.

        Args:
            own_error: Of the original's boxes in float32, pixels.
        """
        return Check(
            file=self._file,
            program=self._program,
            batch=self._batch,
            pictures=self._pictures,
            boxes=self._boxes,
            detected=self._detected,
            detections=self._detections,
            scores=self._scores,
            limit=boxes_limit(own_error),
            remark=self._remark or ("" if self._numbers else "nothing was detected or compared"),
        )

    def _widen(self, ours: np.ndarray, theirs: np.ndarray, scores: np.ndarray) -> None:
        """By boxes (..., 4) and what they score (...)."""
        self._numbers += scores.size
        self._boxes = _larger(self._boxes, ours, theirs)
        shown = scores > DETECTED
        self._detections += int(shown.sum())
        self._detected = _larger(self._detected, ours[shown], theirs[shown])


def _partners(ours: np.ndarray, theirs: np.ndarray) -> list[int]:
    """For each of our detections that of theirs which is nearest, each one once, classes equal.

    Not by rank: scores that are all but equal change places.
    """
    free = np.ones(len(theirs), bool)
    partners = []
    for row in ours:
        far = np.abs(theirs[:, :4] - row[:4]).max(1)
        partners.append(int(np.where(free & (theirs[:, 5] == row[5]), far, np.inf).argmin()))
        free[partners[-1]] = False
    return partners


def _larger(so_far: float, ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest absolute difference up to now; a NaN stays."""
    apart = np.abs(ours.astype(np.float64) - theirs).max(initial=0)
    return float(np.maximum(so_far, apart))


def require(checks: Sequence[Check]) -> None:
    """The gate: every check must have passed.

    Raises:
        ParityError: One has not; says which and by how much.
    """
    failed = [check for check in checks if not check.passed]
    if failed:
        told = "; ".join(
            f"{c.file} in {c.program}: "
            + (
                c.remark
                or f"boxes {c.boxes:.2g} px, scores {c.scores:.2g} apart, allowed are "
                f"{c.limit:.2g} px and {MAX_SCORES:g}"
            )
            for c in failed
        )
        raise ParityError(
            f"the exported model does not say what the original says ({told}). Nothing was "
            "published; serve the .pt file until this is found out: the report beside the "
            "exported file has every figure"
        )


def report(facts: dict[str, Any], checks: Sequence[Check]) -> dict[str, Any]:
    """All of it as JSON types; a difference that is no number becomes null."""

    def plain(check: Check) -> dict[str, Any]:
        numbers = {key: getattr(check, key) for key in ("boxes", "detected", "scores", "limit")}
        finite = {key: v if np.isfinite(v) else None for key, v in numbers.items()}
        return asdict(check) | finite | {"passed": check.passed}

    return {
        **facts,
        "passed": all(check.passed for check in checks),
        "checks": [plain(check) for check in checks],
    }


def markdown(said: dict[str, Any]) -> str:
    """A report for people."""

    def cell(value: float | None) -> str:
        return "no number" if value is None else f"{value:.2g}"

    def verdict(check: dict[str, Any]) -> str:
        return "yes" if check["passed"] else f"NO {check['remark']}".rstrip()

    rows = [
        f"| {c['file']} | {c['program']} | {c['pictures']} in batches of {c['batch']} "
        f"| {cell(c['detected'])} | {cell(c['boxes'])} | {cell(c['limit'])} | {cell(c['scores'])} "
        f"| {verdict(c)} |"
        for c in said["checks"]
    ]
    height, width = said["image_size"]
    return "\n".join(
        [
            f"# Export of {said['source']}\n",
            f"Weights sha256 `{said['source_sha256']}`, pictures of {width} x {height} pixels. "
            "Largest absolute differences from the original in float64; `detected` are boxes that "
            f"score above {DETECTED:g}. Scores may differ by {MAX_SCORES:g}, boxes by "
            f"{MAX_BOXES:g} pixels, or by {_OWN_ERRORS} times what the original differs in float32."
            "\n",
            "| file | program | pictures | detected (px) | all boxes (px) | allowed (px) | scores "
            "| within the limits |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
