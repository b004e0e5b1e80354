"""Metrics against pycocotools, suppression against OpenCV and a NumPy loop, the validation pass.

    python -m benchmarks.evaluation_speed [--pictures 5000] [--scale] [--json FILE]

All seconds are CPU seconds of this process, so that others on the machine disturb little. The
candidates take turns; pycocotools and OpenCV's full run, which take longest, run once. OpenCV's
batched suppression gets the same candidates ready-made in the types that it wants. It has no limit
on what it keeps, so it looks at all of them; "seen" gives it only those up to our last box. It
compares in float64 where ours compares in float32, and both keep an overlap of exactly the
threshold: boxes are equal unless an IoU lies within rounding of 0.6.
"""

import cProfile
import io
import pstats
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.evaluation_scenes import coco_like, early_outputs, trained_outputs
from benchmarks.measure import parser, peak_rss_mb, report
from yolov5_core.architecture import describe
from yolov5_core.config import Hyperparameters
from yolov5_core.evaluate import EVALUATION_NMS, evaluate
from yolov5_core.evaluation import ImageDetections, detection_metrics, stacked
from yolov5_core.loader import ValidationBatch
from yolov5_core.loss import DetectionLoss
from yolov5_core.metrics import ConfusionMatrix
from yolov5_core.nms import Suppression, best_first, non_max_suppression
from yolov5_core.samples import ValidationSample
from yolov5_core.start import new_detector

Rows = list[tuple[str, str]]
Figures = dict[str, Any]
_CLASSES = 80
_BATCH = 16


