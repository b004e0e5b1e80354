"""A few optimizer steps against the public program's: model, loss, clipping, SGD, EMA together.

Rounding differs and each step starts from what the last one left, so tolerances grow with the
steps. Measured: losses within 2e-5, gradient norms 2e-4, weights 1e-5 after five steps.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.golden_data import fill, golden_files, input_array
from yolov5_core.architecture import describe, from_mapping
from yolov5_core.config import LossConfig
from yolov5_core.ema import Ema
from yolov5_core.loss import DetectionLoss
from yolov5_core.model import Detector
from yolov5_core.optimizer import build_optimizer

FILES = [pytest.param(path, id=path.stem) for path in golden_files("trainstep*.npz")]


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    with np.load(path) as opened:
        file = dict(opened)
    return file, json.loads(str(file["meta"]))


def filled(meta: dict[str, Any]) -> Detector:
    base = describe(meta["base"], meta["nc"]).to_mapping()
    scale = {key: meta[key] for key in ("depth_multiple", "width_multiple")}
    model = Detector(from_mapping({**base, **scale}, meta["base"]))
    fill(model)
    return model


def trained(file: dict[str, Any], meta: dict[str, Any]) -> tuple[Detector, Ema, list[list[float]]]:
    """The model and its average after all steps, and per step total, box, obj, cls, norm."""
    model = filled(meta).train()
    ema = Ema(model)
    optimizer = build_optimizer(
        model,
        "sgd",
        lr=meta["lr"],
        momentum=meta["momentum"],
        weight_decay=meta["weight_decay"],
    )
    detect = model.detect
    loss = DetectionLoss(detect.anchors, detect.stride, detect.nc, LossConfig(**meta["hyp"]))
    trace = []
    for step, key in enumerate(meta["input_keys"]):
        images = torch.from_numpy(input_array(key, tuple(meta["input_shape"])))
        total, items = loss(model(images), torch.from_numpy(file[f"targets{step}"]))
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), meta["clip"])
        optimizer.step()
        optimizer.zero_grad()
        ema.update()
        trace.append([total.item(), *items.tolist(), norm.item()])
    return model, ema, trace


@pytest.mark.parametrize("path", FILES)
def test_golden_steps_have_the_public_losses_and_leave_the_public_weights(path: Path) -> None:
    file, meta = load(path)

    model, ema, trace = trained(file, meta)

    golden = file["trace_total_box_obj_cls_gradnorm"]
    assert len(trace) == len(golden) == meta["steps"]
    for step, (ours, expected) in enumerate(zip(trace, golden, strict=True)):
        grown = step + 1
        where = f"step {step}"
        np.testing.assert_allclose(ours[:4], expected[:4], rtol=2e-5 * grown, err_msg=where)
        np.testing.assert_allclose(ours[4], expected[4], rtol=2e-4 * grown, err_msg=where)
    for state, name in ((model.state_dict(), "value"), (ema.model.state_dict(), "ema")):
        norms = file["param_norm" if name == "value" else "ema_norm"]
        for key, norm in zip(file["keys"], norms, strict=True):
            ours = state[str(key)].double().norm().item()
            assert ours == pytest.approx(norm, rel=1e-4, abs=1e-6), f"{name} {key}"
        for key, entry in state.items():
            if f"{name}:{key}" in file:
                expected = file[f"{name}:{key}"]
                np.testing.assert_allclose(entry, expected, rtol=1e-4, atol=5e-5, err_msg=key)
