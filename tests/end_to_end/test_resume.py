"""A run that was cut off goes on as if it never had been; whatever else is asked is refused."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.cli import main
from flows.retrain import retrain
from tasks.store import open_store
from tests.end_to_end.conftest import (
    FinishedRun,
    run_flow,
    subprocess_environment,
    tiny_arguments,
    tiny_config,
)
from tests.undone import undo
from yolov5_core import checkpoint

LONG = ("--epochs", "3", "--batch-size", "2", "--run", "night")  # twelve steps an epoch


@pytest.fixture(scope="session")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    root = tmp_path_factory.mktemp("uninterrupted")
    return run_flow(data, tiny_config(data, root, epochs=3, batch_size=2, run="night"))


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(prefect_api: str, data: Path, tmp_path: Path) -> Start:
    """Starts the same run in a process of its own."""

    def begin(*more: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(  # noqa: S603  our own words
            [sys.executable, "-m", "flows.cli", *tiny_arguments(data, tmp_path, *LONG, *more)],
            env=subprocess_environment(prefect_api),
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


def cut_off(process: "subprocess.Popen[str]", run: Path, how: signal.Signals) -> tuple[int, str]:
    """Ends a run in the middle of its second epoch; returns exit code and stderr."""
    log = run / "checkpoints" / "log"
    deadline = time.monotonic() + 120
    while not (log / "00000001.json").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(how)
    _, stderr = process.communicate(timeout=60)
    rows = (run / "results.txt").read_text("ascii").splitlines()
    assert len(rows) < 3, "it was too quick: all epochs were over"
    return process.returncode, stderr


def assert_same(resumed: Any, whole: Any, where: str = "state") -> None:
    """Equality to the last bit, clock times aside."""
    if isinstance(whole, torch.Tensor):
        assert torch.equal(resumed, whole), where
    elif isinstance(whole, dict):
        assert resumed.keys() == whole.keys(), where
        for key in whole.keys() - {"time", "trained_s", "lineage"}:
            assert_same(resumed[key], whole[key], f"{where}.{key}")
    elif isinstance(whole, list):
        assert len(resumed) == len(whole), where
        for i, (a, b) in enumerate(zip(resumed, whole, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    else:
        assert resumed == whole, where


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "workers"),
    [(signal.SIGKILL, "0"), (signal.SIGKILL, "2"), (signal.SIGTERM, "2")],
    ids=["kill -9", "kill -9 with workers", "SIGTERM"],
)
def test_a_run_cut_off_in_an_epoch_ends_with_the_same_bytes(
    uninterrupted, start, tmp_path, capsys, how, workers
):
    folder = tmp_path / "store" / "runs" / "night"
    code, stderr = cut_off(start("--workers", workers), folder, how)
    assert code == {signal.SIGKILL: -9, signal.SIGTERM: 75}[how], stderr
    if how == signal.SIGTERM:  # after kill -9 the orphaned loader workers may still complain
        assert "Traceback" not in stderr
        assert "what was done is saved, --resume continues" in stderr
        assert "state saved after step" in stderr
    assert main(["--resume", "--store", str(tmp_path / "store")]) == 0, capsys.readouterr().err
    result = "results.txt"
    assert (folder / result).read_bytes() == (uninterrupted.folder / result).read_bytes()
    states = [max((f / "checkpoints").glob("*.pt")) for f in (folder, uninterrupted.folder)]
    assert_same(*map(checkpoint.load, states))
    assert "epochs completed in" in capsys.readouterr().out


def test_nothing_to_resume_is_a_sentence(tmp_path, capsys):
    assert main(["--resume", "--store", str(tmp_path / "store")]) == 2
    assert "nothing to resume in" in capsys.readouterr().err


def test_an_unknown_run_cannot_be_resumed(finished, capsys):
    assert main(["--resume", "20200101-000000", "--store", finished.config.store]) == 2
    assert "it holds no run '20200101-000000'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--epochs", "5", "epochs cannot change from 3 to 5"),
        ("--seed", "7", "seed cannot change from 0 to 7"),
        ("--image-size", "96", "image_size cannot change from 64 to 96"),
        ("--data", "other.yaml", "data cannot change"),
    ],
)
def test_a_resumed_run_refuses_other_settings_by_name(finished, capsys, flag, value, message):
    code = main(["--resume", "--store", finished.config.store, flag, value])
    assert code == 2
    assert message in capsys.readouterr().err


def test_a_run_resumed_elsewhere_does_not_need_its_parent_weights(copied, tmp_path):
    """All that continues a run is in the store, so a new container can take it up."""
    parent = tmp_path / "parent.pt"
    parent.write_bytes((copied.folder / "weights" / "last_street.pt").read_bytes())
    config = replace(
        tiny_config(copied.data, tmp_path, cfg="", weights=str(parent)), run="child", epochs=1
    )
    summary = retrain(config)
    parent.unlink()
    undo(open_store(config.store), "child", "train")
    again = retrain(replace(config, run="", weights="", resume="child"))
    assert again.metrics == summary.metrics
