import errno
import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import (
    DamagedObjectError,
    MissingObjectError,
    StoreError,
    StoreRefusedError,
    StoreUnavailableError,
    exit_code,
    explain_fault,
)
from tasks.records import Artifact
from tasks.store import Store, open_store

# gcsfs hands aiohttp the bytes of a chunk; that is its way, and fine at our sizes
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")

KINDS = ["folder", "memory", pytest.param("gs", marks=pytest.mark.gcs)]


@pytest.fixture(params=KINDS)
def place(request, tmp_path) -> str:
    """A new place of each kind."""
    places = {
        "folder": str(tmp_path / "store"),
        "memory": f"memory://{uuid.uuid4().hex}/store",
        "gs": f"gs://models/{uuid.uuid4().hex}/store",
    }
    return places[request.param]


@pytest.fixture
def store(place) -> Store:
    return open_store(place)


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "picture.bin"
    path.write_bytes(bytes(range(256)) * 5000)
    return path


def test_a_file_comes_back_as_it_was(store, picture, tmp_path):
    artifact = store.put_file(picture, "runs/1/picture.bin")
    assert artifact == Artifact(
        key="runs/1/picture.bin",
        size=1_280_000,
        sha256=hashlib.sha256(picture.read_bytes()).hexdigest(),
    )
    copy = store.get_file(artifact.key, tmp_path / "deep" / "copy.bin", artifact)
    assert copy.read_bytes() == picture.read_bytes()
    assert sorted(p.name for p in copy.parent.iterdir()) == ["copy.bin"]


def test_a_later_put_replaces_an_earlier_one(store):
    store.put_bytes(b"long ago", "x")
    store.put_bytes(b"now", "x")
    assert store.read_bytes("x") == b"now"
    assert store.size("x") == 3


def test_what_is_not_there_is_missing(store, tmp_path):
    assert store.size("nothing") is None
    assert not store.exists("nothing")
    assert store.keys("nothing") == []
    store.delete("nothing")
    with pytest.raises(MissingObjectError, match="it is not there"):
        store.read_bytes("nothing")
    with pytest.raises(MissingObjectError):
        store.get_file("nothing", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_folder_is_no_object(store):
    store.put_bytes(b"1", "a/b/c")
    assert not store.exists("a/b")
    assert store.exists("a/b/c")


def test_keys_are_listed_below_a_folder_only_and_see_what_came_or_went(store):
    for key in ("a/1", "a/b/2", "ab/3"):
        store.put_bytes(b"", key)
    assert store.keys("a") == ["a/1", "a/b/2"]
    store.put_bytes(b"", "a/0")
    store.delete("a/1")
    assert store.keys("a") == ["a/0", "a/b/2"]


def test_a_second_opening_sees_at_once_what_the_first_wrote(place, store):
    again = open_store(place)
    assert not again.exists("a/late")
    assert again.keys("") == []
    store.put_bytes(b"1", "a/late")
    assert again.exists("a/late")
    assert again.keys("") == again.keys("a") == ["a/late"]


def test_json_keeps_the_order_of_keys_and_any_letter(store):
    doc = {"zeta": 1, "alpha": [1.5, None, True], "name": "größe"}
    store.put_json(doc, "doc.json")
    assert list(store.read_json("doc.json").items()) == list(doc.items())


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff"])
def test_an_object_that_is_no_json_document_is_damaged(store, data):
    store.put_bytes(data, "doc.json")
    with pytest.raises(DamagedObjectError, match=r"doc\.json"):
        store.read_json("doc.json")


def test_an_object_that_changed_since_it_was_recorded_is_refused(store, picture, tmp_path):
    artifact = store.put_file(picture, "x")
    store.put_bytes(b"\0" * artifact.size, "x")
    with pytest.raises(DamagedObjectError, match="changed"):
        store.get_file("x", tmp_path / "copy", artifact)
    assert not (tmp_path / "copy").exists()


def test_only_the_first_claim_wins(store):
    assert store.claim(b"first", "claim")
    assert not store.claim(b"second", "claim")
    assert store.read_bytes("claim") == b"first"
    assert store.claim(b"first", "claim")  # ours, though the first answer was lost


def test_of_many_claims_at_once_exactly_one_wins(store):
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: store.claim(f"claim {n}".encode(), "claim"), range(8)))
    assert sum(won) == 1
    assert store.read_bytes("claim") == f"claim {won.index(True)}".encode()


