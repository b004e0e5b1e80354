import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import NAMES, tiny_trainer
from yolov5_core import checkpoint
from yolov5_core.config import Hyperparameters
from yolov5_core.dataset import Record
from yolov5_core.ema import decay
from yolov5_core.epochs import EpochReport
from yolov5_core.evaluation import Evaluation
from yolov5_core.loss_watch import TrainingDivergedError
from yolov5_core.metrics import average_precision_per_class
from yolov5_core.results import parse_results
from yolov5_core.trainer import Trainer

Data = tuple[tuple[Record, ...], tuple[Record, ...]]


def train(trainer: Trainer, epochs: int) -> None:
    """Trains, evaluates and records as the train stage does."""
    for _ in range(epochs):
        report = trainer.train_epoch()
        trainer.record(report, trainer.evaluate(), time=1000.0 + trainer.epoch)


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested dictionaries and lists; tensors as their bytes."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from flat(inner, f"{path}[{index}]")
    elif isinstance(value, torch.Tensor):
        yield path, (value.dtype, tuple(value.shape), value.contiguous().numpy().tobytes())
    else:
        yield path, value


def differences(ours: Trainer, theirs: Trainer) -> list[str]:
    """Where two trainers' states differ, the rates of the last step included."""
    a, b = dict(flat(ours.state())), dict(flat(theirs.state()))
    assert a.keys() == b.keys()
    return [key for key in a if a[key] != b[key]]


def continued(trainer: Trainer, path: Path, data: Data, **settings: Any) -> Trainer:
    """A new trainer at the state of another, by way of a file."""
    checkpoint.save(trainer.state(), path)
    other = tiny_trainer(*data, **settings)
    other.restore(checkpoint.load(path))
    return other


# ---- the same run gives the same bytes ---------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_do_not_change_a_single_bit(tiny_data: Data, workers: int):
    alone, helped = tiny_trainer(*tiny_data), tiny_trainer(*tiny_data, workers=workers)
    train(alone, 2)
    train(helped, 2)
    assert differences(helped, alone) == []


def test_another_seed_gives_another_model(tiny_data: Data):
    first, other = tiny_trainer(*tiny_data), tiny_trainer(*tiny_data, seed=1)
    train(first, 1)
    train(other, 1)
    assert any(key.startswith(".model.") for key in differences(other, first))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": "adam"},
        {"optimizer": "adamw", "quad": True},
        {"autobalance": True, "multi_scale": True},
        {"image_weights": True},
        {"rect": True},
        {"freeze": (3,)},
    ],
    ids=lambda settings: "+".join(settings) or "plain",
)
def test_an_interrupted_run_goes_on_bit_for_bit(
    tiny_data: Data, tmp_path: Path, settings: dict[str, Any]
):
    whole = tiny_trainer(*tiny_data, **settings)
    train(whole, 1)
    resumed = continued(whole, tmp_path / "x.pt", tiny_data, **settings)
    assert differences(resumed, whole) == []
    train(whole, 2)
    train(resumed, 2)
    assert differences(resumed, whole) == []
    assert resumed.results_text == whole.results_text
    assert len(parse_results(resumed.results_text)) == 3


def test_a_run_interrupted_amid_an_accumulation_keeps_the_gradients(
    tiny_data: Data, tmp_path: Path
):
    hyp = Hyperparameters(warmup_bias_lr=0.0)
    whole = tiny_trainer(*tiny_data, batch_size=5, epochs=20, hyp=hyp)
    while whole.last_update == whole.step - 1:  # the warm-up sums ever more batches
        whole.train_epoch()
    assert any(p.grad is not None and p.grad.any() for p in whole.model.parameters())
    resumed = continued(whole, tmp_path / "x.pt", tiny_data, batch_size=5, epochs=20, hyp=hyp)
    assert differences(resumed, whole) == []
    train(whole, 1)
    train(resumed, 1)
    assert differences(resumed, whole) == []
    resumed.restore(checkpoint.load(tmp_path / "x.pt"))  # without the gradients it would differ
    for parameter in resumed.model.parameters():
        parameter.grad = None
    train(resumed, 1)
    assert differences(resumed, whole) != []


def test_a_restored_trainer_forgets_what_it_did_since(tiny_data: Data, tmp_path: Path):
    trainer = tiny_trainer(*tiny_data)
    train(trainer, 1)
    checkpoint.save(trainer.state(), tmp_path / "x.pt")
    train(trainer, 1)
    once = dict(flat(trainer.state()))
    trainer.restore(checkpoint.load(tmp_path / "x.pt"))
    assert (trainer.epoch, len(trainer.history)) == (1, 1)
    train(trainer, 1)
    assert dict(flat(trainer.state())) == once


