import errno
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import exit_code
from tests.tiny import tiny_description
from yolov5_core import checkpoint
from yolov5_core.checkpoint import CheckpointError, CheckpointWriteError
from yolov5_core.model import Detector
from yolov5_core.start import new_detector


def payload(model: Detector) -> dict[str, Any]:
    """A checkpoint as training saves it, but for the optimizer's insides."""
    return {
        "epoch": 4,
        "best_fitness": 0.5,
        "training_results": "       4/9\n",
        "model": model.state_dict(),
        "optimizer": {"momentum": torch.ones(3)},
        "description": model.description.to_mapping(),
        "names": ["disc", "square", "triangle", "star"],
        "nc": 4,
        "stride": model.stride.tolist(),
        "hyp": {"lr0": 0.01},
        "metrics": {"map50": 0.7},
        "lineage": {"run": "r"},
        "resume": {"model": model.state_dict(), "step": 12},
    }


@pytest.fixture
def model() -> Detector:
    return new_detector(tiny_description(), 0)


@pytest.fixture
def saved(model: Detector, tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(payload(model), path)
    return path


def test_what_was_saved_is_loaded(model: Detector, saved: Path):
    loaded = checkpoint.load(saved)
    assert loaded.pop("format") == checkpoint.FORMAT
    assert loaded.pop("version") == checkpoint.VERSION
    expected = payload(model)
    assert loaded.keys() == expected.keys()
    for key, value in expected["model"].items():
        assert torch.equal(loaded["model"][key], value)
        assert loaded["model"][key].dtype == value.dtype
    for key in ("epoch", "best_fitness", "training_results", "description", "names", "metrics"):
        assert loaded[key] == expected[key]


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=plain)
def test_any_plain_value_survives(value: Any, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.getbasetemp() / "plain.pt"
    checkpoint.save({"value": value}, path)
    assert checkpoint.load(path)["value"] == value


def test_the_model_of_a_checkpoint_computes_what_the_saved_one_did(model: Detector, saved: Path):
    rebuilt = checkpoint.build_detector(checkpoint.load(saved), "x")
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(rebuilt(x)[0], model.eval()(x)[0])
    assert not rebuilt.training


def test_weights_that_do_not_fit_their_description_are_refused(model: Detector):
    content = payload(model)
    content["description"]["nc"] = 7
    with pytest.raises(CheckpointError, match=r"x\.pt: weights do not fit their description"):
        checkpoint.build_detector(content, "x.pt")


def test_saving_again_replaces_the_file_and_leaves_nothing_beside_it(saved: Path):
    checkpoint.save({"epoch": 5}, saved)
    assert checkpoint.load(saved)["epoch"] == 5
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint.pt"]


def test_stripping_halves_the_weights_and_keeps_the_source(saved: Path, tmp_path: Path):
    before = saved.read_bytes()
    target = tmp_path / "weights" / "last.pt"
    size = checkpoint.strip(saved, target)
    assert saved.read_bytes() == before
    assert size == target.stat().st_size < len(before)
    stripped, full = checkpoint.load(target), checkpoint.load(saved)
    assert (stripped["optimizer"], stripped["resume"], stripped["epoch"]) == (None, None, -1)
    for key in ("description", "names", "nc", "stride", "hyp", "metrics", "lineage"):
        assert stripped[key] == full[key]
    for key, value in full["model"].items():
        expected = value.half() if value.is_floating_point() else value
        assert torch.equal(stripped["model"][key], expected)
    detector = checkpoint.build_detector(stripped, "x")
    assert next(detector.parameters()).dtype == torch.float32


# ---- files that are no checkpoint ------------------------------------------------------------


def refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint.load(path)
    assert str(path) in str(caught.value)
    assert exit_code(caught.value) == 2


def test_a_missing_file_is_refused(tmp_path: Path):
    refused(tmp_path / "no.pt", "no such checkpoint")
    refused(tmp_path, "no such checkpoint")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 0.9999])
