"""The core's configuration: frozen records that are valid from construction (spec D)."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from yolov5_core.strict_yaml import YamlError, load_yaml, load_yaml_file

IouKind = Literal["ciou", "giou"]
LrCurve = Literal["linear", "cosine", "v3cosine"]
OptimizerKind = Literal["sgd", "adam", "adamw"]
Precision = Literal["mixed", "bfloat16", "full"]


class ConfigError(ValueError):
    """A setting that cannot work; the message names the key and the fix."""


_UNIT = (0.0, 1.0)
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("lrf", "momentum", "warmup_momentum", "label_smoothing"), _UNIT),
    **dict.fromkeys(("hsv_h", "hsv_s", "hsv_v", "translate", "scale"), _UNIT),
    **dict.fromkeys(("flipud", "fliplr", "mosaic", "mosaic9", "mixup", "copy_paste"), _UNIT),
    "lr0": (1e-8, 10.0),
    "anchor_t": (1.0, 100.0),
    "degrees": (0.0, 180.0),
    "shear": (0.0, 89.0),
    "perspective": (0.0, 0.01),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Strength of each augmentation; probabilities in [0, 1], 0 turns off (spec C.8-C.10)."""

    hsv_h: float = 0.015  # fraction of the hue circle
    hsv_s: float = 0.7  # fraction
    hsv_v: float = 0.4  # fraction
    degrees: float = 0.0  # rotation, +- degrees
    translate: float = 0.1  # +- fraction of the image
    scale: float = 0.5  # +- gain
    shear: float = 0.0  # +- degrees
    perspective: float = 0.0  # +- fraction, useful range 0-0.001
    flipud: float = 0.0  # probability
    fliplr: float = 0.5  # probability
    mosaic: float = 1.0  # probability
    mosaic9: float = 0.0  # probability that a mosaic has nine pictures instead of four
    mixup: float = 0.0  # probability
    copy_paste: float = 0.0  # probability, needs polygons


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Gains as the loss uses them, after the scaling of spec D.4."""

    box: float
    obj: float
    cls: float
    cls_pw: float = 1.0  # positive weight of the class BCE
    obj_pw: float = 1.0  # positive weight of the objectness BCE
    anchor_t: float = 4.0  # largest side ratio between a target and an anchor that matches it
    fl_gamma: float = 0.0  # focal exponent; 0 is plain BCE
    label_smoothing: float = 0.0  # epsilon
    iou: IouKind = "ciou"
    autobalance: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Hyperparameters:
    """One hyperparameter table, the keys of spec D.10; defaults are the v7 scratch-low table.

    Raises:
        ConfigError: A value out of its range, naming key, value and range.
    """

    lr0: float = 0.01  # learning rate after warm-up
    lrf: float = 0.01  # last learning rate as a fraction of lr0
    momentum: float = 0.937  # of SGD; the first beta of Adam and AdamW
    weight_decay: float = 0.0005
    warmup_epochs: float = 3.0
    warmup_momentum: float = 0.8
    warmup_bias_lr: float = 0.1
    box: float = 0.05
    cls: float = 0.5
    cls_pw: float = 1.0
    obj: float = 1.0
    obj_pw: float = 1.0
    anchor_t: float = 4.0
    anchors: float = 0.0  # rounded: anchors per level, found from the data; 0 keeps the model's
    fl_gamma: float = 0.0
    label_smoothing: float = 0.0
    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.5
    shear: float = 0.0
    perspective: float = 0.0
    flipud: float = 0.0
    fliplr: float = 0.5
    mosaic: float = 1.0
    mosaic9: float = 0.0
    mixup: float = 0.0
    copy_paste: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = _RANGES.get(field.name, (0.0, float("inf")))
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ConfigError(f"hyp {field.name}={value!r}: must be a number")
            if not (low <= value <= high and math.isfinite(value)):  # NaN fails too
                raise ConfigError(f"hyp {field.name}={value}: must be within {low} and {high}")

    @property
    def augment(self) -> AugmentConfig:
        """The augmentation part of the table."""
        return AugmentConfig(**{f.name: getattr(self, f.name) for f in fields(AugmentConfig)})

    def loss_config(
        self,
        *,
        num_levels: int,
        num_classes: int,
        image_size: int,
        iou: IouKind = "ciou",
        autobalance: bool = False,
    ) -> LossConfig:
        """Gains scaled to levels, classes and image size.

        Source: spec D.4.
        """
        per_level = 3 / num_levels
        return LossConfig(
            box=self.box * per_level,
            cls=self.cls * num_classes / 80 * per_level,
            obj=self.obj * (image_size / 640) ** 2 * per_level,
            cls_pw=self.cls_pw,
            obj_pw=self.obj_pw,
            anchor_t=self.anchor_t,
            fl_gamma=self.fl_gamma,
            label_smoothing=self.label_smoothing,
            iou=iou,
            autobalance=autobalance,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """What a training run depends on, beside the model and the data."""

    epochs: int
    batch_size: int = 16  # images a step
    image_size: int = 640  # pixels, side of the square input
    seed: int = 0
    hyp: Hyperparameters = Hyperparameters()
    lr_curve: LrCurve = "linear"
    iou: IouKind = "ciou"
    autobalance: bool = False
    optimizer: OptimizerKind = "sgd"
    precision: Precision = "mixed"  # of steps on a GPU
    freeze: tuple[int, ...] = ()
    multi_scale: bool = False
    rect: bool = False
    quad: bool = False  # every four pictures become one of twice the side (spec C.10)
    image_weights: bool = False
    patience: int = 100  # epochs without a better fitness before training stops early; 0: never
    cache_images: bool = False
    workers: int = 2  # loader processes; 0 loads in the training process


_ALIASES = {"giou": "box"}  # the name of the box gain in v2 and v3 tables
_UNREAD = {"iou_t"}  # in every public table, read by none of its programs (spec D.10)


def shipped_tables() -> list[str]:
    """Names of the hyperparameter tables that come with the package."""
    folder = resources.files("yolov5_core") / "hyp"
    return sorted(
        p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml")
    )


def load_hyperparameters(name_or_path: str) -> Hyperparameters:
    """Reads a shipped table by name, or a YAML file by path.

    Raises:
        ConfigError: No such table or file, text that is not a mapping, unknown keys, bad values.
    """
    if name_or_path in shipped_tables():
        text = (resources.files("yolov5_core") / "hyp" / f"{name_or_path}.yaml").read_text("utf-8")
        return hyperparameters_from(load_yaml(text.encode()), name_or_path)
    path = Path(name_or_path)
    if not path.is_file():
        raise ConfigError(
            f"hyp={name_or_path}: no such file, and not one of the shipped tables "
            f"{', '.join(shipped_tables())}"
        )
    try:
        table = load_yaml_file(path)
    except YamlError as error:
        raise ConfigError(f"hyp={path}: {error}") from error
    return hyperparameters_from(table, str(path))


def hyperparameters_from(table: Any, where: str) -> Hyperparameters:
    """Checks a mapping read from YAML and builds the record.

    Raises:
        ConfigError: Not a mapping, or unknown keys (with the nearest known one).
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: must be `key: number` lines, got {type(table).__name__}")
    known = {field.name for field in fields(Hyperparameters)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = _ALIASES.get(str(key), str(key))
        if name in _UNREAD:
            continue
        if name not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(str(key), known)}")
        values[name] = value
    try:
        return Hyperparameters(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def nearest(key: str, known: set[str]) -> str:
    """The hint behind an unknown key: the nearest known one, or all of them."""
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"