def test_cached_pictures_change_nothing(tiny_data: Data):
    plain, cached = tiny_trainer(*tiny_data), tiny_trainer(*tiny_data, cache_images=True)
    cached.cache_images(lambda *_: None)
    train(plain, 1)
    train(cached, 1)
    assert differences(cached, plain) == []


def test_the_global_generators_play_no_part(tiny_data: Data):
    first, second = tiny_trainer(*tiny_data), tiny_trainer(*tiny_data)
    torch.manual_seed(1)
    train(first, 1)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002  the global generator is what is being watched
    train(second, 1)
    assert differences(second, first) == []


# ---- training ----------------------------------------------------------------------------------


def test_the_loss_on_pictures_that_stay_the_same_falls(tiny_data: Data):
    still = dict.fromkeys(
        ("mosaic", "scale", "translate", "hsv_h", "hsv_s", "hsv_v", "fliplr"), 0.0
    )
    hyp = Hyperparameters(**still, lr0=0.005, warmup_bias_lr=0.005)
    trainer = tiny_trainer(*tiny_data, optimizer="adam", hyp=hyp, epochs=100)
    totals = [trainer.train_epoch().losses[3] for _ in range(16)]
    assert np.mean(totals[-3:]) < 0.99 * np.mean(totals[:3])  # 0.98 with seeds 0, 1 and 2


def test_a_report_tells_what_the_epoch_was_like(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data)
    seen: list[EpochReport] = []
    report = trainer.train_epoch(seen.append)
    assert len(seen) == 3
    assert seen[-1] == report
    assert report.losses[3] == pytest.approx(sum(report.losses[:3]))
    assert (report.epoch, report.image_size, report.memory) == (0, 64, "0G")
    assert (trainer.epoch, trainer.step) == (1, 3)


def test_losses_of_a_report_are_means_over_the_steps(tiny_data: Data):
    # Steps are 1 of 3 apart: with rates of zero the model is the same in each of them.
    hyp = Hyperparameters(lr0=1e-8, warmup_bias_lr=0.0)
    seen: list[EpochReport] = []
    tiny_trainer(*tiny_data, hyp=hyp).train_epoch(seen.append)
    singles = [
        np.array(now.losses) * (i + 1) - np.array(before) * i
        for i, (before, now) in enumerate(
            zip([(0.0,) * 4, *(r.losses for r in seen)], seen, strict=False)
        )
    ]
    assert seen[-1].losses == pytest.approx(np.mean(singles, 0))


def test_the_average_is_updated_once_an_optimizer_update(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data)
    start = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    steps: list[dict[str, torch.Tensor]] = []
    trainer.train_epoch(
        lambda _: steps.append({k: v.clone() for k, v in trainer.model.state_dict().items()})
    )
    assert trainer.ema.updates == 3  # at the start of the warm-up every batch is an update
    key = "model.0.conv.weight"
    average = start[key]
    for number, state in enumerate(steps, 1):
        average = decay(number) * average + (1 - decay(number)) * state[key]
    torch.testing.assert_close(trainer.ema.model.state_dict()[key], average)


def test_frozen_layers_keep_their_weights(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data, freeze=(3,))
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    train(trainer, 1)
    for name, parameter in trainer.model.named_parameters():
        frozen = int(name.split(".")[1]) < 3
        assert torch.equal(parameter, before[name]) == frozen, name


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam"},
        {"rect": True},
        {"image_weights": True},
        {"autobalance": True},
        {"lr_curve": "cosine", "iou": "giou"},
        {"hyp": Hyperparameters(fl_gamma=1.5, label_smoothing=0.1, mixup=0.5, copy_paste=0.5)},
        {"batch_size": 64},
        {"epochs": 1},
    ],
    ids="+".join,
)
def test_every_way_of_training_moves_the_weights_and_stays_finite(
    tiny_data: Data, settings: dict[str, Any]
):
    trainer = tiny_trainer(*tiny_data, **settings)
    before = trainer.model.model[0].conv.weight.clone()  # type: ignore[union-attr,operator]
    train(trainer, 1)
    train(trainer, 1 if trainer.config.epochs > 1 else 0)
    assert not torch.equal(trainer.model.model[0].conv.weight, before)
    assert all(torch.isfinite(v).all() for v in trainer.ema.model.state_dict().values())
    assert all(math.isfinite(v) for row, _ in trainer.history for v in row.scalars)


def test_one_class_is_trained_without_a_class_loss(tiny_data: Data):
    data = [
        tuple(replace(r, labels=r.labels * np.float32([0, 1, 1, 1, 1])) for r in records)
        for records in tiny_data
    ]
    trainer = tiny_trainer(data[0], data[1], num_classes=1)
    train(trainer, 1)
    row = trainer.history[0][0]
    assert (row.losses[2], row.results[6]) == (0, 0)
    assert row.losses[0] > 0