def test_pointers_count_from_one_and_the_newest_counts(store):
    assert store.newest_pointer("log") is None
    assert [store.append_pointer("log", {"epoch": n}) for n in (7, 8, 9)] == [1, 2, 3]
    assert store.newest_pointer("log") == (3, {"epoch": 9})
    assert store.keys("log") == ["log/00000001.json", "log/00000002.json", "log/00000003.json"]


def test_pointers_appended_at_once_each_get_a_number_of_their_own(store):
    with ThreadPoolExecutor(6) as pool:
        numbers = list(pool.map(lambda _: store.append_pointer("log", {"same": 1}), range(6)))
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6]


def test_a_damaged_newest_pointer_is_passed_over_but_its_number_stays_taken(store):
    store.append_pointer("log", {"epoch": 1})
    store.put_bytes(b"{", "log/00000002.json")
    store.put_bytes(b"{}", "log/note.json")
    assert store.newest_pointer("log") == (1, {"epoch": 1})
    assert store.append_pointer("log", {"epoch": 3}) == 3


def test_the_writability_check_leaves_nothing_behind(store):
    store.check_writable()
    store.put_bytes(b"", "x/y")
    assert store.keys("x") == ["x/y"]
    assert not [key for key in store.fs.find(store.root) if "probe" in key]


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x"])
def test_a_key_that_would_leave_the_store_is_refused(store, key):
    with pytest.raises(ValueError, match="key"):
        store.put_bytes(b"", key)


@given(
    data=st.binary(max_size=2000), name=st.from_regex(r"[A-Za-z0-9._ äß-]{1,40}", fullmatch=True)
)
def test_any_bytes_under_any_name_come_back(data, name):
    if name.strip(".") == "":
        return
    store = open_store(f"memory://{uuid.uuid4().hex}")
    artifact = store.put_bytes(data, f"a/{name}")
    assert store.read_bytes(f"a/{name}") == data
    assert store.keys("a") == [f"a/{name}"]
    assert artifact.size == len(data)


def test_an_interrupted_write_leaves_no_object_and_is_never_listed(tmp_path):
    store = open_store(str(tmp_path))
    store.put_bytes(b"whole", "x")
    (tmp_path / "x.part-0123").write_bytes(b"hal")  # what a killed process leaves
    assert store.keys("") == ["x"]


def test_a_missing_local_file_is_the_callers_error(store, tmp_path):
    with pytest.raises(FileNotFoundError):
        store.put_file(tmp_path / "gone", "x")


def test_a_home_relative_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_store("~/runs").folder == tmp_path / "runs"


def test_opening_a_store_creates_nothing(tmp_path):
    open_store(str(tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["gopher://x/y", "gz://x"])
def test_an_unknown_kind_of_url_is_refused_with_the_kinds_to_use(url):
    with pytest.raises(StoreRefusedError, match="use a folder, gs://") as caught:
        open_store(url)
    assert exit_code(caught.value) == 2


def test_a_password_in_a_url_is_never_shown():
    with pytest.raises(StoreRefusedError) as caught:
        open_store("gopher://me:secret@host/x")
    assert "secret" not in str(caught.value)


def test_a_file_where_the_folder_should_be_is_refused(tmp_path):
    (tmp_path / "taken").write_text("a file")
    store = open_store(str(tmp_path / "taken"))
    with pytest.raises(StoreRefusedError, match="check the path"):
        store.check_writable()
    with pytest.raises(StoreRefusedError):
        store.claim(b"", "x")


FILL_THE_DISK = """
import resource, sys
from pathlib import Path
from tasks.errors import StoreUnavailableError, exit_code
from tasks.store import open_store
store = open_store(sys.argv[1])
store.put_bytes(b"old", "last.pt")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # no file may pass this: EFBIG, as ENOSPC
for act in (
    lambda: store.put_bytes(bytes(5000), "last.pt"),
    lambda: store.put_file(Path(sys.argv[2]), "last.pt"),
    lambda: store.claim(bytes(5000), "claim"),
):
    try:
        act()
    except StoreUnavailableError as error:
        print(exit_code(error), error)
"""


def test_a_full_disk_is_told_in_a_sentence_and_keeps_what_was_there(tmp_path, picture):
    folder = tmp_path / "store"
    command = [sys.executable, "-c", FILL_THE_DISK, str(folder), str(picture)]
    answer = subprocess.run(  # noqa: S603  our own text
        command, capture_output=True, text=True, check=True
    )
    lines = answer.stdout.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("75 ") and "no space left" in line for line in lines)
    assert (folder / "last.pt").read_bytes() == b"old"
    assert [p.name for p in folder.iterdir()] == ["last.pt"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_really_full_file_system_is_told_in_the_same_sentence(tmp_path):
    mounted = subprocess.run(  # noqa: S603  a fixed command
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)],  # noqa: S607
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        store = open_store(str(tmp_path))
        with pytest.raises(StoreUnavailableError, match="no space left"):
            store.put_bytes(bytes(200_000), "big")
        store.put_bytes(b"small", "small")
        assert store.keys("") == ["small"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)  # noqa: S603, S607  as above


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StoreUnavailableError, 75),
        (OSError(errno.EIO, "Input/output error"), StoreUnavailableError, 75),
        (ConnectionResetError("reset"), StoreUnavailableError, 75),
        (PermissionError(errno.EACCES, "Permission denied"), StoreRefusedError, 2),
        (OSError("Forbidden: https://storage/b\nno access"), StoreRefusedError, 2),
        (ValueError("Bad Request: b\ninvalid bucket"), StoreRefusedError, 2),
        (FileNotFoundError("b"), MissingObjectError, 1),
    ],
)
def test_a_backends_fault_becomes_one_sentence_and_an_exit_code(error, kind, code):
    fault = explain_fault(error, "cannot write gs://b/k")
    assert type(fault) is kind
    assert str(fault).startswith("cannot write gs://b/k: ")
    assert "\n" not in str(fault)
    assert exit_code(fault) == code


