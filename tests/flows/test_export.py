import json
import subprocess
import sys
import uuid
from pathlib import Path

import onnx
import pytest
import torch

from flows.export import export_command
from tasks.store import open_store
from tests.exported import lively_checkpoint, load_torchscript, write_pictures
from tests.yolov5_core.test_foreign import stripped_v7
from yolov5_core import checkpoint
from yolov5_core.checkpoint import CheckpointError
from yolov5_core.config import ConfigError
from yolov5_core.dataset import DataError
from yolov5_core.parity import ParityError


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return lively_checkpoint(tmp_path_factory.mktemp("weights") / "best_street.pt")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures") / "val", 3)


def words(weights: Path, pictures: Path, out: Path, *more: str) -> list[str]:
    given = ["--weights", str(weights), "--pictures", str(pictures), "--out", str(out)]
    return [*given, "--image-size", "64", *more]


def test_files_that_agree_are_published_beside_the_weights(weights, pictures, tmp_path):
    bucket = f"memory://{uuid.uuid4().hex}"
    more = ("--format", "onnx", "torchscript", "--bucket", bucket)
    said = export_command(words(weights, pictures, tmp_path, *more))
    names = [
        "best_street.onnx",
        "best_street.torchscript",
        "best_street_parity.json",
        "best_street_parity.md",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert sorted(open_store(bucket).keys("weights")) == [f"weights/{name}" for name in names]
    assert f"published  {bucket}/weights/best_street.onnx" in said
    assert said.count("3 pictures") == 3


def test_files_that_differ_are_reported_and_not_published(weights, pictures, tmp_path):
    payload = checkpoint.load(weights)
    payload["model"]["model.24.m.0.bias"][0] = torch.nan
    checkpoint.save(payload, tmp_path / "bad.pt")
    bucket = f"memory://{uuid.uuid4().hex}"
    out = tmp_path / "out"
    with pytest.raises(ParityError, match=r"bad\.onnx in onnxruntime .*boxes nan px.* published"):
        export_command(words(tmp_path / "bad.pt", pictures, out, "--bucket", bucket))
    assert list(open_store(bucket).keys("weights")) == []
    said = json.loads((out / "bad_parity.json").read_text())
    assert said["passed"] is False
    assert [check["boxes"] for check in said["checks"]] == [None, None]


def test_a_public_checkpoint_with_suppression_inside(pictures, tmp_path):
    path, _ = stripped_v7(tmp_path / "public.pt")
    more = ("--nms", "--confidence", "0.1")
    said = export_command(words(path, pictures, tmp_path / "out", *more))
    assert "public.onnx in onnxruntime" in said
    assert "OpenCV" not in said


def test_sums_in_pieces_are_asked_for_by_a_flag(weights, pictures, tmp_path):
    convolutions = []
    for more in ((), ("--exact-sums",)):
        export_command(words(weights, pictures, tmp_path, *more))
        nodes = onnx.load(tmp_path / "best_street.onnx").graph.node
        convolutions.append(sum(node.op_type == "Conv" for node in nodes))
    assert convolutions[1] > convolutions[0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--format", "tflite"), "invalid choice: 'tflite'"),
        (("--image-size", "50"), "image size 50: .* such as 64"),
        (("--image-size", "-64"), "image size -64"),
        (("--nms", "--format", "torchscript"), "--nms is for ONNX files"),
        (("--exact-sums", "--format", "torchscript"), "--exact-sums is for ONNX files"),
        (("--nms", "--iou", "7"), "iou=7.0: must be within"),
        (("--confidence", "0.5"), "--confidence and --iou belong to --nms"),
        (("--shape", "3"), "unrecognized arguments: --shape"),
    ],
)
def test_flags_that_cannot_work_are_refused(weights, pictures, tmp_path, more, message):
    with pytest.raises(ConfigError, match=message):
        export_command(words(weights, pictures, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_there_or_no_such_thing_are_named(weights, pictures, tmp_path):
    out, text = tmp_path / "out", tmp_path / "text.pt"
    text.write_text("hello")
    with pytest.raises(ConfigError, match=r"lost\.pt: no such file"):
        export_command(words(tmp_path / "lost.pt", pictures, out))
    with pytest.raises(CheckpointError, match=r"text\.pt"):
        export_command(words(text, pictures, out))
    with pytest.raises(DataError, match="nowhere"):
        export_command(words(weights, tmp_path / "nowhere", out))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        export_command(words(weights, tmp_path / "empty", out))


def test_a_checkpoint_without_names_numbers_its_classes(weights, pictures, tmp_path):
    payload = checkpoint.load(weights)
    del payload["names"]
    checkpoint.save(payload, tmp_path / "bare.pt")
    export_command(words(tmp_path / "bare.pt", pictures, tmp_path, "--format", "torchscript"))
    extra = {"metadata.json": ""}
    load_torchscript(tmp_path / "bare.torchscript", extra)
    assert json.loads(json.loads(extra["metadata.json"])["names"]) == ["0", "1", "2"]


def test_without_a_size_it_is_that_of_training(weights, pictures, tmp_path):
    payload = {**checkpoint.load(weights), "image_size": 96}
    checkpoint.save(payload, tmp_path / "a.pt")
    given = ["--weights", str(tmp_path / "a.pt"), "--pictures", str(pictures)]
    export_command([*given, "--out", str(tmp_path)])
    assert json.loads((tmp_path / "a_parity.json").read_text())["image_size"] == [96, 96]


def test_help_needs_no_torch():
    code = (
        "import sys; from flows.cli import main\n"
        "try: main(['export', '--help'])\n"
        "except SystemExit: print({'torch', 'prefect', 'onnx'} & set(sys.modules))"
    )
    done = subprocess.run(  # noqa: S603  our own words
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("set()\n")
    assert "yolov5-retrain export" in done.stdout
