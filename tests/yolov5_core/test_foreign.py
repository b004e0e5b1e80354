"""Look-alikes of the public layouts, and what a model must say of itself."""

import argparse
import copy
import pathlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.golden_data import fill
from tests.public_lookalike import (
    archive,
    claim,
    content_of,
    pickled,
    public_program,
    refusal,
    written,
)
from yolov5_core.architecture import describe, from_mapping
from yolov5_core.checkpoint import save as save_ours
from yolov5_core.foreign import (
    ForeignCheckpointError,
    is_public_checkpoint,
    read_public_checkpoint,
)
from yolov5_core.model import Detector

NAMES = ("cat", "dog", "bird")
V5_ROWS = {  # the stem and pooling of v5 and before, in a small complete network
    "backbone": [
        [-1, 1, "Focus", [64, 3]],
        [-1, 1, "Conv", [128, 3, 2]],
        [-1, 3, "BottleneckCSP", [128]],
        [-1, 1, "Conv", [256, 3, 2]],
        [-1, 1, "SPP", [256, [5, 9, 13]]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 2], 1, "Concat", [1]],
        [[6, 4], 1, "Detect", ["nc", "anchors"]],
    ],
    "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]],
}


def tiny(**changes: Any) -> dict[str, Any]:
    base = describe("n", len(NAMES)).to_mapping()
    del base["activation"]  # public files name it only if it is unusual
    return {**base, "width_multiple": 0.0625, **changes}


def disguised(detector: Detector, classes: dict[str, type], kind: str, **attributes: Any) -> Any:
    """A detector of ours as an object of the public program, with its usual attributes."""
    public = classes[kind]()
    public.model = copy.deepcopy(detector.model)
    for module in public.modules():
        own = type(module)
        if own.__module__.startswith("yolov5_core") and own.__name__ in classes:
            module.__class__ = classes[own.__name__]
    for name, value in attributes.items():
        setattr(public, name, value)
    public.nc, public.stride = detector.detect.nc, detector.stride
    return public


def detector_of(description: dict[str, Any]) -> Detector:
    model = Detector(from_mapping(description, "test"))
    fill(model)
    return model.eval()


def stripped_v7(path: Path) -> tuple[Path, Detector]:
    """What v7 leaves after training: half precision weights, everything else emptied."""
    description = tiny()
    detector = detector_of(description)
    attributes = {"yaml": description, "names": dict(enumerate(NAMES)), "hyp": {"lr0": 0.01}}
    with public_program() as classes:
        public = disguised(detector, classes, "DetectionModel", **attributes)
        content = {
            **{"epoch": -1, "best_fitness": None, "model": public.half(), "ema": None},
            **{"updates": None, "optimizer": None, "opt": {"hyp": {"lr0": 0.01}}},
            **{"git": {"remote": None}, "date": "2026-01-02T03:04:05"},
        }
        torch.save(content, path)
    return path, detector


def assert_same_weights(state: dict[str, torch.Tensor], detector: Detector, *, half: bool) -> None:
    expected = detector.state_dict()
    assert list(state) == list(expected)
    for key, value in expected.items():
        rounded = value.half().float() if half and value.is_floating_point() else value
        assert state[key].dtype == (torch.int64 if "num_batches" in key else torch.float32)
        assert torch.equal(state[key], rounded), key


def test_a_stripped_v7_file_gives_its_weights_and_what_it_says(tmp_path: Path) -> None:
    path, detector = stripped_v7(tmp_path / "best.pt")

    checkpoint = read_public_checkpoint(path)

    assert "models" not in sys.modules
    assert is_public_checkpoint(path)
    assert_same_weights(checkpoint.state_dict, detector, half=True)
    assert checkpoint.description == tiny()
    assert (checkpoint.names, checkpoint.num_classes) == (NAMES, 3)
    assert checkpoint.strides == (8.0, 16.0, 32.0)
    assert (checkpoint.epoch, checkpoint.best_fitness, checkpoint.which) == (-1, None, "model")
    assert checkpoint.hyp == {"lr0": 0.01}
    assert checkpoint.training_results is None


