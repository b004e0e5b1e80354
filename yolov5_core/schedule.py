"""Learning rate, momentum and accumulation as functions of the step (spec D.2, D.3)."""

import math
from dataclasses import dataclass

from yolov5_core.config import LrCurve, TrainConfig

NOMINAL_BATCH = 64  # weight decay and accumulation are tuned for this many images an update


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """What the schedule depends on."""

    epochs: int
    batch_size: int
    lr0: float = 0.01
    lrf: float = 0.01
    momentum: float = 0.937
    warmup_epochs: float = 3.0
    warmup_momentum: float = 0.8
    warmup_bias_lr: float = 0.1
    warmup_min_steps: int = 100
    curve: LrCurve = "linear"


def schedule_of(config: TrainConfig) -> ScheduleConfig:
    """The schedule of a run."""
    h = config.hyp
    return ScheduleConfig(
        epochs=config.epochs,
        batch_size=config.batch_size,
        lr0=h.lr0,
        lrf=h.lrf,
        momentum=h.momentum,
        warmup_epochs=h.warmup_epochs,
        warmup_momentum=h.warmup_momentum,
        warmup_bias_lr=h.warmup_bias_lr,
        curve=config.lr_curve,
    )


@dataclass(frozen=True, slots=True)
class StepSettings:
    """What one training step uses."""

    lr_bias: float
    lr: float
    momentum: float
    accumulate: int  # batches an optimizer update


def lr_factor(epoch: int, epochs: int, lrf: float, curve: LrCurve) -> float:
    """Learning rate of an epoch as a fraction of lr0.

    `v3cosine` is the fixed fall from 1 to 0.2 of v2 and v3, whatever `lrf` says.

    Source: spec D.3.
    """
    if curve == "linear":
        return (1 - epoch / epochs) * (1 - lrf) + lrf
    if curve == "cosine":
        return (1 - math.cos(math.pi * epoch / epochs)) / 2 * (lrf - 1) + 1
    return 0.2 + 0.8 * (1 + math.cos(math.pi * epoch / epochs)) / 2


def accumulation(batch_size: int) -> int:
    """Batches an optimizer update, to come near the nominal batch of 64."""
    return max(round(NOMINAL_BATCH / batch_size), 1)


def scaled_weight_decay(weight_decay: float, batch_size: int) -> float:
    """Weight decay for the effective batch.

    Source: spec D.2.
    """
    return weight_decay * batch_size * accumulation(batch_size) / NOMINAL_BATCH


def warmup_steps(steps_per_epoch: int, config: ScheduleConfig) -> int:
    """Steps of the warm-up."""
    return max(round(config.warmup_epochs * steps_per_epoch), config.warmup_min_steps)


def settings_at(
    step: int, epoch: int, steps_per_epoch: int, config: ScheduleConfig
) -> StepSettings:
    """The settings of one step.

    After warm-up the rate is lr0 * factor(epoch). (The public trainer lags an epoch behind its
    own curve there, spec H7; ours does not.)

    Args:
        step: Steps since the run's start, 0 for the first.
        epoch: The step's epoch.
        steps_per_epoch: Batches an epoch.
        config: The schedule.

    Source: spec D.3.
    """
    c = config
    lr = c.lr0 * lr_factor(epoch, c.epochs, c.lrf, c.curve)
    warmup = warmup_steps(steps_per_epoch, c)
    if step > warmup:
        return StepSettings(lr, lr, c.momentum, accumulation(c.batch_size))
    x = step / warmup

    def ramp(start: float, end: float) -> float:
        return start + (end - start) * x

    return StepSettings(
        lr_bias=ramp(c.warmup_bias_lr, lr),
        lr=ramp(0.0, lr),
        momentum=ramp(c.warmup_momentum, c.momentum),
        accumulate=max(1, round(ramp(1.0, NOMINAL_BATCH / c.batch_size))),
    )
