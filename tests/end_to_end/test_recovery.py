"""What a run does by itself when a step fails or time is up, and what it leaves to people."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.cli import main
from flows.retrain import retrain
from tasks import checkpoints
from tasks.errors import TEMPORARY, exit_code
from tasks.settings import RetrainConfig
from tasks.stage import read_stage
from tasks.store import open_store
from tests.end_to_end.conftest import captured_log, tiny_arguments, tiny_config
from yolov5_core import checkpoint
from yolov5_core.dataset import DataError
from yolov5_core.loader import TrainingLoader
from yolov5_core.step_policy import StepPolicy
from yolov5_core.trainer import Trainer

EPOCHS = 3
STEPS = 3  # an epoch: 24 pictures in batches of 8


@pytest.fixture
def config(data: Path, tmp_path: Path) -> RetrainConfig:
    """Three epochs of three steps, the state saved after every one of them."""
    return tiny_config(data, tmp_path, epochs=EPOCHS, run="night", checkpoint_minutes=1e-5)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Makes steps fail as the device would make them."""

    def arm(error: Callable[[], Any], when: Callable[[Trainer], bool]) -> list[int]:
        real, failed = Trainer._backward, []

        def backward(self: Trainer, *args: Any) -> Any:
            if when(self):
                failed.append(self.step)
                return error()
            return real(self, *args)

        monkeypatch.setattr(Trainer, "_backward", backward)
        return failed

    return arm


def no_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB")


def not_a_number() -> torch.Tensor:
    return torch.full((3,), float("nan"))


def trained(config: RetrainConfig) -> Any:
    record = read_stage(open_store(config.store), "night", "train")
    assert record is not None
    return record.result


def rows(config: RetrainConfig) -> list[str]:
    text = (Path(config.store) / "runs" / "night" / "results.txt").read_text("ascii")
    return [line.split()[0] for line in text.splitlines()]


def test_a_batch_too_large_for_the_memory_is_taken_in_two_parts(config, failing):
    failed = failing(no_memory, lambda t: t.step >= 5 and t.policy.micro_batches == 1)
    with captured_log() as messages:
        summary = retrain(config)
    assert failed == [5]
    assert rows(config) == ["0/2", "1/2", "2/2"]
    change = "every batch of 8 in 2 parts, gradients added up"
    assert f"going on from the last saved state: {change}" in messages
    assert "continuing after epoch 1 and 2 batches from" in "\n".join(messages)
    (entry,) = trained(config)["changes"]
    assert (entry["step"], entry["change"]) == (5, change)
    assert "CUDA out of memory" in entry["why"]
    last = checkpoint.load(Path(summary.weights[0]))
    assert last["lineage"]["changes"] == [entry]


def test_memory_that_does_not_suffice_for_a_part_either_is_a_passing_fault(config, failing):
    failed = failing(no_memory, lambda t: t.step >= 5)
    with pytest.raises(Exception, match="out of memory") as caught:
        retrain(config)
    assert exit_code(caught.value) == TEMPORARY
    assert failed == [5, 5]
    pointer = checkpoints.newest(open_store(config.store), "night")
    assert pointer is not None
    assert (pointer.step, pointer.batch, pointer.epoch) == (5, 2, 0)


def test_a_loss_that_is_no_number_is_tried_again_in_full_precision(config, failing, monkeypatch):
    real = Trainer.__init__

    def mixed(self: Trainer, *args: Any) -> None:
        real(self, *args)
        self.use(StepPolicy(mixed=True))  # as on a GPU

    monkeypatch.setattr(Trainer, "__init__", mixed)
    failed = failing(not_a_number, lambda t: t.step == 4 and t.policy.mixed)
    with captured_log() as messages:
        retrain(config)
    assert failed == [4]
    assert rows(config) == ["0/2", "1/2", "2/2"]
    (entry,) = trained(config)["changes"]
    assert entry["change"] == "full instead of mixed precision"
    assert "epoch 1, step 4: the loss is not finite" in entry["why"]
    assert "images/train/" in entry["why"] or ".jpg" in entry["why"]
    assert "step 4 failed" in "\n".join(messages)


