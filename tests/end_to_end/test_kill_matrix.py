"""Wherever a run is cut off, the same command again ends in the same bytes.

`make kill-matrix` goes through all points; a few of them are part of `make test`.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.end_to_end.conftest import subprocess_environment, tiny_arguments
from tests.kill_matrix.points import Point, all_points

POINTS = all_points()
TERM_S = 10.0  # from the signal to the end of the process
_USUAL = {  # a part of it for every day
    "KILL during a state",
    "KILL after a pointer",
    "KILL before the commit of train",
    "KILL during published weights",
    "TERM during the second results.txt",
}
USUAL = [point for point in POINTS if str(point) in _USUAL]
USUAL += [
    next(p for p in POINTS if p.workers == workers and p.how == how and p.what.startswith("step"))
    for workers, how in ((0, "TERM"), (1, "KILL"), (4, "TERM"))
]


class Nursery:
    """Runs the command in forks of one process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def run(self, arguments: list[str], log: Path, point: Point | None = None) -> int:
        order = {
            "arguments": arguments,
            "log": str(log),
            "point": point.to_mapping() if point else None,
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def nursery(prefect_api: str) -> Iterator[Nursery]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.kill_matrix.nursery"],
        env=subprocess_environment(prefect_api),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Nursery(process)
        assert process.stdin is not None
        process.stdin.close()


def command(data: Path, root: Path, workers: int) -> list[str]:
    """Three epochs of six steps, the state saved after every one of them."""
    return tiny_arguments(
        data,
        root,
        *("--run", "night", "--name", "street", "--bucket", str(root / "bucket")),
        *("--epochs", "3", "--batch-size", "4", "--workers", str(workers)),
        *("--checkpoint-minutes", "0.00001"),
    )


def published(root: Path) -> dict[str, str]:
    """Digests of all that people get: what is in the bucket, final weights and results."""
    run = root / "store" / "runs" / "night"
    files = [*(root / "bucket").rglob("*.pt"), *(root / "bucket" / "results").iterdir()]
    files += [*(run / "weights").glob("*.pt"), *run.glob("results*.txt")]
    whole = [
        f for f in files if ".part-" not in f.name
    ]  # what kill -9 left of a write is no object
    assert len(whole) >= 7
    return {str(f.relative_to(root)): sha256(f.read_bytes()).hexdigest() for f in whole}


@pytest.fixture(scope="module")
def whole(nursery: Nursery, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a run leaves that nobody cuts off."""
    root = tmp_path_factory.mktemp("whole")
    code = nursery.run(command(data, root, 0), root / "log")
    assert code == 0, (root / "log").read_text()
    return published(root)


def cut_and_go_on(
    point: Point, nursery: Nursery, data: Path, root: Path, whole: dict[str, str]
) -> None:
    arguments, log = command(data, root, point.workers), root / "cut.log"
    begun = time.monotonic()
    code = nursery.run(arguments, log, point)
    said = log.read_text("utf-8", "replace")
    assert code == (-9 if point.how == "KILL" else 75), (
        f"after {time.monotonic() - begun} s: {said}"
    )
    if point.how == "TERM":
        assert "Traceback" not in said
    code = nursery.run(arguments, root / "again.log")
    assert code == 0, (root / "again.log").read_text("utf-8", "replace")
    assert published(root) == whole
    shutil.rmtree(root)


@pytest.mark.slow
@pytest.mark.parametrize("point", USUAL, ids=str)
def test_a_run_cut_off_at_usual_places_ends_in_the_same_bytes(
    point, nursery, data, tmp_path, whole
):
    cut_and_go_on(point, nursery, data, tmp_path / "run", whole)


@pytest.mark.kill_matrix
@pytest.mark.parametrize("point", [p for p in POINTS if p not in USUAL], ids=str)
def test_a_run_cut_off_anywhere_ends_in_the_same_bytes(point, nursery, data, tmp_path, whole):
    cut_and_go_on(point, nursery, data, tmp_path / "run", whole)


def test_the_matrix_has_every_kind_of_write_three_times_and_both_signals():
    assert len(POINTS) >= 40
    assert len({str(point) for point in POINTS}) >= 40
    assert {point.workers for point in POINTS} == {0, 1, 4}
    assert {point.when for point in POINTS} == {"before", "during", "after"}
    assert len(USUAL) == 8
