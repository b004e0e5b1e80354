"""The detector as an ONNX graph, written node by node.

Every layer we have is one to a dozen operators, so no tracing and no exporter of torch is needed:
the graph holds what is below and nothing else, and is the same with every version of torch. The
number of pictures in a batch is free, their size is fixed. Axes: B pictures, N predictions.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from yolov5_core.detect import Detect
from yolov5_core.layers import (
    C3,
    SPP,
    SPPF,
    Bottleneck,
    BottleneckCSP,
    Concat,
    Conv,
    Focus,
)
from yolov5_core.model import Detector, fuse
from yolov5_core.nms import NmsConfig

OPSET = 13  # the oldest in which all of it exists as written here
IR_VERSION = 7  # that opset's
_PIECE = 144  # terms: 16 channels of a 3 x 3 convolution
_TO_THE_END = 2**31 - 1  # of a slice
INPUT, PREDICTIONS, DETECTIONS = "images", "output0", "detections"  # the first two as public files

_Side = int | str | None  # of a tensor: a number, or the name of what is free


def onnx_model(
    model: Detector,
    image_hw: tuple[int, int],
    metadata: Mapping[str, str],
    nms: NmsConfig | None = None,
    *,
    exact_sums: bool = False,
) -> Any:
    """The detector as an ONNX model, batch norms folded into convolutions.

    Args:
        model: Any detector; it is not changed.
        image_hw: Height and width of the pictures, multiples of its largest stride.
        metadata: Goes into the file.
        nms: If given, suppression is part of the graph, with one class a box.
        exact_sums: Long sums of convolutions in pieces, which are then added: programs that add up
            one number after the other in float32 come closer to the exact sum, and take longer.

    Returns:
        An onnx.ModelProto. Input `images` (B, 3, H, W) float32 RGB in [0, 1]. Without nms its
        output `output0` is (B, N, 5 + C): cx, cy, w, h in pixels, objectness, probabilities. With
        nms it is `detections` (n, 7): picture of the batch, xyxy in pixels (unclipped), score,
        class; by picture, class, falling score; at most max_detections a picture and class.

    Source: spec A.5, E.2; the ONNX operator set.
    """
    graph = _Graph(fuse(model), *image_hw, _PIECE if exact_sums else 0)
    predictions = graph.network()
    output = PREDICTIONS
    shape: list[_Side] = ["batch", graph.rows, model.detect.no]
    if nms is not None:
        graph.suppress(predictions, nms)
        output, shape = DETECTIONS, ["found", 7]
    given: list[_Side] = ["batch", model.description.channels, *image_hw]
    made = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "detector",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, given)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="yolov5-retrain",
    )
    helper.set_model_props(made, dict(metadata))
    onnx.checker.check_model(made, full_check=True)
    return made


class _Graph:
    """Collects nodes and weights while walking the layers of a fused detector."""

    def __init__(self, model: Detector, height: int, width: int, piece: int) -> None:
        self.model = model
        self.height, self.width = height, width
        self.piece = piece  # terms of a sum at most, 0 any number
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.rows = 0  # N
        self._names = {id(module): name for name, module in model.named_modules()}

    def network(self) -> str:
        """All layers; returns the name of the decoded predictions, (B, N, 5 + C)."""
        outputs: list[str] = []
        for layer, sources in zip(self.model.model, self.model.wiring, strict=True):
            before = outputs[-1] if outputs else INPUT
            inputs = [before if s == -1 else outputs[s] for s in sources]
            if isinstance(layer, Detect):
                return self._detect(layer, inputs)
            outputs.append(
                self._node("Concat", *inputs, axis=1)
                if isinstance(layer, Concat)
                else self._layer(layer, inputs[0])
            )
        raise AssertionError("a detector ends with its head")

    def suppress(self, predictions: str, config: NmsConfig) -> None:
        """Suppression behind the predictions, as nms.py does it with one class a box."""
        boxes = self._slice(predictions, 0, 4)
        objectness = self._slice(predictions, 4, 5)
        chances = self._node("Mul", self._slice(predictions, 5, _TO_THE_END), objectness)
        # A box stands for its best class alone: its other scores become 0, below any threshold.
        best = self._node("ReduceMax", chances, axes=[2], keepdims=1)
        index = self._node("ArgMax", chances, axis=2, keepdims=1)  # the first of equal ones
        every = self._constant("classes", np.arange(self.model.detect.nc, dtype=np.int64))
        is_best = self._node("Cast", self._node("Equal", index, every), to=TensorProto.FLOAT)
        scores = self._node("Transpose", self._node("Mul", best, is_best), perm=[0, 2, 1])
        found = self._node(
            "NonMaxSuppression",
            boxes,
            scores,
            self._constant("max_detections", np.array([config.max_detections], np.int64)),
            self._constant("iou", np.array([config.iou], np.float32)),
            self._constant("confidence", np.array([config.confidence], np.float32)),
            center_point_box=1,
        )  # (n, 3): picture, class, box
        picture, cls, box = (self._slice(found, i, i + 1, axis=1) for i in range(3))
        place = self._node("Concat", picture, box, axis=1)
        centre_size = self._node("GatherND", boxes, place)  # (n, 4)
        score = self._node("GatherND", best, place)  # (n, 1)
        centre = self._slice(centre_size, 0, 2, axis=1)
        half = self._node(
            "Mul", self._slice(centre_size, 2, 4, axis=1), self._constant("half", _float(0.5))
        )
        self._node(
            "Concat",
            self._node("Cast", picture, to=TensorProto.FLOAT),
            self._node("Sub", centre, half),
            self._node("Add", centre, half),
            score,
            self._node("Cast", cls, to=TensorProto.FLOAT),
            axis=1,
            output=DETECTIONS,
        )

    def _layer(self, layer: nn.Module, x: str) -> str:  # noqa: PLR0911  one case a block
        """One layer or a part of one; returns the name of its output."""
        match layer:
            case Conv():
                return self._activation(layer.act, self._convolution(layer.conv, x))
            case nn.Conv2d():
                return self._convolution(layer, x)
            case nn.Sequential():
                for part in layer:
                    x = self._layer(part, x)
                return x
            case Bottleneck():
                y = self._layer(layer.cv2, self._layer(layer.cv1, x))
                return self._node("Add", x, y) if layer.adds_input else y
            case C3():
                first = self._layer(layer.m, self._layer(layer.cv1, x))
                both = self._node("Concat", first, self._layer(layer.cv2, x), axis=1)
                return self._layer(layer.cv3, both)
            case BottleneckCSP():
                first = self._layer(layer.cv3, self._layer(layer.m, self._layer(layer.cv1, x)))
                both = self._node("Concat", first, self._layer(layer.cv2, x), axis=1)
                active = self._activation(layer.act, self._batch_norm(layer.bn, both))
                return self._layer(layer.cv4, active)
            case SPPF():
                pooled = [self._layer(layer.cv1, x)]
                for _ in range(3):
                    pooled.append(self._pool(layer.m, pooled[-1]))
                return self._layer(layer.cv2, self._node("Concat", *pooled, axis=1))
            case SPP():
                y = self._layer(layer.cv1, x)
                pools = [self._pool(pool, y) for pool in layer.m]  # type: ignore[arg-type]
                return self._layer(layer.cv2, self._node("Concat", y, *pools, axis=1))
            case Focus():
                parities = [self._every_second(x, r, c) for c in (0, 1) for r in (0, 1)]
                return self._layer(layer.conv, self._node("Concat", *parities, axis=1))
            case nn.Upsample():
                factor = self._constant("twice", np.array([1, 1, 2, 2], np.float32))
                return self._node(
                    "Resize",
                    x,
                    "",
                    factor,
                    mode="nearest",
                    coordinate_transformation_mode="asymmetric",
                    nearest_mode="floor",
                )
        raise AssertionError(f"no operators are known for {type(layer).__name__}")

    def _convolution(self, layer: nn.Conv2d, x: str) -> str:
        name, weight = self._names[id(layer)], layer.weight
        _, channels, height, width = weight.shape
        step = max(1, self.piece // (height * width))
        if not self.piece or layer.groups > 1 or channels <= step:
            return self._sums(layer, x, f"{name}.weight", weight, layer.bias)
        total = ""
        for start in range(0, channels, step):
            end = min(start + step, channels)
            part = self._sums(
                layer,
                self._slice(x, start, end, axis=1),
                f"{name}.weight.{start}",
                weight[:, start:end],
                None if total else layer.bias,
            )
            total = self._node("Add", total, part) if total else part
        return total

    def _sums(
        self, layer: nn.Conv2d, x: str, name: str, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> str:
        """A convolution as a layer does it, with these weights of it."""
        inputs = [x, self._constant(name, weight)]
        if bias is not None:
            inputs.append(self._constant(f"{self._names[id(layer)]}.bias", bias))
        vertical, horizontal = _pair(layer.padding)
        return self._node(
            "Conv",
            *inputs,
            kernel_shape=list(layer.kernel_size),
            strides=list(layer.stride),
            pads=[vertical, horizontal] * 2,
            dilations=list(layer.dilation),
            group=layer.groups,
        )

    def _batch_norm(self, layer: nn.BatchNorm2d, x: str) -> str:
        name = self._names[id(layer)]
        parts = ("weight", "bias", "running_mean", "running_var")
        inputs = [self._constant(f"{name}.{part}", getattr(layer, part)) for part in parts]
        return self._node("BatchNormalization", x, *inputs, epsilon=layer.eps)

    def _pool(self, layer: nn.MaxPool2d, x: str) -> str:
        return self._node(
            "MaxPool",
            x,
            kernel_shape=[layer.kernel_size] * 2,
            strides=[layer.stride] * 2,
            pads=[layer.padding] * 4,
        )

    def _activation(self, layer: nn.Module, x: str) -> str:
        match layer:
            case nn.SiLU():
                return self._node("Mul", x, self._node("Sigmoid", x))
            case nn.LeakyReLU():
                return self._node("LeakyRelu", x, alpha=layer.negative_slope)
            case nn.Hardswish():
                gate = self._node("HardSigmoid", x, alpha=1 / 6, beta=0.5)
                return self._node("Mul", x, gate)
            case nn.ReLU():
                return self._node("Relu", x)
            case nn.Identity():
                return x
        raise AssertionError(f"no operator is known for {type(layer).__name__}")

    def _every_second(self, x: str, row: int, column: int) -> str:
        rows = self._slice(x, row, _TO_THE_END, axis=2, step=2)
        return self._slice(rows, column, _TO_THE_END, axis=3, step=2)

    def _detect(self, head: Detect, features: list[str]) -> str:
        """The head with its decoding; grid and anchors of all levels are constants."""
        levels, offsets, scales, sizes = [], [], [], []
        for level, (conv, x) in enumerate(zip(head.m, features, strict=True)):
            stride = float(head.stride[level])
            ny, nx = int(self.height / stride), int(self.width / stride)
            y = self._convolution(conv, x)  # type: ignore[arg-type]
            y = self._reshape(y, [0, head.na, head.no, ny * nx])
            y = self._node("Transpose", y, perm=[0, 1, 3, 2])
            levels.append(self._reshape(y, [0, head.na * ny * nx, head.no]))
            rows, columns = np.mgrid[:ny, :nx]
            grid = np.tile(np.stack((columns, rows), -1).reshape(-1, 2), (head.na, 1))
            offsets.append((grid - 0.5) * stride)
            scales.append(np.full_like(grid, 2 * stride, np.float64))
            anchors = head.anchors[level].double().cpu().numpy() * stride
            sizes.append(np.repeat(4 * anchors, ny * nx, 0))
        self.rows = sum(len(o) for o in offsets)
        p = self._node("Sigmoid", self._node("Concat", *levels, axis=1))
        xy = self._node("Mul", self._slice(p, 0, 2), self._grid("scale_xy", scales))
        xy = self._node("Add", xy, self._grid("offset_xy", offsets))
        wh = self._slice(p, 2, 4)
        wh = self._node("Mul", self._node("Mul", wh, wh), self._grid("scale_wh", sizes))
        return self._node(
            "Concat", xy, wh, self._slice(p, 4, _TO_THE_END), axis=2, output=PREDICTIONS
        )

    def _grid(self, name: str, levels: list[np.ndarray]) -> str:
        return self._constant(name, np.concatenate(levels)[None].astype(np.float32))

    def _reshape(self, x: str, shape: list[int]) -> str:
        """To a shape whose first 0 keeps the size of the batch."""
        name = "shape_" + "_".join(map(str, shape))
        return self._node("Reshape", x, self._constant(name, np.array(shape, np.int64)))

    def _slice(self, x: str, start: int, stop: int, *, axis: int = 2, step: int = 1) -> str:
        bounds = [
            self._constant(f"int_{v}", np.array([v], np.int64)) for v in (start, stop, axis, step)
        ]
        return self._node("Slice", x, *bounds)

    def _constant(self, name: str, value: Any) -> str:
        """A weight or constant, stored once a name; floating point as float32."""
        if all(known.name != name for known in self.weights):
            if isinstance(value, torch.Tensor):
                value = value.detach().cpu().numpy().astype(np.float32)
            self.weights.append(numpy_helper.from_array(value, name))
        return name

    def _node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(operator, list(inputs), [output], name=f"n_{output}", **attributes)
        )
        return output


def _pair(value: Any) -> tuple[int, int]:
    """The padding of a convolution of ours, which is never given as a word."""
    vertical, horizontal = value
    return vertical, horizontal


def _float(value: float) -> np.ndarray:
    return np.array(value, np.float32)
