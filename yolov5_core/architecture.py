"""Model descriptions as data: the ten variants, custom YAML, and their checks (spec A.2, A.3)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolov5_core.config import ConfigError, nearest
from yolov5_core.strict_yaml import YamlError, load_yaml_file

_STEM: list[list[Any]] = [
    [-1, 1, "Conv", [64, 6, 2, 2]],
    [-1, 1, "Conv", [128, 3, 2]],
    [-1, 3, "C3", [128]],
    [-1, 1, "Conv", [256, 3, 2]],
    [-1, 6, "C3", [256]],
    [-1, 1, "Conv", [512, 3, 2]],
    [-1, 9, "C3", [512]],
]
_UP: list[Any] = [-1, 1, "Upsample", [2]]
_P5_BACKBONE = [
    *_STEM,
    [-1, 1, "Conv", [1024, 3, 2]],
    [-1, 3, "C3", [1024]],
    [-1, 1, "SPPF", [1024, 5]],
]
_P5_HEAD: list[list[Any]] = [
    [-1, 1, "Conv", [512, 1, 1]],
    _UP,
    [[-1, 6], 1, "Concat", []],
    [-1, 3, "C3", [512, False]],
    [-1, 1, "Conv", [256, 1, 1]],
    _UP,
    [[-1, 4], 1, "Concat", []],
    [-1, 3, "C3", [256, False]],
    [-1, 1, "Conv", [256, 3, 2]],
    [[-1, 14], 1, "Concat", []],
    [-1, 3, "C3", [512, False]],
    [-1, 1, "Conv", [512, 3, 2]],
    [[-1, 10], 1, "Concat", []],
    [-1, 3, "C3", [1024, False]],
    [[17, 20, 23], 1, "Detect", []],
]
_P6_BACKBONE = [
    *_STEM,
    [-1, 1, "Conv", [768, 3, 2]],
    [-1, 3, "C3", [768]],
    [-1, 1, "Conv", [1024, 3, 2]],
    [-1, 3, "C3", [1024]],
    [-1, 1, "SPPF", [1024, 5]],
]
_P6_HEAD: list[list[Any]] = [
    [-1, 1, "Conv", [768, 1, 1]],
    _UP,
    [[-1, 8], 1, "Concat", []],
    [-1, 3, "C3", [768, False]],
    [-1, 1, "Conv", [512, 1, 1]],
    _UP,
    [[-1, 6], 1, "Concat", []],
    [-1, 3, "C3", [512, False]],
    [-1, 1, "Conv", [256, 1, 1]],
    _UP,
    [[-1, 4], 1, "Concat", []],
    [-1, 3, "C3", [256, False]],
    [-1, 1, "Conv", [256, 3, 2]],
    [[-1, 20], 1, "Concat", []],
    [-1, 3, "C3", [512, False]],
    [-1, 1, "Conv", [512, 3, 2]],
    [[-1, 16], 1, "Concat", []],
    [-1, 3, "C3", [768, False]],
    [-1, 1, "Conv", [768, 3, 2]],
    [[-1, 12], 1, "Concat", []],
    [-1, 3, "C3", [1024, False]],
    [[23, 26, 29, 32], 1, "Detect", []],
]
_P5_ANCHORS = [
    [10, 13, 16, 30, 33, 23],
    [30, 61, 62, 45, 59, 119],
    [116, 90, 156, 198, 373, 326],
]
_P6_ANCHORS = [
    [19, 27, 44, 40, 38, 94],
    [96, 68, 86, 152, 180, 137],
    [140, 301, 303, 264, 238, 542],
    [436, 615, 739, 380, 925, 792],
]
_SCALES = {
    "n": (0.33, 0.25),
    "s": (0.33, 0.5),
    "m": (0.67, 0.75),
    "l": (1.0, 1.0),
    "x": (1.33, 1.25),
}
VARIANTS = (*_SCALES, *(f"{size}6" for size in _SCALES))

_REQUIRED = ("nc", "depth_multiple", "width_multiple", "anchors", "backbone", "head")
_OPTIONAL = ("ch", "activation", "channel_multiple")
_PUBLIC_ONLY = ("inplace", "yaml_file")  # in public files; say nothing about the network


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRow:
    """One row of a layer table: where from, how often, which block, its arguments."""

    sources: tuple[int, ...]
    repeats: int
    block: str
    args: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelDescription:
    """A detector's architecture as plain data.

    `anchors` are (w, h) pairs in pixels, one tuple a level, or a number: so many a level, to be
    found from the data.
    """

    num_classes: int
    depth_multiple: float
    width_multiple: float
    anchors: tuple[tuple[float, ...], ...] | int
    backbone: tuple[LayerRow, ...]
    head: tuple[LayerRow, ...]
    channels: int = 3
    activation: str = "SiLU"
    channel_multiple: int = 8

    @property
    def num_levels(self) -> int:
        """Output levels: the sources of the last row."""
        return len(self.head[-1].sources)

    @property
    def anchors_per_level(self) -> int:
        """Anchors of each level."""
        return self.anchors if isinstance(self.anchors, int) else len(self.anchors[0]) // 2

    def to_mapping(self) -> dict[str, Any]:
        """The description under its public YAML keys, plain values only."""
        anchors = self.anchors if isinstance(self.anchors, int) else [list(a) for a in self.anchors]
        return {
            "nc": self.num_classes,
            "ch": self.channels,
            "depth_multiple": self.depth_multiple,
            "width_multiple": self.width_multiple,
            "channel_multiple": self.channel_multiple,
            "activation": self.activation,
            "anchors": anchors,
            "backbone": [_row_to_list(row) for row in self.backbone],
            "head": [_row_to_list(row) for row in self.head],
        }


def describe(cfg: str, num_classes: int | None = None) -> ModelDescription:
    """Finds a description: a variant's name (n, yolov5n, yolov5n.yaml) or a YAML file's path.

    Raises:
        ConfigError: No such variant or file, or a description that cannot be built.
    """
    name = cfg.removesuffix(".yaml").removeprefix("yolov5")
    if name in VARIANTS:
        return _variant(name, 80 if num_classes is None else num_classes)
    path = Path(cfg)
    if not path.is_file():
        raise ConfigError(f"cfg={cfg}: no such file, and not one of {', '.join(VARIANTS)}")
    try:
        mapping = load_yaml_file(path)
    except YamlError as error:
        raise ConfigError(f"cfg={path}: {error}") from error
    if isinstance(mapping, dict) and num_classes is not None:
        mapping = {**mapping, "nc": num_classes}
    return from_mapping(mapping, str(path))


def _variant(name: str, num_classes: int) -> ModelDescription:
    is_p6 = name.endswith("6")
    depth, width = _SCALES[name[0]]
    return from_mapping(
        {
            "nc": num_classes,
            "depth_multiple": depth,
            "width_multiple": width,
            "anchors": _P6_ANCHORS if is_p6 else _P5_ANCHORS,
            "backbone": _P6_BACKBONE if is_p6 else _P5_BACKBONE,
            "head": _P6_HEAD if is_p6 else _P5_HEAD,
        },
        f"variant {name}",
    )


def from_mapping(mapping: Any, where: str) -> ModelDescription:
    """Checks a mapping with the public YAML keys and builds the description.

    Raises:
        ConfigError: Missing or unknown keys, rows of a wrong form, anchors that do not fit.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where}: must be a YAML mapping, got {type(mapping).__name__}")
    missing = [key for key in _REQUIRED if key not in mapping]
    if missing:
        raise ConfigError(f"{where}: missing {', '.join(missing)}")
    known = {*_REQUIRED, *_OPTIONAL, *_PUBLIC_ONLY}
    for key in mapping:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(str(key), known)}")
    backbone = _rows(mapping["backbone"], f"{where}: backbone")
    head = _rows(mapping["head"], f"{where}: head")
    blocks = [row.block for row in (*backbone, *head)]
    if not head or blocks[-1] != "Detect" or "Detect" in blocks[:-1]:
        raise ConfigError(f"{where}: the last row of head, and no other, must be Detect")
    return ModelDescription(
        num_classes=_positive_int(mapping["nc"], f"{where}: nc"),
        depth_multiple=_positive(mapping["depth_multiple"], f"{where}: depth_multiple"),
        width_multiple=_positive(mapping["width_multiple"], f"{where}: width_multiple"),
        anchors=_anchors(mapping["anchors"], len(head[-1].sources), where),
        backbone=tuple(backbone),
        head=tuple(head),
        channels=_positive_int(mapping.get("ch", 3), f"{where}: ch"),
        activation=str(mapping.get("activation") or "SiLU"),
        channel_multiple=_positive_int(
            mapping.get("channel_multiple") or 8, f"{where}: channel_multiple"
        ),
    )


