"""Checkpoints the public trainer wrote, read without running anything of them.

The files are not in this repository (their licence is not ours); with GOLDEN_DIR naming a folder
that has them the tests below run. tests/yolov5_core/test_foreign.py builds look-alikes.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.golden_data import golden_files, input_array
from yolov5_core.architecture import from_mapping
from yolov5_core.checkpoint import build_detector, load, save
from yolov5_core.convert import from_public, to_public
from yolov5_core.foreign import PublicCheckpoint, is_public_checkpoint, read_public_checkpoint
from yolov5_core.inert_pickle import ALLOWED_GLOBALS
from yolov5_core.model import Detector, fuse

FACTS: dict[str, Any] = {
    facts["file"]: facts
    for path in golden_files("official*.json")
    for facts in json.loads(path.read_text()).values()
    if isinstance(facts, dict) and "file" in facts
}
FILES = [pytest.param(path, id=path.stem) for path in golden_files("official*.pt")]
each_file = pytest.mark.parametrize("path", FILES)


def built(checkpoint: PublicCheckpoint) -> Detector:
    model = Detector(from_mapping(checkpoint.description, "golden"))
    model.load_state_dict(checkpoint.state_dict)
    return model.eval()


def assert_close(ours: torch.Tensor, golden: np.ndarray) -> None:
    largest = np.abs(golden).max()
    np.testing.assert_allclose(ours.numpy(), golden, rtol=1e-6, atol=1e-6 * largest)


@each_file
def test_golden_official_file_is_read_as_recorded(path: Path) -> None:
    facts = FACTS[path.name]

    checkpoint = read_public_checkpoint(path)

    assert is_public_checkpoint(path)
    assert set(facts["globals"]) <= ALLOWED_GLOBALS
    assert checkpoint.which == facts["weights_source"]
    assert checkpoint.epoch == facts["epoch"]
    best = facts["best_fitness"]
    assert checkpoint.best_fitness == (best[0] if isinstance(best, list) else best)
    assert checkpoint.description == facts["yaml"]
    assert checkpoint.num_classes == facts["yaml"]["nc"]
    names = facts["names"]
    assert checkpoint.names == tuple(names[str(index)] for index in range(len(names)))
    assert len(checkpoint.state_dict) == facts["n_tensors"]
    for key, total in facts["sum_by_key"].items():
        ours = checkpoint.state_dict[key].double().sum().item()
        assert ours == pytest.approx(total, rel=1e-6, abs=1e-6), key
    integers = {key for key, t in checkpoint.state_dict.items() if t.dtype == torch.int64}
    assert integers == {k for k in checkpoint.state_dict if k.endswith("num_batches_tracked")}
    others = [t.dtype for k, t in checkpoint.state_dict.items() if k not in integers]
    assert set(others) == {torch.float32}


@each_file
@torch.no_grad()
def test_golden_official_weights_give_the_public_outputs(path: Path) -> None:
    facts = FACTS[path.name]
    with np.load(path.with_name(f"{path.stem}_expected.npz")) as opened:
        expected = dict(opened)
    images = torch.from_numpy(input_array(facts["input_key"], tuple(facts["input_shape"])))
    checkpoint = read_public_checkpoint(path)
    model = built(checkpoint)

    decoded, raw = model(images)

    assert checkpoint.strides == tuple(model.stride.tolist())
    assert_close(decoded, expected["decoded"])
    for level, ours in enumerate(raw):
        assert_close(ours, expected[f"raw{level}"])
    assert_close(fuse(model)(images)[0], expected["decoded_fused"])
    if "decoded_from_model_key" in expected:
        from_model = built(read_public_checkpoint(path, prefer="model"))
        assert_close(from_model(images)[0], expected["decoded_from_model_key"])


@each_file
@torch.no_grad()
def test_golden_official_file_converted_and_back_gives_the_public_outputs(
    path: Path, tmp_path: Path
) -> None:
    facts = FACTS[path.name]
    with np.load(path.with_name(f"{path.stem}_expected.npz")) as opened:
        expected = opened["decoded"]
    images = torch.from_numpy(input_array(facts["input_key"], tuple(facts["input_shape"])))
    ours = tmp_path / "ours.pt"
    save(from_public(path, ""), ours)
    payload = load(ours)

    decoded = build_detector(payload, "golden")(images)[0].numpy()

    assert np.abs(decoded - expected).max() <= 1e-5 * np.abs(expected).max()
    public, back = read_public_checkpoint(path).state_dict, to_public(payload, "golden")
    assert list(back) == list(public)
    assert all(torch.equal(back[key], value) for key, value in public.items())


@each_file
def test_golden_official_file_cut_short_is_refused(path: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.pt"
    short.write_bytes(path.read_bytes()[:-1000])

    assert not is_public_checkpoint(short)
    with pytest.raises(ValueError, match=r"short\.pt: not a whole zip"):
        read_public_checkpoint(short)
