"""One Prefect server, one tiny data set and one finished run for all end-to-end tests."""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)
from prefect.testing.utilities import prefect_test_harness

from flows.retrain import retrain
from tasks.records import RunSummary, StageRecord
from tasks.settings import RetrainConfig
from tasks.stage import read_stage
from tasks.store import Store, open_store
from yolov5_core import checkpoint
from yolov5_core.synthetic import draw_dataset

TINY = Path(__file__).parents[1] / "data" / "tiny.yaml"
TRAIN, VAL = 24, 8


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run and what the world looked like around it."""

    config: RetrainConfig
    summary: RunSummary
    log: list[str]  # messages, in order
    folder: Path  # of the run in the store
    data: Path  # data.yaml
    data_before: dict[str, tuple[str, int]]

    @property
    def store(self) -> Store:
        return open_store(self.config.store)

    @property
    def id(self) -> str:
        return self.summary.run

    def record(self, stage: str) -> StageRecord:
        record = read_stage(self.store, self.id, stage)
        assert record is not None
        return record

    def newest_state(self) -> dict[str, Any]:
        """The newest resumable checkpoint."""
        return checkpoint.load(self.store.folder / self.record("train").result["last"]["key"])


def tiny_config(data: Path, root: Path, **changes: Any) -> RetrainConfig:
    """A run of seconds; everything it writes is below `root`."""
    values: dict[str, Any] = {
        "data": str(data),
        "store": str(root / "store"),
        "cfg": str(TINY),
        "epochs": 1,
        "batch_size": 8,
        "image_size": 64,
        "workers": 0,
        "device": "cpu",
    }
    return RetrainConfig(**{**values, **changes})


def tiny_arguments(data: Path, root: Path, *more: str) -> list[str]:
    """The same as flags of the command line; later flags win."""
    return [
        *("--data", str(data), "--store", str(root / "store"), "--cfg", str(TINY)),
        *("--epochs", "1", "--batch-size", "8", "--image-size", "64"),
        *("--workers", "0", "--device", "cpu", *more),
    ]


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    """Digest and time of change of everything below a folder, folders and links included."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file",
            path.lstat().st_mtime_ns,
        )
        for path in folder.rglob("*")
    }


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def captured_log() -> Iterator[list[str]]:
    """The messages of our loggers while it lasts; caplog ends with a test, a fixture may not."""
    handler = _Messages()
    loggers = [logging.getLogger(name) for name in ("flows", "tasks", "yolov5_core")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield handler.messages
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def draw_tiny(folder: Path, *, train: int = TRAIN, val: int = VAL, seed: int = 0) -> Path:
    """Pictures of about 64 pixels; returns data.yaml."""
    return draw_dataset(
        folder, train=train, val=val, image_size=64, seed=seed, progress=lambda *_: None
    )


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[str]:
    """The URL of a Prefect server that lives as long as the test session."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # waiting threads hold up a busy machine; the tensors are tiny
    no_heartbeats = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}  # their thread ends a second late
    with temporary_settings(no_heartbeats), prefect_test_harness(server_startup_timeout=120):
        yield str(PREFECT_API_URL.value())
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def one_server_and_unchanged_settings(prefect_api: str) -> Iterator[None]:
    """Every test here runs flows; what the train stage sets for its process ends with the test."""
    del prefect_api
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data.yaml of 24 training and 8 validation pictures; do not change it."""
    return draw_tiny(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="session")
def finished(prefect_api: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The whole flow, once: three epochs, published under the name `street`."""
    del prefect_api
    root = tmp_path_factory.mktemp("finished")
    return run_flow(
        data, tiny_config(data, root, name="street", bucket=str(root / "bucket"), epochs=3)
    )


@pytest.fixture
def copied(finished: FinishedRun, tmp_path: Path) -> FinishedRun:
    """The finished run in a store of its own, to spoil."""
    store = tmp_path / "store"
    shutil.copytree(finished.config.store, store)
    folder = store / "runs" / finished.id
    return replace(finished, config=replace(finished.config, store=str(store)), folder=folder)


def subprocess_environment(prefect_api: str) -> dict[str, str]:
    """For a command in a process of its own that gives the same bytes as this process."""
    return {
        **os.environ,
        "PREFECT_API_URL": prefect_api,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }


def run_command(
    prefect_api: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs yolov5-retrain in a process of its own."""
    return subprocess.run(  # noqa: S603  our own words
        [sys.executable, "-m", "flows.cli", *arguments],
        env={**subprocess_environment(prefect_api), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def run_flow(data: Path, config: RetrainConfig) -> FinishedRun:
    """Runs the flow in this process and keeps its log."""
    before = snapshot(data.parent)
    with captured_log() as messages:
        summary = retrain(config)
    return FinishedRun(
        config=config,
        summary=summary,
        log=messages,
        folder=Path(summary.folder),
        data=data,
        data_before=before,
    )
