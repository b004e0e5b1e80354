import uuid
from typing import Any

import pytest

from tasks.errors import StoreError, StoreUnavailableError
from tasks.remote_files import RemoteFiles, open_files
from tasks.store import open_store
from yolov5_core.files import Files, LocalFiles, read_file

KINDS = ["folder", "memory", pytest.param("gs", marks=pytest.mark.gcs)]


@pytest.fixture(params=KINDS)
def place(request, tmp_path) -> str:
    """A new place of each kind with some files in it."""
    places = {
        "folder": str(tmp_path / "set"),
        "memory": f"memory://{uuid.uuid4().hex}/set",
        "gs": f"gs://models/{uuid.uuid4().hex}/set",
    }
    store = open_store(places[request.param])
    for name in ("a.txt", "b/c.txt", "b/d/e.txt", ".hidden", "b/.x/y.txt"):
        store.put_bytes(name.encode(), name)
    return places[request.param]


@pytest.fixture
def files(place) -> Files:
    return open_files(place)


def test_files_of_a_folder_are_told_by_name(place, files):
    assert "a.txt" in files.folder(place)
    assert ".hidden" not in files.folder(place)
    assert "c.txt" in files.folder(f"{place}/b")
    assert files.folder(f"{place}/nowhere") == {}
    assert files.folder(place)["a.txt"].size == 5


def test_files_of_a_tree_are_told_by_whole_path(place, files):
    found = files.tree(place)
    assert sorted(found) == [f"{place}/{name}" for name in ("a.txt", "b/c.txt", "b/d/e.txt")]
    assert read_file(files, sorted(found)[1], 100) == b"b/c.txt"


def test_folders_and_files_are_told_apart(place, files):
    assert files.is_folder(f"{place}/b")
    assert not files.is_folder(f"{place}/a.txt")
    assert files.is_file(f"{place}/a.txt")
    assert not files.is_file(f"{place}/b")
    assert not files.is_file(f"{place}/nowhere")


def test_many_are_read_in_order_and_what_is_not_there_is_an_answer(place, files):
    found = files.read_many([f"{place}/{name}" for name in ("b/c.txt", "gone.txt", "a.txt")])
    assert (found[0], found[2]) == (b"b/c.txt", b"a.txt")
    assert isinstance(found[1], FileNotFoundError)
    assert files.read_many([]) == []


def test_a_stamp_changes_when_the_content_does(place, files):
    before = files.folder(place)["a.txt"]
    assert files.folder(place)["a.txt"] == before
    open_store(place).put_bytes(b"other", "a.txt")
    assert files.folder(place)["a.txt"] != before


def test_local_places_need_no_fsspec(tmp_path):
    assert isinstance(open_files(str(tmp_path)), LocalFiles)
    assert isinstance(open_files(f"file://{tmp_path}"), LocalFiles)


class Unreachable:
    """A file system whose network is down."""

    def __getattr__(self, name: str) -> Any:
        def fails(*_: Any, **__: Any) -> Any:
            raise ConnectionError("no route to host")

        return fails

    def _strip_protocol(self, path: str) -> str:
        return path

    def cat(self, paths: list[str], **_: Any) -> dict[str, Any]:
        return {path: ConnectionError("no route to host") for path in paths}


@pytest.mark.parametrize(
    "ask",
    [
        lambda f: f.folder("x"),
        lambda f: f.tree("x"),
        lambda f: f.is_file("x"),
        lambda f: f.is_folder("x"),
        lambda f: f.read_many(["x"]),
    ],
)
def test_a_network_fault_is_never_taken_for_a_missing_picture(ask):
    with pytest.raises(StoreUnavailableError, match="no route to host"):
        ask(RemoteFiles(Unreachable()))


def test_an_unknown_kind_of_place_is_refused():
    with pytest.raises(StoreError, match="nothing://"):
        open_files("nothing://x/y")
