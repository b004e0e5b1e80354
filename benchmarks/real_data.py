"""Trains variant n from scratch on a labelled data set, one run a seed, and prints the quality.

    python -m benchmarks.real_data --data path/to/data.yaml --seeds 0 1 2

Settings are those of the reference figures: 320 pixels, batch 16, 50 epochs, the default
hyperparameters. The best checkpoint is stripped (fp16), read back and evaluated, by our metrics and
by pycocotools. `--detections FILE` keeps detections and labels of the last seed as numbers, which
is how tests/data/bccd_detections.npz was made (seed 0).
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from yolov5_core.architecture import describe
from yolov5_core.check import scan
from yolov5_core.checkpoint import build_detector, load, save, strip
from yolov5_core.coco_metrics import coco_metrics, from_ours_to_coco
from yolov5_core.config import TrainConfig
from yolov5_core.data_yaml import list_images, read_data_yaml
from yolov5_core.dataset import Record
from yolov5_core.evaluate import evaluate
from yolov5_core.evaluation import Evaluation
from yolov5_core.metrics import table_rows
from yolov5_core.results import format_row
from yolov5_core.start import fit_anchors, new_detector
from yolov5_core.trainer import Trainer

log = logging.getLogger(__name__)

_BOX_STEPS = 64  # of a pixel, in saved detections


def _records(sources: tuple[str, ...], num_classes: int) -> tuple[Record, ...]:
    found = scan(list_images(sources), num_classes, workers=2)
    return found.records


def train_one(arguments: argparse.Namespace, seed: int) -> dict[str, object]:
    """One run; returns its figures."""
    spec = read_data_yaml(Path(arguments.data))
    train, val = (_records(s, len(spec.names)) for s in (spec.train, spec.val))
    config = TrainConfig(
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        image_size=arguments.image_size,
        seed=seed,
        workers=arguments.workers,
    )
    device = torch.device(arguments.device)
    model = new_detector(describe(arguments.cfg, len(spec.names)), seed)
    fit_anchors(model, train, config.image_size, config.hyp.anchor_t, seed)
    trainer = Trainer(config, model, train, val, device)
    trainer.cache_images(lambda *_: None)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        best = Path(folder) / "best.pt"
        for _ in range(config.epochs):
            report = trainer.train_epoch()
            found = trainer.evaluate()
            if trainer.record(report, found, time.time()):
                meta = {"description": model.description.to_mapping()}
                save({**trainer.state(), **meta}, best)
            log.info("seed %d %s", seed, format_row(trainer.history[-1][0]).rstrip())
        strip(best, best.with_name("stripped.pt"))
        final = _evaluated(trainer, best.with_name("stripped.pt"))
    for line in table_rows(final.metrics, spec.names, len(val)):
        log.info("seed %d %s", seed, line)
    if arguments.detections:
        save_detections(final, Path(arguments.detections))
    return _figures(final, spec.names, seed, time.perf_counter() - started)


def save_detections(evaluation: Evaluation, path: Path) -> None:
    """Writes what was detected and labelled as a small .npz; boxes rounded to 1/64 pixel."""
    detections = np.concatenate([image.detections for image in evaluation.images])
    steps = np.rint(detections[:, :4] * _BOX_STEPS)
    np.savez_compressed(
        path,
        detection_counts=np.array([len(i.detections) for i in evaluation.images], np.uint16),
        boxes_64ths=steps.astype(np.uint16 if steps.max(initial=0) < 2**16 else np.uint32),
        scores=detections[:, 4].astype(np.float32),
        classes=detections[:, 5].astype(np.uint8),
        label_counts=np.array([len(i.labels) for i in evaluation.images], np.uint16),
        labels=np.concatenate([i.labels for i in evaluation.images]).astype(np.float32),
    )


def _evaluated(trainer: Trainer, weights: Path) -> Evaluation:
    model = build_detector(load(weights), str(weights)).to(trainer.device)
    return evaluate(model, trainer.val_loader, trainer.loss.fixed(), trainer.device)


def _figures(
    final: Evaluation, names: tuple[str, ...], seed: int, seconds: float
) -> dict[str, object]:
    m = final.metrics
    coco = coco_metrics(final.images, len(names))
    per_class = {
        names[cls]: {"map50": m.ap50[i], "map50_95": float(m.ap[i].mean())}
        for i, cls in enumerate(m.classes)
    }
    return {
        "seed": seed,
        "seconds": round(seconds),
        "precision": m.mean_precision,
        "recall": m.mean_recall,
        "map50": m.map50,
        "map50_95": m.map50_95,
        "coco": coco.figures(),
        "from_ours_to_coco": [asdict(step) for step in from_ours_to_coco(final, coco)],
        "classes": per_class,
    }


def main() -> None:
    """Runs every seed and writes one JSON line a seed to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="a data.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cfg", default="n")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=320, help="pixels")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--detections", default="", help=".npz to keep the last seed's in")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.use_deterministic_algorithms(True)
    # a debugging aid, slow
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    for seed in arguments.seeds:
        figures = train_one(arguments, seed)
        sys.stdout.write(json.dumps(figures) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
