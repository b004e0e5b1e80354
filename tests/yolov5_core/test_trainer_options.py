"""What an option of training changes, when training ends early, and what older states can do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import NAMES, tiny_trainer
from tests.yolov5_core.test_trainer import (
    Data,
    a_report,
    an_evaluation,
    continued,
    differences,
    train,
)
from yolov5_core import checkpoint
from yolov5_core.config import Hyperparameters
from yolov5_core.epochs import EpochReport, stalled
from yolov5_core.results import ResultsRow
from yolov5_core.trainer import Trainer

# ---- every option does something ---------------------------------------------------------------

OPTIONS: list[dict[str, Any]] = [
    {"batch_size": 6},
    {"image_size": 96},
    {"optimizer": "adam"},
    {"optimizer": "adamw"},
    {"lr_curve": "cosine"},
    {"lr_curve": "v3cosine"},
    {"iou": "giou"},
    {"autobalance": True},
    {"freeze": (3,)},
    {"multi_scale": True},
    {"rect": True},
    {"quad": True},
    {"image_weights": True},
    *(
        {"hyp": Hyperparameters(**{key: value})}
        for key, value in {
            "lr0": 0.02,
            "lrf": 0.5,
            "momentum": 0.9,
            "weight_decay": 0.05,
            "warmup_epochs": 50.0,
            "warmup_momentum": 0.5,
            "warmup_bias_lr": 0.0,
            "box": 0.1,
            "cls": 1.0,
            "cls_pw": 2.0,
            "obj": 2.0,
            "obj_pw": 2.0,
            "anchor_t": 2.0,
            "fl_gamma": 1.5,
            "label_smoothing": 0.1,
            "mosaic": 0.0,
            "mosaic9": 1.0,
            "mixup": 1.0,
        }.items()
    ),
]


def name_of(settings: dict[str, Any]) -> str:
    """Of an option, and of the one hyperparameter that is not its default."""
    (key, value), default = next(iter(settings.items())), Hyperparameters()
    if key != "hyp":
        return f"{key}={value}"
    changed = [f for f in Hyperparameters.__slots__ if getattr(value, f) != getattr(default, f)]
    return " ".join(changed)


def weights_after(data: Data, **settings: Any) -> torch.Tensor:
    """All weights of the average after two epochs, in one row."""
    trainer = tiny_trainer(*data, **settings)
    train(trainer, 2)
    return torch.cat([p.flatten() for p in trainer.ema.model.parameters()])


@pytest.fixture(scope="module")
def plain(tiny_data: Data) -> torch.Tensor:
    torch.use_deterministic_algorithms(True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in each test
    try:
        return weights_after(tiny_data)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("settings", OPTIONS, ids=name_of)
def test_an_option_leads_to_other_weights(
    tiny_data: Data, plain: torch.Tensor, settings: dict[str, Any]
):
    assert not torch.equal(weights_after(tiny_data, **settings), plain)


def test_without_options_the_weights_are_the_same_again(tiny_data: Data, plain: torch.Tensor):
    assert torch.equal(weights_after(tiny_data), plain)


def test_adam_and_adamw_differ_by_their_decay_alone(tiny_data: Data):
    def pair(decay: float) -> list[torch.Tensor]:
        hyp = Hyperparameters(weight_decay=decay)
        return [weights_after(tiny_data, optimizer=kind, hyp=hyp) for kind in ("adam", "adamw")]

    assert torch.equal(*pair(0.0))
    assert not torch.equal(*pair(0.05))


def first_losses(data: Data, hyp: Hyperparameters) -> tuple[float, ...]:
    """Box, objectness and class loss of the first step, before any weight has moved."""
    seen: list[EpochReport] = []
    tiny_trainer(*data, hyp=hyp).train_epoch(seen.append)
    return seen[0].losses[:3]


def test_label_smoothing_changes_the_class_loss_alone(tiny_data: Data):
    box, obj, cls = first_losses(tiny_data, Hyperparameters())
    smooth_box, smooth_obj, smooth_cls = first_losses(
        tiny_data, Hyperparameters(label_smoothing=0.2)
    )
    assert (smooth_box, smooth_obj) == (box, obj)
    assert smooth_cls > cls  # the first guesses are far below the raised targets of 0.1


# ---- four pictures as one ----------------------------------------------------------------------


def test_quad_trains_on_pictures_of_twice_the_side_a_quarter_as_many(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data, quad=True, batch_size=8)  # 12 pictures: one batch, 4 left
    batches = list(trainer.loader.epoch(0))
    assert [batch.images.shape for batch in batches] == [(2, 3, 128, 128)]
    assert trainer.train_epoch().image_size == 128
    assert trainer.step == 1


@pytest.mark.parametrize(("quad", "factor"), [(False, 1), (True, 4)])
def test_the_loss_of_a_quad_counts_for_its_four_pictures(tiny_data: Data, quad: bool, factor: int):
    ours, plainly = (tiny_trainer(*tiny_data, quad=quad) for _ in range(2))
    images, targets = torch.rand(2, 3, 128, 128), torch.tensor([[0, 1, 0.5, 0.5, 0.2, 0.3]])
    ours.model.train()
    ours._backward(images, targets)
    plainly.model.train()
    total, _ = plainly.loss(plainly.model(images), targets)
    total.backward()
    for mine, other in zip(ours.model.parameters(), plainly.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, factor * other.grad)


def test_multi_scale_varies_the_size_of_quads_too(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data, multi_scale=True, quad=True, epochs=8)
    sizes: set[int] = set()
    for _ in range(4):
        trainer.train_epoch(lambda report: sizes.add(report.image_size))
    assert min(sizes) >= 64  # half of 128
    assert max(sizes) <= 192
    assert len(sizes) > 2


# ---- weak classes ------------------------------------------------------------------------------

MAPS = np.array([0.9, 0.1, 0.5, 0.0])  # AP50-95 of each class


def test_a_picture_weighs_its_labels_by_rarity_and_by_what_is_left_to_learn(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data, image_weights=True)
    trainer.class_maps = MAPS  # as after an evaluation
    labels = [int(row[0]) for record in tiny_data[0] for row in record.labels]
    expected = [
        sum((1 - MAPS[int(row[0])]) ** 2 / labels.count(int(row[0])) for row in record.labels)
        for record in tiny_data[0]
    ]
    weights = trainer._image_weights()
    np.testing.assert_allclose(weights / weights.sum(), np.array(expected) / sum(expected))


def test_an_evaluation_tells_which_classes_are_weak(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data, image_weights=True)
    trainer.class_maps = MAPS
    found = trainer.evaluate()
    assert trainer.class_maps.tolist() == found.metrics.maps(len(NAMES)).tolist()
    assert trainer.class_maps.tolist() != MAPS.tolist()


def test_a_resumed_run_still_knows_the_weak_classes(tiny_data: Data, tmp_path: Path):
    trainer = tiny_trainer(*tiny_data, image_weights=True)
    unknowing = list(trainer.plan())
    trainer.class_maps = MAPS
    resumed = continued(trainer, tmp_path / "x.pt", tiny_data, image_weights=True)
    assert list(resumed.plan()) == list(trainer.plan()) != unknowing


# ---- early stopping ----------------------------------------------------------------------------


def a_history(*fitness: float | None) -> list[tuple[ResultsRow, float]]:
    """Epochs of a given fitness; None: not evaluated."""
    rows = []
    for epoch, value in enumerate(fitness):
        results = (0.0,) * 7 if value is None else (0.5, 0.5, value, value, 0.1, 0.2, 0.3)
        row = ResultsRow(
            epoch=epoch,
            epochs=len(fitness),
            memory="0G",
            losses=(0.1, 0.2, 0.3, 0.6),
            targets=7,
            image_size=64,
            results=results,
        )
        rows.append((row, 0.0))
    return rows


@pytest.mark.parametrize(
    ("fitness", "count"),
    [
        ((), 0),
        ((0.1,), 0),
        ((0.1, 0.2, 0.3), 0),
        ((0.3, 0.2, 0.1), 2),
        ((0.1, 0.1), 1),  # an equal is none the better
        ((0.1, 0.05, 0.2, 0.1), 1),
        ((0.0, 0.0, 0.0), 3),  # nothing found at all
        ((0.0, 0.0, 0.1), 0),
        ((0.2, float("nan"), 0.1), 2),
        ((None, None, None), 0),  # nothing known
        ((0.2, None, 0.1), 1),
    ],
)
def test_epochs_without_a_better_fitness_are_counted_from_the_last_better_one(
    fitness: tuple[float | None, ...], count: int
):
    assert stalled(a_history(*fitness)) == count


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=30))
def test_the_count_goes_back_to_the_first_of_the_fittest(fitness: list[float]):
    rows = a_history(*fitness)
    values = [row.fitness for row, _ in rows]
    assert stalled(rows) == len(values) - 1 - values.index(max(values))


def over_after(trainer: Trainer, *fitness: float | None) -> list[bool]:
    """Whether training is over after each epoch of that fitness."""
    seen = []
    for value in fitness:
        found = None if value is None else an_evaluation(value)
        trainer.record(a_report(trainer.epoch), found, time=0.0)
        trainer.epoch += 1
        seen.append(trainer.over)
    return seen


def test_training_is_over_after_as_many_worse_epochs_as_patience_has(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data, epochs=9, patience=2)
    assert over_after(trainer, 0.1, 0.2, 0.15, 0.25) == [False] * 4
    assert over_after(trainer, 0.2, 0.25) == [False, True]


def test_no_patience_is_endless_patience(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data, epochs=9, patience=0)
    assert over_after(trainer, *[0.1] * 9) == [False] * 8 + [True]


def test_nothing_stops_early_what_is_not_evaluated(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data, epochs=5, patience=1)
    assert over_after(trainer, None, None, None, None, 0.1) == [False] * 4 + [True]


@pytest.fixture
def hopeless(tiny_data: Data) -> Data:
    """Validation pictures without labels: there is nothing to find, and the fitness stays 0."""
    train_records, val_records = tiny_data
    nothing = {"labels": np.zeros((0, 5), np.float32), "segments": ()}
    return train_records, tuple(replace(record, **nothing) for record in val_records)


def train_till_over(trainer: Trainer) -> None:
    while not trainer.over:
        train(trainer, 1)


@pytest.mark.parametrize("interrupted_after", [1, 2, 3])
def test_a_run_that_stops_early_ends_the_same_wherever_it_was_interrupted(
    hopeless: Data, tmp_path: Path, interrupted_after: int
):
    settings = {"epochs": 6, "patience": 3}
    whole = tiny_trainer(*hopeless, **settings)
    train(whole, interrupted_after)
    resumed = continued(whole, tmp_path / "x.pt", hopeless, **settings)
    assert resumed.over == whole.over == (interrupted_after == 3)
    train_till_over(whole)
    train_till_over(resumed)
    assert whole.epoch == resumed.epoch == 3
    assert differences(resumed, whole) == []


def test_with_more_patience_a_stopped_run_goes_on_as_if_it_had_never_stopped(
    hopeless: Data, tmp_path: Path
):
    stopped = tiny_trainer(*hopeless, epochs=5, patience=2)
    train_till_over(stopped)
    assert stopped.epoch == 2
    resumed = continued(stopped, tmp_path / "x.pt", hopeless, epochs=5, patience=0)
    whole = tiny_trainer(*hopeless, epochs=5, patience=0)
    for trainer in (resumed, whole):
        train_till_over(trainer)
    assert whole.epoch == 5
    assert differences(resumed, whole) == []


# ---- states of other versions ------------------------------------------------------------------

FIRST_STATE = {"epoch", "best_fitness", "training_results", "model", "optimizer", "resume"}
FIRST_RESUME = {
    *("model", "gradients", "ema_updates", "scaler", "step", "last_update", "best_epoch"),
    *("balance", "class_maps", "history"),
}
FIRST_ROW = {
    *("epoch", "epochs", "memory", "losses", "targets", "image_size", "results", "time"),
}


def only(mapping: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: mapping[key] for key in keys}


def test_a_state_of_the_first_version_continues_to_the_same_bytes(tiny_data: Data, tmp_path: Path):
    whole = tiny_trainer(*tiny_data)
    train(whole, 1)
    state = only(whole.state(), FIRST_STATE)
    state["resume"] = only(state["resume"], FIRST_RESUME)
    state["resume"]["history"] = [only(row, FIRST_ROW) for row in state["resume"]["history"]]
    checkpoint.save(state, tmp_path / "first.pt")
    resumed = tiny_trainer(*tiny_data)
    resumed.restore(checkpoint.load(tmp_path / "first.pt"))
    train(whole, 2)
    train(resumed, 2)
    assert differences(resumed, whole) == []


def test_what_a_later_version_adds_to_a_state_is_passed_over(tiny_data: Data, tmp_path: Path):
    whole = tiny_trainer(*tiny_data)
    train(whole, 1)
    state = whole.state()
    state = {**state, "weather": "fair", "resume": {**state["resume"], "mood": [1.0]}}
    checkpoint.save(state, tmp_path / "later.pt")
    resumed = tiny_trainer(*tiny_data)
    resumed.restore(checkpoint.load(tmp_path / "later.pt"))
    assert differences(resumed, whole) == []


def test_the_fitness_of_a_row_is_the_one_that_was_measured(tiny_data: Data):
    trainer = tiny_trainer(*tiny_data)
    found = an_evaluation(0.3)
    metrics = replace(found.metrics, ap=np.linspace(0.9, 0.1, 10)[None])
    trainer.record(a_report(0), replace(found, metrics=metrics), time=0.0)
    assert trainer.history[0][0].fitness == metrics.fitness == trainer.best_fitness
