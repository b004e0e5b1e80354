"""Learning rate, momentum, accumulation and averaging against the public program's.

One difference is meant (spec H7): from the epoch after the one in which warm-up ends, the public
scheduler is an epoch late, so its rate in epoch e is our rate of epoch e - 1. Everything else
agrees row by row. The step rule of v3 (every `accumulate`-th iteration) is not ours, so of v3 runs
the steps are not compared.
"""

import json
from typing import Any

import pytest
import torch

from tests.golden_data import golden_files
from yolov5_core.architecture import ModelDescription, describe, from_mapping
from yolov5_core.config import Hyperparameters
from yolov5_core.ema import Ema, decay
from yolov5_core.model import Detector
from yolov5_core.optimizer import apply_settings, build_optimizer, parameter_groups
from yolov5_core.schedule import (
    ScheduleConfig,
    StepSettings,
    accumulation,
    lr_factor,
    scaled_weight_decay,
    settings_at,
    warmup_steps,
)

FILES = [(path.stem, json.loads(path.read_text())) for path in golden_files("schedule*.json")]
# hard-coded in v3, while its recorded hyp is the v7 table (spec D.10)
V3 = {"warmup_min_steps": 1000, "warmup_epochs": 3.0, "warmup_momentum": 0.9, "warmup_bias_lr": 0.1}
USED = ("lr0", "lrf", "momentum", "warmup_epochs", "warmup_momentum", "warmup_bias_lr")


def cases(kind: str) -> pytest.MarkDecorator:
    """One test a case of that kind in any file."""
    found = []
    for stem, content in FILES:
        entries = content.get(kind, [])
        entries = entries if isinstance(entries, list) else [entries]
        found += [pytest.param(entry, id=f"{stem}-{i}") for i, entry in enumerate(entries)]
    return pytest.mark.parametrize("case", found)


def config_of(case: dict[str, Any], hyp: dict[str, float]) -> ScheduleConfig:
    values: dict[str, Any] = {key: hyp[key] for key in USED}
    if case.get("era") == "v3":
        values |= V3
    return ScheduleConfig(
        epochs=case["epochs"], batch_size=case["batch_size"], curve=case["schedule"], **values
    )


def late(step: int, steps_per_epoch: int, config: ScheduleConfig) -> StepSettings:
    """Our settings, with the public delay."""
    return settings_at(step, public_epoch(step, steps_per_epoch, config), steps_per_epoch, config)


