import logging
import os
import shutil
import signal
import tarfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tasks.packing
from tasks.datasets import open_dataset, read_manifest
from tasks.errors import TransientError, exit_code
from tasks.packing import Packed, pack
from tasks.records import Prepared
from tasks.store import Store, open_store
from tests.data_sets import (
    BOXES,
    WRITERS,
    normalised,
    picture,
    put,
    write_coco,
    write_voc,
    write_yolo,
)
from yolov5_core.dataset import DataError
from yolov5_core.files import LocalFiles


@pytest.fixture
def store() -> Store:
    return open_store(f"memory://{uuid.uuid4().hex}")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def packed(store: Store, data: Path) -> Packed:
    return pack(store, str(data), lambda *_: None)


def contents(store: Store, found: Packed) -> dict[str, tuple[bytes, list[list[float]]]]:
    """Bytes and labels of every picture, read back through the store."""
    prepared = Prepared(
        digest=found.digest, names=(), counts={}, rejected=(), report="", verdict=""
    )
    splits = open_dataset(store, prepared).splits
    return {
        f"{split}/{record.name}": (record.place.read(), record.labels.tolist())
        for split, records in splits.items()
        for record in records
    }


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("layout", WRITERS)
def test_what_was_packed_comes_back_and_the_source_is_as_it_was(store, tmp_path, layout):
    source = WRITERS[layout](tmp_path / "data")
    before = snapshot(tmp_path / "data")
    found = packed(store, source)
    assert snapshot(tmp_path / "data") == before
    assert (found.read, found.removed, found.faults) == (5, 0, ())
    back = contents(store, found)
    assert [data for data, _ in back.values()] == [picture(key) for key in BOXES]
    assert [len(rows) for _, rows in back.values()] == [len(boxes) for boxes in BOXES.values()]


def test_the_same_data_in_another_place_is_the_same_object(store, tmp_path):
    first = packed(store, write_yolo(tmp_path / "a"))
    objects = {k: store.read_bytes(k) for k in store.keys(f"datasets/{first.digest}")}
    second = packed(store, write_yolo(tmp_path / "b"))
    assert second.digest == first.digest
    assert {k: store.read_bytes(k) for k in store.keys(f"datasets/{first.digest}")} == objects
    assert sorted(key.rsplit("/", 1)[1] for key in objects) == [
        *("index.npz", "manifest.json", "shard-000000.tar", "shard-000001.tar")
    ]


def test_a_second_night_without_a_change_reads_no_picture(store, tmp_path, monkeypatch):
    data = write_yolo(tmp_path)
    first = packed(store, data)
    monkeypatch.setattr(tasks.packing, "check_piece", None)  # would fail if it were called
    second = packed(store, data)
    assert (second.read, second.digest) == (0, first.digest)


def test_a_second_night_reads_only_what_changed_and_uses_the_shards_again(store, tmp_path):
    data = write_yolo(tmp_path)
    first = packed(store, data)
    put(tmp_path / "images/train/1.jpg", picture("train/7"))
    put(tmp_path / "labels/val/4.txt", "1 .5 .5 .5 .5\n")
    put(tmp_path / "images/val/8.jpg", picture("val/8"))
    (tmp_path / "images/train/0.jpg").unlink()
    second = packed(store, data)
    assert (second.read, second.removed) == (3, 1)
    names = second.index.all_names()
    assert {names[row] for row in second.new_rows} == {
        *("images/train/1.jpg", "images/val/4.jpg", "images/val/8.jpg")
    }
    keys = [shard.key for shard in read_manifest(store, second.digest).shards]
    assert keys[:2] == [s.key for s in read_manifest(store, first.digest).shards]
    assert all(key.startswith(f"datasets/{second.digest}/shard-00000") for key in keys[2:])
    back = contents(store, second)
    assert back["train/images/train/1.jpg"][0] == picture("train/7")
    assert back["val/images/val/4.jpg"][1] == [[1.0, 0.5, 0.5, 0.5, 0.5]]
    assert "train/images/train/0.jpg" not in back


def test_shards_nothing_refers_to_any_more_are_left_behind(store, tmp_path):
    data = write_yolo(tmp_path)
    packed(store, data)
    for stem in (3, 4):
        put(tmp_path / f"images/val/{stem}.jpg", picture(f"val/{stem + 2}"))
    manifest = read_manifest(store, packed(store, data).digest)
    assert len(manifest.shards) == 2  # the old one of train, the new one of val


night = st.lists(
    st.tuples(st.sampled_from(["picture", "label", "remove", "spoil"]), st.integers(0, 4)),
    max_size=3,
)


