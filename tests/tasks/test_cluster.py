"""The check of pictures on a Dask cluster, with worker processes of its own."""

import os
import signal
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import distributed
import pytest

import tasks.cluster
import tasks.packing
from tasks.errors import TransientError, exit_code
from tasks.packing import Packed, pack
from tasks.store import Store, open_store
from tests.data_sets import picture, put, write_yolo
from yolov5_core.config import ConfigError
from yolov5_core.files import LocalFiles

PICTURES = 24


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two worker processes; a worker that dies is replaced by its nanny."""
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
    ) as made:
        yield made


@pytest.fixture(autouse=True)
def _small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tasks.packing, "_WORTH_PROCESSES", 0)
    monkeypatch.setattr(tasks.packing, "_PIECE_PICTURES", 1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Some good pictures and, for the report, some faults."""
    source = write_yolo(tmp_path / "data")
    for number in range(10, 10 + PICTURES):
        put(source.parent / f"images/train/{number}.jpg", picture(f"train/{number}"))
        put(source.parent / f"labels/train/{number}.txt", "0 .5 .5 .25 .5\n")
    put(source.parent / "images/train/12.jpg", b"no picture")
    put(source.parent / "labels/train/13.txt", "9 .5 .5 .5 .5\n")
    (source.parent / "images/train/14.jpg").unlink()
    (source.parent / "images/train/14.jpg").symlink_to("nowhere.jpg")  # missing for everybody
    return source


def in_memory() -> Store:
    return open_store(f"memory://{uuid.uuid4().hex}")


def objects(store: Store, found: Packed) -> dict[str, bytes]:
    keys = store.keys(f"datasets/{found.digest}")
    return {key: store.read_bytes(key) for key in keys}


def test_a_cluster_that_loses_a_worker_makes_the_same_objects_once(cluster, data):
    alone, together = in_memory(), in_memory()
    expected = pack(alone, str(data), lambda *_: None)
    seen: list[int] = []

    def kill_one(done: int, _total: int) -> None:
        seen.append(done)
        if done == 4:  # both workers have more at hand
            victim = next(iter(cluster.workers.values())).pid
            os.kill(victim, signal.SIGKILL)

    found = pack(together, str(data), kill_one, cluster.scheduler_address)
    assert found.digest == expected.digest
    assert found.faults == expected.faults
    assert len(found.faults) == 3
    assert seen == list(range(1, PICTURES + 6))  # every piece came, once and in order
    made, same = objects(together, found), objects(alone, expected)
    made_index, index = (o.pop(f"datasets/{found.digest}/index.npz") for o in (made, same))
    assert made == same  # shards and manifest, and no object beside them
    assert len(made_index) == len(index)
    assert found.index.digest(found.sources.names) == expected.digest


class OnlyHere(LocalFiles):
    """A folder that only the process which prepares has mounted."""

    def __init__(self, hidden: str) -> None:
        self.hidden = hidden
        self.process = os.getpid()

    def read_many(self, paths: Sequence[str], most: int = 10**9) -> list[bytes | OSError]:
        found = super().read_many(paths, most)
        if os.getpid() == self.process:
            return found
        return [
            FileNotFoundError(2, "No such file or directory", path) if self.hidden in path else data
            for path, data in zip(paths, found, strict=True)
        ]


@pytest.mark.parametrize("hidden", ["images/train/20.jpg", "labels/train/20.txt"])
def test_what_only_a_worker_cannot_see_is_no_fault_of_the_data(cluster, data, hidden, monkeypatch):
    monkeypatch.setattr(tasks.packing, "open_files", lambda _: OnlyHere(hidden))
    store = in_memory()
    with pytest.raises(ConfigError, match=rf"cannot read .*{hidden}.* same path on every worker"):
        pack(store, str(data), lambda *_: None, cluster.scheduler_address)
    assert store.keys("") == []


def test_a_worker_of_another_version_is_refused(cluster, data, monkeypatch):
    monkeypatch.setattr(tasks.cluster, "identity", lambda: "source of tomorrow")
    with pytest.raises(ConfigError, match="and the run source of tomorrow; install the same"):
        pack(in_memory(), str(data), lambda *_: None, cluster.scheduler_address)


def test_without_a_scheduler_the_run_ends_with_a_sentence_and_75(data, monkeypatch):
    monkeypatch.setattr(tasks.cluster, "_PATIENCE_S", 1)
    with pytest.raises(TransientError, match="no scheduler answers") as caught:
        pack(in_memory(), str(data), lambda *_: None, "tcp://127.0.0.1:9")
    assert exit_code(caught.value) == 75


def test_without_the_package_it_is_said_how_to_install_it(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"pip install 'yolov5-retrain\[dask\]'"):
        pack(in_memory(), str(data), lambda *_: None, "tcp://127.0.0.1:9")


def test_a_scheduler_that_goes_away_in_the_middle_is_worth_another_try(data):
    store = in_memory()
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
    ) as short:

        def end(done: int, _total: int) -> None:
            if done == 2:
                short.close()

        with pytest.raises(TransientError, match="the scheduler was lost") as caught:
            pack(store, str(data), end, short.scheduler_address)
    assert exit_code(caught.value) == 75
    assert store.keys("") == []


class Deadly(LocalFiles):
    """Kills the worker that reads one picture, as the kernel does when memory runs out."""

    def __init__(self) -> None:
        self.process = os.getpid()

    def read_many(self, paths: Sequence[str], most: int = 10**9) -> list[bytes | OSError]:
        if os.getpid() != self.process and any("train/21.jpg" in path for path in paths):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read_many(paths, most)


def test_a_piece_that_kills_its_workers_ends_the_run_with_a_sentence(cluster, data, monkeypatch):
    monkeypatch.setattr(tasks.packing, "open_files", lambda _: Deadly())
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    with pytest.raises(TransientError, match="died again and again over one piece") as caught:
        pack(in_memory(), str(data), lambda *_: None, cluster.scheduler_address)
    assert exit_code(caught.value) == 75
