import os
from pathlib import Path

import pytest

from yolov5_core.dataset import DataError
from yolov5_core.files import LocalFiles, join, read_file, relative


@pytest.mark.parametrize(
    ("folder", "path", "expected"),
    [
        ("/a/b", "c.txt", "/a/b/c.txt"),
        ("/a/b", "./c/../d", "/a/b/d"),
        ("/a/b", "../c", "/a/c"),
        ("/a/b", "/c", "/c"),
        ("gs://bucket/set", "images/train", "gs://bucket/set/images/train"),
        ("gs://bucket/set", "../other", "gs://bucket/other"),
        ("/a", "gs://bucket/x", "gs://bucket/x"),
    ],
)
def test_paths_are_joined_alike_here_and_in_a_bucket(folder, path, expected):
    assert join(folder, path) == expected


def test_a_path_below_the_root_is_told_without_it():
    assert relative("/a/b", "/a/b/c/d.jpg") == "c/d.jpg"
    assert relative("/a/b/", "/a/b/c.jpg") == "c.jpg"
    assert relative("/a/b", "/a/bc/d.jpg") == "/a/bc/d.jpg"


def test_a_stamp_changes_with_the_file(tmp_path):
    files = LocalFiles()
    (tmp_path / "a.txt").write_text("1")
    first = files.folder(str(tmp_path))["a.txt"]
    assert files.folder(str(tmp_path))["a.txt"] == first
    (tmp_path / "a.txt").write_text("22")
    assert files.folder(str(tmp_path))["a.txt"] != first


def test_a_folder_that_is_not_there_is_empty_and_hidden_files_are_not_seen(tmp_path):
    files = LocalFiles()
    assert files.folder(str(tmp_path / "nowhere")) == {}
    (tmp_path / ".hidden").write_text("")
    (tmp_path / "seen").write_text("")
    assert list(files.folder(str(tmp_path))) == ["seen"]
    assert list(files.tree(str(tmp_path))) == [str(tmp_path / "seen")]


def test_of_two_ways_to_a_folder_the_first_by_name_is_taken(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.jpg").write_text("")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    assert list(LocalFiles().tree(str(tmp_path))) == [str(tmp_path / "a" / "x.jpg")]


def test_what_cannot_be_read_is_an_answer_not_an_exception(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    files = LocalFiles()
    found = files.read_many([str(tmp_path / name) for name in ("a", "b")] + [str(tmp_path)])
    assert found[0] == b"a"
    assert isinstance(found[1], FileNotFoundError)
    assert isinstance(found[2], IsADirectoryError)
    with pytest.raises(FileNotFoundError):
        read_file(files, str(Path(tmp_path) / "b"), 100)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    def refused(path: str) -> object:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refused)  # root may list everything
    for ask in (LocalFiles().tree, LocalFiles().folder):
        with pytest.raises(DataError, match=rf"{tmp_path}: cannot be listed: Permission denied"):
            ask(str(tmp_path))
