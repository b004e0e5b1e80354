"""Faults in the middle of a run: a sentence, the right exit code, and nothing done is lost."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli import main
from tasks import checkpoints, epochs, evaluate, train
from tasks.stage import read_stage
from tasks.store import open_store
from tests.end_to_end.conftest import run_command, tiny_arguments
from yolov5_core import checkpoint

GROWING = ("--run", "night", "--epochs", "3")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own with room for two checkpoints, not for three."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount(folder, "size=4m"):
        pytest.skip("mounting a small disk needs to be root")
    yield folder
    as_root("umount", "-l", str(folder))  # this process may still map the index in it


def mount(folder: Path, options: str) -> bool:
    return as_root("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))


def as_root(*words: str) -> bool:
    if os.geteuid() != 0 or shutil.which(words[0]) is None:
        return False
    done = subprocess.run(words, capture_output=True, check=False)  # noqa: S603  our own words
    return done.returncode == 0


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come at once."""
    for name in ("save_checkpoint", "record"):
        quick = getattr(epochs, name).with_options(retry_delay_seconds=0)
        monkeypatch.setattr(epochs, name, quick)
    quick = evaluate.evaluate_model.with_options(retry_delay_seconds=0)
    monkeypatch.setattr(evaluate, "evaluate_model", quick)


@pytest.fixture
def others_fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """There was room when training began."""
    monkeypatch.setattr(train, "require_room", lambda *_: 0)


def test_a_disk_without_room_for_the_run_is_said_before_training(small_disk, data, capsys):
    assert main(tiny_arguments(data, small_disk, *GROWING)) == 75
    stderr = capsys.readouterr().err
    assert "of disk are needed and" in stderr
    assert "finished work is kept" in stderr
    assert not (small_disk / "store/runs/night/results.txt").exists()
    assert as_root("mount", "-o", "remount,size=50m", str(small_disk))
    assert main(["--resume", "--store", str(small_disk / "store")]) == 0, capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("no_waiting", "others_fill_the_disk")
def test_a_full_store_ends_the_run_with_75_and_it_goes_on_after_room_is_made(
    small_disk, data, capsys
):
    arguments = tiny_arguments(data, small_disk, *GROWING)
    code = main(arguments)
    stderr = capsys.readouterr().err
    assert code == 75, stderr
    assert "no space left" in stderr
    assert "make room and run again: finished work is kept" in stderr
    pointer = checkpoints.newest(open_store(str(small_disk / "store")), "night")
    assert pointer is not None
    saved = checkpoint.load(small_disk / "store" / pointer.last.key)
    assert saved["epoch"] == pointer.epoch < 2
    assert as_root("mount", "-o", "remount,size=50m", str(small_disk))
    assert main(["--resume", "--store", str(small_disk / "store")]) == 0, capsys.readouterr().err
    rows = (small_disk / "store/runs/night/results.txt").read_text().splitlines()
    assert [row.split()[0] for row in rows] == ["0/2", "1/2", "2/2"]


@pytest.mark.usefixtures("no_waiting", "others_fill_the_disk")
def test_a_full_scratch_disk_ends_the_run_with_75(small_disk, data, tmp_path, capsys, monkeypatch):
    (small_disk / "filler").write_bytes(bytes(3_400_000))
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    code = main(tiny_arguments(data, tmp_path, *GROWING))
    stderr = capsys.readouterr().err
    assert code == 75, stderr
    assert "no space left" in stderr.lower()
    assert "Traceback" not in stderr


@pytest.fixture
def exploding(tmp_path: Path) -> Path:
    """Hyperparameters whose first update throws the weights so far that no loss after it is finite.

    The first loss is: the gain makes it large, not infinite.
    """
    path = tmp_path / "exploding.yaml"
    path.write_text("warmup_bias_lr: 3.0e+38\nobj: 1.0e+7\n")
    return path


def test_a_loss_that_is_not_finite_names_epoch_step_and_pictures(exploding, data, tmp_path, capsys):
    words = (*GROWING, "--batch-size", "24", "--hyp", str(exploding))  # one step an epoch
    assert main(tiny_arguments(data, tmp_path, *words)) == 2
    message = capsys.readouterr().err
    assert message.startswith("yolov5-retrain: error: epoch 1, step 1: the loss is not finite")
    assert "synthetic_00000.jpg" in message
    assert "lower lr0" in message
    assert "Traceback" not in message
    run = tmp_path / "store" / "runs" / "night"
    assert len((run / "results.txt").read_text().splitlines()) == 1
    pointer = checkpoints.newest(open_store(str(tmp_path / "store")), "night")
    assert checkpoint.load(tmp_path / "store" / pointer.last.key)["epoch"] == 0


def test_a_run_that_ends_before_its_loss_shows_it_is_still_recorded(exploding, data, tmp_path):
    """The validation losses of the only epoch are not finite, which JSON does not have."""
    words = ("--run", "night", "--batch-size", "24", "--hyp", str(exploding))
    assert main(tiny_arguments(data, tmp_path, *words)) == 0
    store = open_store(str(tmp_path / "store"))
    record = read_stage(store, "night", "train")
    assert len(record.result["results"]) == 15
    assert {"inf", "nan"} & set(record.result["results"])
    assert (tmp_path / "store/runs/night/plots/results.png").is_file()


@pytest.mark.slow
def test_an_unreachable_bucket_ends_the_run_before_any_work(data, tmp_path, prefect_api):
    started = time.monotonic()
    words = (*tiny_arguments(data, tmp_path), "--bucket", "gs://models")
    nobody = {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:9"}  # nobody listens there
    done = run_command(prefect_api, *words, environment=nobody)
    assert done.returncode == 75, done.stderr
    assert time.monotonic() - started < 120
    assert "cannot write gs://models/" in done.stderr
    assert "check the network and the URL" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "store" / "runs").exists()