def test_an_unstripped_v7_file_gives_its_average_or_its_raw_weights(tmp_path: Path) -> None:
    description = tiny()
    raw, average = detector_of(description), detector_of(description)
    with torch.no_grad():
        average.model[0].conv.weight.mul_(0.5)  # type: ignore[operator, union-attr]
    optimizer = torch.optim.SGD(raw.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for parameter in raw.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    attributes = {"yaml": description, "names": dict(enumerate(NAMES))}
    path = tmp_path / "last.pt"
    with public_program() as classes:
        content = {
            "epoch": 4,
            "best_fitness": np.array([0.25]),
            "model": disguised(raw, classes, "DetectionModel", **attributes).half(),
            "ema": disguised(average, classes, "DetectionModel", **attributes).half(),
            "updates": 17,
            "optimizer": {**optimizer.state_dict(), "momentum": np.float64(0.9)},
            "opt": {"save_dir": pathlib.PosixPath("runs/exp"), "hyp": {"box": np.float64(0.05)}},
        }
        torch.save(content, path)

    checkpoint = read_public_checkpoint(path)

    assert (checkpoint.which, checkpoint.epoch, checkpoint.best_fitness) == ("ema", 4, 0.25)
    assert checkpoint.hyp == {"box": 0.05}
    assert_same_weights(checkpoint.state_dict, average, half=True)
    from_model = read_public_checkpoint(path, prefer="model")
    assert from_model.which == "model"
    assert_same_weights(from_model.state_dict, raw, half=True)


def v5(path: Path) -> tuple[Path, Detector]:
    """Focus, pooling in parallel, names in a list, and buffers that v6 no longer has."""
    description = tiny(**V5_ROWS)
    detector = detector_of(description)
    with public_program() as classes:
        public = disguised(detector, classes, "Model", yaml=description, names=list(NAMES))
        public.model[-1].register_buffer("anchor_grid", torch.ones(2, 1, 2, 1, 1, 2))
        public.model[-1].grid = [torch.zeros(1).expand(1, 20, 20)]  # larger than its storage
        torch.save({"epoch": -1, "model": public.half(), "ema": None}, path)
    return path, detector


def v6(path: Path) -> tuple[Path, Detector]:
    """The network of v7 as a Model with names in a list, and float32 weights."""
    description = tiny()
    detector = detector_of(description)
    with public_program() as classes:
        public = disguised(detector, classes, "Model", yaml=description, names=list(NAMES))
        torch.save({"epoch": 299, "best_fitness": np.array([0.4]), "model": public}, path)
    return path, detector


def test_a_v6_file_gives_its_weights_in_whole_precision(tmp_path: Path) -> None:
    path, detector = v6(tmp_path / "v6.pt")
    checkpoint = read_public_checkpoint(path)
    assert_same_weights(checkpoint.state_dict, detector, half=False)
    assert (checkpoint.names, checkpoint.epoch) == (NAMES, 299)


def test_a_v5_file_gives_public_keys_without_the_anchor_grid(tmp_path: Path) -> None:
    path, detector = v5(tmp_path / "v5.pt")

    checkpoint = read_public_checkpoint(path)

    assert_same_weights(checkpoint.state_dict, detector, half=True)
    assert checkpoint.names == NAMES
    assert checkpoint.description == tiny(**V5_ROWS)


def test_a_v3_file_gives_its_results_text_and_its_activation(tmp_path: Path) -> None:
    description = tiny(**V5_ROWS)
    detector = detector_of({**description, "activation": "nn.LeakyReLU(0.1)"})
    path = tmp_path / "v3.pt"
    text = "       0/1        0G    0.1234\n"
    with public_program() as classes:
        public = disguised(detector, classes, "Model", yaml=description, names=list(NAMES))
        content = {"epoch": 1, "best_fitness": 0.5, "training_results": text, "model": public}
        torch.save({**content, "optimizer": None, "opt": argparse.Namespace(hyp={"a": 1})}, path)

    checkpoint = read_public_checkpoint(path)

    assert checkpoint.training_results == text
    assert (checkpoint.epoch, checkpoint.best_fitness) == (1, 0.5)
    assert checkpoint.hyp == {"a": 1}
    assert checkpoint.description == {**description, "activation": "nn.LeakyReLU(0.1)"}
    assert_same_weights(checkpoint.state_dict, detector, half=False)
    rebuilt = Detector(from_mapping(checkpoint.description, "test")).eval()
    rebuilt.load_state_dict(checkpoint.state_dict)
    images = torch.rand(1, 3, 64, 32)
    assert torch.equal(rebuilt(images)[0], detector(images)[0])


def test_our_own_checkpoints_and_other_files_are_not_taken_for_public_ones(tmp_path: Path) -> None:
    ours, text = tmp_path / "ours.pt", tmp_path / "text.pt"
    save_ours({"model": {"w": torch.zeros(3)}}, ours)
    text.write_text("models.yolo")

    for path in (ours, text, tmp_path, tmp_path / "missing.pt"):
        assert not is_public_checkpoint(path)
        with pytest.raises(ForeignCheckpointError, match=str(path)):
            read_public_checkpoint(path)


@pytest.mark.parametrize(
    ("attributes", "part"),
    [
        ({"weight": "text"}, "0.weight is str"),
        ({"yaml": None}, "description"),
        ({"yaml": {"nc": "many"}}, "description"),
        ({"yaml": {"nc": 1, "x": claim((1,), (1,))}}, "`yaml` holds StoredTensor"),
        ({"names": ["a", "b"]}, "2 names for nc=1"),
        ({"names": {1: "a"}}, "names"),
        ({"names": 3}, "names"),
        ({"stride": None}, "stride"),
        ({"_modules": ["0"]}, "_modules"),
    ],
)
def test_an_attribute_of_a_wrong_kind_is_refused(
    attributes: dict[str, Any], part: str, tmp_path: Path
) -> None:
    assert part in refusal(written(tmp_path / "a.pt", **attributes))


def test_a_content_of_a_wrong_kind_is_refused(tmp_path: Path) -> None:
    with public_program() as classes:
        content = content_of(classes)
        for key, value in {"epoch": "one", "best_fitness": [1], "training_results": 3}.items():
            path = archive(tmp_path / f"{key}.pt", pickled({**content, key: value}))
            assert key in refusal(path)
    assert "`model` entry is dict" in refusal(archive(tmp_path / "a.pt", pickled({"model": {}})))
