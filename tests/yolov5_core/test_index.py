from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov5_core.dataset import Truth
from yolov5_core.index import (
    IMAGE,
    LABEL,
    Entry,
    Index,
    Records,
    build_index,
    concatenate,
    load_index,
)


def truth(labels: int, crowd: int, points: int) -> Truth:
    """Labels of classes 0, 1 ...; every second one with a polygon."""
    boxes = np.array([[c, 0.5, 0.5, 0.25, 0.125] for c in range(labels)], np.float32)
    regions = np.array([[9, 0.5, 0.5, 0.5, 0.5]] * crowd, np.float32)
    segments = tuple(
        np.linspace(0, 1, 2 * points * (c % 2), dtype=np.float32).reshape(-1, 2)
        for c in range(labels)
    )
    return Truth(labels=boxes.reshape(-1, 5), segments=segments, crowd=regions.reshape(-1, 5))


def entry(name: str, split: int = 0, shard: int = 0, **counts: int) -> Entry:
    return Entry(
        name=name,
        split=split,
        shard=shard,
        place=(512, 1000),
        sha256=name.encode().ljust(32, b"\0")[:32],
        size_wh=(640, 480),
        brightness=100.0,
        dhash=7,
        truth=truth(counts.get("labels", 1), counts.get("crowd", 0), counts.get("points", 3)),
    )


entries = st.lists(
    st.builds(
        entry,
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9),
        labels=st.integers(0, 4),
        crowd=st.integers(0, 2),
        points=st.integers(3, 5),
    ),
    max_size=6,
)


def same(index: Index, row: int, expected: Entry) -> None:
    found = index.truth(row)
    assert index.name(row) == expected.name
    np.testing.assert_array_equal(found.labels, expected.truth.labels)
    np.testing.assert_array_equal(found.crowd, expected.truth.crowd)
    assert len(found.segments) == len(expected.truth.segments)
    for mine, theirs in zip(found.segments, expected.truth.segments, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@given(entries)
def test_every_picture_comes_back_as_it_went_in(rows: list[Entry]) -> None:
    index = build_index(rows)
    assert index.all_names() == [row.name for row in rows]
    for number, row in enumerate(rows):
        same(index, number, row)


@given(entries, st.randoms(use_true_random=False))
def test_rows_taken_in_another_order_keep_their_labels(rows: list[Entry], random) -> None:
    order = random.sample(range(len(rows)), random.randint(0, len(rows)))
    taken = build_index(rows).take(np.array(order, np.int64))
    for number, row in enumerate(order):
        same(taken, number, rows[row])


@given(entries, entries)
def test_two_indices_joined_are_the_index_of_all(a: list[Entry], b: list[Entry]) -> None:
    joined, whole = concatenate([build_index(a), build_index(b)]), build_index(a + b)
    assert joined.digest(["x"]) == whole.digest(["x"])
    np.testing.assert_array_equal(joined.images, whole.images)


def test_a_saved_index_is_mapped_and_equal(tmp_path: Path) -> None:
    index = build_index([entry("a", labels=3, crowd=1), entry("b", 1, labels=0)])
    loaded = load_index(index.save(tmp_path / "index.npz"))
    assert isinstance(loaded.images.base, np.memmap)
    assert loaded.digest(["x"]) == index.digest(["x"])
    assert (loaded.images.dtype, loaded.labels.dtype) == (IMAGE, LABEL)
    assert (loaded.rows("train"), loaded.rows("val")) == ((0, 1), (1, 2))
    same(loaded, 0, entry("a", labels=3, crowd=1))


def test_an_index_without_a_label_can_be_saved(tmp_path: Path) -> None:
    loaded = load_index(build_index([entry("a", labels=0)]).save(tmp_path / "index.npz"))
    assert loaded.truth(0).labels.shape == (0, 5)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"x" * 100])
def test_a_file_that_is_no_index_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"index.npz: no index"):
        load_index(tmp_path / "index.npz")


def test_an_index_of_another_layout_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "index.npz").open("wb") as file:
        np.savez(
            file, names=np.zeros(1), images=np.zeros(1), labels=np.zeros(1), points=np.zeros(1)
        )
    with pytest.raises(ValueError, match="another version"):
        load_index(tmp_path / "index.npz")


def test_the_digest_sees_content_and_not_the_place() -> None:
    base = build_index([entry("a"), entry("b")]).digest(["x"])
    assert build_index([entry("a", shard=4), entry("b")]).digest(["x"]) == base
    others = [
        build_index([entry("a"), entry("c")]),
        build_index([entry("a"), entry("b", 1)]),
        build_index([entry("a", labels=2), entry("b")]),
        build_index([entry("a"), entry("b", crowd=1)]),
        build_index([entry("ab"), entry("")]),
    ]
    digests = {index.digest(["x"]) for index in others} | {base}
    digests.add(build_index([entry("a"), entry("b")]).digest(["y"]))
    assert len(digests) == 7


def test_records_are_the_rows_of_a_split_with_their_files() -> None:
    index = build_index([entry("a"), entry("b", 0, 1, labels=2), entry("c", 1, 2, crowd=1)])
    files = [Path("zero"), Path("one"), Path("two")]
    train, val = Records(index, "train", files), Records(index, "val", files)
    assert (len(train), len(val)) == (2, 1)
    assert [record.name for record in train] == ["a", "b"]
    assert train[-1].place == (Path("one"), 512, 1000)
    assert (val[0].width, val[0].height, len(val[0].crowd)) == (640, 480, 1)
    with pytest.raises(IndexError):
        train[2]


def test_a_single_class_leaves_the_index_as_it_is() -> None:
    index = build_index([entry("a", labels=3, crowd=1)])
    (record,) = Records(index, "train", [Path("x")], single_class=True)
    assert record.labels[:, 0].tolist() == [0, 0, 0]
    assert record.crowd[:, 0].tolist() == [0]
    assert index.truth(0).labels[:, 0].tolist() == [0, 1, 2]


def test_the_shapes_of_a_split_are_those_of_its_records():
    wide = replace(entry("b", split=1), size_wh=(1920, 1080))
    index = build_index([entry("a"), wide, entry("c", split=1)])
    records = Records(index, "val", [Path("shard")])
    assert records.shapes_wh().tolist() == [[1920, 1080], [640, 480]]
    assert records.shapes_wh().tolist() == [[r.width, r.height] for r in records]
