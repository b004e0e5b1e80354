"""What the store promises while a bucket fails, doubles requests and loses answers."""

import os
import random
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.errors import (
    DamagedObjectError,
    StoreRefusedError,
    StoreUnavailableError,
)
from tasks.store import Store, open_store

pytestmark = [
    pytest.mark.gcs,
    # gcsfs hands aiohttp the bytes of a chunk; that is its way, and fine at our sizes
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),
]

SMALL, LARGE = 1_000, 6_000_000  # bytes: gcsfs sends these in one request and in two
LOST = [  # the work is done, but the answer does not say so
    {"status": 503, "after": True},
    {"status": 408, "after": True},
    {"status": 412, "after": True},
    {"reset": True, "after": True},
    {"duplicate": True},
]


@pytest.fixture
def store(hasty_gcsfs) -> Store:
    del hasty_gcsfs
    return open_store(f"gs://models/{uuid.uuid4().hex}")


def file_of(size: int, folder: Path) -> Path:
    path = folder / "local.bin"
    path.write_bytes(os.urandom(size))
    return path


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize(
    "fault",
    [
        *({"status": status, "after": after} for status in (503, 429, 500) for after in (0, 1)),
        {"reset": True},
        {"reset": True, "after": True},
        {"duplicate": True},
    ],
)
def test_a_file_is_stored_though_two_requests_in_a_row_fail(store, emulator, tmp_path, size, fault):
    local = file_of(size, tmp_path)
    emulator.fail(match="/upload/", count=2, **fault)
    artifact = store.put_file(local, "x")
    assert store.get_file("x", tmp_path / "copy", artifact).read_bytes() == local.read_bytes()
    assert store.keys("") == ["x"]


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_file_that_cannot_be_stored_leaves_what_was_there(store, emulator, tmp_path, size):
    store.put_bytes(b"before", "x")
    emulator.fail(method="POST", match="uploadType", count=100, status=503)
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        store.put_file(file_of(size, tmp_path), "x")
    emulator.clear()
    assert store.read_bytes("x") == b"before"


def test_no_permission_is_refused_at_once(store, emulator):
    emulator.fail(method="POST", count=100, status=403)
    with pytest.raises(StoreRefusedError, match="permissions"):
        store.check_writable()
    assert emulator.served("POST") == [403]


@pytest.mark.parametrize("fault", LOST)
def test_a_claim_whose_answer_was_lost_is_ours_and_there_once(store, emulator, fault):
    emulator.fail(method="POST", match="/upload/", **fault)
    assert store.claim(b"mine", "claim")
    assert not store.claim(b"theirs", "claim")
    assert store.read_bytes("claim") == b"mine"
    assert store.keys("") == ["claim"]


@pytest.mark.parametrize("fault", LOST)
def test_a_lost_claim_stays_lost_whatever_happens_to_the_answer(store, emulator, fault):
    store.claim(b"theirs", "claim")
    emulator.fail(method="POST", match="/upload/", **fault)
    assert not store.claim(b"mine", "claim")
    assert store.read_bytes("claim") == b"theirs"


def test_a_claim_is_not_decided_by_guessing(store, emulator):
    store.claim(b"theirs", "claim")
    emulator.fail(method="GET", match="alt=media", count=100, status=503)
    with pytest.raises(StoreUnavailableError):
        store.claim(b"mine", "claim")


@pytest.mark.parametrize("fault", LOST)
def test_an_entry_of_a_pointer_log_is_there_once_though_its_answer_was_lost(store, emulator, fault):
    emulator.fail(method="POST", match="/upload/", **fault)
    assert [store.append_pointer("log", {"epoch": epoch}) for epoch in (7, 8)] == [1, 2]
    assert store.keys("log") == ["log/00000001.json", "log/00000002.json"]
    assert store.newest_pointer("log") == (2, {"epoch": 8})


@pytest.mark.parametrize("fault", LOST)
def test_of_sixteen_claimants_one_wins_while_answers_get_lost(store, emulator, fault):
    emulator.fail(method="POST", match="/upload/", count=8, **fault)
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda n: store.claim(f"claim {n}".encode(), "claim"), range(16)))
    assert sum(won) == 1
    assert store.read_bytes("claim") == f"claim {won.index(True)}".encode()


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_download_that_breaks_off_is_begun_again(store, emulator, tmp_path, size):
    artifact = store.put_file(file_of(size, tmp_path), "x")
    emulator.fail(match="alt=media", truncate=True, count=2)
    store.get_file("x", tmp_path / "copy", artifact)
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "local.bin").read_bytes()
    assert len(emulator.served("GET", "alt=media")) == 3


@pytest.mark.parametrize("fault", [{"shorten": True}, {"truncate": True}])
def test_a_short_download_is_never_taken_for_the_recorded_object(store, emulator, tmp_path, fault):
    artifact = store.put_file(file_of(SMALL, tmp_path), "x")
    (tmp_path / "copy").write_bytes(b"before")
    emulator.fail(match="alt=media", count=100, **fault)
    with pytest.raises((DamagedObjectError, StoreUnavailableError)):
        store.get_file("x", tmp_path / "copy", artifact)
    with pytest.raises((DamagedObjectError, StoreUnavailableError)):
        store.read_artifact(artifact)
    assert (tmp_path / "copy").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "local.bin"]