def in_turns(candidates: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """CPU seconds of each candidate, the median of the rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def metrics_speed(pictures: int) -> tuple[Figures, Rows]:
    """Ours against evaluate and accumulate of pycocotools; building its dicts is not counted."""
    images = coco_like(pictures, _CLASSES)
    confusion = ConfusionMatrix(_CLASSES)
    ours = in_turns(
        {
            "metrics": lambda: detection_metrics(images),
            "confusion": lambda: confusion.add_all(*stacked(images)),
        },
        rounds=3,
    )
    theirs = in_turns({"pycocotools": _pycocotools(images)}, rounds=1)
    ratio = theirs["pycocotools"] / ours["metrics"]
    detections = sum(len(image.detections) for image in images)
    labels = sum(len(image.labels) for image in images)
    figures = {"pictures": pictures, "detections": detections, "labels": labels, "ratio": ratio}
    title = f"metrics, {pictures} pictures, {detections} detections, {labels} labels"
    return {**figures, **ours, **theirs}, [
        (title, f"{ours['metrics']:.2f} s, confusion matrix {ours['confusion']:.2f} s"),
        ("  pycocotools, evaluate and accumulate", f"{theirs['pycocotools']:.1f} s"),
        ("  ratio", f"{ratio:.1f}"),
    ]


def _pycocotools(images: list[ImageDetections]) -> Callable[[], None]:
    from pycocotools.coco import COCO  # type: ignore[import-untyped]  # noqa: PLC0415
    from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]  # noqa: PLC0415

    truth, found = COCO(), COCO()
    for coco, column, rows_of in ((truth, 0, "labels"), (found, 5, "detections")):
        first = 1 if coco is truth else 0
        rows = [(i.index, row) for i in images for row in getattr(i, rows_of).tolist()]
        coco.dataset = {
            "images": [{"id": image.index} for image in images],
            "categories": [{"id": cls} for cls in range(_CLASSES)],
            "annotations": [
                _annotation(number, index, int(row[column]), row[first : first + 4], row[4])
                for number, (index, row) in enumerate(rows, 1)
            ],
        }
        with redirect_stdout(io.StringIO()):
            coco.createIndex()

    def run() -> None:
        with redirect_stdout(io.StringIO()):
            evaluator = COCOeval(truth, found, "bbox")
            evaluator.evaluate()
            evaluator.accumulate()

    return run


def _annotation(number: int, index: int, cls: int, box: list[float], score: float) -> Figures:
    x1, y1, x2, y2 = box
    shape = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
    return {
        **shape,
        "id": number,
        "image_id": index,
        "category_id": cls,
        "iscrowd": 0,
        "score": score,
    }


def greedy(candidates: np.ndarray, threshold: float, most: int) -> list[int]:
    """The plain loop: take the best, compare it with all that are left."""
    x1, y1, x2, y2, _, classes = candidates.T
    area = (x2 - x1) * (y2 - y1)
    left, kept = np.arange(len(candidates)), list[int]()
    while len(left) and len(kept) < most:
        best, left = left[0], left[1:]
        kept.append(int(best))
        width = np.maximum(np.minimum(x2[best], x2[left]) - np.maximum(x1[best], x1[left]), 0)
        height = np.maximum(np.minimum(y2[best], y2[left]) - np.maximum(y1[best], y1[left]), 0)
        inter = width * height
        iou = inter / (area[best] + area[left] - inter)
        left = left[(iou <= threshold) | (classes[left] != classes[best])]
    return kept


def nms_speed(title: str, predictions: Tensor, rounds: int) -> tuple[Figures, Rows]:
    """Milliseconds an image of suppression alone, and of the whole function."""
    iou, most = EVALUATION_NMS.iou, EVALUATION_NMS.max_detections
    images = [
        torch.cat(list(best_first(rows.float(), EVALUATION_NMS))).numpy() for rows in predictions
    ]
    suppression = Suppression(EVALUATION_NMS)
    kept = [greedy(image, iou, most) for image in images]
    opencv = [_for_opencv(image) for image in images]
    seen = [_for_opencv(image[: own[-1] + 1]) for image, own in zip(images, kept, strict=True)]

    suppress: Any = cv2.dnn.NMSBoxesBatched  # its stub knows lists only

    def batched(prepared: list[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
        return [np.ravel(suppress(*one, 0.0, iou)) for one in prepared]

    ours, start = [suppression.keep([image]) for image in images], time.process_time()
    theirs = batched(opencv)
    opencv_seconds = time.process_time() - start  # once: it may take a minute
    equal = all(
        np.array_equal(mine, image[own]) and np.array_equal(mine, image[other[:most]])
        for mine, image, own, other in zip(ours, images, kept, theirs, strict=True)
    )
    seconds = in_turns(
        {
            "ours": lambda: [suppression.keep([image]) for image in images],
            "opencv_seen": lambda: batched(seen),
            "greedy": lambda: [greedy(image, iou, most) for image in images],
            "whole": lambda: non_max_suppression(predictions, EVALUATION_NMS),
        },
        rounds,
    )
    seconds["opencv"] = opencv_seconds
    ms = {f"{name}_ms": 1e3 * value / len(images) for name, value in seconds.items()}
    figures = {
        "candidates": statistics.mean(len(image) for image in images),
        "kept": statistics.mean(len(own) for own in kept),
        **ms,
        "ratio_opencv": seconds["opencv"] / seconds["ours"],
        "ratio_opencv_seen": seconds["opencv_seen"] / seconds["ours"],
        "ratio_greedy": seconds["greedy"] / seconds["ours"],
        "equal": equal,
    }
    shape = f"{figures['candidates']:.0f} candidates, {figures['kept']:.0f} kept"
    return figures, [
        (f"nms, {title}: {shape}", f"{ms['ours_ms']:.2f} ms, whole {ms['whole_ms']:.2f} ms"),
        (
            "  OpenCV, of seen only, NumPy loop",
            f"{ms['opencv_ms']:.2f}, {ms['opencv_seen_ms']:.2f}, {ms['greedy_ms']:.2f} ms",
        ),
        (
            "  ratios",
            f"{figures['ratio_opencv']:.1f}, {figures['ratio_opencv_seen']:.1f}, "
            f"{figures['ratio_greedy']:.1f}; boxes {'equal' if equal else 'DIFFER'}",
        ),
    ]


def _for_opencv(candidates: np.ndarray) -> tuple[np.ndarray, ...]:
    corner, sides = candidates[:, :2], candidates[:, 2:4] - candidates[:, :2]
    boxes = np.concatenate([corner, sides], 1).astype(np.float64)
    return boxes, candidates[:, 4].copy(), candidates[:, 5].astype(np.int32)


def pass_shares(batches: int) -> tuple[Figures, Rows]:
    """Shares of an evaluation by an untrained n at 320, batch 32: nearly all boxes are candidates.

    Pictures are noise, in memory: what a loader costs is not in it.
    """
    model = new_detector(describe("n", 3), 0).eval()
    gains = Hyperparameters().loss_config(num_levels=3, num_classes=3, image_size=320)
    loss = DetectionLoss(model.detect.anchors, model.detect.stride, 3, gains)
    rng = np.random.default_rng(0)
    drawn = [_noise(rng, 32) for _ in range(batches)]
    profile = cProfile.Profile(time.process_time)
    profile.runcall(evaluate, model, drawn, loss, torch.device("cpu"))
    cumulated = {
        key[2]: row[3]
        for key, row in pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
    }
    total = cumulated["_evaluate"]
    names = {"nms": "non_max_suppression", "metrics": "detection_metrics", "confusion": "add_all"}
    shares = {name: cumulated[function] / total for name, function in names.items()}
    shares["boxes_to_pictures"] = cumulated["_in_native_space"] / total
    ms = 1e3 * total / (32 * batches)
    text = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    return {"ms_a_picture": ms, "shares": shares}, [
        (f"validation pass, {32 * batches} pictures", f"{ms:.1f} ms each: {text}")
    ]


def _noise(rng: np.random.Generator, count: int) -> ValidationBatch:
    labels = [
        np.column_stack(
            [rng.integers(0, 3, 13), rng.uniform(0.2, 0.8, (13, 2)), np.full((13, 2), 0.1)]
        )
        for _ in range(count)
    ]
    targets = [np.column_stack([np.full(len(own), i), own]) for i, own in enumerate(labels)]
    return ValidationBatch(
        images=torch.from_numpy(rng.integers(0, 256, (count, 3, 320, 320), np.uint8)),
        targets=torch.from_numpy(np.concatenate(targets).astype(np.float32)),
        samples=[_sample(i, own.astype(np.float32)) for i, own in enumerate(labels)],
    )


def _sample(index: int, labels: np.ndarray) -> ValidationSample:
    return ValidationSample(
        image=np.zeros((3, 0, 0), np.uint8),
        labels=labels,
        index=index,
        native_hw=(480, 480),
        ratio_pad=((320 / 480, 320 / 480), (0.0, 0.0)),
        crowd=np.zeros((0, 5), np.float32),
    )


def scale() -> tuple[Figures, Rows]:
    """CPU seconds of metrics and confusion matrix against the number of pictures."""
    sizes = (1_000, 5_000, 20_000, 100_000)
    everything = coco_like(sizes[-1], _CLASSES)
    points = []
    for size in sizes:
        images = everything[:size]
        confusion = ConfusionMatrix(_CLASSES)

        def run(
            images: list[ImageDetections] = images, matrix: ConfusionMatrix = confusion
        ) -> None:
            detection_metrics(images)
            matrix.add_all(*stacked(images))

        points.append((size, in_turns({"run": run}, rounds=3)["run"]))
    logs = np.log(np.array(points))
    exponent = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
    rows = [(f"scale, {size} pictures", f"{seconds:.2f} s") for size, seconds in points]
    rows.append(("  exponent", f"{exponent:.3f}"))
    return {"points": points, "exponent": exponent}, rows


def main() -> None:
    """Runs all parts and reports."""
    arguments = parser(__doc__)
    arguments.add_argument("--pictures", type=int, default=5_000, help="of the metrics part")
    arguments.add_argument("--rounds", type=int, default=3, help="of the suppression part")
    arguments.add_argument(
        "--scale", action="store_true", help="metrics at 1,000 to 100,000 pictures"
    )
    options = arguments.parse_args()
    torch.set_num_threads(1)  # what NMS costs is not set against two threads of the network
    outputs = {
        "early, 80 classes at 640": early_outputs(_BATCH, 80),
        "trained, 80 classes at 640": trained_outputs(_BATCH, 80),
        "trained and sure, 80 classes at 640": trained_outputs(_BATCH, 80, doubt=-10),
        "early, 3 classes at 320": early_outputs(_BATCH, 3, 320),
        "trained, 3 classes at 320": trained_outputs(_BATCH, 3, 320),
    }
    figures: Figures = {}
    figures["pass"], rows = pass_shares(2)
    figures["nms"] = {}
    for title, predictions in outputs.items():
        figures["nms"][title], more = nms_speed(title, predictions, options.rounds)
        rows += more
    figures["metrics"], more = metrics_speed(options.pictures)
    rows += more
    if options.scale:
        figures["scale"], more = scale()
        rows += more
    rows.append(("peak memory", f"{peak_rss_mb():.0f} MB"))
    report(figures, rows, options.json)


if __name__ == "__main__":
    main()