def test_a_bug_is_not_blamed_on_the_store():
    assert explain_fault(TypeError("x"), "cannot") is None
    assert explain_fault(ValueError("x"), "cannot") is None


@pytest.mark.slow  # gcsfs tries six times, 34 s
def test_an_unreachable_bucket_is_told_in_a_sentence_within_a_minute(monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    start = time.monotonic()
    with pytest.raises(
        StoreUnavailableError, match=r"does not answer.*check the network"
    ) as caught:
        open_store("gs://models/unreachable").check_writable()
    assert time.monotonic() - start < 60
    assert exit_code(caught.value) == 75


def inject(*faults: dict[str, object]) -> None:
    """Asks the emulator to fail the next matching requests."""
    address = f"{os.environ['STORAGE_EMULATOR_HOST']}/_faults"
    request = urllib.request.Request(address, json.dumps(faults).encode())  # noqa: S310  ours
    urllib.request.urlopen(request).close()  # noqa: S310  as above


@pytest.mark.gcs
def test_passing_faults_of_a_bucket_are_ridden_out(picture, tmp_path):
    store = open_store(f"gs://models/{uuid.uuid4().hex}")
    inject(
        {"method": "POST", "match": "/upload/", "status": 503, "count": 1},
        {"method": "GET", "match": "/o/", "reset": True, "count": 1},
    )
    artifact = store.put_file(picture, "x")
    assert store.get_file("x", tmp_path / "copy", artifact).read_bytes() == picture.read_bytes()


@pytest.mark.gcs
def test_a_claim_whose_answer_was_lost_is_still_ours():
    store = open_store(f"gs://models/{uuid.uuid4().hex}")
    inject({"method": "POST", "match": "/upload/", "status": 503, "after": True})
    assert store.claim(b"mine", "claim")
    inject({"method": "POST", "match": "/upload/", "status": 503, "after": True})
    assert store.append_pointer("log", {"epoch": 1}) == 1
    assert store.keys("log") == ["log/00000001.json"]


@pytest.mark.gcs
def test_a_file_of_several_megabytes_is_verified_too(tmp_path):
    store = open_store(f"gs://models/{uuid.uuid4().hex}")
    local = tmp_path / "last.pt"
    local.write_bytes(os.urandom(12_000_000))
    artifact = store.put_file(local, "weights/last.pt")
    assert store.size("weights/last.pt") == artifact.size == 12_000_000


@pytest.mark.gcs
def test_a_bucket_that_does_not_exist_is_refused_before_any_work():
    with pytest.raises(StoreRefusedError, match="no such bucket"):
        open_store("gs://no-such-bucket-here/x").check_writable()


def test_bytes_beyond_the_end_of_an_object_are_none(store):
    store.put_bytes(b"12345", "x")
    store.put_bytes(b"", "empty")
    assert store.read_range("x", 3, 9) == b"45"
    assert store.read_range("x", 5, 9) == store.read_range("x", 7, 9) == b""
    assert store.read_range("x", 2, 2) == b""
    assert store.read_range("empty", 0, 1) == b""


def test_every_store_error_says_where(store):
    with pytest.raises(StoreError) as caught:
        store.read_bytes("runs/1/x")
    assert store.url("runs/1/x") in str(caught.value)
