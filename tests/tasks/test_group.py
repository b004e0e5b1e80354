import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tasks.device import require_gpus
from tasks.errors import TEMPORARY, exit_code
from tasks.group import RankLostError, assembled
from tasks.settings import RetrainConfig
from tests.tasks.teams import Job, job, train
from tests.tasks.trained import torch_as_before
from tests.yolov5_core.test_trainer import flat
from yolov5_core import checkpoint
from yolov5_core.config import ConfigError
from yolov5_core.epochs import EpochReport
from yolov5_core.trainer import Trainer


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    root = tmp_path_factory.mktemp("team")
    with torch_as_before(root / "cache"):
        yield job(root)


def is_there(pid: int) -> bool:
    """Whether a process lives; one that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def values(trainer: Trainer) -> dict[str, Any]:
    return dict(flat(trainer.state()))


@pytest.fixture(scope="module")
def whole(work: Job) -> dict[str, Any]:
    """The state after all epochs, in two processes, of which nothing is left."""
    threads = torch.get_num_threads()
    with work.team() as (team, trainer):
        pids = [process.pid for process in team.processes.values()]
        assert len(pids) == 1
        train(team, trainer)
        assert all(is_there(pid) for pid in pids)
    assert [process.returncode for process in team.processes.values()] == [0]
    assert not any(is_there(pid) for pid in pids)
    assert not dist.is_initialized()
    assert torch.get_num_threads() == threads
    return values(trainer)


@pytest.mark.slow
def test_two_processes_train_evaluate_and_leave(work: Job, whole: dict[str, Any]):
    trainer = work.trainer()
    train(None, trainer)
    alone = values(trainer)
    assert whole.keys() == alone.keys()
    assert whole[".resume.step"] == alone[".resume.step"] == 8
    for ours, theirs in zip(_losses(whole), _losses(alone), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def _losses(state: dict[str, Any]) -> list[float]:
    return [state[f".resume.history[{epoch}].losses[{n}]"] for epoch in (0, 1) for n in range(3)]


@pytest.mark.slow
def test_a_rank_that_is_killed_is_told_and_a_new_group_goes_on_with_the_same_bytes(
    work: Job, whole: dict[str, Any], tmp_path: Path
):
    saved = tmp_path / "state.pt"

    def kill(_: EpochReport) -> None:
        if trainer.step == 5:
            checkpoint.save(trainer.state(), saved)
        if trainer.step == 6:
            (process,) = team.processes.values()
            os.kill(process.pid, signal.SIGKILL)

    with work.team() as (team, trainer):
        with pytest.raises(RuntimeError) as caught:
            train(team, trainer, kill)
        lost = team.lost(caught.value)
    assert isinstance(lost, RankLostError)
    assert str(lost) == "rank 1 was killed by signal 9"
    assert exit_code(lost) == TEMPORARY
    assert not trainer.settled  # it was in the midst of a step
    with work.team(checkpoint.load(saved)) as (team, trainer):
        train(team, trainer)
    ours = values(trainer)
    assert [key for key in whole if ours[key] != whole[key]] == []


@pytest.mark.slow
def test_a_rank_that_hangs_is_told_from_one_that_is_slow(
    work: Job, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tasks.group._ANSWER_S", 10.0)
    monkeypatch.setattr("tasks.group._LEAVE_S", 0.1)

    def hold(_: EpochReport) -> None:
        (process,) = team.processes.values()
        os.kill(process.pid, signal.SIGSTOP)

    with work.team() as (team, trainer):
        with pytest.raises(RuntimeError) as caught:
            train(team, trainer, hold)
        lost = team.lost(caught.value)
    assert isinstance(lost, RankLostError)
    assert str(lost) == "a rank gave no answer for 10 s"
    assert [process.returncode for process in team.processes.values()] == [-signal.SIGKILL]


@pytest.mark.slow
def test_followers_end_with_rank_0_whatever_ended_it(tmp_path: Path):
    leader = subprocess.Popen(  # noqa: S603  our own words
        [sys.executable, "-m", "tests.tasks.teams", str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        text=True,
    )
    assert leader.stdout is not None
    follower = int(leader.stdout.readline())
    assert is_there(follower)
    leader.kill()
    leader.communicate()
    end = time.monotonic() + 5
    while is_there(follower):
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_ranks_that_torchrun_starts_find_each_other_and_end_together(tmp_path: Path):
    torchrun = ["torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(  # noqa: S603  our own words
        [sys.executable, "-m", *torchrun, "-m", "tests.tasks.teams", str(tmp_path)],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 ranks, 4 steps\n"


@pytest.mark.slow
def test_what_a_rank_cannot_read_ends_training_with_its_sentence(work: Job):
    missing = replace(work.prepared, digest="0" * 64)
    trainer = work.trainer()
    with (
        assembled(work.config) as team,
        pytest.raises(RankLostError, match=r"rank 1: .*manifest.json"),
    ):
        team.join(trainer, work.config, missing)


def test_no_gpus_and_no_word_of_the_cpu_is_refused():
    if torch.cuda.device_count() == 0:
        with pytest.raises(ConfigError, match=r"gpus=2: this machine has no GPU.*device=cpu"):
            require_gpus("", 2)
    else:
        with pytest.raises(ConfigError, match=r"gpus=99: this machine has \d+ GPUs; ask for fewer"):
            require_gpus("", 99)


@pytest.mark.usefixtures("one_of_two")
def test_ranks_of_torchrun_and_gpus_are_one_too_many():
    with (
        pytest.raises(ConfigError, match="gpus=2: torchrun started 2 ranks already"),
        assembled(RetrainConfig(gpus=2, device="cpu")),
    ):
        pass


@pytest.fixture
def one_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