@given(nights=st.lists(night, min_size=1, max_size=3))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_after_any_nights_the_set_is_the_one_a_fresh_preparation_makes(tmp_path_factory, nights):
    folder = tmp_path_factory.mktemp("nights")
    data, store = write_yolo(folder), open_store(f"memory://{uuid.uuid4().hex}")
    put(folder / "images/train/9.jpg", picture("train/9"))  # so that there is always one
    put(folder / "labels/train/9.txt", "0 .5 .5 .5 .5\n")
    shutil.copytree(folder / "images/train", folder / "images/val", dirs_exist_ok=True)
    shutil.copytree(folder / "labels/train", folder / "labels/val", dirs_exist_ok=True)
    packed(store, data)
    for number, changes in enumerate(nights):
        for kind, which in changes:
            key = list(BOXES)[which]
            image, labels = folder / f"images/{key}.jpg", folder / f"labels/{key}.txt"
            match kind:
                case "picture":
                    put(image, picture(f"train/{(which + number) % 7}"))
                case "label":
                    put(labels, f"1 .5 .5 .{number + 1} .5\n")
                case "remove":
                    image.unlink(missing_ok=True)
                case "spoil":
                    put(labels, f"1 .5 .5 .{number + 1}\n")
        last = packed(store, data)
    fresh_store = open_store(f"memory://{uuid.uuid4().hex}")
    fresh = packed(fresh_store, data)
    assert (last.digest, last.faults) == (fresh.digest, fresh.faults)
    assert contents(store, last) == contents(fresh_store, fresh)


def test_processes_and_one_process_make_the_same_objects(tmp_path, monkeypatch):
    data = write_yolo(tmp_path / "data")
    stores = [open_store(str(tmp_path / name)) for name in ("one", "many")]
    packed(stores[0], data)
    monkeypatch.setattr(tasks.packing, "_WORTH_PROCESSES", 0)
    monkeypatch.setattr(tasks.packing, "_PIECE_PICTURES", 1)
    found = packed(stores[1], data)
    keys = stores[0].keys(f"datasets/{found.digest}")
    assert keys == stores[1].keys(f"datasets/{found.digest}")
    assert [stores[0].read_bytes(key) for key in keys[1:]] == [
        stores[1].read_bytes(key) for key in keys[1:]
    ]


def test_a_class_added_to_names_heals_the_pictures_that_needed_it(store, tmp_path):
    data = write_yolo(tmp_path)
    put(tmp_path / "labels/train/0.txt", "2 .5 .5 .5 .5\n")
    first = packed(store, data)
    assert [fault.kind for fault in first.faults] == ["label-class-unknown"]
    put(data, data.read_text().replace("dog]", "dog, bird]"))
    second = packed(store, data)
    assert (second.read, second.faults, len(second.index)) == (1, (), 5)


def test_renamed_classes_are_read_anew(store, tmp_path):
    data = write_yolo(tmp_path)
    first = packed(store, data)
    put(data, data.read_text().replace("cat, dog", "dog, cat"))
    second = packed(store, data)
    assert second.read == 5
    assert second.digest != first.digest


def test_a_new_class_in_xml_files_is_added_behind_the_known_ones(store, tmp_path):
    packed(store, write_voc(tmp_path))
    path = tmp_path / "Annotations/0.xml"
    put(path, path.read_text().replace("cat", "bird"))
    second = packed(store, tmp_path)
    assert (second.read, second.sources.names) == (1, ("cat", "dog", "bird"))


def test_faults_are_told_again_on_every_night(store, tmp_path):
    data = write_yolo(tmp_path)
    put(tmp_path / "images/train/2.jpg", b"")
    put(tmp_path / "labels/train/9.txt", "0 .5 .5 .5 .5\n")
    kinds = [sorted(f.kind for f in packed(store, data).faults) for _ in range(2)]
    assert kinds[0] == kinds[1] == ["image-empty", "label-orphan"]


@pytest.mark.parametrize("lost", ["known", "manifest", "shard", "index"])
def test_what_an_earlier_night_left_may_be_lost_or_damaged(store, tmp_path, lost, caplog):
    data = write_yolo(tmp_path)
    first = packed(store, data)
    keys = {
        "known": next(k for k in store.keys("datasets/sources") if k.endswith(".npz")),
        "manifest": f"datasets/{first.digest}/manifest.json",
        "shard": f"datasets/{first.digest}/shard-000000.tar",
        "index": f"datasets/{first.digest}/index.npz",
    }
    if lost == "known":
        store.put_bytes(b"damaged", keys[lost])
    else:
        store.delete(keys[lost])
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    with caplog.at_level(logging.WARNING):
        again = packed(store, data)
    assert again.read == 5
    assert again.digest == first.digest
    assert "reading all of it" in caplog.text
    assert len(contents(store, again)) == 5