def test_multi_scale_varies_the_size_by_half_in_strides(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data, multi_scale=True, epochs=8, batch_size=2)
    sizes: set[int] = set()
    for _ in range(3):
        trainer.train_epoch(lambda report: sizes.add(report.image_size))
    assert sizes == {32, 64, 96}


def test_rectangular_training_does_not_shuffle(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data, rect=True)
    first = [key.record for batch in trainer.plan() for key in batch]
    trainer.train_epoch()
    assert [key.record for batch in trainer.plan() for key in batch] == first


def test_autobalance_moves_the_balance_in_training_alone(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data, autobalance=True)
    trainer.train_epoch()
    moved = list(trainer.loss.balance)
    assert moved != [4.0, 1.0, 0.4]
    trainer.evaluate()
    assert trainer.loss.balance == moved


def test_pictures_of_weak_classes_are_drawn_more_often(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data, image_weights=True)
    strong = 0
    trainer.class_maps = np.full(len(NAMES), 1.0)  # as after an evaluation
    trainer.class_maps[strong + 1 :] = 0.1
    records = tiny_data[0]
    drawn = [records[k.record].labels[:, 0] for batch in trainer.plan() for k in batch]
    assert all((classes != strong).any() for classes in drawn)  # never one without a weak class


# ---- faults ------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_with_the_pictures_named(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data)
    train(trainer, 1)
    first = trainer.plan()[0]
    with torch.no_grad():
        trainer.model.model[0].conv.weight[0] = float("nan")  # type: ignore[union-attr,operator,index]
    with pytest.raises(
        TrainingDivergedError, match=r"epoch 1, step 3: the loss is not fin"
    ) as caught:
        trainer.train_epoch()
    for key in first:
        assert tiny_data[0][key.record].name in str(caught.value)
    assert "lower lr0" in str(caught.value)


def test_a_rate_far_too_high_ends_in_that_error_and_not_in_nonsense(tiny_data: Data):
    hyp = Hyperparameters(lr0=10.0, warmup_bias_lr=10.0, weight_decay=100.0)
    trainer = tiny_trainer(*tiny_data, hyp=hyp, epochs=200)
    with pytest.raises(TrainingDivergedError):
        train(trainer, 60)


# ---- records of an epoch -----------------------------------------------------------------------


def an_evaluation(fitness: float) -> Evaluation:
    """One with this fitness, out of real metrics with every AP the same."""
    metrics = average_precision_per_class(
        np.ones((1, 10), bool), np.ones(1), np.zeros(1), np.zeros(1)
    )
    metrics = replace(metrics, ap=np.full((1, 10), fitness))
    return Evaluation(metrics, (0.1, 0.2, 0.3), np.zeros((5, 5)), ())


def a_report(epoch: int) -> EpochReport:
    return EpochReport(epoch, (0.1, 0.2, 0.3, 0.6), 7, 64, "0G", 0.01)


def test_the_best_epoch_is_the_last_of_the_fittest(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data, epochs=9)
    fitness = [0.0, 0.2, 0.1, 0.2, float("nan"), 0.19]
    best = [
        trainer.record(a_report(epoch), an_evaluation(value), time=0.0)
        for epoch, value in enumerate(fitness)
    ]
    assert best == [True, True, False, True, False, False]
    assert (trainer.best_epoch, trainer.best_fitness) == (3, pytest.approx(0.2))


def test_an_epoch_without_evaluation_has_zeros_and_is_best_only_among_zeros(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data)
    assert trainer.record(a_report(0), None, time=5.0)  # 0 >= 0
    assert trainer.record(a_report(1), an_evaluation(0.5), time=6.0)
    assert not trainer.record(a_report(2), None, time=7.0)
    rows = parse_results(trainer.results_text)
    assert rows[0].results == rows[2].results == (0.0,) * 7
    assert rows[1].results[3] == 0.5
    assert rows[2].losses == (0.1, 0.2, 0.3, 0.6)
    assert [time for _, time in trainer.history] == [5, 6, 7]


def test_results_text_has_one_row_of_fifteen_columns_an_epoch(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data)
    train(trainer, 2)
    lines = trainer.results_text.splitlines()
    assert [line.split()[0] for line in lines] == ["0/2", "1/2"]
    assert all(len(line.split()) == 15 for line in lines)


def test_a_state_can_be_stripped_into_a_model(tiny_data: Data, tmp_path: Path):
    trainer = tiny_trainer(*tiny_data)
    train(trainer, 1)
    description = {"description": trainer.model.description.to_mapping()}
    checkpoint.save({**trainer.state(), **description}, tmp_path / "last.pt")
    checkpoint.strip(tmp_path / "last.pt", tmp_path / "out.pt")
    model = checkpoint.build_detector(checkpoint.load(tmp_path / "out.pt"), "out.pt")
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(model(x)[0], trainer.ema.model(x)[0], rtol=0.01, atol=0.1)
