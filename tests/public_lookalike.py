"""Builds files that look like public checkpoints, honest ones and forgeries."""

import collections
import io
import pickle
import sys
import types
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from yolov5_core.foreign import ForeignCheckpointError, read_public_checkpoint


@contextmanager
def public_program() -> Iterator[dict[str, type]]:
    """The public module names, with inert classes in them, for as long as a file is written."""
    names = {
        "models.yolo": ["DetectionModel", "Model", "Detect"],
        "models.common": [
            *("Conv", "C3", "Bottleneck", "SPPF", "SPP", "Focus", "BottleneckCSP", "Concat"),
            "Unknown",
        ],
    }
    classes: dict[str, type] = {}
    for module_name in ("models", *names):
        module = types.ModuleType(module_name)
        for name in names.get(module_name, []):
            classes[name] = type(name, (nn.Module,), {"__module__": module_name})
            setattr(module, name, classes[name])
        sys.modules[module_name] = module
    try:
        yield classes
    finally:
        for module_name in ("models", *names):
            del sys.modules[module_name]


class Call:
    """Pickles as the order to call something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.order = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.order


class FakeStorage:
    """Pickles as a reference to the archive's record `key`."""

    def __init__(self, key: str, count: int) -> None:
        self.reference = ("storage", torch.FloatStorage, key, "cpu", count)


class Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.reference if isinstance(value, FakeStorage) else None


def claim(
    size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, key: str = "0", count: int = 4
) -> Call:
    """A tensor the file claims to have; record 0 holds four float32."""
    hooks: Any = collections.OrderedDict()
    rebuild = torch._utils._rebuild_tensor_v2  # type: ignore[attr-defined]
    return Call(rebuild, FakeStorage(key, count), offset, size, stride, False, hooks)


def pickled(content: Any, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer, protocol).dump(content)
    return buffer.getvalue()


def archive(
    path: Path,
    data: bytes,
    *,
    compression: int = zipfile.ZIP_STORED,
    byteorder: bytes = b"little",
    records: dict[str, bytes] | None = None,
) -> Path:
    records = {"data/0": np.arange(4, dtype="<f4").tobytes()} if records is None else records
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, raw in {"data.pkl": data, "byteorder": byteorder, **records}.items():
            file.writestr(f"archive/{name}", raw)
    return path


def content_of(classes: dict[str, type], **attributes: Any) -> dict[str, Any]:
    """A minimal public content whose only weight is `weight`; attributes may spoil it."""
    model = classes["Model"]()
    conv = nn.Module()
    conv.__class__ = classes["Conv"]
    model._modules["0"] = conv
    conv._parameters["weight"] = attributes.pop("weight", claim((2, 2), (2, 1)))
    described = {"yaml": {"nc": 1}, "names": ["item"], "stride": claim((1,), (1,))}
    model.__dict__.update({**described, **attributes})
    return {"epoch": 0, "model": model}


def written(path: Path, **attributes: Any) -> Path:
    with public_program() as classes:
        data = pickled(content_of(classes, **attributes))
    return archive(path, data)


def refusal(path: Path, **options: Any) -> str:
    """The message, which names the file and says more than the fault."""
    with pytest.raises(ForeignCheckpointError) as caught:
        read_public_checkpoint(path, **options)
    assert str(path) in str(caught.value)
    assert ";" in str(caught.value)
    return str(caught.value)
