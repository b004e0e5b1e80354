"""Where the golden files are and how their inputs and weights are made (the portable fill rule)."""

import os
import zlib
from pathlib import Path

import numpy as np
import torch


def golden_dir() -> Path:
    """The folder GOLDEN_DIR names, else tests/golden."""
    return Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parent / "golden")


def golden_files(pattern: str) -> list[Path]:
    """Every golden file of a kind, whatever cases lie there."""
    return sorted(golden_dir().glob(pattern))


def u(key: str, n: int) -> np.ndarray:
    """n doubles in [0, 1) from the raw words of PCG64 seeded by the key's CRC."""
    words = np.random.PCG64(zlib.crc32(key.encode())).random_raw(n)
    return (words >> np.uint64(11)) * 2.0**-53


def input_array(key: str, shape: tuple[int, ...]) -> np.ndarray:
    return u(key, int(np.prod(shape))).reshape(shape).astype(np.float32)


def _value(key: str, shape: torch.Size) -> np.ndarray:
    r = u(key, int(np.prod(shape))) if shape else u(key, 1)
    fan_in = np.sqrt(np.prod(shape[1:])) if len(shape) == 4 else 1.0
    if key.endswith("running_mean") or key.endswith(".bn.bias"):
        r = 0.4 * r - 0.2
    elif key.endswith("running_var"):
        r = 0.6 + 0.8 * r
    elif key.endswith(".bn.weight"):
        r = 0.8 + 0.4 * r
    elif len(shape) == 4:
        r = (2 * r - 1) * np.sqrt(3) * (1.7 if key.endswith(".conv.weight") else 0.6) / fan_in
    else:
        r = 2 * (2 * r - 1)
    return r.reshape(tuple(shape)).astype(np.float32)


def fill(model: torch.nn.Module) -> None:
    """Fills a model's state_dict by the portable rule; anchors stay as built."""
    state = model.state_dict()
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            tensor.zero_()
        elif not key.endswith("anchors"):
            tensor.copy_(torch.from_numpy(_value(key, tensor.shape)))