def test_in_full_precision_it_is_left_to_people_and_the_last_good_state_stays(config, failing):
    failed = failing(not_a_number, lambda t: t.step == 4)
    with pytest.raises(Exception, match="the loss is not finite") as caught:
        retrain(config)
    assert exit_code(caught.value) == 2
    assert failed == [4]
    pointer = checkpoints.newest(open_store(config.store), "night")
    assert pointer is not None
    assert pointer.step == 4


def test_a_picture_that_vanishes_costs_none_of_the_steps_done(config, monkeypatch):
    real = TrainingLoader.epoch
    config = replace(config, checkpoint_minutes=0.0)  # only the fault saves inside an epoch

    def epoch(self: TrainingLoader, *args: Any, **more: Any) -> Any:
        for number, batch in enumerate(real(self, *args, **more)):
            if args[0] == 1 and number == 2:
                raise DataError("images/train/7.jpg: it is gone")
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoader, "epoch", epoch)
        with pytest.raises(DataError):
            retrain(config)
    pointer = checkpoints.newest(open_store(config.store), "night")
    assert pointer is not None
    assert (pointer.epoch, pointer.step, pointer.batch) == (0, 5, 2)
    with captured_log() as messages:
        retrain(config)
    assert "continuing after epoch 1 and 2 batches from" in "\n".join(messages)
    assert rows(config) == ["0/2", "1/2", "2/2"]


def test_a_run_stopped_while_it_evaluates_does_not_train_that_epoch_again(
    config, data, tmp_path, monkeypatch
):
    real, evaluated = Trainer.evaluate, []

    def evaluate(self: Trainer, *args: Any) -> Any:
        evaluated.append(self.epoch)
        if len(evaluated) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *args)

    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    words = ("--epochs", str(EPOCHS), "--run", "night", "--checkpoint-minutes", "1e-5")
    assert main(tiny_arguments(data, tmp_path, *words)) == TEMPORARY
    pointer = checkpoints.newest(open_store(config.store), "night")
    assert pointer is not None
    assert (pointer.epoch, pointer.step, pointer.batch) == (0, 2 * STEPS, STEPS)
    with captured_log() as messages:
        retrain(config)
    assert evaluated == [1, 2, 2, 3]
    assert "continuing after epoch 1 and 3 batches" in "\n".join(messages)
    assert rows(config) == ["0/2", "1/2", "2/2"]


# ---- time --------------------------------------------------------------------------------------


def test_training_ends_in_time_and_its_model_is_published(data, tmp_path):
    config = tiny_config(data, tmp_path, epochs=400, run="night", max_hours=4 / 3600)
    with captured_log() as messages:
        summary = retrain(config)
    result = trained(config)
    assert 0 < result["epochs"] < 400
    assert result["stopped_by"] == "max_hours=0.00111111"
    assert len(rows(config)) == result["epochs"]
    assert "training stopped in time" in "\n".join(messages)
    assert Path(summary.weights[0]).is_file()

    again = retrain(replace(config, run="", resume="night"))  # nothing has changed: nothing to do
    assert again.epochs == result["epochs"]
    assert trained(config)["epochs"] == result["epochs"]

    retrain(replace(config, run="", resume="night", max_hours=6 / 3600))
    assert len(rows(config)) > result["epochs"]


def test_too_little_time_for_one_epoch_is_said_and_nothing_is_lost(data, tmp_path, capsys):
    arguments = tiny_arguments(data, tmp_path, "--run", "night", "--batch-size", "2")
    assert main([*arguments, "--max-hours", "1e-7"]) == 2
    said = capsys.readouterr().err
    assert "max_hours=1e-07: not even one epoch was done by then; give training more time" in said
    pointer = checkpoints.newest(open_store(str(tmp_path / "store")), "night")
    assert pointer is not None
    assert (pointer.epoch, pointer.step) == (-1, 1)
    store = str(tmp_path / "store")
    assert main(["--resume", "night", "--store", store, "--max-hours", "1"]) == 0


def test_a_deadline_is_kept_with_the_run_and_a_later_one_lets_it_go_on(data, tmp_path):
    config = tiny_config(data, tmp_path, run="night", batch_size=2, deadline="2020-01-01T06:30Z")
    with pytest.raises(ValueError, match=r"deadline=2020-01-01T06:30Z: not even one epoch"):
        retrain(config)
    retrain(replace(config, run="", resume="night", deadline="2090-01-01T06:30Z"))
    assert rows(config) == ["0/0"]
