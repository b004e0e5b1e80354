"""Stages inside their parent's process give signs of life of their own, and end without delay."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows import heartbeats
from flows.heartbeats import beating, our_heartbeats


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The events that were sent, with signs asked for every 30 s."""
    events: list[Any] = []
    monkeypatch.setattr(heartbeats, "emit_event", lambda **event: events.append(event))
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 30}):
        yield events


def wait_for(events: list[Any]) -> int:
    end = time.monotonic() + 10
    while not events and time.monotonic() < end:
        time.sleep(0.01)
    return len(events)


def test_a_stage_inside_its_parent_gives_signs_and_prefect_none(sent):
    @beating
    def work() -> tuple[int, int | None]:
        return wait_for(sent), PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value()

    with our_heartbeats():
        assert work() == (1, None)
    assert [event["event"] for event in sent] == ["prefect.flow-run.heartbeat"]
    assert PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() == 30


def test_a_stage_of_a_run_whose_signs_are_ours_gives_its_own(sent):
    @beating
    def stage() -> int:
        return wait_for(sent)

    @beating
    def night() -> int:
        wait_for(sent)
        sent.clear()
        with our_heartbeats():
            return stage()

    with our_heartbeats():
        assert night() == 1


def test_its_signs_end_with_it_whatever_ends_it(sent):
    @beating
    def work() -> None:
        wait_for(sent)
        raise ValueError("bad")

    before, begun = threading.active_count(), time.monotonic()
    with our_heartbeats(), pytest.raises(ValueError, match="bad"):
        work()
    assert threading.active_count() == before
    assert time.monotonic() - begun < 10  # of 30 until the next sign


def test_a_stage_of_its_own_leaves_them_to_prefect(sent):
    @beating
    def work() -> int | None:
        return PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value()

    assert work() == 30
    assert sent == []


def test_where_nobody_asks_for_signs_there_are_none(sent):
    @beating
    def work() -> int:
        return threading.active_count()

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), our_heartbeats():
        assert work() == threading.active_count()
    assert sent == []


def test_a_sign_that_cannot_be_sent_costs_nothing(sent, monkeypatch):
    def refused(**_: object) -> None:
        sent.append("tried")
        raise OSError("no server")

    monkeypatch.setattr(heartbeats, "emit_event", refused)

    @beating
    def work() -> int:
        return wait_for(sent)

    with our_heartbeats():
        assert work() == 1
