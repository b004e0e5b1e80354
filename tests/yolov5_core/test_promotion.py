"""Simulated nights: the right decision, at the error rates that docs/promotion.md states."""

from collections.abc import Mapping

import pytest

from tests.simulated import simulated_pictures
from yolov5_core.bootstrap import compare
from yolov5_core.promotion import Verdict, judge
from yolov5_core.promotion_text import headline, promotion_markdown

NAMES = ("disc", "square", "star")
IMAGES, DRAWS, NIGHTS = 100, 200, 60


def verdict(
    night: int, quality: Mapping[int, float], *, min_gain: float = 0.0, images: int = IMAGES
) -> Verdict:
    """Of a challenger with these qualities, by class; the champion has 0.7 for all."""
    champion = simulated_pictures(night, images, {}, seed=1)
    challenger = simulated_pictures(night, images, quality, seed=2)
    comparison = compare(champion, challenger, seed=night, draws=DRAWS)
    return judge(comparison, NAMES, min_gain, max_class_loss=0.05)


def promotions(quality: Mapping[int, float], **more: float) -> int:
    return sum(verdict(night, quality, **more).promoted for night in range(NIGHTS))  # type: ignore[arg-type]


@pytest.mark.slow
def test_an_equal_model_is_promoted_in_few_nights():
    assert promotions({}) <= 8  # 5 in 100 are allowed: 3, and 8 once in 100 times


@pytest.mark.slow
def test_a_better_model_is_promoted_in_nearly_all_nights():
    assert promotions({0: 0.75, 1: 0.75, 2: 0.75}) >= 57


@pytest.mark.slow
def test_a_worse_model_is_never_promoted():
    assert promotions({0: 0.65, 1: 0.65, 2: 0.65}) == 0


@pytest.mark.slow
def test_a_better_model_with_a_broken_class_is_never_promoted():
    assert promotions({0: 0.85, 1: 0.85, 2: 0.5}) == 0


def test_the_reason_says_what_spoke_against_it():
    broken = verdict(0, {0: 0.9, 1: 0.9, 2: 0.55})
    assert not broken.promoted
    assert "class star lost" in broken.reason
    assert "at most 0.05 is allowed" in broken.reason
    worse = verdict(0, {0: 0.6, 1: 0.6, 2: 0.6})
    assert "is less than the gain wanted, 0" in worse.reason
    little = verdict(0, {0: 0.75, 1: 0.75, 2: 0.75}, min_gain=0.5)
    assert "is less than the gain wanted, 0.5" in little.reason
    chance = next(v for n in range(30) if "chance" in (v := verdict(n, {})).reason)
    assert "may be chance: it is ahead in" in chance.reason


def test_the_numbers_are_those_of_the_comparison():
    found = verdict(1, {0: 0.8, 1: 0.8, 2: 0.8})
    assert found.promoted
    n = found.numbers
    assert n["gain"] == pytest.approx(n["challenger"] - n["champion"], abs=2e-6)
    assert n["low"] < n["gain"] < n["high"]
    assert (n["images"], n["draws"]) == (IMAGES, DRAWS)
    assert [row["class"] for row in n["classes"]] == list(NAMES)
    assert sum(row["gain"] for row in n["classes"]) > 0


def test_a_class_with_few_labels_is_not_lost_by_chance():
    champion = simulated_pictures(0, 100, {}, num_classes=2, seed=1)
    lost = [n for n in range(20) if verdict(n, {0: 0.8, 1: 0.8, 2: 0.7}, images=12).promoted]
    assert champion
    assert lost  # of 12 pictures some class often looks much worse, and it is no reason by itself


def test_people_read_the_verdict_and_every_class():
    found = verdict(1, {0: 0.8, 1: 0.8, 2: 0.8})
    result = {
        "promoted": True,
        "reason": found.reason,
        "champion": "night",
        "entry": 2,
        "address": "gs://models/weights/champion_street.pt",
        "numbers": found.numbers,
    }
    assert headline(result).startswith("New champion: fitness +0.")
    text = promotion_markdown(result)
    assert text.startswith("# New champion: fitness +0.")
    assert all(f"| {name} |" in text for name in NAMES)
    kept = headline({**result, "promoted": False, "reason": "too little"})
    assert kept == "Champion kept (run night): too little."
