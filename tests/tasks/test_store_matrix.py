"""Every operation of the store against every kind of fault."""

import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import MissingObjectError, StoreRefusedError, StoreUnavailableError, exit_code
from tasks.google_requests import GoogleStorage, Patience
from tasks.store import Store, open_store

pytestmark = pytest.mark.gcs

LARGE = bytes(9 << 20)  # more than one request takes
DOC = b'{"epoch": 1}\n'


@pytest.fixture
def store(hasty_gcsfs, emulator) -> Store:
    del hasty_gcsfs
    store = open_store(f"gs://models/{uuid.uuid4().hex}")
    store.put_bytes(DOC, "doc.json")
    store.append_pointer("log", {"epoch": 1})
    emulator.log.clear()
    return store


def put_file(store: Store, folder: Path, content: bytes) -> int:
    local = folder / "local"
    local.write_bytes(content)
    return store.put_file(local, "new").size


def get_file(store: Store, folder: Path) -> bytes:
    return store.get_file("doc.json", folder / "copy").read_bytes()


READS: dict[str, tuple[Callable[[Store, Path], object], object]] = {
    "get_file": (get_file, DOC),
    "read_bytes": (lambda store, _: store.read_bytes("doc.json"), DOC),
    "read_json": (lambda store, _: store.read_json("doc.json"), {"epoch": 1}),
    "read_range": (lambda store, _: store.read_range("doc.json", 2, 7), b"epoch"),
    "newest_pointer": (lambda store, _: store.newest_pointer("log"), (1, {"epoch": 1})),
}
OTHERS: dict[str, tuple[Callable[[Store, Path], object], object]] = {
    "put_bytes": (lambda store, _: store.put_bytes(b"12", "new").size, 2),
    "put_file": (lambda store, folder: put_file(store, folder, b"123"), 3),
    "put_large_file": (lambda store, folder: put_file(store, folder, LARGE), len(LARGE)),
    "size": (lambda store, _: store.size("doc.json"), 13),
    "exists_not": (lambda store, _: store.exists("gone"), False),
    "keys": (lambda store, _: store.keys(""), ["doc.json", "log/00000001.json"]),
    "delete": (lambda store, _: store.delete("doc.json"), None),
    "claim": (lambda store, _: store.claim(b"mine", "claim"), True),
    "claim_lost": (lambda store, _: store.claim(b"mine", "doc.json"), False),
    "append_pointer": (lambda store, _: store.append_pointer("log", {"epoch": 2}), 2),
    "check_writable": (lambda store, _: store.check_writable(), None),
}
OPERATIONS = READS | OTHERS
FAULTS: list[dict[str, Any]] = [
    *({"status": status} for status in (408, 429, 500, 502, 503, 504, 522)),
    {"reset": True},
    {"truncate": True},
    {"status": 503, "after": True},
    {"reset": True, "after": True},
]


def named(fault: dict[str, Any]) -> str:
    return "-".join(f"{key}={value}" for key, value in fault.items())


@pytest.mark.parametrize("fault", FAULTS, ids=named)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_two_faults_in_a_row_are_ridden_out(store, emulator, tmp_path, operation, fault):
    act, expected = OPERATIONS[operation]
    emulator.fail(count=2, **fault)
    assert act(store, tmp_path) == expected


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 408}, {"reset": True}], ids=named)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_faults_without_end_are_told_in_a_sentence_after_six_tries(
    store, emulator, tmp_path, operation, fault
):
    emulator.fail(count=10_000, **fault)
    with pytest.raises(StoreUnavailableError, match=r"check the network") as caught:
        OPERATIONS[operation][0](store, tmp_path)
    assert exit_code(caught.value) == 75
    assert len(emulator.log) <= 2 * 6  # aiohttp sends again what was cut on a used connection


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_refusal_is_told_at_once(store, emulator, tmp_path, operation, status):
    emulator.fail(count=10_000, status=status)
    with pytest.raises(StoreRefusedError, match=r"credentials|permissions") as caught:
        OPERATIONS[operation][0](store, tmp_path)
    assert exit_code(caught.value) == 2
    assert len(emulator.log) == 1


def test_what_is_not_there_is_told_at_once(store, emulator, tmp_path):
    for act in (
        lambda: store.read_bytes("gone"),
        lambda: store.read_range("gone", 0, 1),
        lambda: store.get_file("gone", tmp_path / "copy"),
    ):
        with pytest.raises(MissingObjectError, match="it is not there"):
            act()
    assert [line.status for line in emulator.log] == [404] * 3


@pytest.mark.parametrize("fault", [{"truncate": True}, {"shorten": True}], ids=named)
@pytest.mark.parametrize("operation", READS)
def test_half_an_object_is_never_taken_for_it(store, emulator, tmp_path, operation, fault):
    act, expected = READS[operation]
    emulator.fail(match="alt=media", **fault)
    assert act(store, tmp_path) == expected  # asked again
    emulator.fail(match="alt=media", count=10_000, **fault)
    with pytest.raises(StoreUnavailableError):
        act(store, tmp_path)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_service_that_accepts_and_never_answers_does_not_hold_us_for_ever(
    store, monkeypatch, tmp_path, operation
):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # nobody takes what comes in
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        patience = Patience(wait_s=0.001, silence_s=0.1, slowest=1e9)
        monkeypatch.setattr(GoogleStorage, "patience", patience)
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="check the network"):
            OPERATIONS[operation][0](store, tmp_path)
        assert time.monotonic() - started < 5


def test_a_slow_answer_is_waited_for(store, emulator, monkeypatch):
    monkeypatch.setattr(GoogleStorage, "patience", Patience(wait_s=0.001, silence_s=5))
    emulator.fail(delay=0.7)
    assert store.read_bytes("doc.json") == DOC
    assert emulator.served("GET", "alt=media") == [200]


def test_by_default_a_silent_service_is_given_up_within_a_quarter_of_an_hour():
    patience = Patience()
    waiting = sum(patience.wait_s * (2**n + 1) for n in range(patience.tries - 1))
    body = (8 << 20) / patience.slowest  # the largest we send
    assert patience.tries * (patience.silence_s + body) + waiting < 15 * 60
    assert waiting < 40
