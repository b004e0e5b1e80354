"""Whether an exported model says what the original says: largest differences, and the gate.

numpy only. Axes: B pictures, N predictions of a picture, C classes, n detections of all pictures.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

MAX_BOXES = 1e-3  # pixels
MAX_SCORES = 1e-4  # objectness and probabilities, or scores behind suppression


class ParityError(ValueError):
    """An exported model that differs from its original; it must not be published."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One file in one program, against the original."""

    file: str
    program: str  # with its version
    batch: int  # pictures run at once
    pictures: int
    boxes: float  # largest absolute difference of a box's numbers, pixels
    scores: float  # the same of objectness and probabilities, or of scores
    remark: str = ""  # what else is wrong

    @property
    def passed(self) -> bool:
        """Whether the differences are within the limits; NaN is not."""
        return not self.remark and self.boxes < MAX_BOXES and self.scores < MAX_SCORES


class Tally:
    """The largest differences so far of one file in one program."""

    def __init__(self, file: str, program: str, batch: int) -> None:
        self._file, self._program, self._batch = file, program, batch
        self._boxes = self._scores = 0.0
        self._pictures = 0
        self._numbers = 0
        self._remark = ""

    def add(self, original: np.ndarray, exported: np.ndarray) -> None:
        """Compares predictions.

        Args:
            original: (B, N, 5 + C) cx, cy, w, h in pixels, objectness, probabilities; N > 0.
            exported: The same, of the exported model.
        """
        self._pictures += len(original)
        if original.shape == exported.shape:
            self._widen(original[..., :4], exported[..., :4], original[..., 4:], exported[..., 4:])
        else:
            self._remark = f"an output of {exported.shape} instead of {original.shape}"

    def add_detections(self, original: Sequence[np.ndarray], exported: np.ndarray) -> None:
        """Compares what is left behind suppression; other boxes kept is more than a difference.

        Args:
            original: B arrays (n, 6) xyxy, score, class.
            exported: (n, 7) picture of the batch, xyxy, score, class, of all B pictures.
        """
        for index, expected in enumerate(original):
            self._pictures += 1
            found = exported[exported[:, 0] == index, 1:]
            ours, theirs = (d[np.lexsort((-d[:, 4], d[:, 5]))] for d in (expected, found))
            if np.array_equal(ours[:, 5], theirs[:, 5]):
                self._widen(ours[:, :4], theirs[:, :4], ours[:, 4], theirs[:, 4])
            else:
                self._remark = (
                    f"picture {self._pictures} has {len(theirs)} detections instead of "
                    f"{len(ours)}, or other classes"
                )

    def check(self) -> Check:
        """What was found."""
        return Check(
            file=self._file,
            program=self._program,
            batch=self._batch,
            pictures=self._pictures,
            boxes=self._boxes,
            scores=self._scores,
            remark=self._remark or ("" if self._numbers else "nothing was detected or compared"),
        )

    def _widen(
        self,
        boxes: np.ndarray,
        other_boxes: np.ndarray,
        scores: np.ndarray,
        other_scores: np.ndarray,
    ) -> None:
        self._numbers += scores.size
        self._boxes = _larger(self._boxes, boxes, other_boxes)
        self._scores = _larger(self._scores, scores, other_scores)


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
            + (c.remark or f"boxes {c.boxes:.2g} px, scores {c.scores:.2g} apart")
            for c in failed
        )
        raise ParityError(
            f"the exported model does not say what the original says ({told}; allowed: "
            f"{MAX_BOXES:g} px and {MAX_SCORES:g}). Nothing was published; serve the .pt file "
            "until this is found out: the report beside the exported file has every figure"
        )


def report(facts: dict[str, Any], checks: Sequence[Check]) -> dict[str, Any]:
    """All of it as JSON types; a difference that is no number becomes null."""

    def plain(check: Check) -> dict[str, Any]:
        numbers = {key: getattr(check, key) for key in ("boxes", "scores")}
        finite = {key: v if np.isfinite(v) else None for key, v in numbers.items()}
        return asdict(check) | finite | {"passed": check.passed}

    return {
        **facts,
        "limits": {"boxes": MAX_BOXES, "scores": MAX_SCORES},
        "passed": all(check.passed for check in checks),
        "checks": [plain(check) for check in checks],
    }


def markdown(said: dict[str, Any]) -> str:
    """A report for people."""

    def cell(value: float | None) -> str:
        return "no number" if value is None else f"{value:.2g}"

    rows = [
        f"| {c['file']} | {c['program']} | {c['pictures']} in batches of {c['batch']} "
        f"| {cell(c['boxes'])} | {cell(c['scores'])} "
        f"| {'yes' if c['passed'] else 'NO ' + c['remark']} |"
        for c in said["checks"]
    ]
    return "\n".join(
        [
            f"# Export of {said['source']}\n",
            f"Weights sha256 `{said['source_sha256']}`, pictures of {said['image_size'][1]} x "
            f"{said['image_size'][0]} pixels. Largest absolute differences from the original in "
            f"float32; allowed are {MAX_BOXES:g} pixels and {MAX_SCORES:g}.\n",
            "| file | program | pictures | boxes (px) | scores | within the limits |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
