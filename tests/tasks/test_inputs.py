from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.errors import DamagedObjectError
from tasks.inputs import identity, input_file
from tasks.records import RunInfo
from tasks.run import begin_run, load_run
from tasks.settings import RetrainConfig
from tasks.store import open_store


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def info(tmp_path) -> RunInfo:
    """A run that was told a hyperparameter file and weights."""
    (tmp_path / "my.yaml").write_text("lr0: 0.02\n")
    (tmp_path / "parent.pt").write_bytes(b"weights")
    config = RetrainConfig(
        store=str(tmp_path / "store"),
        run="r",
        cfg="n",
        hyp=str(tmp_path / "my.yaml"),
        weights=str(tmp_path / "parent.pt"),
    )
    begin_run(config, datetime(2026, 1, 1, tzinfo=UTC))
    found = load_run(open_store(config.store), "r")
    assert found is not None
    return found


def test_the_files_that_settings_name_are_kept_with_the_run(info, tmp_path):
    kept = {key: artifact.key for key, artifact in info.inputs.items()}
    assert kept == {
        "hyp": "runs/r/inputs/hyp/my.yaml",
        "weights": "runs/r/inputs/weights/parent.pt",
    }
    assert (tmp_path / "store/runs/r/inputs/weights/parent.pt").read_bytes() == b"weights"


def test_the_original_is_read_as_long_as_it_is_the_same(info, tmp_path):
    assert input_file(info, "hyp") == str(tmp_path / "my.yaml")
    assert input_file(info, "cfg") == "n"


@pytest.mark.parametrize("fate", ["gone", "edited"])
def test_the_kept_file_is_read_once_the_original_is_gone_or_another(info, tmp_path, fate):
    original = tmp_path / "my.yaml"
    original.unlink()
    if fate == "edited":
        original.write_text("lr0: 0.5\n")
    found = Path(input_file(info, "hyp"))
    assert found.read_text() == "lr0: 0.02\n"
    assert found.name == "my.yaml"
    (tmp_path / "store/runs/r/inputs/hyp/my.yaml").unlink()
    assert Path(input_file(info, "hyp")) == found  # the copy serves


def test_a_damaged_copy_is_not_used_and_a_damaged_kept_file_is_refused(info, tmp_path):
    (tmp_path / "my.yaml").unlink()
    copy = Path(input_file(info, "hyp"))
    copy.write_text("lr0: 9\n")
    assert Path(input_file(info, "hyp")).read_text() == "lr0: 0.02\n"
    copy.unlink()
    (tmp_path / "store/runs/r/inputs/hyp/my.yaml").write_text("lr0: 0.09\n")
    with pytest.raises(DamagedObjectError):
        input_file(info, "hyp")


def test_what_a_setting_means_does_not_depend_on_where_its_file_lies(info):
    elsewhere = replace(info, config=replace(info.config, hyp="/elsewhere/my.yaml"))
    assert identity(elsewhere, "hyp") == identity(info, "hyp")
    assert identity(info, "cfg") == "n"


def test_a_variant_is_no_file_even_beside_one_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "n").write_text("")
    config = RetrainConfig(store=str(tmp_path / "store"), run="r", cfg="n")
    assert begin_run(config, datetime(2026, 1, 1, tzinfo=UTC)).config.cfg == "n"


def test_relative_places_are_whole_in_the_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = begin_run(RetrainConfig(run="r", bucket="b"), datetime(2026, 1, 1, tzinfo=UTC)).config
    assert (found.store, found.bucket) == (str(tmp_path / "store"), str(tmp_path / "b"))