@pytest.mark.parametrize("known", [0, 2])
def test_a_stale_listing_never_makes_an_entry_overwrite_another(store, emulator, known):
    for epoch in range(known):
        store.append_pointer("log", {"epoch": epoch})
    emulator.fail(method="GET", match="/o?", count=100, stale=True)  # as it is now, for ever
    numbers = [store.append_pointer("log", {"epoch": epoch}) for epoch in range(5, 8)]
    assert numbers == [known + 1, known + 2, known + 3]
    assert store.keys("log") == [f"log/{n:08d}.json" for n in range(1, known + 1)]  # stale indeed
    epochs = [store.read_json(f"log/{number:08d}.json")["epoch"] for number in numbers]
    assert epochs == [5, 6, 7]


@pytest.mark.parametrize("known", [0, 2])
@pytest.mark.parametrize("hidden", [0, 1, 3])
def test_the_newest_entry_is_found_though_a_stale_listing_hides_it(store, emulator, known, hidden):
    for epoch in range(known):
        store.append_pointer("log", {"epoch": epoch})
    emulator.fail(method="GET", match="/o?", count=100, stale=True)
    for epoch in range(hidden):
        store.append_pointer("log", {"epoch": 10 + epoch})
    last = {"epoch": 9 + hidden} if hidden else {"epoch": known - 1}
    expected = (known + hidden, last) if known + hidden else None
    assert store.newest_pointer("log") == expected


def test_a_listing_of_objects_that_are_gone_is_not_believed(store, emulator):
    store.put_bytes(b"data", "x")
    emulator.fail(method="GET", match="/o?", count=100, stale=True)
    store.delete("x")
    assert store.keys("") == ["x"]  # stale indeed
    assert store.size("x") is None
    assert not store.exists("x")


def test_who_never_gets_a_number_is_told(store, emulator):
    emulator.fail(method="GET", match="/o?", count=100, stale=True)  # nothing is there
    for number in range(1, 201):
        store.claim(b"{}", f"log/{number:08d}.json")
    with pytest.raises(StoreUnavailableError, match="others took the 200 numbers from 1 on"):
        store.append_pointer("log", {"epoch": 1})


def test_an_object_is_removed_though_the_answer_was_lost(store, emulator):
    store.put_bytes(b"", "x")
    emulator.fail(method="DELETE", reset=True, after=True)
    store.delete("x")
    assert not store.exists("x")


def test_a_read_back_that_fails_for_a_moment_is_asked_again(store, emulator):
    emulator.fail(method="GET", match="/o/", count=2, status=503)
    store.put_bytes(b"data", "x")
    emulator.fail(method="GET", match="/o/", count=2, reset=True)
    assert store.size("x") == 4


def test_a_read_back_of_something_else_is_no_success(store, emulator):
    store.put_bytes(b"before", "x")
    emulator.fail(method="POST", match="/upload/", status=200)  # it says so, but nothing is done
    with pytest.raises(StoreUnavailableError, match="something else"):
        store.put_bytes(b"behind", "x")


@pytest.mark.parametrize(
    "act",
    [
        lambda store: store.size("x"),
        lambda store: store.keys(""),
        lambda store: store.put_bytes(b"data", "x"),
        lambda store: store.claim(b"mine", "claim"),
    ],
)
def test_an_answer_that_cannot_be_read_is_told_in_a_sentence(store, emulator, act):
    store.put_bytes(b"data", "x")
    emulator.fail(match="/o", count=100, shorten=True)  # or what a proxy has to say, with a 200
    with pytest.raises(StoreUnavailableError):
        act(store)


def test_a_write_that_is_not_there_afterwards_may_be_tried_again(store, emulator):
    emulator.fail(method="POST", match="/upload/", status=200)  # it says so, but nothing is done
    with pytest.raises(StoreUnavailableError):
        store.put_bytes(b"data", "x")


@pytest.mark.parametrize("seed", range(4))
def test_in_a_storm_every_entry_has_a_number_of_its_own_and_its_own_content(store, emulator, seed):
    rng = random.Random(seed)  # noqa: S311  no secret
    reads = [{"status": 503}, {"reset": True}, {"truncate": True}, {"stale": True}]
    for _ in range(40):
        write = {"method": "POST", "match": "/upload/", **rng.choice([*LOST, {"status": 429}])}
        fault = rng.choice([write, {"method": "GET", **rng.choice(reads)}])
        emulator.fail(**fault, skip=rng.randrange(20))
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda n: store.append_pointer("log", {"by": n}), range(16)))
    emulator.clear()
    assert sorted(numbers) == list(range(1, 17))
    for by, number in enumerate(numbers):
        assert store.read_json(f"log/{number:08d}.json")["by"] == by
