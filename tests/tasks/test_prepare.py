import json
import shutil
import uuid
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tasks.prepare import data_digest, load_manifest, prepare, prepare_stage
from tasks.records import RetrainConfig
from tasks.store import Store, open_store
from yolov5_core.dataset import DataError


@pytest.fixture
def store() -> Store:
    return open_store(f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def data(tmp_path) -> Path:
    """Two training and two validation pictures of two classes; returns data.yaml."""
    return draw(tmp_path / "data")


def draw(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for number in range(2):
            picture = rng.integers(0, 256, (40, 60, 3), np.uint8)
            cv2.imwrite(str(folder / "images" / split / f"{number}.jpg"), picture)
            rows = "0 0.5 0.5 0.25 0.1\n" if number == 0 else "1 0.3 0.3 0.2 0.2\n0 .6 .6 .1 .1\n"
            (folder / "labels" / split / f"{number}.txt").write_text(rows)
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return folder / "data.yaml"


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_the_manifest_gives_back_what_was_read(store, data):
    prepared = prepare(store, data, single_cls=False)
    assert prepared.names == ("cat", "dog")
    assert prepared.counts["train"] == {
        "pictures": 2,
        "labels": 3,
        "background": 0,
        "left_out": 0,
        "duplicate_labels": 0,
    }
    names, splits = load_manifest(store, prepared)
    assert names == ("cat", "dog")
    first, second = splits["train"]
    assert first.path == data.parent / "images" / "train" / "0.jpg"
    assert (first.width, first.height) == (60, 40)
    expected = np.float32([[0, 0.5, 0.5, 0.25, 0.1]])
    assert first.labels.dtype == np.float32
    np.testing.assert_array_equal(first.labels, expected)
    assert second.labels.shape == (2, 5)
    assert len(splits["val"]) == 2


def test_the_data_set_is_never_written_to(store, data):
    before = snapshot(data.parent)
    load_manifest(store, prepare(store, data, single_cls=False))
    assert snapshot(data.parent) == before


def test_the_same_data_elsewhere_is_the_same_object(store, data, tmp_path):
    first = prepare(store, data, single_cls=False)
    keys = store.keys("")
    second = prepare(store, draw(tmp_path / "moved"), single_cls=False)
    assert second.digest == first.digest
    assert store.keys("") == keys == [f"datasets/{first.digest}/manifest.json"]
    _, splits = load_manifest(store, second)
    assert splits["train"][0].path.is_relative_to(tmp_path / "moved")


@pytest.mark.parametrize("change", ["picture", "label", "name", "fewer", "single"])
def test_other_data_has_another_digest(store, data, change):
    before = prepare(store, data, single_cls=False)
    folder = data.parent
    match change:
        case "picture":
            cv2.imwrite(str(folder / "images/train/0.jpg"), np.zeros((40, 60, 3), np.uint8))
        case "label":
            (folder / "labels/val/0.txt").write_text("1 0.5 0.5 0.25 0.1\n")
        case "name":
            data.write_text(data.read_text().replace("dog", "hound"))
        case "fewer":
            (folder / "images/train/1.jpg").unlink()
    after = prepare(store, data, single_cls=change == "single")
    assert after.digest != before.digest


def test_a_single_class_run_calls_every_object_item(store, data):
    prepared = prepare(store, data, single_cls=True)
    names, splits = load_manifest(store, prepared)
    assert names == ("item",)
    assert {float(row[0]) for r in splits["train"] for row in r.labels} == {0.0}


def test_pictures_that_cannot_be_used_are_left_out_and_reported(store, data):
    (data.parent / "images/train/2.jpg").write_bytes(b"")
    (data.parent / "labels/train/2.txt").write_text("0 .5 .5 .1 .1\n")
    prepared = prepare(store, data, single_cls=False)
    assert prepared.counts["train"]["left_out"] == 1
    assert prepared.rejected[0]["path"] == "images/train/2.jpg"
    report = store.read_json(f"datasets/{prepared.digest}/manifest.json")["report"]
    assert report["rejections"] == [dict(r) for r in prepared.rejected]


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_any_label_is_refused(store, data, split):
    shutil.rmtree(data.parent / "labels" / split)
    with pytest.raises(DataError, match=f"{split}.*no labels"):
        prepare(store, data, single_cls=False)
    assert store.keys("") == []


def test_an_empty_validation_set_is_refused(store, data):
    for picture in (data.parent / "images/val").iterdir():
        picture.unlink()
    with pytest.raises(DataError, match="no images"):
        prepare(store, data, single_cls=False)


def test_a_class_the_names_do_not_have_is_refused(store, data):
    (data.parent / "labels/val/1.txt").write_text("2 .5 .5 .1 .1\n")
    with pytest.raises(DataError, match="class 2"):
        prepare(store, data, single_cls=False)


@pytest.mark.parametrize("change", ["gone", "rewritten"])
def test_a_picture_that_changed_after_preparing_stops_the_training(store, data, change):
    prepared = prepare(store, data, single_cls=False)
    picture = data.parent / "images/val/1.jpg"
    if change == "gone":
        picture.unlink()
    else:
        picture.write_bytes(picture.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"1 pictures are gone or changed.*1\.jpg.*prepares"):
        load_manifest(store, prepared)


def test_polygons_survive_the_manifest(store, data):
    polygon = "0 0.1 0.1 0.7 0.1 0.4 0.8 0.2 0.3\n"
    (data.parent / "labels/train/0.txt").write_text(polygon)
    _, splits = load_manifest(store, prepare(store, data, single_cls=False))
    corners = np.float32([[0.1, 0.1], [0.7, 0.1], [0.4, 0.8], [0.2, 0.3]])
    np.testing.assert_array_equal(splits["train"][0].segments[0], corners)
    assert splits["train"][1].segments[0].shape == (0, 2)


def test_pictures_named_by_a_list_file_may_lie_anywhere(store, data, tmp_path):
    shutil.move(str(data.parent / "images/val"), str(tmp_path / "far"))
    listed = "\n".join(str(path) for path in (tmp_path / "far").iterdir())
    (data.parent / "val.txt").write_text(listed)
    for number in range(2):
        shutil.copy(data.parent / f"labels/val/{number}.txt", tmp_path / "far")
    data.write_text(data.read_text().replace("images/val", "val.txt"))
    _, splits = load_manifest(store, prepare(store, data, single_cls=False))
    assert {r.path.parent for r in splits["val"]} == {tmp_path / "far"}


@given(npst.arrays(np.float32, (3, 5), elements=st.floats(0, 1, width=32)))
def test_labels_are_the_same_float32_after_json(labels):
    from tasks.prepare import _exact  # noqa: PLC0415

    back = np.asarray(json.loads(json.dumps(_exact(labels))), np.float32)
    np.testing.assert_array_equal(back, labels)


def test_the_digest_does_not_depend_on_the_order_of_pictures():
    rows = [{"image": f"{n}.jpg", "sha256": str(n), "labels": [], "segments": []} for n in range(3)]
    assert data_digest(["a"], {"train": rows}) == data_digest(["a"], {"train": rows[::-1]})
    assert data_digest(["a"], {"train": rows}) != data_digest(["a"], {"val": rows})


def test_the_stage_prepares_once_a_run(store, data):
    config = RetrainConfig(data=str(data))
    first = prepare_stage(store, "r", config)
    (data.parent / "labels/train/0.txt").write_text("1 0.5 0.5 0.25 0.1\n")
    assert prepare_stage(store, "r", replace(config, epochs=7)) == first
    assert prepare_stage(store, "q", config).digest != first.digest


def test_the_stage_prepares_again_when_the_pictures_have_moved_away(store, data, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(data.parent)
    config = RetrainConfig(data=str(link / "data.yaml"))
    first = prepare_stage(store, "r", config)
    link.unlink()
    with pytest.raises(DataError, match="no such file"):
        prepare_stage(store, "r", config)
    assert first.names == ("cat", "dog")


@pytest.mark.slow  # draws 600 pictures
def test_the_sample_is_drawn_beside_a_local_store_and_only_once(tmp_path):
    store = open_store(str(tmp_path / "runs"))
    config = RetrainConfig(image_size=64)
    first = prepare_stage(store, "a", config)
    assert Path(first.root) == tmp_path / "runs" / "sample" / "64px"
    assert first.counts["train"]["pictures"] > 100
    stamps = {p: p.stat().st_mtime_ns for p in Path(first.root).rglob("*.jpg")}
    assert prepare_stage(store, "b", config) == first
    assert stamps == {p: p.stat().st_mtime_ns for p in Path(first.root).rglob("*.jpg")}
