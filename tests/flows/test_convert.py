import pytest
import torch

from flows.cli import main
from flows.convert import convert_command
from tests.exported import lively_checkpoint
from tests.yolov5_core.test_foreign import stripped_v7
from yolov5_core import checkpoint
from yolov5_core.checkpoint import CheckpointError
from yolov5_core.config import ConfigError


def test_a_public_file_becomes_ours_and_ours_a_state_dict(tmp_path, capsys):
    public, parent = stripped_v7(tmp_path / "public.pt")
    ours, state = tmp_path / "ours.pt", tmp_path / "state.pt"
    assert main(["convert", str(public), str(ours)]) == 0
    entries = len(parent.state_dict())
    assert f"all {entries} entries" in capsys.readouterr().out
    lineage = checkpoint.load(ours)["lineage"]
    assert lineage["parent"] == "public.pt"
    assert len(lineage["parent_sha256"]) == 64
    assert main(["convert", str(ours), str(state)]) == 0
    assert f"a state_dict of {entries} entries" in capsys.readouterr().out
    found = torch.load(state, weights_only=True)  # noqa: TID251  as the public program's user does
    for key, value in parent.state_dict().items():
        assert torch.equal(found[key].half(), value.half()), key


def test_nothing_is_written_over(tmp_path):
    path = lively_checkpoint(tmp_path / "ours.pt")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"ours\.pt exists already"):
        convert_command([str(path), str(path)])
    assert path.read_bytes() == before


def test_what_is_no_checkpoint_is_refused(tmp_path):
    text, target = tmp_path / "text.pt", tmp_path / "new.pt"
    text.write_text("hello")
    with pytest.raises(CheckpointError, match=r"text\.pt"):
        convert_command([str(text), str(target)])
    with pytest.raises(ConfigError, match=r"lost\.pt: no such file"):
        convert_command([str(tmp_path / "lost.pt"), str(target)])
    with pytest.raises(ConfigError, match="convert: the following arguments are required"):
        convert_command([])
    assert not target.exists()
