"""The formats a detector is exported to: how each is written, and the programs that run it.

onnx and onnxruntime are extras, imported only when they are asked for.
"""

import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from yolov5_core.config import ConfigError
from yolov5_core.model import Detector, fuse
from yolov5_core.nms import NmsConfig

Format = Literal["onnx", "torchscript"]
METADATA = "metadata.json"  # the extra file within a TorchScript file
_BATCH = 4  # pictures compared at once where a program can


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportFacts:
    """What an exported file is told beside the model."""

    names: Sequence[str]
    image_hw: tuple[int, int]  # pixels, multiples of the model's largest stride
    sha256: str  # of the checkpoint
    nms: NmsConfig | None = None  # suppression within the ONNX file
    exact_sums: bool = False  # in the ONNX file, see onnx_graph.py


class Program(NamedTuple):
    """What runs an exported file."""

    name: str  # with its version
    batch: int  # pictures at once, at most
    run: Callable[[np.ndarray], np.ndarray]  # (B, 3, H, W) float32 in [0, 1] to the file's output


def metadata(model: Detector, facts: ExportFacts) -> dict[str, str]:
    """What an exported file says of itself, each value as JSON."""
    stride = model.stride.cpu()
    anchors = model.detect.anchors.detach().cpu().float() * stride.view(-1, 1, 1)
    said: dict[str, Any] = {
        "names": list(facts.names),
        "stride": stride.tolist(),
        "anchors": anchors.tolist(),  # pixels: level, anchor, (w, h)
        "image_size": list(facts.image_hw),  # height, width
        "source_sha256": facts.sha256,
    }
    if facts.nms is not None:
        nms = facts.nms
        said["nms"] = {"confidence": nms.confidence, "iou": nms.iou, "max": nms.max_detections}
    return {key: json.dumps(value) for key, value in said.items()}


def encode_onnx(model: Detector, facts: ExportFacts) -> bytes:
    """The bytes of an ONNX file, see onnx_graph.py.

    Raises:
        ConfigError: The package onnx is not installed.
    """
    try:
        from yolov5_core.onnx_graph import onnx_model  # noqa: PLC0415  an extra
    except ImportError as error:
        raise _not_installed(error) from error
    said = metadata(model, facts)
    made = onnx_model(model, facts.image_hw, said, facts.nms, exact_sums=facts.exact_sums)
    return made.SerializeToString()


def onnx_programs(path: Path, facts: ExportFacts) -> Iterator[Program]:
    """onnxruntime, and OpenCV where suppression is not part of the file: it has no such operator.

    Raises:
        ConfigError: The package onnxruntime is not installed.
    """
    try:
        import onnxruntime  # type: ignore[import-untyped]  # noqa: PLC0415  an extra
    except ImportError as error:
        raise _not_installed(error) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0].name
    yield Program(
        f"onnxruntime {onnxruntime.__version__}",
        _BATCH,
        lambda images: session.run(None, {given: images})[0],
    )
    if facts.nms is None:
        net = cv2.dnn.readNetFromONNX(str(path))

        def run(images: np.ndarray) -> np.ndarray:
            net.setInput(images)
            return net.forward()

        yield Program(f"OpenCV {cv2.__version__}", 1, run)


def encode_torchscript(model: Detector, facts: ExportFacts) -> bytes:
    """The bytes of a TorchScript file with output (B, N, 5 + C); metadata in an extra file."""
    content = io.BytesIO()
    height, width = facts.image_hw
    example = torch.zeros(1, model.description.channels, height, width)
    with warnings.catch_warnings():
        # strides, which become constants: they are; and that torch prefers its newer format
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.simplefilter("ignore", DeprecationWarning)
        network = _Predictions(fuse(model))
        traced = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
        said = {METADATA: json.dumps(metadata(model, facts))}
        torch.jit.save(traced, content, _extra_files=said)
    return content.getvalue()


def torchscript_programs(path: Path, _facts: ExportFacts) -> Iterator[Program]:
    """Torch itself, with what it reads back from the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        loaded = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return loaded(torch.from_numpy(images)).numpy()

    yield Program(f"torch {torch.__version__}", _BATCH, run)


class _Predictions(nn.Module):
    """A detector without the raw levels."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)[0]


def _not_installed(error: ImportError) -> ConfigError:
    return ConfigError(
        f"format onnx: a package is not installed ({error}); pip install onnx onnxruntime"
    )


class _Kind(NamedTuple):
    encode: Callable[[Detector, ExportFacts], bytes]
    programs: Callable[[Path, ExportFacts], Iterator[Program]]


KINDS: Mapping[Format, _Kind] = {
    "onnx": _Kind(encode_onnx, onnx_programs),
    "torchscript": _Kind(encode_torchscript, torchscript_programs),
}
