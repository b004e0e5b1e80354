import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.yolov5_core.small_index import index_of, picture
from yolov5_core.drift import Drift, drift, percent, profile
from yolov5_core.histograms import EDGES, binned
from yolov5_core.index import Entry


def profile_of(*pictures: Entry, names: tuple[str, ...] = ("a", "b")) -> dict[str, Any]:
    index = index_of(*pictures)
    return profile(binned(index, len(names)), np.ones(len(index), bool), names)


def with_classes(**counts: int) -> dict[str, Any]:
    """A profile of nothing but classes."""
    histograms = {name: [0] * (len(edges) - 1) for name, edges in EDGES.items()}
    return {
        "pictures": 0,
        "class_names": list(counts),
        "class_counts": list(counts.values()),
        "histograms": histograms,
    }


def values(found: Drift) -> dict[str, float]:
    return {aspect.name: aspect.value for aspect in found.aspects}


def box(number: int, side: float = 0.2) -> tuple[float, float, float, float, float]:
    return (number, 0.5, 0.5, side, side)


def test_the_class_mix_moves_by_the_share_of_boxes_that_changed_class():
    found = drift(with_classes(a=50, b=50), with_classes(a=8, b=2))
    assert values(found)["class mix"] == pytest.approx(0.3)
    assert [(c.name, c.old_share, c.new_share) for c in found.classes] == [
        ("a", 0.5, 0.8),
        ("b", 0.5, 0.2),
    ]
    assert found.aspects[0].change == "boxes of a: 50% before, 80% now"
    assert (found.aspects[0].old_count, found.aspects[0].new_count) == (100, 10)


def test_classes_are_known_by_name():
    old, new = with_classes(a=3, b=1), with_classes(b=1, a=3)
    assert values(drift(old, new))["class mix"] == 0


def test_an_added_and_a_removed_class_have_no_share_in_the_other_set():
    found = drift(with_classes(a=5, b=5), with_classes(a=5, c=5))
    assert values(found)["class mix"] == pytest.approx(0.5)
    assert {(c.name, c.old_share, c.new_share) for c in found.classes} == {
        ("a", 0.5, 0.5),
        ("b", 0.5, 0.0),
        ("c", 0.0, 0.5),
    }
    assert found.classes[-1].name == "a"  # did not change


def test_two_classes_of_one_name_count_together():
    old = {**with_classes(a=1, b=1), "class_names": ["x", "x"]}
    assert values(drift(old, with_classes(x=7)))["class mix"] == 0


def test_brightness_moves_by_the_largest_difference_of_cumulative_shares():
    old = profile_of(*(picture(f"{i}", brightness=b) for i, b in enumerate((20, 20, 200, 200))))
    new = profile_of(*(picture(f"{i}", brightness=b) for i, b in enumerate((20, 200, 200, 200))))
    found = drift(old, new)
    assert values(found) == {"class mix": 0, "box size": 0, "brightness": 0.25, "image size": 0}
    assert found.largest == ("brightness", 0.25)
    assert found.worst.change == "pictures darker than 24 of 255: 50% before, 25% now"
    first, behind = found.worst.gained
    assert EDGES["brightness"][first] <= 200 < EDGES["brightness"][behind]


def test_box_sizes_and_picture_sizes_move_too():
    old = profile_of(picture("a", boxes=[box(0)] * 4))
    new = profile_of(picture("a", boxes=[box(0)] * 3 + [box(0, 0.05)], size_wh=(1280, 960)))
    found = drift(old, new)
    assert values(found) == {"class mix": 0, "box size": 0.25, "brightness": 0, "image size": 1}
    assert found.aspects[1].change == "boxes smaller than 5.3% of the side: 0% before, 25% now"
    assert found.aspects[3].change == "pictures smaller than 664 pixels: 100% before, 0% now"


def test_nothing_against_something_is_everything_and_nothing_against_nothing_is_none():
    empty, full = profile_of(), profile_of(picture("a", boxes=[box(0)]))
    assert set(values(drift(empty, full)).values()) == {1.0}
    assert set(values(drift(full, empty)).values()) == {1.0}
    assert set(values(drift(empty, empty)).values()) == {0.0}
    assert drift(empty, full).aspects[0].change == "nothing to compare before"
    assert drift(full, empty).aspects[2].change == "nothing to compare now"


def test_the_number_of_pictures_is_no_drift():
    one = profile_of(picture("a", boxes=[box(0), box(1)]))
    many = profile_of(*(picture(f"{i}", boxes=[box(0), box(1)]) for i in range(9)))
    assert set(values(drift(one, many)).values()) == {0.0}


def test_two_halves_of_one_set_differ_by_as_much_as_is_said():
    rng = np.random.default_rng(0)
    n, found = 300, []
    for _ in range(100):
        levels = rng.uniform(0, 255, (2, n))
        counts = [np.histogram(level, EDGES["brightness"])[0].tolist() for level in levels]
        old, new = (
            {**with_classes(a=1), "histograms": {**with_classes()["histograms"], "brightness": c}}
            for c in counts
        )
        found.append(values(drift(old, new))["brightness"])
    assert 0.9 < np.mean(found) * np.sqrt(n) < 1.3


def test_a_profile_of_eighty_classes_is_small():
    names = tuple(f"a class with a long name {i}" for i in range(80))
    pictures = (picture(f"{i}", boxes=[box(i % 80)]) for i in range(200))
    assert len(json.dumps(profile_of(*pictures, names=names))) < 20_000


def test_a_profile_is_what_json_brings_back():
    found = profile_of(picture("a", boxes=[box(1)]), picture("b"))
    assert json.loads(json.dumps(found)) == found
    assert (found["pictures"], found["class_counts"]) == (2, [0, 1])
    assert {name: sum(counts) for name, counts in found["histograms"].items()} == {
        "box_size": 1,
        "box_aspect": 1,
        "brightness": 2,
        "image_size": 2,
        "boxes_per_picture": 2,
    }


def scattered(places: dict[int, int], num_bins: int) -> list[int]:
    counts = [0] * num_bins
    for place, count in places.items():
        counts[place % num_bins] += count
    return counts


few_counts = st.dictionaries(st.integers(0, 99), st.integers(0, 1000), max_size=4)
profiles = st.builds(
    lambda names, classes, others: {
        "pictures": 1,
        "class_names": names,
        "class_counts": scattered(classes, len(names)),
        "histograms": {
            name: scattered(counts, len(edges) - 1)
            for counts, (name, edges) in zip(others, EDGES.items(), strict=True)
        },
    },
    st.permutations(["a", "b", "c"]) | st.permutations(["b", "c", "d"]),
    few_counts,
    st.tuples(*(few_counts for _ in EDGES)),
)


@given(profiles)
def test_a_set_has_not_moved_from_itself(one: dict[str, Any]):
    assert set(values(drift(one, one)).values()) == {0.0}


@given(profiles, profiles)
def test_distances_are_symmetric_and_between_0_and_1(one: dict[str, Any], other: dict[str, Any]):
    there, back = values(drift(one, other)), values(drift(other, one))
    assert there == pytest.approx(back)
    assert all(0 <= value <= 1 for value in there.values())


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0%"), (1, "100%"), (0.5, "50%"), (0.123, "12.3%"), (0.0004, "0.04%"), (1e-9, "<0.01%"),
     (0.9996, "99.96%"), (1 - 1e-9, ">99.99%")],
)  # fmt: skip
def test_only_nothing_is_0_percent_and_only_all_is_100(share: float, text: str):
    assert percent(share) == text
