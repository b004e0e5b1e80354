"""A run with two processes on the CPU, of which one is killed, and then the run is stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.cli import main
from tasks.stage import read_stage
from tasks.store import open_store
from tests.end_to_end.conftest import subprocess_environment, tiny_arguments

_PATIENCE_S = 240.0  # on a busy machine


def followers_of(leader: int) -> list[int]:
    """Processes that follow this one; those of other runs on this machine do not count."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            words = (stat.parent / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile
            continue
        if parent == leader and b"tasks.follower" in words:
            found.append(int(stat.parent.name))
    return found


def wait_for(what: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not what():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_rank_costs_no_run_and_a_stopped_run_leaves_nobody(
    prefect_api: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ("--epochs", "3", "--batch-size", "2", "--run", "night", "--gpus", "2")
    log, folder = tmp_path / "log", tmp_path / "store" / "runs" / "night"
    entries = folder / "checkpoints" / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(  # noqa: S603  our own words
            [sys.executable, "-m", "flows.cli", *tiny_arguments(data, tmp_path, *words)],
            env=subprocess_environment(prefect_api),
            stderr=stderr,
        )
    wait_for((entries / "00000001.json").exists, process, log)
    (first,) = followers_of(process.pid)
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: "a new group of 2 processes" in log.read_text(), process, log)
    wait_for((entries / "00000002.json").exists, process, log)
    (second,) = followers_of(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(_PATIENCE_S) == 75, log.read_text()
    assert not Path(f"/proc/{second}").exists()
    assert "Traceback" not in log.read_text()
    assert main(["--resume", "--store", str(tmp_path / "store")]) == 0, capsys.readouterr().err
    assert len((folder / "results.txt").read_text().splitlines()) == 3
    record = read_stage(open_store(str(tmp_path / "store")), "night", "train")
    assert record is not None
    (change,) = record.result["changes"]
    assert change["change"] == "a new group of 2 processes"
    assert change["why"] == "rank 1 was killed by signal 9"