def test_a_file_cut_short_is_refused(saved: Path, share: float):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(len(whole) * share)])
    refused(saved, "not a whole zip file .*; copy it again")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "not a whole zip file"),
        (b"PK\x03\x04", "not a whole zip file"),
        (b"\0", "not a whole zip file"),
        (pickle.dumps({"format": 1}), "a bare pickle, older than PyTorch 1.6"),
        (b"\x10" + bytes(7) + b'{"a":{}}', "a safetensors file, .*; give a .pt file"),
    ],
)
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    refused(path, message)


def test_a_weight_that_changed_on_the_disk_is_noticed(saved: Path):
    content = bytearray(saved.read_bytes())
    weights = checkpoint.load(saved)["model"]["model.0.conv.weight"].numpy().tobytes()
    place = content.find(weights)
    assert place > 0
    content[place + 5] ^= 0x10
    saved.write_bytes(content)
    refused(saved, "damaged")


def test_another_zip_is_refused(tmp_path: Path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(path, "not a PyTorch archive")


@pytest.mark.parametrize("content", [{"epoch": 1}, [1, 2], torch.zeros(2), {"format": "other"}])
def test_a_file_of_another_program_is_refused(tmp_path: Path, content: Any):
    path = tmp_path / "x.pt"
    torch.save(content, path)
    refused(path, "not a checkpoint of this program")


@pytest.mark.parametrize("version", [checkpoint.VERSION + 1, None, "2"])
def test_a_newer_version_is_refused(tmp_path: Path, version: Any):
    path = tmp_path / "x.pt"
    torch.save({"format": checkpoint.FORMAT, "version": version}, path)
    refused(path, f"newer version .format {version}.*update yolov5-retrain")


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_executed(tmp_path: Path):
    canary, path = tmp_path / "canary", tmp_path / "x.pt"
    torch.save({"format": checkpoint.FORMAT, "version": 1, "model": Canary(canary)}, path)
    refused(path, "refused: global")
    assert not canary.exists()
    pickle.loads(pickle.dumps(Canary(canary)))  # noqa: S301  shows that the canary works
    assert canary.exists()


def test_a_pickled_module_is_refused(tmp_path: Path, model: Detector):
    path = tmp_path / "x.pt"
    torch.save({"format": checkpoint.FORMAT, "version": 1, "model": model}, path)
    refused(path, "refused: global")


# ---- a disk that is full ---------------------------------------------------------------------

_LIMITED = """
import resource, signal, sys
from pathlib import Path
import torch
from tasks.errors import exit_code
from yolov5_core import checkpoint

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
for limit in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        checkpoint.save({"weights": [torch.ones(50_000), torch.ones(50_000)]}, path)
        print("saved")
    except checkpoint.CheckpointWriteError as error:
        print(exit_code(error), type(error.__cause__).__name__, error.__cause__.errno, error)
"""


def test_a_full_disk_keeps_the_old_file_and_may_be_tried_again(tmp_path: Path):
    # The limit on file sizes is a full disk that a test may have: write() fails in the same way,
    # at the first byte, within a tensor, within the directory at the end of the archive.
    path = tmp_path / "checkpoint.pt"
    checkpoint.save({"epoch": 1}, path)
    limits = ["0", "100000", "200000", "300000", "401000"]
    done = subprocess.run(  # noqa: S603  our own script
        [sys.executable, "-c", _LIMITED, str(path), *limits],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    said = done.stdout.splitlines()
    assert len(said) == len(limits)
    for line in said:
        assert line.startswith(f"75 OSError {errno.EFBIG} {path}: could not save the checkpoint: ")
        assert "no space left on the disk; free some space" in line
    assert checkpoint.load(path)["epoch"] == 1
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_folder_that_cannot_be_made_is_a_write_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointWriteError, match=r"could not save.*folder") as caught:
        checkpoint.save({}, tmp_path / "file" / "x.pt")
    assert isinstance(caught.value.__cause__, OSError)
