"""What an evaluation says, as JSON types: evaluation.json, and the tables people see."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from yolov5_core.coco_metrics import CocoMetrics, coco_metrics, from_ours_to_coco
from yolov5_core.evaluation import Evaluation
from yolov5_core.metrics import ConfusionMatrix
from yolov5_core.sizes import metrics_by_size
from yolov5_core.worst import CONFIDENCE, IOU, worst_images

_DECIMALS = 4

Row = dict[str, Any]


def evaluation_report(
    evaluation: Evaluation, names: Sequence[str], pictures: Sequence[str]
) -> dict[str, Any]:
    """Everything of an evaluation but its curves.

    Args:
        evaluation: Of the set.
        names: Class names.
        pictures: Name of each record.

    Returns:
        `metrics` in full precision, the rest rounded; None for what labels would be needed for.
    """
    m = evaluation.metrics
    coco = coco_metrics(evaluation.images, len(names))
    return {
        "metrics": {
            "precision": m.mean_precision,
            "recall": m.mean_recall,
            "map50": m.map50,
            "map50_95": m.map50_95,
        },
        "confidence": _rounded(m.best_confidence),  # of P and R
        "classes": _class_rows(evaluation, names, coco),
        "sizes": _size_rows(evaluation, coco),
        "coco": {name: _rounded(value) for name, value in coco.figures().items()},
        "from_ours_to_coco": [
            {"rule": s.rule, "mAP50": _rounded(s.map50), "mAP50-95": _rounded(s.map50_95)}
            for s in from_ours_to_coco(evaluation, coco)
        ],
        "confusion": {
            "confidence": ConfusionMatrix.confidence,
            "iou": ConfusionMatrix.iou,
            "predicted_by_true": evaluation.confusion.astype(int).tolist(),
            "names": [*names, "background"],
        },
        "worst": {
            "confidence": CONFIDENCE,
            "iou": IOU,
            "pictures": _worst_rows(evaluation, pictures),
        },
    }


def more_tables(report: Mapping[str, Any]) -> list[str]:
    """The lines that follow the table of the classes: by size, and from our rules to COCO's."""
    lines = [f"{'Size':>22}{'':>11}{'Instances':>11}{'':>11}" + _cells("R", "mAP50", "mAP50-95")]
    for row in report["sizes"]:
        figures = _cells(*(row[key] for key in ("R", "mAP50", "mAP50-95")))
        lines.append(f"{row['size']:>22}{'':>11}{row['labels']:>11}{'':>11}{figures}")
    lines.append(f"{'Rules':>44}{'':>22}" + _cells("mAP50", "mAP50-95"))
    steps = report["from_ours_to_coco"]
    lines += [f"{s['rule']:>44}{'':>22}" + _cells(s["mAP50"], s["mAP50-95"]) for s in steps]
    return lines


def _cells(*values: float | str | None) -> str:
    """Columns as in metrics.table_rows."""
    texts = ("-" if v is None else v if isinstance(v, str) else f"{v:.3g}" for v in values)
    return "".join(f"{text:>11}" for text in texts)


def _class_rows(evaluation: Evaluation, names: Sequence[str], coco: CocoMetrics) -> list[Row]:
    m, images = evaluation.metrics, len(evaluation.images)

    def row(name: str, labels: int, values: tuple[float, float, float, float], ap: float) -> Row:
        p, r, ap50, ap50_95 = (_rounded(value) for value in values)
        return {
            "class": name,
            "images": images,
            "labels": labels,
            "P": p,
            "R": r,
            "mAP50": ap50,
            "mAP50-95": ap50_95,
            "COCO AP": _rounded(ap),
        }

    means = (m.mean_precision, m.mean_recall, m.map50, m.map50_95)
    rows = [row("all", int(m.labels_per_class.sum()), means, coco.ap)]
    for i, cls in enumerate(m.classes.tolist()):
        values = (m.precision[i], m.recall[i], m.ap50[i], m.ap[i].mean())
        rows.append(row(names[cls], int(m.labels_per_class[i]), values, coco.per_class[cls]))
    return rows


def _size_rows(evaluation: Evaluation, coco: CocoMetrics) -> list[Row]:
    sizes = metrics_by_size(evaluation.images, evaluation.metrics.best_confidence)
    figures = coco.figures()
    return [
        {
            "size": s.size,
            "labels": s.labels,
            "R": _rounded(s.recall),
            "mAP50": _rounded(s.map50),
            "mAP50-95": _rounded(s.map50_95),
            "COCO AP": _rounded(figures[f"ap_{s.size}"]),
            "COCO AR": _rounded(figures[f"ar_{s.size}"]),
        }
        for s in sizes
    ]


def _worst_rows(evaluation: Evaluation, pictures: Sequence[str]) -> list[Row]:
    return [
        {
            "image": pictures[errors.index],
            "missed": len(errors.missed),
            "false": len(errors.false),
            "correct": len(errors.correct),
            "harm": _rounded(errors.harm),
        }
        for errors in worst_images(evaluation.images)
    ]


def _rounded(value: float | np.floating[Any]) -> float | None:
    return None if math.isnan(value) else round(float(value), _DECIMALS)
