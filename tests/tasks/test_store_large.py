"""Objects of many pieces: what a cut costs, and what is never taken for the object."""

import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.errors import MissingObjectError, StoreUnavailableError
from tasks.store import Store, open_store
from tests.gcs_emulator import Emulator

pytestmark = pytest.mark.gcs

PIECE = 8 << 20  # bytes of one request
SIZE = 4 * PIECE + 1000  # five requests
STARTS = [0, PIECE, 2 * PIECE, 3 * PIECE, 4 * PIECE]


@pytest.fixture
def store(hasty_gcsfs) -> Store:
    del hasty_gcsfs
    return open_store(f"gs://models/{uuid.uuid4().hex}")


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("large") / "last.pt"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def stored(store, large, emulator) -> Store:
    store.put_file(large, "x")
    emulator.log.clear()
    return store


def begun_at(emulator: Emulator, method: str, match: str) -> list[int]:
    """Offsets that the requests for bytes of an object named, sorted."""
    spans = [s for s in emulator.spans(method, match) if "*/" not in s]
    return sorted(int(s.replace("=", " ").split(" ")[1].split("-")[0]) for s in spans)


def uploads(emulator: Emulator) -> list[int]:
    return begun_at(emulator, "PUT", "upload_id")


def downloads(emulator: Emulator) -> list[int]:
    return begun_at(emulator, "GET", "alt=media")


def test_a_large_file_goes_up_and_comes_down_in_pieces(store, large, emulator, tmp_path):
    artifact = store.put_file(large, "x")
    assert uploads(emulator) == STARTS
    copy = store.get_file("x", tmp_path / "copy", artifact)
    assert downloads(emulator) == STARTS
    assert copy.read_bytes() == large.read_bytes()


def test_many_bytes_go_up_in_pieces_too(store, large, emulator):
    store.put_bytes(large.read_bytes(), "x")
    assert uploads(emulator) == STARTS
    assert store.read_bytes("x") == large.read_bytes()


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE])
def test_a_file_of_any_size_comes_back(store, tmp_path, size):
    local = tmp_path / "local"
    local.write_bytes(os.urandom(size))
    artifact = store.put_file(local, "x")
    assert store.get_file("x", tmp_path / "copy").read_bytes() == local.read_bytes()
    assert store.size("x") == artifact.size == size


@pytest.mark.parametrize(
    "fault", [{"truncate": True}, {"reset": True}, {"shorten": True}, {"status": 503}]
)
def test_a_piece_that_fails_is_fetched_again_alone(stored, large, emulator, tmp_path, fault):
    emulator.fail(method="GET", match="alt=media", skip=2, count=2, **fault)
    stored.get_file("x", tmp_path / "copy")
    again = downloads(emulator)
    assert len(again) == 5 + 2
    assert set(again) == set(STARTS)
    assert (tmp_path / "copy").read_bytes() == large.read_bytes()


def test_four_pieces_are_fetched_at_once(stored, emulator, tmp_path):
    emulator.fail(method="GET", match="alt=media", skip=1, count=4, delay=0.5)
    started = time.monotonic()
    stored.get_file("x", tmp_path / "copy")
    assert time.monotonic() - started < 1.5  # not 4 x 0.5 s


