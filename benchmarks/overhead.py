"""What Prefect and the hand-off through the store cost: the nightly flow against a bare loop.

    python -m benchmarks.overhead --epochs 50

All train the same model on the same drawn pictures, one after the other, begun by this process. The
bare loop is `yolov5_core` alone: check the pictures, train, evaluate and save every epoch, strip,
evaluate the best. Prefect's server runs before the clock starts, as on a server: the one that
PREFECT_API_URL names (`make up`; `--run-on here docker` needs it), else one of our own. Writes a
table and a JSON line.
"""

import argparse
import json
import logging
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from prefect.testing.utilities import prefect_test_harness

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
    evaluate(best, trainer.val_loader, trainer.loss.fixed(), trainer.device)


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
    summary = retrain(config)
    store = open_store(config.store)
    records = {stage: read_stage(store, summary.run, stage) for stage in STAGES}
    return {stage: record.seconds for stage, record in records.items() if record}


def measured(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Wall and CPU seconds of a call, child processes included, and what it returned."""
    cpu, started = _cpu_seconds(), time.perf_counter()
    result = work()
    wall = time.perf_counter() - started
    return {"wall": round(wall, 2), "cpu": round(_cpu_seconds() - cpu, 2)}, result


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


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
        bare, _ = measured(lambda: bare_loop(data, arguments, folder))
        flows = {}
        for place in arguments.run_on:
            cost, stages = measured(partial(nightly_flow, data, arguments, folder, place))
            overhead = round(cost["wall"] / bare["wall"] - 1, 4)
            flows[place] = {**cost, "stages": stages, "overhead_wall": overhead}
    return {
        "epochs": arguments.epochs,
        "image_size": arguments.image_size,
        "bare": bare,
        "flows": flows,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def table(found: Mapping[str, Any]) -> str:
    """The figures for people; containers' CPU time is not ours to see."""
    lines = [f"{'':<24}{'wall s':>10}{'cpu s':>10}{'overhead':>10}"]
    lines += [f"{'bare loop':<24}{found['bare']['wall']:>10}{found['bare']['cpu']:>10}"]
    for place, flow in found["flows"].items():
        share = f"{100 * flow['overhead_wall']:.1f} %"
        lines += [f"{f'flow, run_on {place}':<24}{flow['wall']:>10}{flow['cpu']:>10}{share:>10}"]
        lines += [f"{f'  work of {s}':<24}{seconds:>10}" for s, seconds in flow["stages"].items()]
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
    named = bool(os.environ.get("PREFECT_API_URL"))
    with nullcontext() if named else prefect_test_harness(server_startup_timeout=120):
        found = compare(arguments)
    sys.stdout.write(f"{table(found)}\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
