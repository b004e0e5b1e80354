import os
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

import tasks.datasets
from tasks.datasets import cache_folder, manifest_key, open_dataset, read_manifest
from tasks.errors import DamagedObjectError, MissingObjectError, StoreUnavailableError
from tasks.packing import pack
from tasks.records import Prepared
from tasks.store import Store, open_store
from tests.data_sets import picture, write_yolo


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "yolov5-retrain"


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path) -> Store:
    places = {"folder": str(tmp_path / "store"), "memory": f"memory://{uuid.uuid4().hex}"}
    return open_store(places[request.param])


@pytest.fixture
def prepared(store, tmp_path, cache) -> Prepared:
    digest = pack(store, str(write_yolo(tmp_path / "data")), lambda *_: None).digest
    shutil.rmtree(tmp_path / "data")  # from here on the source is not needed
    shutil.rmtree(cache, ignore_errors=True)
    return Prepared(digest=digest, names=(), counts={}, rejected=(), report="", verdict="")


def test_a_prepared_set_needs_its_source_no_more(store, prepared):
    data = open_dataset(store, prepared)
    assert data.names == ("cat", "dog")
    assert [r.name for r in data.splits["val"]] == ["images/val/3.jpg", "images/val/4.jpg"]
    assert data.splits["train"][1].place.read() == picture("train/1")
    assert open_dataset(store, prepared, single_class=True).names == ("item",)


def test_only_the_shards_of_the_wanted_split_are_touched(store, prepared):
    train, _ = read_manifest(store, prepared.digest).shards
    store.delete(train.key)
    data = open_dataset(store, prepared, splits=("val",))
    assert data.splits["val"][0].place.read() == picture("val/3")
    assert list(data.splits) == ["val"]
    with pytest.raises((DamagedObjectError, MissingObjectError)):
        open_dataset(store, prepared)


