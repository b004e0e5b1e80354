"""What Prefect and the hand-off through the store cost: the nightly flow against a bare loop.

    python -m benchmarks.overhead --epochs 50

Both train the same model on the same drawn pictures in this process, one after the other. The bare
loop is `yolov5_core` alone: check the pictures, train, evaluate and save every epoch, strip,
evaluate the best. Prefect's server runs before the clock starts, as on a server; `--run-on docker`
asks the deployments of PREFECT_API_URL for the stages instead. Writes a table and a JSON line.
"""

import argparse
import json
import logging
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from prefect.testing.utilities import prefect_test_harness

from flows.retrain import retrain
from tasks.prepare import SAMPLE_TRAIN, SAMPLE_VAL
from tasks.records import STAGES
from tasks.settings import RetrainConfig
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


def nightly_flow(data: Path, arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """The whole flow; returns the seconds of each stage's work."""
    config = RetrainConfig(
        data=str(data),
        store=str(folder / "store"),
        bucket=str(folder / "bucket"),
        name="overhead",
        epochs=arguments.epochs,
        image_size=arguments.image_size,
        hyp="quick",
        cfg="n",
        device="cpu",
        run_on=arguments.run_on,
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
        flow, stages = measured(lambda: nightly_flow(data, arguments, folder))
    return {
        "epochs": arguments.epochs,
        "image_size": arguments.image_size,
        "run_on": arguments.run_on,
        "bare": bare,
        "flow": flow,
        "stages": stages,
        "overhead_wall": round(flow["wall"] / bare["wall"] - 1, 4),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def table(found: Mapping[str, Any]) -> str:
    """The figures for people."""
    rows = [
        ("bare loop", found["bare"]["wall"], found["bare"]["cpu"]),
        ("nightly flow", found["flow"]["wall"], found["flow"]["cpu"]),
        *((f"  work of {stage}", seconds, "") for stage, seconds in found["stages"].items()),
    ]
    lines = [f"{'':<22}{'wall s':>10}{'cpu s':>10}"]
    lines += [f"{what:<22}{wall:>10}{cpu:>10}" for what, wall, cpu in rows]
    lines += [f"overhead of the flow: {100 * found['overhead_wall']:.1f} % of the bare loop"]
    return "\n".join(lines)


def main() -> None:
    """Measures and writes to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--image-size", type=int, default=160, help="pixels")
    parser.add_argument("--run-on", choices=("here", "docker"), default="here")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.use_deterministic_algorithms(True)
    # a debugging aid, slow
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if arguments.run_on == "docker":
        found = compare(arguments)
    else:
        with prefect_test_harness(server_startup_timeout=120):
            found = compare(arguments)
    sys.stdout.write(f"{table(found)}\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