def test_an_object_replaced_during_its_download_is_never_a_mixture(stored, emulator, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(os.urandom(SIZE))
    emulator.fail(method="GET", match="alt=media", skip=1, count=4, delay=0.6)
    with ThreadPoolExecutor(1) as pool:
        getting = pool.submit(stored.get_file, "x", tmp_path / "copy")
        time.sleep(0.2)  # the first piece is here, four are asked for
        stored.put_file(other, "x")
        getting.result()
    assert (tmp_path / "copy").read_bytes() == other.read_bytes()


def test_an_object_removed_during_its_download_is_missing(stored, emulator, tmp_path):
    emulator.fail(method="GET", match="alt=media", skip=1, count=4, delay=0.6)
    with ThreadPoolExecutor(1) as pool:
        getting = pool.submit(stored.get_file, "x", tmp_path / "copy")
        time.sleep(0.2)
        stored.delete("x")
        with pytest.raises(MissingObjectError):
            getting.result()
    assert not (tmp_path / "copy").exists()


def test_bytes_damaged_in_the_bucket_are_not_accepted(stored, emulator, tmp_path):
    place = ("models", f"{stored.root}/x".partition("/")[2])
    found = emulator.storage.objects[place]
    emulator.storage.objects[place] = replace(found, data=found.data[:-1] + b"\0")
    with pytest.raises(StoreUnavailableError, match="not those of the object"):
        stored.get_file("x", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    "fault",
    [{"status": s, "after": a} for s in (408, 429, 500, 503) for a in (False, True)]
    + [{"reset": True}, {"reset": True, "after": True}, {"duplicate": True}],
)
def test_a_piece_that_may_not_have_arrived_is_asked_after_and_sent_alone(
    store, large, emulator, fault
):
    emulator.fail(method="PUT", match="upload_id", skip=1, **fault)
    store.put_file(large, "x")
    again = uploads(emulator)
    assert set(again) == set(STARTS)
    # aiohttp itself sends again what was cut on a connection that was in use before
    there = fault.get("duplicate") or (fault.get("after") and not fault.get("reset"))
    assert len(again) == (5 if there else 6)
    assert len(emulator.served("POST", "uploadType=resumable")) == 1
    assert store.read_bytes("x") == large.read_bytes()


@pytest.mark.parametrize(
    "how", [{}, {"status": 503, "after": True}, {"status": 408, "after": True}]
)
def test_an_upload_goes_on_from_what_arrived_of_a_piece(store, large, emulator, how):
    emulator.fail(method="PUT", match="upload_id", skip=1, keep=1 << 20, **how)
    store.put_file(large, "x")
    assert uploads(emulator)[:3] == [0, PIECE, PIECE + (1 << 20)]
    assert store.read_bytes("x") == large.read_bytes()


def test_an_upload_of_which_the_last_answer_was_lost_is_done(store, large, emulator):
    emulator.fail(method="PUT", match="upload_id", skip=4, status=503, after=True)
    store.put_file(large, "x")
    assert uploads(emulator) == STARTS
    assert store.size("x") == SIZE


@pytest.mark.parametrize("status", [404, 410])
def test_an_upload_that_the_service_forgot_is_begun_anew(store, large, emulator, status):
    emulator.fail(method="PUT", match="upload_id", skip=2, status=status)
    store.put_file(large, "x")
    assert len(emulator.served("POST", "uploadType=resumable")) == 2
    assert store.read_bytes("x") == large.read_bytes()


def test_an_upload_that_is_forgotten_again_and_again_is_told(store, large, emulator):
    emulator.fail(method="PUT", match="upload_id", count=100, status=410)
    with pytest.raises(StoreUnavailableError, match="forgot the upload 3 times"):
        store.put_file(large, "x")
    emulator.clear()
    assert not store.exists("x")


def test_an_upload_that_does_not_get_on_is_told(store, large, emulator):
    emulator.fail(method="PUT", match="upload_id", skip=1, count=100, status=308)
    with pytest.raises(StoreUnavailableError, match="does not get beyond 0 of"):
        store.put_file(large, "x")


def test_a_file_that_changes_while_it_goes_up_is_no_success(store, emulator, tmp_path):
    local = tmp_path / "results.txt"
    local.write_bytes(bytes(SIZE))
    emulator.fail(method="POST", match="uploadType=resumable", delay=0.5)
    with ThreadPoolExecutor(1) as pool:
        putting = pool.submit(store.put_file, local, "x")
        time.sleep(0.3)  # its checksum was taken
        local.write_bytes(b"\1" * SIZE)
        with pytest.raises(StoreUnavailableError):
            putting.result()
    assert not store.exists("x")
