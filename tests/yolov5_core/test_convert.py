import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from tests.exported import lively
from tests.golden_data import golden_files
from tests.public_lookalike import public_program
from tests.tiny import tiny_description
from tests.yolov5_core.test_foreign import NAMES, disguised, stripped_v7, tiny, v5, v6
from yolov5_core.architecture import describe
from yolov5_core.checkpoint import build_detector, load, save, save_state_dict
from yolov5_core.config import ConfigError
from yolov5_core.convert import from_public, to_public
from yolov5_core.foreign import ForeignCheckpointError, is_public_checkpoint
from yolov5_core.model import Detector

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def outputs(model: Detector) -> torch.Tensor:
    return model(IMAGES)[0]


def converted(path: Path) -> dict:
    """Read again from a file of ours."""
    target = path.with_name("ours.pt")
    save(from_public(path, "0" * 64), target)
    return load(target)


@pytest.mark.parametrize("written", [v5, v6, stripped_v7])
def test_a_converted_public_file_gives_the_outputs_of_its_weights(tmp_path, written):
    path, parent = written(tmp_path / "public.pt")
    payload = converted(path)
    model = build_detector(payload, "test")
    if written is not v6:  # what the file was written from, in the file's precision
        parent.half().float()
    torch.testing.assert_close(outputs(model), outputs(parent), rtol=1e-5, atol=1e-5)
    assert payload["names"] == list(NAMES)
    assert payload["stride"] == parent.stride.tolist()
    assert payload["lineage"] == {"parent": "public.pt", "parent_sha256": "0" * 64}
    assert payload["epoch"] == -1


@pytest.mark.parametrize(("written", "dtype"), [(stripped_v7, torch.float16), (v6, torch.float32)])
def test_weights_are_kept_to_the_bit_in_as_little_room_as_that_takes(tmp_path, written, dtype):
    path, _ = written(tmp_path / "public.pt")
    payload = converted(path)
    assert payload["model"]["model.0.conv.weight"].dtype == dtype
    back = to_public(payload, "test")
    again = build_detector(from_public(path, ""), "test").state_dict()
    assert all(torch.equal(back[key], again[key]) for key in again)


def test_weights_for_the_public_program_are_tensors_alone(tmp_path):
    model = lively(tiny_description(3))
    payload = {"description": model.description.to_mapping(), "model": model.state_dict()}
    path = tmp_path / "state.pt"
    save_state_dict(to_public(payload, "test"), path)
    assert not is_public_checkpoint(path)
    state = torch.load(path, weights_only=True)  # noqa: TID251  as the public program's user does
    assert type(state) is OrderedDict
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("variant", ["n", "n6"])
def test_keys_order_shapes_and_dtypes_are_the_public_model_classs(variant):
    (path,) = golden_files("arch.json")
    expected = json.loads(path.read_text())[variant]
    model = Detector(describe(variant, expected["nc"]))
    half = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    state = to_public({"description": model.description.to_mapping(), "model": half}, "test")
    assert [[key, list(value.shape)] for key, value in state.items()] == expected["state_dict"]
    for key, value in state.items():
        counts = key.endswith("num_batches_tracked")
        assert value.dtype == (torch.int64 if counts else torch.float32), key


def test_there_and_back_gives_the_same_outputs(tmp_path):
    model = lively(tiny_description(3))
    state = to_public(
        {"description": model.description.to_mapping(), "model": model.state_dict()}, "test"
    )
    public = tmp_path / "public.pt"
    carrier = Detector(model.description)
    carrier.load_state_dict(state)
    with public_program() as classes:  # what the public trainer would save of it
        attributes = {"yaml": tiny(), "names": dict(enumerate(NAMES))}
        content = disguised(carrier, classes, "DetectionModel", **attributes)
        torch.save({"epoch": -1, "model": content, "ema": None}, public)
    again = build_detector(converted(public), "test")
    torch.testing.assert_close(outputs(again), outputs(model), rtol=1e-5, atol=1e-5)


def test_a_network_with_a_block_we_do_not_have_is_refused_by_name(tmp_path):
    description = tiny()
    path = tmp_path / "public.pt"
    with public_program() as classes:
        strange = {**description, "head": [*description["head"]]}
        strange["head"][0] = [-1, 1, "Mystery", [512, 1, 1]]
        public = disguised(lively(tiny_description(3)), classes, "Model", yaml=strange,
                           names=list(NAMES))  # fmt: skip
        torch.save({"epoch": -1, "model": public}, path)
    with pytest.raises(ConfigError, match="Mystery"):
        from_public(path, "")


def test_what_is_no_public_file_is_refused(tmp_path):
    path = tmp_path / "text.pt"
    path.write_text("hello")
    with pytest.raises(ForeignCheckpointError, match="text"):
        from_public(path, "")