def _rows(rows: Any, where: str) -> list[LayerRow]:
    if not isinstance(rows, list | tuple):
        raise ConfigError(f"{where}: must be a list of [from, number, module, args]")
    return [_row(row, f"{where} row {i}") for i, row in enumerate(rows)]


def _row(row: Any, where: str) -> LayerRow:
    if not isinstance(row, list | tuple) or len(row) != 4 or not isinstance(row[3], list | tuple):
        raise ConfigError(f"{where}: must be [from, number, module, args], got {row!r}")
    sources = tuple(row[0]) if isinstance(row[0], list | tuple) else (row[0],)
    if not sources or not all(type(s) is int for s in sources):
        raise ConfigError(f"{where}: from must be a layer index or a list of them, got {row[0]!r}")
    block = str(row[2]).removeprefix("nn.")
    args = tuple(row[3])
    if block == "Upsample":  # public files write [None, factor, 'nearest'], we [factor]
        if len(args) == 3 and args[0] in (None, "None") and args[2] == "nearest":
            args = args[1:2]
        if args != (2,):
            raise ConfigError(f"{where}: only nearest upsampling by 2 is known, got {row[3]!r}")
    if block in ("Concat", "Detect"):
        args = ()  # public files repeat the axis, nc and anchors here
    return LayerRow(
        sources=sources, repeats=_positive_int(row[1], f"{where}: number"), block=block, args=args
    )


def _row_to_list(row: LayerRow) -> list[Any]:
    sources = row.sources[0] if len(row.sources) == 1 else list(row.sources)
    return [sources, row.repeats, row.block, list(row.args)]


def _anchors(value: Any, levels: int, where: str) -> tuple[tuple[float, ...], ...] | int:
    if type(value) is int:
        return _positive_int(value, f"{where}: anchors")
    if not isinstance(value, list | tuple) or len(value) != levels:
        raise ConfigError(f"{where}: anchors must be {levels} lists (one a level) or a number")
    rows = tuple(
        tuple(_positive(number, f"{where}: anchors level {i}") for number in row)
        for i, row in enumerate(value)
    )
    if len({len(row) for row in rows}) != 1 or len(rows[0]) % 2 or not rows[0]:
        raise ConfigError(f"{where}: anchors need the same number of w,h pairs on every level")
    return rows


def _positive_int(value: Any, where: str) -> int:
    if type(value) is not int or value < 1:
        raise ConfigError(f"{where}={value!r}: must be a whole number above 0")
    return value


def _positive(value: Any, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ConfigError(f"{where}={value!r}: must be a number above 0")
    return float(value)
