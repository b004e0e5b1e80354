"""Forward passes against the public program's, float32 against float32.

Both round, each in its own order, and the network multiplies what is rounded. Measured against
our network in float64 the recorded values are off by up to 6e-5 of their largest value (n6), ours
by up to 1e-4. So equality means: within 1e-4 of the value, or of the largest value of its kind
(positions, sizes, probabilities, raw logits).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.golden_data import fill, golden_files, input_array
from yolov5_core.architecture import describe
from yolov5_core.model import Detector, forward_augmented, fuse

FILES = [pytest.param(path, id=path.stem) for path in golden_files("forward_*.npz")]
KINDS = {"position": slice(0, 2), "size": slice(2, 4), "probability": slice(4, None)}
each_file = pytest.mark.parametrize("path", FILES)


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    with np.load(path) as opened:
        file = dict(opened)
    return file, json.loads(str(file["meta"]))


def filled(meta: dict[str, Any]) -> Detector:
    model = Detector(describe(meta["variant"], meta["nc"]))
    fill(model)
    return model


def images(meta: dict[str, Any], kind: str) -> Tensor:
    return torch.from_numpy(input_array(meta[f"{kind}_key"], tuple(meta[f"{kind}_shape"])))


@torch.no_grad()
def calibrated(meta: dict[str, Any]) -> Detector:
    """Running statistics become those of one known batch, so that activations stay sane."""
    model = filled(meta).train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    model(images(meta, "calibration"))
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    return model.eval()


def assert_close(ours: Tensor, golden: np.ndarray, what: str) -> None:
    assert ours.shape == golden.shape, what
    np.testing.assert_allclose(
        ours.numpy(), golden, rtol=1e-4, atol=1e-4 * np.abs(golden).max(), err_msg=what
    )


def assert_decoded_close(ours: Tensor, golden: np.ndarray) -> None:
    for kind, channels in KINDS.items():
        assert_close(ours[..., channels], golden[..., channels], kind)


def levels(file: dict[str, Any], prefix: str) -> list[np.ndarray]:
    keys = [key for key in file if key.removeprefix(prefix).isdigit()]
    return [file[f"{prefix}{level}"] for level in range(len(keys))]


@each_file
@torch.no_grad()
def test_golden_evaluation_outputs_agree(path: Path) -> None:
    file, meta = load(path)
    model = calibrated(meta)

    decoded, raw = model(images(meta, "input"))

    assert model.stride.tolist() == meta["strides"]
    for level, (ours, golden) in enumerate(zip(raw, levels(file, "raw"), strict=True)):
        assert_close(ours, golden, f"raw level {level}")
    assert_decoded_close(decoded, file["decoded"])


@each_file
@torch.no_grad()
def test_golden_fused_outputs_agree(path: Path) -> None:
    file, meta = load(path)
    if "decoded_fused" not in file:
        pytest.skip("not recorded for this variant")

    decoded, _ = fuse(calibrated(meta))(images(meta, "input"))

    assert_decoded_close(decoded, file["decoded_fused"])


@each_file
def test_golden_augmented_outputs_agree(path: Path) -> None:
    file, meta = load(path)
    if "augment" not in file:
        pytest.skip("not recorded for this variant")

    decoded = forward_augmented(calibrated(meta), images(meta, "input"))

    assert_decoded_close(decoded, file["augment"])


@each_file
@torch.no_grad()
def test_golden_training_outputs_and_running_statistics_agree(path: Path) -> None:
    """Batch statistics over a handful of cells magnify rounding as no other part does.

    So the reference is our pass in float64, and how far float32 strays from it tells how much
    rounding matters in this network: ten times that, and the usual 1e-4, is allowed.
    """
    file, meta = load(path)
    if "train_raw0" not in file:
        pytest.skip("not recorded for this variant")
    exact, single = filled(meta).double().train(), filled(meta).train()

    exact_raw = exact(images(meta, "input").double())
    single_raw = single(images(meta, "input"))

    recorded = levels(file, "train_raw")
    for ours, rounded, golden in zip(exact_raw, single_raw, recorded, strict=True):
        spread = (ours - rounded).abs().max().item()
        np.testing.assert_allclose(
            ours.numpy(), golden, rtol=1e-4, atol=1e-4 * np.abs(golden).max() + 10 * spread
        )
    keys = [str(key) for key in file["train_running_stat_keys"]]
    assert keys == [key for key in exact.state_dict() if "running_" in key]
    for key, golden in zip(keys, file["train_running_stat_sum"], strict=True):
        ours = exact.state_dict()[key].sum().item()
        spread = abs(ours - single.state_dict()[key].double().sum().item())
        size = exact.state_dict()[key].abs().sum().item()
        assert ours == pytest.approx(golden, rel=1e-4, abs=1e-5 * size + 10 * spread), key