@pytest.mark.parametrize("part", ["shard", "index"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "longer"])
def test_a_part_that_is_not_what_was_prepared_is_refused(store, prepared, part, damage):
    manifest = read_manifest(store, prepared.digest)
    key = manifest.shards[0].key if part == "shard" else manifest.index.key
    data = bytearray(store.read_bytes(key))
    data[len(data) // 2] ^= 1
    changed = {
        "flipped": bytes(data),
        "cut": bytes(data[:-700]),
        "longer": bytes(data) + b"x" * 700,
    }
    store.put_bytes(changed[damage], key)
    with pytest.raises(DamagedObjectError):
        open_dataset(store, prepared)


def test_an_index_of_other_data_under_a_forged_manifest_is_refused(store, prepared):
    doc = store.read_json(manifest_key(prepared.digest))
    store.put_json({**doc, "names": ["dog", "cat"]}, manifest_key(prepared.digest))
    with pytest.raises(DamagedObjectError, match="not those of this digest"):
        open_dataset(store, prepared)


@pytest.mark.parametrize("change", [{"version": 1}, {"index": {}}, {"shards": 3}, {"names": None}])
def test_a_manifest_of_another_kind_is_refused(store, prepared, change):
    doc = store.read_json(manifest_key(prepared.digest))
    store.put_json({**doc, **change}, manifest_key(prepared.digest))
    with pytest.raises(DamagedObjectError):
        open_dataset(store, prepared)


class TestCache:
    """Copies of a remote store's objects."""

    @pytest.fixture
    def store(self) -> Store:
        return open_store(f"memory://{uuid.uuid4().hex}")

    def test_what_is_there_is_not_fetched_again(self, store, prepared, cache):
        first = open_dataset(store, prepared)
        stamps = {p: p.stat().st_ino for p in (cache / "objects").iterdir()}
        assert len(stamps) == 3  # two shards, the index; no part, no lock
        for shard in read_manifest(store, prepared.digest).shards:
            store.delete(shard.key)
        again = open_dataset(store, prepared)
        assert again.splits["val"][0].place == first.splits["val"][0].place
        assert {p: p.stat().st_ino for p in (cache / "objects").iterdir()} == stamps

    def test_a_broken_fetch_goes_on_where_it_stopped(self, store, prepared, cache, monkeypatch):
        monkeypatch.setattr(tasks.datasets, "_BLOCK", 1000)
        shard = read_manifest(store, prepared.digest).shards[0]
        (cache / "objects").mkdir(parents=True)
        part = cache / "objects" / f"{shard.sha256}.part"
        part.write_bytes(store.read_bytes(shard.key)[:2500])
        read: list[tuple[int, int]] = []
        plain = Store.read_range

        def spying(self: Store, key: str, start: int, end: int) -> bytes:
            if key == shard.key:
                read.append((start, end))
            return plain(self, key, start, end)

        monkeypatch.setattr(Store, "read_range", spying)
        seen: list[tuple[int, int]] = []
        open_dataset(store, prepared, progress=lambda *s: seen.append(s))
        assert read[0] == (2500, 3500)
        assert read[-1][1] == shard.size
        assert seen[-1][0] > 0

    def test_a_damaged_rest_of_a_broken_fetch_is_thrown_away(self, store, prepared, cache):
        shard = read_manifest(store, prepared.digest).shards[0]
        (cache / "objects").mkdir(parents=True)
        (cache / "objects" / f"{shard.sha256}.part").write_bytes(b"x" * 2500)
        with pytest.raises(DamagedObjectError):
            open_dataset(store, prepared)
        assert open_dataset(store, prepared).splits["train"][0].place.read() == picture("train/0")

    def test_many_readers_at_once_fetch_it_once(self, store, prepared, cache):
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: open_dataset(store, prepared), range(8)))
        assert {data.splits["train"][0].place.read() for data in found} == {picture("train/0")}
        assert not list((cache / "objects").glob("*.part"))

    def test_the_copies_used_longest_ago_make_room(self, store, prepared, cache, monkeypatch):
        (cache / "objects").mkdir(parents=True)
        for age, name in enumerate(("newer", "older")):
            (cache / "objects" / name).write_bytes(b"x" * 10)
            os.utime(cache / "objects" / name, (1000 - age, 1000 - age))
        usage = shutil.disk_usage("/")

        def nearly_full(_path: object) -> object:
            gone = not (cache / "objects" / "older").exists()
            free = 10**9 + (10**6 if gone else 0)
            return usage._replace(free=free)

        monkeypatch.setattr(tasks.datasets.shutil, "disk_usage", nearly_full)
        open_dataset(store, prepared)
        assert (cache / "objects" / "newer").exists()
        assert not (cache / "objects" / "older").exists()

    def test_a_full_disk_is_said_before_anything_is_fetched(self, store, prepared, monkeypatch):
        usage = shutil.disk_usage("/")._replace(free=10**9)
        monkeypatch.setattr(tasks.datasets.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(StoreUnavailableError, match="GB are free; make room"):
            open_dataset(store, prepared)


def test_without_a_home_to_write_to_copies_go_to_the_temporary_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = cache_folder()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o077 == 0


def test_a_changed_file_of_a_local_store_is_verified_anew(tmp_path):
    store = open_store(str(tmp_path / "store"))
    digest = pack(store, str(write_yolo(tmp_path / "data")), lambda *_: None).digest
    prepared = Prepared(digest=digest, names=(), counts={}, rejected=(), report="", verdict="")
    open_dataset(store, prepared)
    shard = tmp_path / "store" / read_manifest(store, digest).shards[0].key
    status = shard.stat()
    data = bytearray(shard.read_bytes())
    data[600] ^= 255
    shard.write_bytes(data)  # same size
    assert shard.stat().st_size == status.st_size
    with pytest.raises(DamagedObjectError, match="not what was prepared"):
        open_dataset(store, replace(prepared))
