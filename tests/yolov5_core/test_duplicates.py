import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.yolov5_core.small_index import PLAIN_HASH, index_of, picture
from yolov5_core.duplicates import exact_groups, leakage, near_groups
from yolov5_core.index import IMAGE, LABEL, Index

# Four hashes far from each other, and three whose few bits say nothing.
BASES = (PLAIN_HASH, 0x00FF_00FF_00FF_00FF, 0x3333_3333_3333_3333, 0x0000_0000_FFFF_FFFF)
FLAT = (0, 1, 2**64 - 1)


def index_of_hashes(hashes: list[int], contents: list[int] | None = None) -> Index:
    """Training pictures with these hashes; equal contents are copies, by default there are none."""
    images = np.zeros(len(hashes), IMAGE)
    images["dhash"] = np.array(hashes, np.uint64)
    numbers = np.arange(len(hashes)) if contents is None else np.array(contents, np.int64)
    images["sha256"][:, :8] = numbers.astype("<i8").reshape(-1, 1).view(np.uint8)
    no_points = np.zeros((0, 2), np.float32)
    return Index(np.zeros(0, np.uint8), images, np.zeros(0, LABEL), no_points)


def lists(groups: list[np.ndarray]) -> list[list[int]]:
    return [group.tolist() for group in groups]


def obvious_near_groups(
    hashes: list[int], contents: list[int], max_distance: int
) -> list[list[int]]:
    left = {i for i, h in enumerate(hashes) if 8 <= h.bit_count() <= 56}
    groups = []
    while left:
        group, border = set(), {min(left)}
        while border:
            group |= border
            left -= border
            border = {
                j
                for j in left
                if any((hashes[i] ^ hashes[j]).bit_count() <= max_distance for i in border)
            }
        if len({contents[i] for i in group}) > 1:
            groups.append(sorted(group))
    return sorted(groups)


def test_pictures_with_equal_bytes_are_copies():
    names = {"a": "x", "b": "y", "c": "x", "d": "z", "e": "y", "f": "x"}
    index = index_of(*(picture(name, content=content) for name, content in names.items()))
    assert lists(exact_groups(index)) == [[0, 2, 5], [1, 4]]


def test_bytes_that_differ_only_at_the_end_of_their_digest_are_no_copies():
    index = index_of(picture("a"), picture("b"))
    index.images["sha256"] = 7
    assert lists(exact_groups(index)) == [[0, 1]]
    index.images["sha256"][1, 31] = 8
    assert exact_groups(index) == []


def test_three_bits_are_near_and_four_are_not():
    hashes = [PLAIN_HASH, PLAIN_HASH ^ 0b111, PLAIN_HASH ^ (0b1111 << 60)]
    assert lists(near_groups(index_of_hashes(hashes))) == [[0, 1]]
    assert lists(near_groups(index_of_hashes(hashes), max_distance=4)) == [[0, 1, 2]]
    assert near_groups(index_of_hashes(hashes), max_distance=2) == []


def test_what_is_near_the_same_picture_is_one_group():
    steps = [PLAIN_HASH, PLAIN_HASH ^ 0b111, PLAIN_HASH ^ 0b111111, PLAIN_HASH ^ 0b111111111]
    assert lists(near_groups(index_of_hashes(steps))) == [[0, 1, 2, 3]]


def test_copies_of_one_file_are_no_look_alikes_unless_another_picture_is():
    hashes = [PLAIN_HASH] * 2 + [BASES[1]] * 2 + [BASES[1] ^ 1]
    contents = [0, 0, 1, 1, 2]
    assert lists(near_groups(index_of_hashes(hashes, contents))) == [[2, 3, 4]]


@pytest.mark.parametrize("value", [0, 0b1111111, 2**64 - 1, 2**64 - 1 - 0b1111111])
def test_pictures_without_contrast_look_like_nothing(value: int):
    assert near_groups(index_of_hashes([value] * 5)) == []


def test_eight_bits_say_enough():
    assert lists(near_groups(index_of_hashes([0xFF, 0xFF, 0xFF << 30, 0xFF << 30]))) == [
        [0, 1],
        [2, 3],
    ]


close_hashes = st.builds(
    lambda base, flips: base ^ sum(1 << bit for bit in flips),
    st.sampled_from(BASES + FLAT),
    st.sets(st.integers(0, 63), max_size=5),
)


