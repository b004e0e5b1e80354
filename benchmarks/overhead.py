"""What Prefect and the hand-off through the store cost: the nightly flow against a bare loop.

    python -m benchmarks.overhead --epochs 50

All train the same model on the same drawn pictures, one after the other, begun by this process. The
bare loop is `yolov5_core` alone: check the pictures, train, evaluate and save every epoch, strip,
evaluate the best, its report and its curves. What varies most on a busy machine is how long the
core trains; it does the same work in all, so the seconds in it are told apart (in a container:
those of the train stage), and the overhead is what else a flow takes longer than the loop, as a
share of the loop. Prefect's server runs before the clock starts, as on a server: the one that
PREFECT_API_URL names (`make up`; `--run-on here docker` needs it), else one of our own. Writes a
table and a JSON line.
"""

import argparse
import json
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
from prefect.testing.utilities import prefect_test_harness

from flows.heartbeats import our_heartbeats
from flows.retrain import retrain
from tasks.prepare import SAMPLE_TRAIN, SAMPLE_VAL
from tasks.records import STAGES
from tasks.settings import RetrainConfig, RunOn
from tasks.stage import read_stage
from tasks.store import open_store
from yolov5_core.architecture import describe
from yolov5_core.check import scan
from yolov5_core.checkpoint import build_detector, load, save, strip
from yolov5_core.config import TrainConfig, load_hyperparameters
from yolov5_core.data_yaml import list_images, read_data_yaml
from yolov5_core.evaluate import evaluate
from yolov5_core.evaluation import save_evaluation
from yolov5_core.evaluation_report import evaluation_report
from yolov5_core.plots import (
    plot_confusion,
    plot_f1_curve,
    plot_p_curve,
    plot_pr_curve,
    plot_r_curve,
    plot_results,
)
from yolov5_core.start import fit_anchors, new_detector
from yolov5_core.synthetic import draw_dataset
from yolov5_core.trainer import Trainer


def bare_loop(data: Path, arguments: argparse.Namespace, folder: Path) -> None:
    """The same training by the core alone, its checkpoints in a folder."""
    spec = read_data_yaml(data)
    train, val = (
        scan(list_images(sources), len(spec.names), workers=2).records
        for sources in (spec.train, spec.val)
    )
    config = TrainConfig(
        epochs=arguments.epochs,
        batch_size=16,
        image_size=arguments.image_size,
        seed=0,
        hyp=load_hyperparameters("quick"),
        workers=2,
    )
    model = new_detector(describe("n", len(spec.names)), 0)
    fit_anchors(model, train, config.image_size, config.hyp.anchor_t, 0)
    trainer = Trainer(config, model, train, val, torch.device("cpu"))
    described = {"description": model.description.to_mapping()}
    for _ in range(config.epochs):
        report = trainer.train_epoch()
        found = trainer.evaluate()
        is_best = trainer.record(report, found, time.time())
        (folder / "results.txt").write_text(trainer.results_text, "ascii")
        save({**trainer.state(), **described}, folder / "last.pt")
        if is_best:
            (folder / "best.pt").write_bytes((folder / "last.pt").read_bytes())
    for name in ("last", "best"):
        strip(folder / f"{name}.pt", folder / f"{name}-stripped.pt")
    best = build_detector(load(folder / "best-stripped.pt"), "best")
    found = evaluate(best, trainer.val_loader, trainer.loss.fixed(), trainer.device)
    text = json.dumps(evaluation_report(found, spec.names, [record.name for record in val]))
    (folder / "evaluation.json").write_text(text, "utf-8")
    save_evaluation(found, folder / "evaluation.npz")
    plot_results({"bare": [row for row, _ in trainer.history]}, folder / "results.png")
    plot_confusion(found.confusion, spec.names, folder / "confusion_matrix.png")
    for plot in (plot_pr_curve, plot_f1_curve, plot_p_curve, plot_r_curve):
        plot(found.metrics, spec.names, folder / f"{plot.__name__}.png")


