"""Evolution as a whole: what it leaves, cut off and gone on with, and by two workers at once."""

import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from flows.evolve import EvolutionSummary, evolve
from tasks.generations import Generation, Generations
from tasks.run import load_run, newest_run
from tasks.settings import RetrainConfig
from tasks.store import open_store
from tests.end_to_end.conftest import subprocess_environment, tiny_arguments, tiny_config
from yolov5_core.config import load_hyperparameters

NUMBER = 4  # generations


@dataclass(frozen=True)
class Evolved:
    """A finished evolution."""

    config: RetrainConfig
    summary: EvolutionSummary

    @property
    def store(self) -> Path:
        return Path(self.config.store)


def records(store: Path) -> dict[int, Generation]:
    known = Generations(bucket=open_store(str(store)), name="")
    known.read()
    return known.records


def outcomes(store: Path) -> dict[int, tuple[Any, ...]]:
    """What must not depend on who did it and how often it was cut off."""
    found = records(store).items()
    return {number: (r.plan.hyp, r.plan.parent, r.results) for number, r in found}


def attempts(store: Path) -> dict[int, int]:
    """How often the training of each generation was begun; its commit is an entry too."""
    runs = sorted((store / "runs").glob("evolve_g*"))
    return {
        int(run.name[-4:]): len(list((run / "stages/attempts/train").iterdir())) - 1 for run in runs
    }


def start(prefect_api: str, data: Path, root: Path) -> "subprocess.Popen[str]":
    words = ["evolve", *tiny_arguments(data, root), "--generations", str(NUMBER)]
    return subprocess.Popen(  # noqa: S603  our own words
        [sys.executable, "-m", "flows.cli", *words],
        env=subprocess_environment(prefect_api),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="session")
def evolved(prefect_api: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Evolved:
    del prefect_api
    config = tiny_config(data, tmp_path_factory.mktemp("evolved"))
    return Evolved(config, evolve(config, NUMBER))


@pytest.mark.slow
def test_generations_are_measured_and_leave_numbers_and_no_weights_or_pictures(evolved: Evolved):
    found = records(evolved.store)
    assert list(found) == list(range(1, NUMBER + 1))
    assert found[1].plan.hyp == asdict(load_hyperparameters("scratch-low"))
    assert all(any(each.results) and each.fault == "" for each in found.values())
    left = {path.suffix for path in (evolved.store / "runs").rglob("*") if path.is_file()}
    assert not left & {".pt", ".png", ".jpg"}
    info = load_run(open_store(evolved.config.store), "evolve_g0002")
    assert info is not None
    assert info.evolution == "evolve"
    assert newest_run(open_store(evolved.config.store)) == ""


@pytest.mark.slow
def test_the_best_table_is_in_a_file_that_a_run_can_take(evolved: Evolved):
    found = records(evolved.store)
    best = max(found.values(), key=lambda each: (each.individual.fitness, -each.plan.generation))
    assert evolved.summary.best == best.plan.generation
    assert evolved.summary.files["hyp"] == str(evolved.store / "hyp_evolved.yaml")
    table = load_hyperparameters(evolved.summary.files["hyp"])
    assert asdict(table) == best.plan.hyp
    replace(evolved.config, hyp=evolved.summary.files["hyp"])
    assert len((evolved.store / "evolve.txt").read_text("ascii").splitlines()) == NUMBER
    assert (evolved.store / "evolve.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_same_again_or_fewer_generations_do_nothing(evolved: Evolved):
    before = outcomes(evolved.store)
    assert evolve(evolved.config, 2) == replace(evolved.summary, generations=NUMBER)
    assert outcomes(evolved.store) == before
    assert set(attempts(evolved.store).values()) == {1}


@pytest.mark.slow
def test_killed_in_the_midst_of_a_generation_it_goes_on_and_nothing_is_lost(
    prefect_api: str, data: Path, tmp_path: Path, evolved: Evolved
):
    process, store = start(prefect_api, data, tmp_path), tmp_path / "store"
    deadline = time.monotonic() + 300
    while not (store / "runs/evolve_g0002/stages/attempts/train/00000001.json").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert list(records(store)) == [1], "it was too quick: the generation was over"
    evolve(replace(evolved.config, store=str(store)), NUMBER)
    assert outcomes(store) == outcomes(evolved.store)
    assert attempts(store) == {1: 1, 2: 2, 3: 1, 4: 1}


@pytest.mark.slow
def test_two_workers_at_once_share_the_generations_and_lose_no_row(
    prefect_api: str, data: Path, tmp_path: Path
):
    workers = [start(prefect_api, data, tmp_path) for _ in range(2)]
    said = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    assert all(f"{NUMBER} generations of evolve; best" in out for out, _ in said)
    store = tmp_path / "store"
    assert list(records(store)) == list(range(1, NUMBER + 1))
    assert attempts(store) == dict.fromkeys(range(1, NUMBER + 1), 1)
    tables = [tuple(each.plan.hyp.values()) for each in records(store).values()]
    assert len(set(tables)) == NUMBER
    for name in ("evolve.txt", "evolve.jsonl"):
        assert len((store / name).read_text("ascii").splitlines()) == NUMBER


@pytest.mark.slow
def test_a_table_with_which_training_diverges_is_the_worst_and_no_end(data: Path, tmp_path: Path):
    table = tmp_path / "wild.yaml"
    table.write_text("box: 1.0e+40\n", "utf-8")  # more than a float32 holds
    config = tiny_config(data, tmp_path, hyp=str(table))
    summary = evolve(config, 1)
    assert (summary.generations, summary.fitness) == (1, 0)
    assert "the loss is not finite" in records(tmp_path / "store")[1].fault
