import json
import shutil
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.datasets import open_dataset
from tasks.known import last_accepted
from tasks.prepare import prepare_stage
from tasks.records import Prepared
from tasks.settings import RetrainConfig
from tasks.stage import read_stage
from tasks.store import Store, open_store
from tests.data_sets import WRITERS, picture, put, write_yolo
from yolov5_core.dataset import DataError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def store() -> Store:
    return open_store(f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def data(tmp_path) -> Path:
    return write_yolo(tmp_path / "data")


def prepare(store: Store, data: Path, run: str = "r", **settings: object) -> Prepared:
    lenient = {"max_rejected": 1.0, "max_leakage": 1.0, "max_drift": 1.0, **settings}
    return prepare_stage(store, run, RetrainConfig(data=str(data), **lenient))  # type: ignore[arg-type]


def report_of(store: Store, run: str = "r") -> dict[str, object]:
    return json.loads(store.read_bytes(f"runs/{run}/data/report.json"))


@pytest.mark.parametrize("layout", WRITERS)
def test_every_format_is_prepared_counted_and_reported(store, tmp_path, layout):
    prepared = prepare(store, WRITERS[layout](tmp_path / "set"))
    assert prepared.names == ("cat", "dog")
    assert prepared.counts == {
        "train": {
            "pictures": 3,
            "labels": 3,
            "background": 1,
            "left_out": 0,
            "boxes_left_out": 0,
        },
        "val": {
            "pictures": 2,
            "labels": 2,
            "background": 0,
            "left_out": 0,
            "boxes_left_out": 0,
        },
    }
    assert (prepared.rejected, prepared.verdict) == ((), "pass")
    assert store.read_bytes(prepared.report).startswith(b"<!doctype html>")


def test_a_local_folder_and_a_bucket_of_the_same_files_are_the_same_data(store, data):
    bucket = uuid.uuid4().hex
    for path in data.parent.rglob("*"):
        if path.is_file():
            name = path.relative_to(data.parent).as_posix()
            open_store(f"memory://{bucket}").put_file(path, name)
    here = prepare(store, data, "here")
    there = prepare(store, f"memory://{bucket}/data.yaml", "there")
    assert here.digest == there.digest


def test_what_cannot_be_used_is_left_out_and_told_with_file_reason_and_action(store, data):
    put(data.parent / "images/train/7.jpg", b"")
    put(data.parent / "labels/train/1.txt", "0 .5 .5 .1 .1\n0 .5 .5 .1 .1\n")
    prepared = prepare(store, data)
    assert prepared.counts["train"]["left_out"] == 1
    assert prepared.counts["train"]["boxes_left_out"] == 1
    faults = {fault["kind"]: fault for fault in prepared.rejected}
    assert faults.keys() == {"image-empty", "label-duplicate"}
    assert faults["image-empty"]["image"] == "images/train/7.jpg"
    assert faults["image-empty"]["effect"] == "picture left out"
    assert all(fault["action"] and fault["reason"] for fault in prepared.rejected)
    assert prepared.verdict == "warn"


def test_too_many_bad_pictures_stop_the_run_and_the_worst_are_named(store, data):
    put(data.parent / "images/train/1.jpg", b"x")
    with pytest.raises(DataError, match=r"max_rejected.*images/train/1\.jpg") as caught:
        prepare(store, data, max_rejected=0.1)
    assert "data/report.html" in str(caught.value)
    assert read_stage(store, "r", "prepare") is None
    assert store.exists("runs/r/data/report.html")  # what to read at 7 a.m.
    assert last_accepted(store, str(data)) is None
    assert prepare(store, data, max_rejected=0.2).counts["train"]["left_out"] == 1


def test_validation_pictures_that_are_in_training_stop_the_run(store, data):
    put(data.parent / "images/val/3.jpg", picture("train/0"))
    with pytest.raises(DataError, match=r"max_leakage.*3\.jpg"):
        prepare(store, data, max_leakage=0.1)
    assert prepare(store, data, max_leakage=0.5).verdict == "warn"


def test_data_that_drifted_from_the_last_accepted_set_stops_the_run(store, data):
    prepare(store, data, "monday")
    for path in (data.parent / "labels").rglob("*.txt"):
        put(path, "1 .5 .5 .9 .9\n1 .5 .5 .8 .8\n")
    with pytest.raises(DataError, match="max_drift"):
        prepare(store, data, "tuesday", max_drift=0.3)
    accepted = last_accepted(store, str(data))
    assert accepted is not None
    assert accepted["run"] == "monday"  # what was stopped is no measure for the next night
    assert prepare(store, data, "wednesday", max_drift=1.0).verdict in ("pass", "warn")


def test_a_stopped_night_costs_no_second_reading(store, data, caplog):
    put(data.parent / "images/train/1.jpg", b"x")
    with pytest.raises(DataError):
        prepare(store, data, "a", max_rejected=0.0)
    with caplog.at_level("INFO"):
        prepare(store, data, "b")
    assert "5 as they were, 0 to read" in caplog.text


def test_what_was_understood_is_told_before_the_work(store, data, caplog):
    with caplog.at_level("INFO"):
        prepare(store, data)
    told = [record.getMessage() for record in caplog.records]
    assert told.index("classes: 0 cat, 1 dog") < told.index("5 pictures: 0 as they were, 5 to read")
    assert any("train: 3 pictures in images/train, 2 of them with a YOLO" in line for line in told)


def test_an_empty_validation_set_is_refused(store, data):
    for path in (data.parent / "images/val").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no images"):
        prepare(store, data)


def test_the_stage_prepares_once_a_run(store, data):
    config = RetrainConfig(data=str(data))
    first = prepare_stage(store, "r", config)
    put(data.parent / "labels/train/0.txt", "1 0.5 0.5 0.25 0.1\n")
    assert prepare_stage(store, "r", replace(config, epochs=7)) == first
    assert prepare_stage(store, "q", config).digest != first.digest


def test_a_prepared_run_needs_its_source_no_more(store, data):
    config = RetrainConfig(data=str(data))
    first = prepare_stage(store, "r", config)
    shutil.rmtree(data.parent)
    assert prepare_stage(store, "r", config) == first
    assert len(open_dataset(store, first).splits["train"]) == 3
    with pytest.raises(DataError, match="no such file"):
        prepare_stage(store, "q", config)


@pytest.mark.slow  # draws 600 pictures
def test_the_sample_is_drawn_beside_a_local_store_and_only_once(tmp_path):
    store = open_store(str(tmp_path / "runs"))
    config = RetrainConfig(image_size=64)
    first = prepare_stage(store, "a", config)
    assert first.counts["train"]["pictures"] > 100
    drawn = tmp_path / "runs" / "sample" / "64px"
    stamps = {p: p.stat().st_mtime_ns for p in drawn.rglob("*.jpg")}
    assert len(stamps) == 600
    assert prepare_stage(store, "b", config).digest == first.digest
    assert stamps == {p: p.stat().st_mtime_ns for p in drawn.rglob("*.jpg")}


def test_pictures_a_coco_file_describes_badly_count_as_left_out(store, tmp_path):
    folder = WRITERS["COCO"](tmp_path / "set")
    path = folder / "annotations/instances_train2017.json"
    doc = json.loads(path.read_text())
    doc["images"].append({**doc["images"][0]})  # both entries of id 0 are worth nothing
    put(path, json.dumps(doc))
    with pytest.raises(DataError, match=r"max_rejected 0\.2 "):
        prepare(store, folder, max_rejected=0.1)


@pytest.mark.parametrize(("layout", "ids"), [("COCO", (17, 18)), ("YOLO", ()), ("VOC", ())])
def test_the_category_ids_of_a_coco_file_are_kept_for_the_predictions(store, tmp_path, layout, ids):
    prepared = prepare(store, WRITERS[layout](tmp_path / "set"))
    assert prepared.category_ids == ids
    assert open_dataset(store, prepared).category_ids == ids
    assert open_dataset(store, prepared, single_class=True).category_ids == ()


def test_category_ids_that_two_coco_files_give_differently_are_not_kept(store, tmp_path):
    folder = WRITERS["COCO"](tmp_path / "set")
    path = folder / "annotations/instances_val2017.json"
    put(path, path.read_text().replace("17", "3"))
    assert prepare(store, folder).category_ids == ()
