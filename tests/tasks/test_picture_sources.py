"""Pictures come from every kind of source in order, a batch at a time, and faults by name."""

import uuid
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from tasks.picture_sources import Picture, find_sources, read_pictures
from tasks.store import open_store
from yolov5_core.config import ConfigError


def picture(path: Path, colour: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((20, 30, 3), colour, np.uint8))
    return path


def video(path: Path, colours: Sequence[int]) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 24))
    for colour in colours:
        writer.write(np.full((24, 32, 3), colour, np.uint8))
    writer.release()
    return path


def names(*words: str | Path) -> list[str]:
    return [source.name for source in find_sources([str(word) for word in words])]


def read(*words: str | Path, batch_size: int = 2, scratch: Path = Path()) -> list[Picture]:
    sources = find_sources([str(word) for word in words])
    return [p for batch in read_pictures(sources, batch_size, scratch) for p in batch]


def test_a_folder_gives_all_pictures_and_videos_below_it_in_order_of_their_names(tmp_path):
    for name in ("b.jpg", "a/z.png", "a/y.JPEG", "d.jpg", ".hidden/x.jpg"):
        picture(tmp_path / name)
    video(tmp_path / "c.avi", [0])
    (tmp_path / "notes.txt").write_text("no picture")
    assert names(tmp_path) == ["a/y", "a/z", "b", "c", "d"]


def test_a_glob_a_file_and_a_list_name_pictures_too(tmp_path, monkeypatch):
    for name in ("1/a.jpg", "1/b.png", "2/a.jpg", "2/deep/c.jpg"):
        picture(tmp_path / name)
    (tmp_path / "list.txt").write_text("2/a.jpg\n\n1/b.png\nread.me\n")
    monkeypatch.chdir(tmp_path)
    assert names("?/a.jpg") == ["1/a", "2/a"]
    assert names(tmp_path / "**" / "*.jpg") == ["1/a", "2/a", "2/deep/c"]
    assert names("1/a.jpg") == ["a"]
    assert names("list.txt") == ["2/a", "1/b"]


def test_names_never_meet_and_never_leave_the_folder_they_will_be_written_to(tmp_path):
    for name in ("1/a.jpg", "2/a.jpg", "2/a.png"):
        picture(tmp_path / name)
    assert names(tmp_path / "1", tmp_path / "2") == ["a", "a-2", "a-3"]
    (tmp_path / "1" / "list.txt").write_text("../2/a.png\n")
    assert names(tmp_path / "1" / "list.txt") == [(tmp_path / "2" / "a").as_posix()[1:]]


def test_a_bucket_gives_what_a_folder_gives(tmp_path):
    url = f"memory://{uuid.uuid4().hex}"
    store = open_store(url)
    store.put_file(picture(tmp_path / "x.png", 10), "day/1/x.png")
    store.put_file(picture(tmp_path / "y.png", 20), "day/2/y.png")
    store.put_file(video(tmp_path / "film.avi", [1, 2, 3]), "day/film.avi")
    store.put_bytes(b"broken", "day/broken.jpg")
    store.put_bytes(f"2/y.png\n{url}/day/1/x.png\n".encode(), "day/list.txt")
    assert names(f"{url}/day") == ["1/x", "2/y", "broken", "film"]
    assert names(f"{url}/day/*/*.png") == ["1/x", "2/y"]
    found = read(f"{url}/day", scratch=tmp_path)
    assert [p.name for p in found][:3] == ["1/x", "2/y", "broken"]
    assert [int(p.image[0, 0, 0]) for p in found[:2] if p.image is not None] == [10, 20]
    assert found[2].image is None
    assert "cannot identify" in found[2].fault
    assert [p.name for p in found[3:]] == ["film_000001", "film_000002", "film_000003"]
    listed = read(f"{url}/day/list.txt")
    assert [int(p.image[0, 0, 0]) for p in listed if p.image is not None] == [20, 10]


def test_a_file_url_is_a_path(tmp_path):
    picture(tmp_path / "a.png")
    assert names(f"file://{tmp_path}") == ["a"]
    assert names(f"file://{tmp_path}/a.png") == ["a"]
    assert [p.image is None for p in read(f"file://{tmp_path}")] == [False]


@pytest.mark.gcs
def test_a_google_bucket_gives_it_too(tmp_path):
    store = open_store(f"gs://models/{uuid.uuid4().hex}")
    for number in range(3):
        store.put_file(picture(tmp_path / "x.png", number), f"{number}/x.png")
    assert names(f"{store.shown}/*/x.png") == names(store.shown) == ["0/x", "1/x", "2/x"]
    images = [p.image for p in read(store.shown)]
    assert [int(i[0, 0, 0]) for i in images if i is not None] == [0, 1, 2]


def test_what_cannot_be_read_is_told_with_its_reason_and_the_others_come(tmp_path):
    picture(tmp_path / "a.jpg")
    whole = picture(tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c.jpg").write_bytes(b"")
    (tmp_path / "list.txt").write_text("a.jpg\nb.png\nc.jpg\ngone.jpg\na.jpg\n")
    found = read(tmp_path / "list.txt")
    assert [p.image is None for p in found] == [False, True, True, True, False]
    assert "empty" in found[2].fault
    assert "No such file" in found[3].fault
    (tmp_path / "film.avi").write_bytes(b"no film")
    (film,) = read(tmp_path / "film.avi")
    assert film.image is None
    assert "cannot be opened" in film.fault


def test_frames_come_in_order_with_the_rate_of_the_video(tmp_path):
    film = video(tmp_path / "film.avi", [10, 60, 110, 160, 210])
    batches = list(read_pictures(find_sources([str(film)]), 2, tmp_path))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    frames = [frame for batch in batches for frame in batch]
    assert [frame.name for frame in frames] == [f"film_{n:06d}" for n in range(1, 6)]
    colours = [int(f.image.mean()) for f in frames if f.image is not None]
    assert colours == pytest.approx([10, 60, 110, 160, 210], abs=3)
    assert {frame.fps for frame in frames} == {10.0}


def test_a_camera_is_asked_by_its_number_frame_by_frame(tmp_path, monkeypatch):
    film = video(tmp_path / "film.avi", [10, 60, 110])
    asked: list[object] = []
    real = cv2.VideoCapture

    def plugged_in(number: object) -> cv2.VideoCapture:  # a film for a camera
        asked.append(number)
        return real(str(film))

    monkeypatch.setattr(cv2, "VideoCapture", plugged_in)
    batches = list(read_pictures(find_sources(["3"]), 8, tmp_path))
    assert asked == [3]
    assert [[p.name for p in batch] for batch in batches] == [
        [f"camera3_00000{n}"] for n in (1, 2, 3)
    ]


def test_only_a_few_batches_are_read_ahead(tmp_path):
    paths = [picture(tmp_path / f"{number:02}.png") for number in range(40)]
    reading = read_pictures(find_sources([str(tmp_path)]), 2, tmp_path)
    first = next(reading)
    for path in paths[12:]:
        path.unlink()  # had they been read before, nobody would miss them
    rest = [p for batch in reading for p in batch]
    assert [p.image is None for p in [*first, *rest]] == [False] * 12 + [True] * 28


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("nowhere", "no such picture"),
        ("empty", "no pictures or videos there"),
        ("empty/*.jpg", "no pictures or videos there"),
        ("empty/x.csv", "by its suffix"),
    ],
)
def test_a_source_that_names_nothing_is_refused(tmp_path, monkeypatch, word, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.csv").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=says):
        find_sources([word])
