import os
from pathlib import Path

import pytest

from tasks.mounts import container_variables, require_reachable
from tasks.settings import RetrainConfig
from yolov5_core.config import ConfigError

BUCKETS = {"store": "gs://models/retrain", "bucket": "gs://models", "data": "gs://pictures/street"}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def test_buckets_need_nothing():
    assert container_variables("prepare", RetrainConfig(**BUCKETS), {}) == {
        "volumes": [],
        "env": {},
    }


def test_local_folders_appear_under_the_same_path_and_only_where_they_are_needed(tmp_path):
    for name in ("store", "bucket", "data"):
        (tmp_path / name).mkdir()
    config = RetrainConfig(
        store=str(tmp_path / "store"), bucket=str(tmp_path / "bucket"), data=str(tmp_path / "data")
    )

    def volumes(stage: str) -> set[str]:
        found = container_variables(stage, config, {"volumes": ["cache:/cache"]})["volumes"]
        return {volume.removeprefix(str(tmp_path)).split(":")[0] for volume in found}

    always = {"cache", "/store"}
    assert volumes("prepare") == always | {"/data"}
    assert volumes("train") == volumes("upload") == volumes("promote") == always | {"/bucket"}
    assert volumes("evaluate") == volumes("finalize") == volumes("plot") == always
    found = container_variables("prepare", config, {})["volumes"]
    data, store = tmp_path / "data", tmp_path / "store"
    assert found == [f"{data}:{data}:ro", f"{store}:{store}"]


def test_what_a_container_writes_belongs_to_the_owner_of_the_store(tmp_path):
    deployed = {"container_create_kwargs": {"read_only": True}}
    config = RetrainConfig(**{**BUCKETS, "store": str(tmp_path)})
    kwargs = container_variables("plot", config, deployed)["container_create_kwargs"]
    assert kwargs == {"read_only": True, "user": f"{os.getuid()}:{os.getgid()}"}


def test_an_operator_decides_who_containers_run_as(tmp_path):
    config = RetrainConfig(**{**BUCKETS, "store": str(tmp_path)})
    deployed = {"container_create_kwargs": {"user": "7:8"}}
    assert container_variables("plot", config, deployed)["container_create_kwargs"]["user"] == "7:8"


def test_pictures_outside_of_the_folder_of_data_yaml_come_along_with_their_labels(tmp_path):
    for folder in ("set/images/train", "set/labels/train", "description"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "set/val.txt").write_text("")
    described = tmp_path / "description" / "data.yaml"
    described.write_text("train: ../set/images/train\nval: ../set/val.txt\nnames: [a]\n")
    config = RetrainConfig(**{**BUCKETS, "data": str(described)})
    found = container_variables("prepare", config, {})["volumes"]
    assert {Path(volume.split(":")[0]).resolve() for volume in found} == {
        tmp_path / "description",
        tmp_path / "set",
    }
    assert all(volume.endswith(":ro") for volume in found)


def test_credentials_and_emulator_come_along(monkeypatch, tmp_path):
    key = tmp_path / "key.json"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9023")
    variables = container_variables("plot", RetrainConfig(**BUCKETS), {})
    assert variables["volumes"] == [f"{key}:{key}:ro"]
    assert variables["env"] == {
        "GOOGLE_APPLICATION_CREDENTIALS": str(key),
        "STORAGE_EMULATOR_HOST": "http://127.0.0.1:9023",
    }


@pytest.mark.parametrize("key", BUCKETS)
def test_a_pod_cannot_see_folders(key):
    require_reachable(RetrainConfig(**BUCKETS))
    with pytest.raises(ConfigError, match=f"{key}=folder: a pod cannot see"):
        require_reachable(RetrainConfig(**{**BUCKETS, key: "folder"}))


def test_the_drawn_sample_needs_no_folder():
    require_reachable(RetrainConfig(**{**BUCKETS, "data": "sample"}))