def public_epoch(step: int, steps_per_epoch: int, config: ScheduleConfig) -> int:
    """The epoch whose rate the public program uses.

    What the last warm-up step set stays to the end of its epoch; from then on its scheduler rules,
    which counts from the epoch before.
    """
    epoch = step // steps_per_epoch
    return epoch - (epoch > warmup_steps(steps_per_epoch, config) // steps_per_epoch)


def updates(steps: int, steps_per_epoch: int, config: ScheduleConfig) -> list[int]:
    """Iterations at which the optimizer steps: `accumulate` after the last time, at the least."""
    taken = [-1]
    for step in range(steps):
        settings = settings_at(step, step // steps_per_epoch, steps_per_epoch, config)
        if step - taken[-1] >= settings.accumulate:
            taken.append(step)
    return taken[1:]


def description_at(depth: float, case: dict[str, Any]) -> ModelDescription:
    base = describe("s6" if case["nl"] == 4 else "s", case["nc"]).to_mapping()
    return from_mapping({**base, "depth_multiple": depth}, "golden")


@cases("lambda_factors")
def test_golden_rate_factors_agree(case: dict[str, Any]) -> None:
    lrf = case["lrf"] or 0.0  # the v3 curve has a fixed end

    ours = [lr_factor(e, case["epochs"], lrf, case["schedule"]) for e in range(len(case["factor"]))]

    assert ours == pytest.approx(case["factor"], rel=1e-12)


@cases("simulated")
def test_golden_simulated_runs_agree_row_by_row(case: dict[str, Any]) -> None:
    config, per_epoch = config_of(case, case["hyp"]), case["nb"]

    assert warmup_steps(per_epoch, config) == case["nw"]
    assert accumulation(case["batch_size"]) == case["initial_accumulate"]
    weight_decay = scaled_weight_decay(case["hyp"]["weight_decay"], case["batch_size"])
    assert weight_decay == pytest.approx(case["scaled_weight_decay"], rel=1e-12)
    for values in case["rows"]:
        row = dict(zip(case["columns"], values, strict=True))
        ours = late(int(row["ni"]), per_epoch, config)
        expected = (row["lr_bias"], row["lr_weight"], row["momentum"], row["accumulate"])
        assert row["lr_norm"] == row["lr_weight"]
        assert (ours.lr_bias, ours.lr, ours.momentum, ours.accumulate) == pytest.approx(
            expected, rel=1e-10
        )
    if case["era"] != "v3":
        taken = updates(case["epochs"] * per_epoch, per_epoch, config)
        assert len(taken) == case["n_optimizer_steps"]
        first = case["first_step_iterations"]
        assert taken[: len(first)] == first
        recorded = {int(row[0]): bool(row[-1]) for row in case["rows"]}
        assert {step: step in taken for step in recorded} == recorded


@cases("simulated")
def test_golden_runs_differ_from_ours_by_the_late_epoch_only(case: dict[str, Any]) -> None:
    config, per_epoch = config_of(case, case["hyp"]), case["nb"]
    for values in case["rows"]:
        row = dict(zip(case["columns"], values, strict=True))
        step = int(row["ni"])
        epoch = step // per_epoch
        ours = settings_at(step, epoch, per_epoch, config)
        if public_epoch(step, per_epoch, config) == epoch:
            assert ours.lr == pytest.approx(row["lr_weight"], rel=1e-10)
        else:
            before = lr_factor(epoch - 1, config.epochs, config.lrf, config.curve)
            assert row["lr_weight"] == pytest.approx(config.lr0 * before, rel=1e-10)
            now = lr_factor(epoch, config.epochs, config.lrf, config.curve)
            assert ours.lr == ours.lr_bias == pytest.approx(config.lr0 * now, rel=1e-10)


@cases("public_trace")
def test_golden_recorded_run_agrees(case: dict[str, Any]) -> None:
    config, per_epoch = config_of(case, case["hyp_after_scaling"]), case["nb"]
    steps = len(case["lr_bias_weight_norm"])

    assert steps == case["epochs"] * per_epoch
    assert warmup_steps(per_epoch, config) == case["nw"]
    for step in range(steps):
        ours = late(step, per_epoch, config)
        expected = case["lr_bias_weight_norm"][step]
        assert [ours.lr_bias, ours.lr, ours.lr] == pytest.approx(expected, rel=1e-12)
        assert ours.momentum == pytest.approx(case["momentum"][step], rel=1e-12)
    assert updates(steps, per_epoch, config) == case["optimizer_step_iterations"]


@cases("public_trace")
def test_golden_recorded_parameter_groups_agree(case: dict[str, Any]) -> None:
    sizes = case["group_sizes_bias_weight_norm"]
    candidates = [description_at(depth, case) for depth in (0.33, 0.67, 1.0, 1.33)]
    with torch.device("meta"):  # the trace does not name its variant; width does not count here
        models = [Detector(description) for description in candidates]
    same = [m for m in models if [len(group) for group in parameter_groups(m)] == sizes]
    assert len(same) == 1
    decayed = case["hyp_after_scaling"]["weight_decay"]

    optimizer = build_optimizer(same[0], "sgd", lr=0.1, momentum=0.9, weight_decay=decayed)

    assert [len(group["params"]) for group in optimizer.param_groups] == sizes
    assert [g["weight_decay"] for g in optimizer.param_groups] == case["group_weight_decay"]
    apply_settings(optimizer, StepSettings(lr_bias=0.3, lr=0.2, momentum=0.5, accumulate=1))
    assert [g["lr"] for g in optimizer.param_groups] == [0.3, 0.2, 0.2]
    assert [g["momentum"] for g in optimizer.param_groups] == [0.5, 0.5, 0.5]


@cases("public_trace")
def test_golden_recorded_gains_agree(case: dict[str, Any]) -> None:
    scaled = case["hyp_after_scaling"]

    ours = Hyperparameters().loss_config(
        num_levels=case["nl"], num_classes=case["nc"], image_size=case["imgsz"]
    )

    for key in ("box", "obj", "cls", "cls_pw", "obj_pw", "anchor_t"):
        assert getattr(ours, key) == pytest.approx(scaled[key], rel=1e-12)


@cases("gains")
def test_golden_gains_agree(case: dict[str, Any]) -> None:
    ours = Hyperparameters().loss_config(
        num_levels=case["nl"], num_classes=case["nc"], image_size=case["imgsz"]
    )

    assert (ours.box, ours.cls, ours.obj) == pytest.approx(
        (case["box"], case["cls"], case["obj"]), rel=1e-12
    )


@cases("weight_decay")
def test_golden_accumulation_and_weight_decay_agree(case: dict[str, Any]) -> None:
    batch_size = case["batch_size"]

    assert accumulation(batch_size) == case["accumulate"]
    ours = scaled_weight_decay(case["weight_decay"], batch_size)
    assert ours == pytest.approx(case["scaled"], rel=1e-12)


@cases("ema")
def test_golden_average_decays_and_follows_alike(case: dict[str, Any]) -> None:
    for count, expected in case["decay_by_update"].items():
        assert decay(int(count)) == pytest.approx(expected, rel=1e-12)
    toy = case["toy"]
    model = torch.nn.Linear(1, 1).requires_grad_(False)
    model.weight.fill_(toy["start"])
    ema = Ema(model)  # type: ignore[arg-type]  # only its state_dict matters
    for value, expected in zip(toy["feed"], toy["values"], strict=True):
        model.weight.fill_(value)
        ema.update()
        assert ema.model.state_dict()["weight"].item() == pytest.approx(expected, rel=1e-6)
