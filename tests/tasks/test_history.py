from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tasks.history import Night, enter, nights, previous
from tasks.store import Store, open_store
from tests.gcs_emulator import Emulator


def night(run: str, day: int = 1, **changed: Any) -> Night:
    told = {
        "run": run,
        "created": f"2026-01-{day:02}T02:00:00+00:00",
        "when": f"2026-01-{day:02}T03:00:00+00:00",
        "status": "completed",
        "epochs": 3,
        "metrics": {"precision": 0.7, "recall": 0.6, "map50": 0.8, "map50_95": 0.5},
        "classes": {"cat": 0.4, "dog": 0.6},
        "data_digest": "d",
        "counts": {"train": {"pictures": 10}, "val": {"pictures": 4}},
        "hours": 1.25,
        "code": "c",
        "seconds": {"prepare": 2.5, "train": 4000},
    }
    return Night(**{**told, **changed})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def test_a_night_comes_back_as_it_was_entered(store: Store):
    assert enter(store, "street", night("a"))
    assert nights(store, "street") == [night("a")]


def test_a_model_without_a_night_has_no_history(store: Store):
    assert nights(store, "street") == []
    assert previous([], "a", "2026-01-01") is None


def test_each_name_has_a_history_of_its_own_and_no_name_has_one_too(store: Store):
    for name in ("street", "street2", ""):
        enter(store, name, night(f"of {name}"))
    assert [n.run for n in nights(store, "street")] == ["of street"]
    assert store.exists("history/unnamed/00000001.json")


def test_the_same_outcome_is_entered_once(store: Store):
    assert enter(store, "street", night("a"))
    assert not enter(store, "street", night("a"))
    assert store.keys("history") == ["history/street/00000001.json"]


def test_a_newer_outcome_of_a_run_supersedes_the_older(store: Store):
    enter(store, "street", night("a", status="failed", metrics={}))
    enter(store, "street", night("b", day=2))
    assert enter(store, "street", night("a"))
    assert nights(store, "street") == [night("a"), night("b", day=2)]


def test_nights_are_in_the_order_of_their_creation(store: Store):
    for run, day in (("c", 3), ("a", 1), ("b", 2)):
        enter(store, "street", night(run, day))
    assert [n.run for n in nights(store, "street")] == ["a", "b", "c"]


def test_the_previous_run_is_the_last_completed_one_before():
    known = [
        night("a", 1),
        night("b", 2),
        night("lost", 3, status="failed"),
        night("cut", 4, status="stopped"),
        night("mine", 5),
        night("later", 6),
    ]
    found = previous(known, "mine", known[4].created)
    assert found is not None
    assert found.run == "b"


def test_only_the_newest_entries_are_read(emulator: Emulator):
    store = open_store("gs://models/many")
    for i in range(12):
        store.append_pointer("history/street", {"run": i})
    for i in range(3):
        enter(store, "street", night(f"n{i}", day=i + 1))
    emulator.clear()
    assert [n.run for n in nights(store, "street", limit=2)] == ["n1", "n2"]
    read = [line.target for line in emulator.log if "alt=media" in line.target]
    assert {target.split("?")[0][-7:-5] for target in read} == {"14", "15"}


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\xfe", b'{"run": "a"}'])
def test_a_damaged_entry_is_left_out(store: Store, damage: bytes):
    enter(store, "street", night("a"))
    store.put_bytes(damage, "history/street/00000002.json")
    enter(store, "street", night("b", day=2))
    assert [n.run for n in nights(store, "street")] == ["a", "b"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run", 1),
        ("created", None),
        ("status", "excellent"),
        ("metrics", {"map50_95": "high"}),
        ("metrics", {"map50_95": "nan"}),
        ("metrics", [0.5]),
        ("counts", {"train": 10}),
        ("hours", "long"),
    ],
)
def test_an_entry_with_another_kind_of_value_is_left_out(store: Store, key: str, value: object):
    store.append_pointer("history/street", {**asdict(night("bad")), key: value})
    enter(store, "street", night("good"))
    assert [n.run for n in nights(store, "street")] == ["good"]


def test_a_key_of_a_later_version_does_no_harm(store: Store):
    store.append_pointer("history/street", {**asdict(night("a")), "mood": "good"})
    assert nights(store, "street") == [night("a")]


def test_a_removed_entry_does_no_harm(store: Store):
    for i in (1, 2, 3):
        enter(store, "street", night(f"n{i}", day=i))
    store.delete("history/street/00000002.json")
    assert [n.run for n in nights(store, "street")] == ["n1", "n3"]


def test_runs_that_end_at_once_are_all_entered(store: Store):
    runs = [f"n{i}" for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(lambda run: enter(store, "street", night(run)), runs))
    assert [n.run for n in nights(store, "street")] == runs
