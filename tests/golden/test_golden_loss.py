import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.golden_data import golden_files
from yolov5_core.config import IouKind, LossConfig
from yolov5_core.loss import DetectionLoss, assign

FILES = [pytest.param(path, id=path.stem) for path in golden_files("loss_*.npz")]
each_file = pytest.mark.parametrize("path", FILES)
each_iou = pytest.mark.parametrize("iou", ["ciou", "giou"])


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    with np.load(path) as opened:
        file = dict(opened)
    return file, json.loads(str(file["meta"]))


def loss_of(file: dict[str, Any], meta: dict[str, Any], iou: IouKind) -> DetectionLoss:
    config = LossConfig(**meta["hyp"], iou=iou, autobalance=meta["autobalance"])
    return DetectionLoss(
        torch.from_numpy(file["anchors_grid"]),
        torch.from_numpy(file["strides"]),
        meta["nc"],
        config,
    )


def call_prefixes(meta: dict[str, Any]) -> list[str]:
    """Consecutive calls of one loss are numbered, a single one has no prefix."""
    return [""] if meta["calls"] == 1 else [f"call{call}_" for call in range(meta["calls"])]


def raw_outputs(file: dict[str, Any], meta: dict[str, Any], call: str) -> list[Tensor]:
    return [
        torch.from_numpy(file[f"{call}p{level}"]).requires_grad_() for level in range(meta["nl"])
    ]


@each_file
@each_iou
def test_golden_loss_its_items_and_gradients_agree(path: Path, iou: IouKind) -> None:
    file, meta = load(path)
    loss = loss_of(file, meta, iou)
    for call in call_prefixes(meta):
        raw = raw_outputs(file, meta, call)

        total, items = loss(raw, torch.from_numpy(file[f"{call}targets"]))
        total.backward()

        golden = f"{call}{iou}_"
        assert total.shape == (1,)
        np.testing.assert_allclose(total.detach(), file[f"{golden}total"], rtol=5e-6)
        np.testing.assert_allclose(items, file[f"{golden}items"], rtol=5e-6)
        gradients = [level.grad.double() for level in raw]  # type: ignore[union-attr]
        np.testing.assert_allclose(
            [g.norm() for g in gradients], file[f"{golden}grad_norm"], rtol=5e-6
        )
        np.testing.assert_allclose(
            [g.abs().sum() for g in gradients], file[f"{golden}grad_abs_sum"], rtol=5e-6
        )
        for level, gradient in enumerate(gradients):
            if f"{golden}grad{level}" in file:
                expected = file[f"{golden}grad{level}"]
                largest = np.abs(expected).max()
                np.testing.assert_allclose(gradient, expected, rtol=2e-5, atol=1e-6 * largest)
        if f"{golden}balance_after" in file:
            np.testing.assert_allclose(loss.balance, file[f"{golden}balance_after"], rtol=1e-6)


@each_file
def test_golden_assignments_agree_in_order(path: Path) -> None:
    file, meta = load(path)
    call = call_prefixes(meta)[0]
    sizes = [file[f"{call}p{level}"].shape[2:4] for level in range(meta["nl"])]

    found = assign(
        torch.from_numpy(file["anchors_grid"]),
        sizes,
        torch.from_numpy(file[f"{call}targets"]),
        meta["hyp"]["anchor_t"],
    )

    duplicates = []
    for level, own in enumerate(found):
        cells = torch.stack((own.image, own.anchor, own.row, own.column), 1)
        np.testing.assert_array_equal(cells, file[f"assign{level}_b_a_j_i"])
        np.testing.assert_array_equal(own.cls, file[f"assign{level}_cls"])
        np.testing.assert_allclose(own.box, file[f"assign{level}_box"], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(own.anchor_size, file[f"assign{level}_anchor"])
        duplicates.append(len(cells) - len(cells.unique(dim=0)))
    assert [len(own.image) for own in found] == file["assign_counts"].tolist()
    assert duplicates == file["assign_duplicate_cells"].tolist()