def test_a_picture_in_training_and_validation_is_kept_in_both(store, tmp_path):
    data = write_yolo(tmp_path)
    put(data, "train: images\nval: images/val\nnames: [cat, dog]\n")
    assert len(contents(store, packed(store, data))) == 7


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_any_label_is_refused_and_nothing_stored(store, tmp_path, split):
    data = write_yolo(tmp_path)
    shutil.rmtree(tmp_path / "labels" / split)
    with pytest.raises(DataError, match=f"{split}: no labels in .* looked for at .*labels/{split}"):
        packed(store, data)
    assert store.keys("") == []


def test_a_split_where_every_picture_is_bad_is_refused_with_reasons(store, tmp_path):
    data = write_yolo(tmp_path)
    for stem in (3, 4):
        put(tmp_path / f"images/val/{stem}.jpg", b"x")
    with pytest.raises(DataError, match=r"val: none of 2 images can be used:\n.*3\.jpg"):
        packed(store, data)


def test_crowd_regions_and_polygons_of_coco_survive(store, tmp_path):
    import json  # noqa: PLC0415

    write_coco(tmp_path)
    path = tmp_path / "annotations/instances_train2017.json"
    doc = json.loads(path.read_text())
    doc["annotations"][0] |= {"iscrowd": 1, "segmentation": {"size": [40, 60], "counts": [2400]}}
    doc["annotations"][1]["segmentation"] = [[12, 8, 24, 8, 24, 16, 12, 16]]
    put(path, json.dumps(doc))
    found = packed(store, tmp_path)
    assert len(found.index.truth(0).crowd) == 1
    assert len(found.index.truth(0).labels) == 0
    segments = found.index.truth(1).segments
    assert [len(s) for s in segments] == [4, 0]
    assert found.index.truth(1).labels[0].tolist() == pytest.approx(normalised(BOXES["train/1"][0]))


def test_a_killed_preparation_leaves_nothing_that_counts_and_its_rest_goes_away(tmp_path):
    data, store = write_yolo(tmp_path / "data"), open_store(str(tmp_path / "store"))
    left = tmp_path / "store/datasets/.staging-old"
    left.mkdir(parents=True)
    (left / "shard-000000.tar").write_bytes(b"half")
    os.utime(left, (1, 1))
    packed(store, data)
    assert not left.exists()
    assert not list((tmp_path / "store/datasets").glob(".staging-*"))


def test_a_shard_left_by_a_broken_attempt_is_never_overwritten_or_trusted(store, tmp_path):
    data = write_yolo(tmp_path)
    other = open_store(f"memory://{uuid.uuid4().hex}")
    digest = packed(other, data).digest
    store.put_bytes(b"half a shard", f"datasets/{digest}/shard-000000.tar")
    found = packed(store, data)
    assert len(contents(store, found)) == 5
    assert store.read_bytes(f"datasets/{digest}/shard-000000.tar") == b"half a shard"


def test_shards_are_plain_tar_files(tmp_path):
    data, store = write_yolo(tmp_path / "data"), open_store(str(tmp_path / "store"))
    manifest = read_manifest(store, packed(store, data).digest)

    def names() -> Iterator[str]:
        for shard in manifest.shards:
            with tarfile.open(tmp_path / "store" / shard.key) as archive:
                yield from archive.getnames()

    assert sum(name.endswith(".jpg") for name in names()) == 5


class DyingFiles(LocalFiles):
    """Kills the process that reads pictures, as the kernel does when memory runs out."""

    def read_many(self, paths: Sequence[str], most: int = 10**9) -> list[bytes | OSError]:
        if any(path.endswith(".jpg") for path in paths):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read_many(paths, most)


def test_a_worker_that_dies_is_said_in_a_sentence_and_worth_another_try(
    store, tmp_path, monkeypatch
):
    data = write_yolo(tmp_path)
    monkeypatch.setattr(tasks.packing, "_WORTH_PROCESSES", 0)
    monkeypatch.setattr(tasks.packing, "open_files", lambda _: DyingFiles())
    with pytest.raises(TransientError, match="a process that checks pictures died") as caught:
        packed(store, data)
    assert exit_code(caught.value) == 75
    assert store.keys("") == []
