import time
from datetime import UTC, datetime, timedelta

import pytest

from tasks.settings import RetrainConfig
from tasks.time_limit import next_deadline, time_limit
from yolov5_core.config import ConfigError


@pytest.fixture(autouse=True)
def _in_berlin(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")  # one hour ahead of UTC in winter
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "now", "meant"),
    [
        ("06:30", "2026-01-10T02:00:00+00:00", "2026-01-10T05:30:00+00:00"),
        ("06:30", "2026-01-10T05:30:00+00:00", "2026-01-11T05:30:00+00:00"),
        ("00:00", "2026-01-10T23:30:00+00:00", "2026-01-11T23:00:00+00:00"),
        ("2026-01-31T06:30", "2026-01-10T02:00:00+00:00", "2026-01-31T05:30:00+00:00"),
        ("2026-01-31T06:30+02:00", "2026-01-10T02:00:00+00:00", "2026-01-31T04:30:00+00:00"),
        ("2026-01-31T06:30Z", "2026-01-10T02:00:00+00:00", "2026-01-31T06:30:00+00:00"),
    ],
)
def test_a_deadline_is_a_moment(text, now, meant):
    assert next_deadline(text, datetime.fromisoformat(now)).isoformat() == meant


@pytest.mark.parametrize("text", ["25:00", "6.30", "tomorrow", "2026-01-31", "2026-02-30T06:00"])
def test_what_is_no_time_is_refused_with_the_setting(text):
    with pytest.raises(ConfigError, match=f"deadline='{text}': write a time, as in '06:30'"):
        RetrainConfig(deadline=text)


def test_without_limits_there_is_time_for_ever():
    assert time_limit(0, 1e9, "", "").left == float("inf")


def test_the_tighter_limit_counts_and_names_its_setting():
    soon = (datetime.now(UTC) + timedelta(seconds=100)).isoformat()
    limit = time_limit(1, 0, "06:30", soon)
    assert limit.setting == "deadline=06:30"
    assert 95 < limit.left <= 100
    limit = time_limit(1, 3590, "06:30", soon)
    assert limit.setting == "max_hours=1"
    assert 5 < limit.left <= 10


def test_a_deadline_that_is_over_leaves_less_than_nothing():
    assert time_limit(0, 0, "06:30", "2020-01-01T00:00:00+00:00").left < 0
