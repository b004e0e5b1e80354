import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.data_sets import BOXES, WRITERS, normalised, put, write_yolo
from yolov5_core.files import LocalFiles
from yolov5_core.index import Index
from yolov5_core.shards import (
    CheckedPiece,
    Piece,
    ShardWriter,
    check_piece,
    make_pieces,
)
from yolov5_core.sources import Item, understand

FILES = LocalFiles()


def piece_of(folder: Path, output: Path) -> Piece:
    sources = understand(str(folder), FILES)
    return Piece(
        items=sources.items,
        first=0,
        files=FILES,
        class_names=sources.names,
        categories=sources.categories,
        output=output,
    )


def item(size: int, split: int = 0) -> Item:
    return Item("n", split, "n.jpg", size, "", "YOLO", "")


@pytest.mark.parametrize("layout", WRITERS)
def test_pictures_and_labels_of_every_format_are_packed_alike(tmp_path: Path, layout: str):
    checked = check_piece(piece_of(WRITERS[layout](tmp_path / "data"), tmp_path / "out"))
    assert checked.faults == ()
    assert checked.used.tolist() == [0, 1, 2, 3, 4]
    for row, boxes in enumerate(BOXES.values()):
        expected = np.array([normalised(box) for box in boxes], np.float32).reshape(-1, 5)
        found = checked.index.truth(row).labels
        order = np.lexsort(found.T[::-1])
        np.testing.assert_allclose(found[order], expected[np.lexsort(expected.T[::-1])], atol=1e-6)


def test_a_picture_lies_in_the_tar_at_its_offset_byte_for_byte(tmp_path: Path):
    folder = write_yolo(tmp_path / "data").parent
    checked = check_piece(piece_of(folder, tmp_path / "out"))
    packed = (tmp_path / "out").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(packed + bytes(1024))) as archive:
        members = archive.getmembers()
        described = [json.load(archive.extractfile(m)) for m in members[1::2]]  # type: ignore[arg-type]
    assert [m.name for m in members[:4]] == [
        *("00000000.jpg", "00000000.json", "00000001.jpg", "00000001.json")
    ]
    assert {(m.mtime, m.uid, m.uname, m.mode) for m in members} == {(0, 0, "", 0o644)}
    for row, (key, image, text) in enumerate(
        zip(BOXES, checked.index.images, described, strict=True)
    ):
        content = (folder / f"images/{key}.jpg").read_bytes()
        assert packed[image["offset"] : image["offset"] + image["size"]] == content
        assert image["sha256"].tobytes() == hashlib.sha256(content).digest()
        assert text["name"] == checked.index.name(row) == f"images/{key}.jpg"
        assert len(text["labels"]) == len(BOXES[key])
        assert text["split"] == key.split("/", maxsplit=1)[0]


def test_bad_pictures_are_left_out_with_their_number_and_the_others_packed(tmp_path: Path):
    folder = write_yolo(tmp_path / "data").parent
    put(folder / "images/train/1.jpg", b"no picture")
    put(folder / "labels/val/3.txt", "7 .5 .5 .1 .1\n")
    checked = check_piece(piece_of(folder, tmp_path / "out"))
    assert checked.used.tolist() == [0, 2, 4]
    assert [(number, fault.kind) for number, fault in checked.faults] == [
        (1, "image-undecodable"),
        (3, "label-class-unknown"),
    ]


def test_a_label_file_that_cannot_be_read_is_a_fault_of_its_picture(tmp_path: Path):
    folder = write_yolo(tmp_path / "data").parent
    piece = piece_of(folder, tmp_path / "out")
    (folder / "labels/train/0.txt").unlink()  # after it was listed
    (number, fault), *_ = check_piece(piece).faults
    assert (number, fault.kind, fault.image) == (0, "label-unreadable", "images/train/0.jpg")


def written(
    folder: Path, pieces: list[CheckedPiece], shard_bytes: int
) -> tuple[list[Path], list[Index]]:
    writer = ShardWriter(folder, shard_bytes)
    indices = [writer.add(piece) for piece in pieces]
    writer.close()
    return writer.paths, indices


def two_pieces(tmp_path: Path) -> tuple[Path, list[CheckedPiece]]:
    folder = write_yolo(tmp_path / "data").parent
    whole = piece_of(folder, tmp_path / "x")
    bounds = make_pieces(whole.items, piece_bytes=10**9, piece_items=2)
    assert bounds == [(0, 2), (2, 3), (3, 5)]
    return folder, [
        check_piece(replace(whole, items=whole.items[a:b], first=a, output=tmp_path / f"piece{a}"))
        for a, b in bounds
    ]


@pytest.mark.parametrize(("shard_bytes", "shards"), [(10**9, 2), (1, 3)])
def test_pieces_become_tar_files_of_one_split_each(tmp_path: Path, shard_bytes: int, shards: int):
    folder, pieces = two_pieces(tmp_path)
    files, indices = written(tmp_path, pieces, shard_bytes)
    assert [path.name for path in files] == [f"shard-{n:06d}.tar" for n in range(shards)]
    for path in files:
        with tarfile.open(path) as archive:
            assert len(archive.getmembers()) % 2 == 0
    keys = iter(BOXES)
    for index in indices:
        for image in index.images:
            content = files[image["shard"]].read_bytes()
            expected = (folder / f"images/{next(keys)}.jpg").read_bytes()
            assert content[image["offset"] : image["offset"] + image["size"]] == expected
    assert len({index.images["shard"][-1] for index in indices[1:]}) == 2  # train and val apart
    assert not list(tmp_path.glob("piece*"))


def test_the_same_pictures_make_the_same_shard_bytes(tmp_path: Path):
    digests = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        _, pieces = two_pieces(tmp_path / name)
        files, _ = written(tmp_path / name, pieces, 10**9)
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert digests[0] == digests[1]


def test_pieces_are_bounded_in_bytes_and_pictures_and_never_mix_splits():
    items = [item(10), item(10), item(25), item(1), item(1, 1), item(1, 1), item(1, 1)]
    assert make_pieces(items, piece_bytes=20, piece_items=2) == [
        (0, 2),
        (2, 3),
        (3, 4),
        (4, 6),
        (6, 7),
    ]
    assert make_pieces([], piece_bytes=20, piece_items=2) == []
    assert make_pieces([item(99)], piece_bytes=20, piece_items=2) == [(0, 1)]
