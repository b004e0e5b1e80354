"""The detector built from a description; fusing, test-time augmentation, transfer (spec A)."""

import copy
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolov5_core.architecture import LayerRow, ModelDescription
from yolov5_core.config import ConfigError
from yolov5_core.detect import Detect
from yolov5_core.layers import (
    C3,
    SPP,
    SPPF,
    Bottleneck,
    BottleneckCSP,
    Concat,
    Conv,
    DWConv,
    Focus,
)

_CHANNEL_BLOCKS: dict[str, Any] = {
    "Conv": Conv,
    "DWConv": DWConv,
    "Bottleneck": Bottleneck,
    "C3": C3,
    "BottleneckCSP": BottleneckCSP,
    "SPP": SPP,
    "SPPF": SPPF,
    "Focus": Focus,
}
_TAKES_REPEATS = ("C3", "BottleneckCSP")
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "SiLU": nn.SiLU,
    "LeakyReLU": nn.LeakyReLU,
    "Hardswish": nn.Hardswish,
    "ReLU": nn.ReLU,
    "Identity": nn.Identity,
}


class Detector(nn.Module):
    """A YOLOv5 detector; state_dict keys are `model.<layer>.<path>` as public files have them."""

    def __init__(self, description: ModelDescription) -> None:
        super().__init__()
        self.description = description
        builder = _Builder(description)
        self.model = builder.build()
        self._sources = builder.sources
        self.save = sorted({s for row in builder.sources for s in row if s != -1})

    @property
    def detect(self) -> Detect:
        """The head."""
        return self.model[-1]  # type: ignore[return-value]

    @property
    def wiring(self) -> tuple[tuple[int, ...], ...]:
        """The layers that each layer reads, -1 for the one before it; the first reads the image."""
        return tuple(self._sources)

    @property
    def stride(self) -> Tensor:
        """(nl,) pixels a cell of each level."""
        return self.detect.stride

    @property
    def max_stride(self) -> int:
        """The image size must be a multiple of it."""
        return int(self.detect.stride.max())

    def forward(self, images: Tensor) -> Any:
        """Runs the network.

        Args:
            images: (B, 3, H, W) float in [0, 1]; H and W multiples of `max_stride`.

        Returns:
            Training: list of raw (B, na, ny, nx, 5 + nc). Evaluation: (decoded, raw).
        """
        x: Any = images
        kept: dict[int, Tensor] = {}
        for index, (layer, sources) in enumerate(zip(self.model, self._sources, strict=True)):
            inputs = [x if s == -1 else kept[s] for s in sources]
            x = layer(inputs if isinstance(layer, Concat | Detect) else inputs[0])
            if index in self.save:
                kept[index] = x
        return x


class _Builder:
    """Walks the layer table once, keeping channels and stride of every layer."""

    def __init__(self, description: ModelDescription) -> None:
        self.description = description
        self.activation = parse_activation(description.activation)  # one object for the model
        self.sources: list[tuple[int, ...]] = []
        self.channels: list[int] = []
        self.strides: list[float] = []

    def build(self) -> nn.Sequential:
        rows = (*self.description.backbone, *self.description.head)
        layers = []
        for index, row in enumerate(rows):
            where = f"layer {index} ({row.block})"
            sources = tuple(_absolute(s, index, where) for s in row.sources)
            channels = [self.channels[s] if s >= 0 else self.description.channels for s in sources]
            stride = self.strides[sources[0]] if sources[0] >= 0 else 1.0
            layer, out, factor = self._layer(row, channels, sources, where)
            layers.append(layer)
            self.channels.append(out)
            self.strides.append(stride * factor)
            self.sources.append(
                tuple(-1 if raw == -1 else s for raw, s in zip(row.sources, sources, strict=True))
            )
        return nn.Sequential(*layers)

    def _layer(
        self, row: LayerRow, channels: list[int], sources: tuple[int, ...], where: str
    ) -> tuple[nn.Module, int, float]:
        """Returns the layer, its channels, and by how much it multiplies the stride."""
        if row.block == "Upsample":
            return nn.Upsample(scale_factor=2.0, mode="nearest"), channels[0], 0.5
        if row.block == "Concat":
            if len({self.strides[s] for s in sources}) != 1:
                raise ConfigError(f"{where}: its sources have different strides")
            return Concat(), sum(channels), 1.0
        if row.block == "Detect":
            return self._detect(channels, [self.strides[s] for s in sources]), 0, 1.0
        if row.block not in _CHANNEL_BLOCKS:
            known = ", ".join([*_CHANNEL_BLOCKS, "Upsample", "Concat", "Detect"])
            raise ConfigError(f"{where}: unknown block; known: {known}")
        try:
            return self._channel_layer(row, channels[0])
        except (TypeError, ValueError, IndexError, RuntimeError, OverflowError) as error:
            raise ConfigError(f"{where}: arguments {list(row.args)} do not fit: {error}") from error

    def _channel_layer(self, row: LayerRow, channels_in: int) -> tuple[nn.Module, int, float]:
        d = self.description
        out = row.args[0]
        if out != d.anchors_per_level * (d.num_classes + 5):
            out = math.ceil(out * d.width_multiple / d.channel_multiple) * d.channel_multiple
        repeats = max(round(row.repeats * d.depth_multiple), 1) if row.repeats > 1 else row.repeats
        block = _CHANNEL_BLOCKS[row.block]
        rest = row.args[1:]
        if row.block in _TAKES_REPEATS:
            return block(channels_in, out, repeats, *rest, activation=self.activation), out, 1.0
        chain = [
            block(channels_in if i == 0 else out, out, *rest, activation=self.activation)
            for i in range(repeats)
        ]
        own = float(rest[1]) if row.block in ("Conv", "DWConv", "Focus") and len(rest) > 1 else 1.0
        factor = own**repeats * (2.0**repeats if row.block == "Focus" else 1.0)
        return (chain[0] if repeats == 1 else nn.Sequential(*chain)), out, factor

    def _detect(self, channels: list[int], strides: list[float]) -> Detect:
        d = self.description
        if isinstance(d.anchors, int):  # to be found from the data; equal, so the order holds
            levels = [tuple(float(i) for i in range(2 * d.anchors))] * len(channels)
        else:
            levels = list(d.anchors)
        return Detect(d.num_classes, in_stride_order(levels, strides), strides, channels)