@given(
    st.lists(st.tuples(close_hashes | st.integers(0, 2**64 - 1), st.integers(0, 1)), max_size=25),
    st.integers(0, 7),
)
def test_look_alikes_are_those_that_comparing_all_pairs_finds(
    pictures: list[tuple[int, int]], max_distance: int
):
    hashes = [value for value, _ in pictures]
    numbers = {key: i for i, key in enumerate(dict.fromkeys(pictures))}
    contents = [numbers[key] for key in pictures]  # equal bytes have equal hashes
    found = near_groups(index_of_hashes(hashes, contents), max_distance)
    assert lists(found) == obvious_near_groups(hashes, contents, max_distance)


@pytest.mark.parametrize("max_distance", range(1, 8))
def test_hashes_are_near_wherever_they_differ(max_distance: int):
    width = 64 // (max_distance + 1)
    for spared in range(max_distance + 1):  # one bit in each of the other bands
        flips = sum(1 << (band * width) for band in range(max_distance + 1) if band != spared)
        index = index_of_hashes([PLAIN_HASH, PLAIN_HASH ^ flips])
        assert lists(near_groups(index, max_distance)) == [[0, 1]]


def test_groups_are_in_the_order_of_their_first_pictures():
    high, low = BASES[1] | 1 << 63, BASES[1]
    index = index_of_hashes([high, BASES[2], BASES[2], low])
    assert lists(near_groups(index)) == [[0, 3], [1, 2]]


def test_a_thousand_neighbours_of_one_picture_are_all_found():
    rng = np.random.default_rng(0)
    flips = [int(sum(1 << int(b) for b in rng.choice(64, 3, False))) for _ in range(999)]
    groups = near_groups(index_of_hashes([PLAIN_HASH] + [PLAIN_HASH ^ flip for flip in flips]))
    assert lists(groups) == [list(range(1000))]


@pytest.mark.parametrize("shift", [0, 24, 48])
def test_many_different_hashes_with_equal_bands_take_bounded_time(shift: int):
    hashes = np.uint64(PLAIN_HASH) ^ (np.arange(40_000, dtype=np.uint64) << np.uint64(shift))
    start = time.process_time()
    groups = near_groups(index_of_hashes(hashes.tolist()))
    assert time.process_time() - start < 5  # 0.3 s on an idle core; all pairs would take minutes
    rows = np.concatenate(groups)
    assert len(rows) == len(set(rows.tolist())) > 39_000
    assert all((np.diff(group) > 0).all() for group in groups)


def test_no_pictures_have_no_groups():
    assert exact_groups(index_of()) == near_groups(index_of()) == []
    assert leakage(index_of(), []).share == 0


def test_a_validation_picture_that_is_in_training_leaks():
    index = index_of(
        picture("a", content="x"),
        picture("b", content="y"),
        picture("c", content="y"),
        picture("d", "val", content="x"),
        picture("e", "val", content="z"),
        picture("f", "val", content="z"),
        picture("g", "val", content="x"),
    )
    found = leakage(index, exact_groups(index))
    assert found.pairs.tolist() == [[0, 3], [0, 6]]  # d and g are a; e and f are only each other
    assert found.rows.tolist() == [3, 6]
    assert found.share == 2 / 4


def test_of_several_twins_in_training_the_more_similar_one_is_named():
    index = index_of(
        picture("far", dhash=PLAIN_HASH ^ 0b11),
        picture("near", dhash=PLAIN_HASH ^ (1 << 63)),
        picture("val", "val", dhash=PLAIN_HASH),
    )
    found = leakage(index, near_groups(index))
    assert found.pairs.tolist() == [[1, 2]]
    assert found.share == 1


def test_leaks_can_be_told_without_those_already_told():
    index = index_of(
        picture("a", content="x"),
        picture("b", "val", content="x"),
        picture("c", "val", dhash=PLAIN_HASH ^ 1),
    )
    similar = leakage(index, near_groups(index))
    assert (similar.rows.tolist(), similar.share) == ([1, 2], 1)
    rest = similar.without(leakage(index, exact_groups(index)).rows)
    assert (rest.pairs.tolist(), rest.share) == ([[0, 2]], 0.5)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=20))
def test_exactly_the_validation_pictures_with_a_copy_in_training_leak(
    pictures: list[tuple[int, bool]],
):
    index = index_of(
        *(
            picture(f"{i:02}", "val" if is_val else "train", content=f"{content}")
            for i, (content, is_val) in enumerate(pictures)
        )
    )
    found = leakage(index, exact_groups(index))
    in_training = {content for content, is_val in pictures if not is_val}
    leaked = sorted(
        f"{i:02}"
        for i, (content, is_val) in enumerate(pictures)
        if is_val and content in in_training
    )
    assert [index.name(row) for row in found.rows.tolist()] == leaked
    digests = index.images["sha256"]
    assert (digests[found.pairs[:, 0]] == digests[found.pairs[:, 1]]).all()
    assert (index.images["split"][found.pairs] == [0, 1]).all()
