import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from tasks.records import RunInfo
from tasks.run import begin_run, load_run, newest_run, preflight, save_run
from tasks.settings import RetrainConfig
from tasks.store import Store, open_store
from yolov5_core.config import ConfigError

NIGHT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def config(tmp_path) -> RetrainConfig:
    return RetrainConfig(store=str(tmp_path / "store"))


@pytest.fixture
def store(config) -> Store:
    return open_store(config.store)


def begin(config: RetrainConfig, started: datetime = NIGHT) -> RunInfo:
    return begin_run(config, started)


@pytest.mark.parametrize(
    ("name", "expected"), [("", "20260102-030405"), ("street", "20260102-030405_street")]
)
def test_a_run_is_named_by_its_start_and_its_name(config, name, expected):
    assert begin(replace(config, name=name)).run == expected


def test_the_start_is_told_in_utc(config):
    from_afar = NIGHT.astimezone(timezone(timedelta(hours=9)))
    info = begin(config, from_afar)
    assert info.run == "20260102-030405"
    assert info.created == "2026-01-02T03:04:05+00:00"


def test_run_json_gives_the_same_record_back(config, store):
    info = begin(replace(config, freeze=(0, 1), name="a"))
    assert load_run(store, info.run) == info


def test_the_same_start_again_is_the_same_run(config):
    assert begin(config) == begin(config)


def test_a_taken_id_with_other_settings_is_refused_with_the_way_out(config):
    begin(replace(config, run="a"))
    with pytest.raises(ConfigError, match="choose another id, or continue it with resume=a"):
        begin(replace(config, run="a", epochs=7))


def test_a_moved_store_still_holds_its_runs(config, tmp_path):
    begin(replace(config, run="a"))
    (tmp_path / "store").rename(tmp_path / "moved")
    moved = replace(config, run="a", store=str(tmp_path / "moved"))
    assert begin(moved).config == moved


def test_an_unknown_run_is_none(store):
    assert load_run(store, "nothing") is None
    assert newest_run(store) == ""


def test_the_newest_run_is_the_one_created_last_whatever_its_id(config, store):
    begin(replace(config, run="z"), NIGHT)
    begin(replace(config, run="a"), NIGHT + timedelta(seconds=1))
    assert newest_run(store) == "a"


def test_resume_takes_the_newest_run_and_its_settings(config):
    begin(replace(config, run="old", epochs=3), NIGHT - timedelta(days=1))
    begin(replace(config, run="new", epochs=5), NIGHT)
    resumed = begin(replace(config, resume="latest", device="cpu"))
    assert (resumed.run, resumed.config.epochs, resumed.config.device) == ("new", 5, "cpu")


def test_resume_with_another_number_of_epochs_is_refused(config):
    begin(replace(config, run="a", epochs=3))
    with pytest.raises(ConfigError, match="epochs cannot change from 3 to 5"):
        begin(replace(config, resume="a", epochs=5))


@pytest.mark.parametrize(
    ("resume", "what"), [("latest", "it holds no runs"), ("a", "it holds no run 'a'")]
)
def test_nothing_to_resume_says_so(config, resume, what):
    with pytest.raises(ConfigError, match=f"resume={resume}: nothing to resume in .*, {what}"):
        begin(replace(config, resume=resume))


def test_files_are_remembered_by_their_whole_paths(config, tmp_path, monkeypatch):
    (tmp_path / "data.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    info = begin(replace(config, data="data.yaml"))
    assert info.config.data == str(tmp_path / "data.yaml")


def test_a_setting_this_version_does_not_know_is_named(config, store):
    info = begin(replace(config, run="a"))
    path = Path(store.folder) / "runs" / "a" / "run.json"
    doc = json.loads(path.read_text())
    doc["config"]["colour"] = "red"
    path.write_text(json.dumps(doc))
    with pytest.raises(ConfigError, match=r"run\.json: unknown key 'colour'"):
        load_run(store, info.run)


def test_a_run_begun_before_early_stopping_existed_never_stops_early(config, store):
    info = begin(replace(config, run="a"))
    path = Path(store.folder) / "runs" / "a" / "run.json"
    doc = json.loads(path.read_text())
    assert doc["config"].pop("patience") == load_run(store, info.run).config.patience == 100
    path.write_text(json.dumps(doc))
    assert load_run(store, info.run).config == replace(info.config, patience=0)


def test_saving_replaces(config, store):
    info = begin(replace(config, run="a"))
    save_run(store, replace(info, data_digest="0123"))
    assert load_run(store, "a").data_digest == "0123"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hyp": "lost.yaml"}, "hyp=lost.yaml: no such file"),
        ({"cfg": "lost.yaml"}, "cfg=lost.yaml: no such file"),
        ({"weights": "lost.pt"}, "weights=lost.pt: no such file"),
        ({"cfg": "s6", "image_size": 96}, "cfg=s6 needs a multiple of 64, such as "),
    ],
)
def test_preflight_refuses_what_cannot_work(config, changes, message):
    with pytest.raises(ConfigError, match=message):
        preflight(replace(config, **changes))


def test_preflight_leaves_nothing_behind(config, tmp_path):
    preflight(replace(config, bucket=str(tmp_path / "bucket"), cfg="n6", image_size=128))
    assert not [name for _, _, files in os.walk(tmp_path) for name in files]


def test_a_folder_of_data_is_stored_by_its_whole_path(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "sample").mkdir()
    monkeypatch.chdir(tmp_path)
    store = str(tmp_path / "store")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    info = begin_run(RetrainConfig(data="pictures", store=store, run="a"), now)
    assert info.config.data == str(tmp_path / "pictures")
    assert begin_run(RetrainConfig(store=store, run="b"), now).config.data == "sample"