def in_stride_order(
    anchors_pixels: list[tuple[float, ...]], strides: list[float]
) -> list[tuple[float, ...]]:
    """Reverses the levels if the mean anchor area falls while the stride grows.

    Args:
        anchors_pixels: One tuple w, h, w, h ... a level.
        strides: Pixels a cell of each level.

    Source: spec A.5.
    """
    areas = [sum(a * b for a, b in zip(r[::2], r[1::2], strict=True)) for r in anchors_pixels]
    falls = (areas[-1] - areas[0]) * (strides[-1] - strides[0]) < 0
    return anchors_pixels[::-1] if falls else anchors_pixels


def parse_activation(text: str) -> nn.Module:
    """Builds an activation from `SiLU`, `nn.SiLU()` or `nn.LeakyReLU(0.1)`; nothing is evaluated.

    Raises:
        ConfigError: An unknown name or form.
    """
    match = re.fullmatch(r"(?:nn\.)?(\w+)(?:\(\s*([0-9]*\.?[0-9]+)?\s*\))?", text.strip())
    if match is None or match[1] not in _ACTIVATIONS:
        raise ConfigError(f"activation={text!r}: known: {', '.join(_ACTIVATIONS)}")
    if not match[2]:
        return _ACTIVATIONS[match[1]]()
    if match[1] != "LeakyReLU":
        raise ConfigError(f"activation={text!r}: only LeakyReLU takes a number, its slope")
    return nn.LeakyReLU(float(match[2]))


def _absolute(source: int, index: int, where: str) -> int:
    absolute = index + source if source < 0 else source
    first_reads_the_image = index == 0 and source == -1
    if not first_reads_the_image and not 0 <= absolute < index:
        raise ConfigError(f"{where}: from={source} is not an earlier layer")
    return absolute


def fuse(model: Detector) -> Detector:
    """A copy in evaluation mode with every batch norm folded into its convolution.

    Source: spec A.6.
    """
    fused = copy.deepcopy(model).eval()
    for module in fused.modules():
        if isinstance(module, Conv):
            module.fuse()
    return fused


@torch.no_grad()
def forward_augmented(model: Detector, images: Tensor) -> Tensor:
    """Test-time augmentation: three scales, one of them flipped, without their weakest levels.

    Args:
        model: In evaluation mode.
        images: (B, 3, H, W) float in [0, 1].

    Returns:
        (B, N, 5 + nc) decoded predictions in pixels of `images`.

    Source: spec A.7.
    """
    width = images.shape[-1]
    passes = []
    for scale, flipped in ((1.0, False), (0.83, True), (0.67, False)):
        x = images.flip(-1) if flipped else images
        decoded = model(_scaled(x, scale, model.max_stride))[0]
        decoded[..., :4] /= scale
        if flipped:
            decoded[..., 0] = width - decoded[..., 0]
        passes.append(decoded)
    levels = model.detect.nl
    cells = sum(4**k for k in range(levels))  # rows of all levels in units of the coarsest
    passes[0] = passes[0][:, : -(passes[0].shape[1] // cells)]
    passes[-1] = passes[-1][:, passes[-1].shape[1] // cells * 4 ** (levels - 1) :]
    return torch.cat(passes, 1)


def _scaled(images: Tensor, scale: float, stride: int) -> Tensor:
    if scale == 1.0:
        return images
    height, width = images.shape[-2:]
    size = (int(height * scale), int(width * scale))
    x = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    pad_h = math.ceil(height * scale / stride) * stride - size[0]
    pad_w = math.ceil(width * scale / stride) * stride - size[1]
    return F.pad(x, (0, pad_w, 0, pad_h), value=0.447)  # the ImageNet mean, as it was trained on


def transfer(
    model: Detector, state_dict: Mapping[str, Tensor], *, skip_anchors: bool = False
) -> tuple[int, int]:
    """Copies every entry whose key and shape match into the model.

    Returns:
        How many of the model's entries were transferred, and how many it has.

    Source: spec A.8.
    """
    own = model.state_dict()
    matching = {
        key: value
        for key, value in state_dict.items()
        if key in own
        and own[key].shape == value.shape
        and not (skip_anchors and key.endswith("anchors"))
    }
    own.update(matching)
    model.load_state_dict(own)
    return len(matching), len(own)