def nightly_flow(
    data: Path, arguments: argparse.Namespace, folder: Path, run_on: RunOn
) -> dict[str, float]:
    """The whole flow; returns the seconds of each stage's work."""
    config = RetrainConfig(
        data=str(data),
        store=str(folder / run_on),
        bucket=str(folder / run_on / "bucket"),
        name="overhead",
        epochs=arguments.epochs,
        image_size=arguments.image_size,
        hyp="quick",
        cfg="n",
        device="cpu",
        run_on=run_on,
    )
    with our_heartbeats():  # as the command does
        summary = retrain(config)
    store = open_store(config.store)
    records = {stage: read_stage(store, summary.run, stage) for stage in STAGES}
    return {stage: record.seconds for stage, record in records.items() if record}


class CoreClock:
    """Adds up the seconds that trainers of this process train and evaluate."""

    def __init__(self) -> None:
        self.seconds = 0.0
        Trainer.train_epoch = self._timed(Trainer.train_epoch)  # type: ignore[method-assign]
        Trainer.evaluate = self._timed(Trainer.evaluate)  # type: ignore[method-assign]

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return method(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


def measured(work: Callable[[], Any], clock: CoreClock) -> tuple[dict[str, float], Any]:
    """Seconds of a call, those of them in the core's epochs, and what it returned."""
    clock.seconds, started = 0.0, time.perf_counter()
    result = work()
    wall = time.perf_counter() - started
    core = clock.seconds
    return {"wall": round(wall, 2), "core": round(core, 2), "rest": round(wall - core, 2)}, result


def _core_seconds_in_docker(cost: dict[str, float], stages: Mapping[str, float]) -> None:
    """Epochs in a container pass this process's clock by: their stage's record tells."""
    cost["core"] = round(stages["train"], 2)
    cost["rest"] = round(cost["wall"] - cost["core"], 2)


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs both, one after the other."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # containers may run as somebody else
        data = draw_dataset(
            folder / "data",
            train=SAMPLE_TRAIN,
            val=SAMPLE_VAL,
            image_size=arguments.image_size,
            seed=0,
            progress=lambda *_: None,
        )
        clock = CoreClock()
        bare, _ = measured(lambda: bare_loop(data, arguments, folder), clock)
        flows = {}
        for place in arguments.run_on:
            cost, stages = measured(partial(nightly_flow, data, arguments, folder, place), clock)
            if place == "docker":
                _core_seconds_in_docker(cost, stages)
            overhead = round((cost["rest"] - bare["rest"]) / bare["wall"], 4)
            flows[place] = {**cost, "stages": stages, "overhead": overhead}
    return {
        "epochs": arguments.epochs,
        "image_size": arguments.image_size,
        "bare": bare,
        "flows": flows,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def table(found: Mapping[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{'seconds':<24}{'wall':>10}{'in epochs':>10}{'rest':>10}{'overhead':>10}"]
    rows = {"bare loop": found["bare"]} | {
        f"flow, run_on {place}": flow for place, flow in found["flows"].items()
    }
    for title, row in rows.items():
        share = f"{100 * row['overhead']:.1f} %" if "overhead" in row else ""
        lines += [
            f"{title:<24}{row['wall']:>10}{row['core']:>10}{row['rest']:>10}{share:>10}",
            *(
                f"{f'  work of {s}':<24}{seconds:>10}"
                for s, seconds in row.get("stages", {}).items()
            ),
        ]
    return "\n".join(lines)


def main() -> None:
    """Measures and writes to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--image-size", type=int, default=160, help="pixels")
    parser.add_argument("--run-on", choices=("here", "docker"), nargs="+", default=["here"])
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.use_deterministic_algorithms(True)
    # a debugging aid, slow
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")  # of a server of our own
    named = bool(os.environ.get("PREFECT_API_URL"))
    with nullcontext() if named else prefect_test_harness(server_startup_timeout=120):
        found = compare(arguments)
    sys.stdout.write(f"{table(found)}\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
