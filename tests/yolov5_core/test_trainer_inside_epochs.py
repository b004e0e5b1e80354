"""A cut-off epoch goes on at the exact batch; a step that does not fit is taken in parts."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import tiny_trainer
from tests.yolov5_core.test_trainer import Data, differences, flat, train
from yolov5_core import checkpoint
from yolov5_core.epochs import EpochReport
from yolov5_core.loss_watch import LossWatch, NotFiniteError, TrainingDivergedError
from yolov5_core.step_policy import StepPolicy, parts
from yolov5_core.trainer import Trainer

STEPS = 3  # an epoch: 12 pictures in batches of 4


class CutOffError(Exception):
    """What takes a machine away."""


def cut_after(trainer: Trainer, step: int, path: Path) -> None:
    """Trains on until so many steps are done, and leaves a checkpoint."""

    def stop(_: EpochReport) -> None:
        if trainer.step == step:
            raise CutOffError

    with suppress(CutOffError):
        while True:
            trainer.record(trainer.train_epoch(stop), trainer.evaluate(), 1000.0 + trainer.epoch)
    assert trainer.step == step
    assert trainer.settled
    checkpoint.save(trainer.state(), path)


def restored(path: Path, data: Data, **settings: Any) -> Trainer:
    trainer = tiny_trainer(*data, **settings)
    trainer.restore(checkpoint.load(path))
    return trainer


def go_on(trainer: Trainer) -> Trainer:
    """The rest of a run."""
    while not trainer.over:
        report = trainer.unrecorded or trainer.train_epoch()
        trainer.record(report, trainer.evaluate(), 1000.0 + trainer.epoch)
    return trainer


@pytest.mark.parametrize("step", range(1, 2 * STEPS + 1))
def test_a_run_cut_off_at_any_step_goes_on_bit_for_bit(tiny_data: Data, tmp_path: Path, step: int):
    cut_after(tiny_trainer(*tiny_data, epochs=2), step, tmp_path / "x.pt")
    resumed = restored(tmp_path / "x.pt", tiny_data, epochs=2)
    assert resumed.step == step
    assert differences(go_on(resumed), go_on(tiny_trainer(*tiny_data, epochs=2))) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"workers": 1},
        {"workers": 4},
        {"optimizer": "adam", "autobalance": True, "multi_scale": True},
        {"image_weights": True},
        {"batch_size": 8, "quad": True},
        {"rect": True},
    ],
    ids=lambda settings: "+".join(f"{k}={v}" for k, v in settings.items()),
)
def test_so_it_does_with_other_settings(tiny_data: Data, tmp_path: Path, settings: dict[str, Any]):
    step = 3 if "quad" in settings else 5
    cut_after(tiny_trainer(*tiny_data, **settings), step, tmp_path / "x.pt")
    resumed = restored(tmp_path / "x.pt", tiny_data, **settings)
    assert differences(go_on(resumed), go_on(tiny_trainer(*tiny_data, **settings))) == []


def test_an_epoch_that_was_trained_but_not_evaluated_is_only_evaluated(
    tiny_data: Data, tmp_path: Path
):
    cut = tiny_trainer(*tiny_data)
    train(cut, 1)
    report = cut.train_epoch()
    checkpoint.save(cut.state(), tmp_path / "x.pt")
    resumed = restored(tmp_path / "x.pt", tiny_data)
    assert resumed.unrecorded == report
    assert not resumed.over
    assert differences(go_on(resumed), go_on(tiny_trainer(*tiny_data))) == []


def test_the_last_epoch_is_not_over_before_it_is_recorded(tiny_data: Data, tmp_path: Path):
    cut = tiny_trainer(*tiny_data, epochs=1)
    cut.train_epoch()
    checkpoint.save(cut.state(), tmp_path / "x.pt")
    resumed = restored(tmp_path / "x.pt", tiny_data, epochs=1)
    assert not resumed.over
    go_on(resumed)
    assert len(resumed.history) == 1


def test_a_state_of_an_earlier_version_is_still_continued(tiny_data: Data, tmp_path: Path):
    trainer = tiny_trainer(*tiny_data)
    train(trainer, 1)
    checkpoint.save(trainer.state(), tmp_path / "x.pt")
    state = checkpoint.load(tmp_path / "x.pt")
    for key in ("policy", "batch", "report", "watch"):
        del state["resume"][key]
    other = tiny_trainer(*tiny_data)
    other.restore(state)
    train(trainer, 1)
    train(other, 1)
    assert differences(other, trainer) == []


# ---- numbers that are none ---------------------------------------------------------------------


def watch_that_looks_every(batches: int) -> LossWatch:
    watch = LossWatch(torch.device("cpu"))
    watch._every = batches  # as on a GPU
    return watch


@pytest.mark.parametrize("bad", range(4))
def test_a_late_look_still_tells_the_batch(bad: int):
    watch = watch_that_looks_every(4)
    for batch in range(3):
        watch.add(torch.full((3,), float("inf") if batch == bad else 1.0))
    with pytest.raises(NotFiniteError) as caught:
        watch.add(torch.full((3,), float("inf") if bad == 3 else 1.0))
    assert caught.value.batch == bad


def test_gradients_that_are_no_numbers_are_those_of_the_batch_before():
    watch = watch_that_looks_every(2)
    watch.add(torch.ones(3))
    watch.note(torch.tensor(float("nan")))
    with pytest.raises(NotFiniteError) as caught:
        watch.add(torch.ones(3))
    assert caught.value.batch == 0


def test_the_mean_goes_on_from_a_state():
    values = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    whole, first = watch_that_looks_every(1), watch_that_looks_every(1)
    for number, value in enumerate(values):
        whole.add(value)
        if number < 2:
            first.add(value)
    second = watch_that_looks_every(1)
    second.restore(first.state())
    for value in values[2:]:
        second.add(value)
    assert torch.equal(second.mean, whole.mean)
    assert whole.look() == pytest.approx(values.mean(0).tolist(), rel=1e-6)


def test_there_is_no_state_of_a_loss_that_is_no_number(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data)

    def spoil(_: EpochReport) -> None:
        trainer._watch.note(torch.tensor(float("nan")))
        with pytest.raises(
            TrainingDivergedError, match=r"epoch 0, step 0: .*; the batch was .*jpg"
        ):
            trainer.state()
        raise CutOffError

    with pytest.raises(CutOffError):
        trainer.train_epoch(spoil)


# ---- steps in parts ----------------------------------------------------------------------------


def test_parts_hold_every_target_once_with_its_own_picture():
    images = torch.arange(5.0).reshape(5, 1, 1, 1)
    targets = torch.tensor([[0, 7, 0, 0, 0, 0], [4, 8, 0, 0, 0, 0], [2, 9, 0, 0, 0, 0.0]])
    found = [
        (float(own_images[int(target[0])]), float(target[1]))
        for own_images, own_targets in parts(images, targets, [3, 2])
        for target in own_targets
    ]
    assert sorted(found) == [(0.0, 7.0), (2.0, 9.0), (4.0, 8.0)]
    assert targets[1, 0] == 4  # the caller's own are as they were


def test_a_batch_in_two_parts_has_the_gradients_of_the_whole(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data)
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # of a part it is not that of the whole
    batch = trainer.loader.batch(trainer.plan()[0][:2])
    images = torch.cat((batch.images, batch.images)).float() / 255
    twin = batch.targets.clone()
    twin[:, 0] += 2
    targets = torch.cat((batch.targets, twin))

    def gradients(count: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        trainer.use(StepPolicy(micro_batches=count))
        trainer.optimizer.zero_grad()
        items = trainer._backward(images, targets)
        return items, [p.grad.clone() for p in trainer.model.parameters() if p.grad is not None]

    whole_items, whole = gradients(1)
    items, halves = gradients(2)
    torch.testing.assert_close(items, whole_items)
    for ours, theirs in zip(halves, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_a_policy_is_kept_with_the_state(tiny_data: Data, tmp_path: Path):
    trainer = tiny_trainer(*tiny_data)
    trainer.use(StepPolicy(mixed=True, micro_batches=2))
    cut_after(trainer, 2, tmp_path / "x.pt")
    resumed = restored(tmp_path / "x.pt", tiny_data)
    assert resumed.policy == StepPolicy(mixed=True, micro_batches=2)
    assert differences(go_on(resumed), go_on(trainer)) == []
    plain = dict(flat(go_on(tiny_trainer(*tiny_data)).state()))
    assert any(plain[key] != value for key, value in flat(resumed.state()) if ".model." in key)
