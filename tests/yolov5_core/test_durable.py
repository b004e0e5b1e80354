"""Local files are whole or not there."""

from pathlib import Path

import pytest

from yolov5_core.durable import part_of, settle, sync


def test_a_settled_file_has_its_name_and_leaves_no_other(tmp_path: Path):
    path = tmp_path / "new" / "deep" / "a.json"
    with part_of(path) as part:
        part.write_bytes(b"new")
        assert not path.exists()
        settle(part, path)
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_an_error_while_writing_leaves_the_old_file_and_no_part(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def write_and_fail() -> None:
        with part_of(path) as part:
            part.write_bytes(b"ne")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_and_fail()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_two_writers_of_one_file_do_not_write_into_each_other(tmp_path: Path):
    path = tmp_path / "a.json"
    with part_of(path) as first, part_of(path) as second:
        assert first != second


def test_a_file_where_a_folder_should_be_is_no_lost_claim(tmp_path: Path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(NotADirectoryError), part_of(tmp_path / "taken" / "x"):
        pass


def test_syncing_what_is_not_there_says_so(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "missing")
