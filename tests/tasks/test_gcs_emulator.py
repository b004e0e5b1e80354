"""Our emulator as gcsfs, Google's own client and plain HTTP see it."""

import base64
import hashlib
import http.client
import json
import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from google.api_core.exceptions import BadRequest, NotFound, PreconditionFailed
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from tasks.store import open_store
from tests.gcs_emulator import Emulator

pytestmark = [
    pytest.mark.gcs,
    # gcsfs hands aiohttp the bytes of a chunk; that is its way, and fine at our sizes
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),
]

# content that looks like what frames it in a multipart upload
AWKWARD = b"\r\n--==0==\nContent-Type: x\r\n\r\n\n--==0==--\r\n\0\n"
HASTY = DEFAULT_RETRY.with_delay(initial=0.01, maximum=0.05)


@pytest.fixture
def name() -> str:
    """A new place in the bucket `models`, as Google's client names it."""
    return uuid.uuid4().hex


@pytest.fixture
def folder(name) -> str:
    """The same place as gcsfs names it."""
    return f"models/{name}"


@pytest.fixture
def fs(hasty_gcsfs: None) -> Any:
    del hasty_gcsfs
    return open_store("gs://models").fs


@pytest.fixture
def bucket(emulator: Emulator) -> Iterator[storage.Bucket]:
    """The bucket through Google's client."""
    options = {"api_endpoint": emulator.url}
    client = storage.Client("project", AnonymousCredentials(), client_options=options)
    yield client.bucket("models")
    client.close()


class Plain:
    """HTTP without any client's opinion of it."""

    def __init__(self, emulator: Emulator) -> None:
        self._host = emulator.url.partition("//")[2]

    def __call__(
        self, method: str, path: str, body: bytes | str = b"", **headers: str
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection(self._host, timeout=20)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            connection.close()


@pytest.fixture
def plain(emulator: Emulator) -> Plain:
    return Plain(emulator)


def upload(plain: Plain, data: bytes, query: str = "") -> tuple[str, dict[str, Any]]:
    """Stores an object under a name of its own; its path and description."""
    name = uuid.uuid4().hex
    path = f"/upload/storage/v1/b/models/o?uploadType=media&name={name}{query}"
    status, body, _ = plain("POST", path, data, Content_Type="text/plain")
    assert status == 200
    return f"/storage/v1/b/models/o/{name}", json.loads(body)


@pytest.mark.parametrize("data", [b"", b"1", AWKWARD, os.urandom(300_000)])
def test_gcsfs_reads_what_it_wrote_in_one_request(fs, folder, data):
    fs.pipe_file(f"{folder}/größe und mehr?#%.bin", data)
    assert fs.cat_file(f"{folder}/größe und mehr?#%.bin") == data
    info = fs.info(f"{folder}/größe und mehr?#%.bin")
    assert info["size"] == len(data)
    assert info["md5Hash"] == base64.b64encode(hashlib.md5(data).digest()).decode()  # noqa: S324


def test_gcsfs_reads_what_it_wrote_in_many_chunks(fs, folder, emulator):
    data = os.urandom(3 * (1 << 18) + 17)
    with fs.open(f"{folder}/x", "wb", block_size=1 << 18) as file:
        for start in range(0, len(data), 100_000):
            file.write(data[start : start + 100_000])
    assert fs.cat_file(f"{folder}/x") == data
    assert emulator.served("POST", "upload_id").count(308) >= 2
    with fs.open(f"{folder}/x", "rb", block_size=1 << 16) as file:
        file.seek(500_000)
        assert file.read(99_999) == data[500_000:599_999]
    assert fs.cat_file(f"{folder}/x", start=-17) == data[-17:]


def test_googles_client_checks_what_it_wrote_and_read(bucket, name):
    blob = bucket.blob(f"{name}/x", chunk_size=1 << 18)
    data = os.urandom(3 * (1 << 18))  # the last chunk is a whole one
    blob.upload_from_string(data, "image/png", checksum="crc32c")
    assert bucket.blob(f"{name}/x").download_as_bytes(checksum="crc32c") == data
    assert blob.download_as_bytes(checksum="md5") == data  # in chunks, as it was sent
    blob.reload()
    assert (blob.size, blob.content_type, blob.metageneration) == (len(data), "image/png", 1)
    assert blob.time_created == blob.updated
    assert blob.etag
    small = bucket.blob(f"{name}/y")
    small.upload_from_string(AWKWARD, checksum="md5")
    assert small.download_as_bytes(start=3, end=8) == AWKWARD[3:9]


def test_content_that_is_not_what_its_hash_says_is_refused(bucket, name):
    blob = bucket.blob(f"{name}/x")
    blob.md5_hash = base64.b64encode(bytes(16)).decode()
    with pytest.raises(BadRequest, match="hash"):
        blob.upload_from_string(b"something")
    assert not blob.exists()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("fault", [{"status": 503}, {"reset": True}])
def test_a_broken_upload_goes_on_where_it_was(bucket, fs, name, emulator, after, fault):
    data = os.urandom(3 * (1 << 18) + 17)
    emulator.fail(match="upload_id", skip=1, after=after, **fault)
    bucket.blob(f"{name}/x", chunk_size=1 << 18).upload_from_string(data, retry=HASTY)
    emulator.fail(match="upload_id", skip=1, after=after, **fault)
    with fs.open(f"models/{name}/y", "wb", block_size=1 << 18) as file:
        file.write(data)
    assert fs.cat_file(f"models/{name}/x") == fs.cat_file(f"models/{name}/y") == data


def test_an_upload_tells_how_much_of_it_arrived(plain):
    start = "/upload/storage/v1/b/models/o?uploadType=resumable&name=resumed&ifGenerationMatch=0"
    _, _, headers = plain("POST", start, "{}", X_Upload_Content_Type="image/png")
    place = "/upload" + headers["Location"].partition("/upload")[2]
    size = (1 << 18) + 5
    assert plain("PUT", place, Content_Range=f"bytes */{size}")[2]["Range"] is None
    chunk = bytes(1 << 18)
    sent = plain("PUT", place, chunk, Content_Range=f"bytes 0-{len(chunk) - 1}/{size}")
    asked = plain("PUT", place, Content_Range="bytes */*")
    assert sent[0] == asked[0] == 308
    assert sent[2]["Range"] == asked[2]["Range"] == f"bytes=0-{len(chunk) - 1}"
    assert plain("PUT", place, b"gap", Content_Range="bytes 900000-900002/*")[0] == 400
    assert plain("PUT", place, b"odd", Content_Range="bytes 262144-262146/*")[0] == 400
    last = {"Content_Range": f"bytes 262144-262148/{size}"}
    status, body, _ = plain("PUT", place, b"last!", **last)
    assert (status, json.loads(body)["size"]) == (200, str(size))
    assert plain("PUT", place, b"last!", **last)[:2] == (200, body)  # its answer was lost
    assert plain("POST", start, "{}")[0] == 412


def test_an_upload_that_was_given_up_is_gone(plain):
    _, _, headers = plain("POST", "/upload/storage/v1/b/models/o?uploadType=resumable&name=z", "{}")
    place = "/upload" + headers["Location"].partition("/upload")[2]
    assert plain("DELETE", place)[0] == 499
    assert plain("PUT", place, b"late")[0] == 404


@pytest.mark.parametrize("page_size", [1, 2, 3, 100])
@pytest.mark.parametrize("delimiter", ["", "/"])
@pytest.mark.parametrize("prefix", ["", "a", "a/", "a/b/", "none"])
def test_a_listing_is_complete_and_in_order_on_pages_of_any_size(
    bucket, emulator, prefix, delimiter, page_size
):
    names = ["a", "a-b", "a/", "a/b/c", "a/b/d", "a/e", "aa/f", "b", "ä/g"]
    bucket = bucket.client.bucket("listed")
    if not bucket.exists():
        bucket.create()
        for name in names:
            bucket.blob(name).upload_from_string(b"")
    rests = {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    deeper = {name for name, rest in rests.items() if delimiter and delimiter in rest}
    folders = {prefix + rests[name].partition("/")[0] + "/" for name in deeper}
    found = bucket.list_blobs(prefix=prefix, delimiter=delimiter or None, page_size=page_size)
    assert [blob.name for blob in found] == [name for name in rests if name not in deeper]
    assert found.prefixes == folders
    pages = -(-(len(rests) - len(deeper) + len(folders)) // page_size)
    assert len(emulator.served("GET", "/listed/o?")) == max(pages, 1)


def test_a_bucket_can_be_made_and_looked_up(bucket):
    client = bucket.client
    name = uuid.uuid4().hex
    assert client.lookup_bucket(name) is None
    assert client.create_bucket(name).exists()
    assert {"models", name} <= {found.name for found in client.list_buckets()}
    with pytest.raises(NotFound, match="bucket"):
        client.bucket("nobody's").blob("x").upload_from_string(b"")


@pytest.mark.parametrize(
    ("asked", "status", "content", "told"),
    [
        ("bytes=0-2", 206, b"012", "bytes 0-2/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=-4", 206, b"6789", "bytes 6-9/10"),
        ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
def test_a_range_is_answered_as_http_has_it(plain, asked, status, content, told):
    path, _ = upload(plain, b"0123456789")
    found, body, headers = plain("GET", f"/download{path}?alt=media", Range=asked)
    assert (found, headers["Content-Range"]) == (status, told)
    assert content is None or body == content


def test_preconditions_hold_for_every_kind_of_request(plain):
    path, made = upload(plain, b"1")
    now, media = made["generation"], f"{path}?alt=media"
    assert plain("GET", f"{media}&ifGenerationMatch={now}")[:2] == (200, b"1")
    assert plain("GET", f"{media}&ifGenerationMatch=1")[0] == 412
    assert plain("GET", f"{media}&ifGenerationNotMatch={now}")[:2] == (304, b"")
    assert plain("GET", f"{path}?generation=1")[0] == 404
    assert plain("PATCH", f"{path}?ifMetagenerationMatch=2", "{}")[0] == 412
    changed = json.loads(plain("PATCH", f"{path}?ifMetagenerationMatch=1", '{"metadata": {}}')[1])
    assert (changed["generation"], changed["metageneration"]) == (now, "2")
    again = f"/upload/storage/v1/b/models/o?uploadType=media&name={made['name']}"
    assert plain("POST", f"{again}&ifGenerationMatch=0", b"2")[0] == 412
    assert plain("POST", f"{again}&ifGenerationNotMatch={now}", b"2")[0] == 412
    newer = json.loads(plain("POST", f"{again}&ifGenerationMatch={now}", b"2")[1])
    assert int(newer["generation"]) > int(now)
    assert plain("DELETE", f"{path}?ifGenerationMatch={now}")[0] == 412
    assert plain("DELETE", f"{path}?ifGenerationMatch={newer['generation']}")[0] == 204
    assert plain("GET", path)[0] == 404


def test_copies_have_a_generation_of_their_own(fs, bucket, name, folder):
    blob = bucket.blob(f"{name}/x")
    blob.upload_from_string(b"content", "image/png")
    fs.cp_file(f"{folder}/x", f"{folder}/y")
    copied = bucket.copy_blob(blob, bucket, f"{name}/z", if_generation_match=0)
    moved = bucket.get_blob(f"{name}/y")
    assert blob.generation < moved.generation < copied.generation
    assert (moved.content_type, moved.md5_hash) == ("image/png", blob.md5_hash)
    with pytest.raises(PreconditionFailed):
        bucket.copy_blob(blob, bucket, f"{name}/w", if_source_generation_match=1)


def test_several_are_deleted_in_one_request(fs, bucket, folder, emulator, monkeypatch):
    monkeypatch.setattr(type(fs), "on_google", True)  # elsewhere gcsfs sends no batches
    name = folder.removeprefix("models/")
    for n in range(6):
        fs.pipe_file(f"{folder}/{n}", b"")
    fs.rm([f"{folder}/{n}" for n in range(3)])
    with bucket.client.batch():
        for n in (3, 4):
            bucket.blob(f"{name}/{n}").delete()
    assert fs.find(folder) == [f"{folder}/5"]
    assert emulator.served("POST", "/batch") == [200, 200]
    with pytest.raises(NotFound), bucket.client.batch():
        bucket.blob(f"{name}/0").delete()


def test_of_sixteen_claimants_exactly_one_wins(fs, bucket, name, folder):
    def by_gcsfs(n: int) -> bool:
        try:
            fs.pipe_file(f"{folder}/claim", str(n).encode(), mode="create")
        except FileExistsError:
            return False
        return True

    def by_google(n: int) -> bool:
        blob = bucket.blob(name)
        try:
            blob.upload_from_string(str(n).encode(), if_generation_match=0)
        except PreconditionFailed:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        for claim, path in ((by_gcsfs, f"{folder}/claim"), (by_google, folder)):
            won = list(pool.map(claim, range(16)))
            assert sum(won) == 1
            assert fs.cat_file(path) == str(won.index(True)).encode()


@pytest.mark.parametrize("status", [408, 429, 500, 503, 412])
@pytest.mark.parametrize("after", [False, True])
def test_a_status_on_demand_comes_instead_of_the_work_or_after_it(plain, emulator, status, after):
    path, _ = upload(plain, b"x")
    emulator.fail(method="DELETE", match=path, skip=1, count=2, status=status, after=after)
    asked = [plain("DELETE", path)[0]]
    upload_again = f"/upload/storage/v1/b/models/o?uploadType=media&name={path[-32:]}"
    plain("POST", upload_again, b"x")
    asked += [plain("DELETE", path)[0] for _ in range(3)]
    assert asked == [204, status, status, 404 if after else 204]
    assert emulator.served("DELETE") == asked


@pytest.mark.parametrize("after", [False, True])
def test_a_connection_is_cut_before_or_after_the_work(plain, emulator, after):
    path, _ = upload(plain, b"x")
    emulator.fail(method="DELETE", reset=True, after=after)
    with pytest.raises(ConnectionResetError):
        plain("DELETE", path)
    assert emulator.served("DELETE") == [0]
    assert plain("GET", path)[0] == (404 if after else 200)


def test_a_body_is_cut_so_that_anybody_or_nobody_can_tell(plain, emulator):
    path, _ = upload(plain, b"0123456789")
    emulator.fail(match="alt=media", truncate=True)
    with pytest.raises(http.client.IncompleteRead) as caught:
        plain("GET", f"{path}?alt=media")
    assert caught.value.partial == b"01234"
    emulator.fail(match="alt=media", shorten=True)
    status, body, headers = plain("GET", f"{path}?alt=media")
    assert (status, body, headers["Content-Length"]) == (200, b"01234", "5")
    assert plain("GET", f"{path}?alt=media")[1] == b"0123456789"


def test_googles_client_notices_a_body_that_was_cut_and_asks_again(bucket, name, emulator):
    blob = bucket.blob(name)
    blob.upload_from_string(b"0123456789")
    for fault in ({"shorten": True}, {"truncate": True}):
        emulator.fail(match="alt=media", **fault)
        assert blob.download_as_bytes(retry=HASTY) == b"0123456789"
    assert len(emulator.served("GET", "alt=media")) == 4


def test_an_answer_is_held_back(plain, emulator):
    path, _ = upload(plain, b"")
    emulator.fail(match=path, delay=0.3)
    start = time.monotonic()
    assert plain("GET", path)[0] == 200
    assert time.monotonic() - start >= 0.3


def test_a_doubled_request_does_its_work_twice(plain, emulator):
    emulator.fail(method="POST", duplicate=True)
    path, first = upload(plain, b"x")
    emulator.fail(method="DELETE", duplicate=True)
    assert plain("DELETE", path)[0] == 404  # the second finds nothing
    emulator.fail(method="POST", duplicate=True)
    claim = f"/upload/storage/v1/b/models/o?uploadType=media&ifGenerationMatch=0&name={path[-32:]}"
    assert plain("POST", claim, b"mine")[0] == 412
    assert plain("GET", f"{path}?alt=media")[1] == b"mine"
    assert int(first["generation"]) > 0


def test_a_stale_listing_tells_what_there_was_and_a_look_up_does_not(fs, folder, emulator):
    fs.pipe_file(f"{folder}/old", b"")
    emulator.fail(method="GET", match="/o?", stale=True)
    fs.pipe_file(f"{folder}/new", b"")
    fs.rm_file(f"{folder}/old")
    assert fs.find(folder) == [f"{folder}/old"]
    assert fs.find(folder) == [f"{folder}/new"]
    assert fs.cat_file(f"{folder}/new") == b""


def test_faults_and_the_log_are_served_over_http_too(plain):
    path, _ = upload(plain, b"")
    assert plain("POST", "/_faults", '{"status": 429, "match": "/o/"}')[0] == 200
    plain("POST", "/_faults", '[{"status": 500, "match": "/o/"}, {"reset": true}]')
    assert [plain("GET", path)[0] for _ in range(2)] == [429, 500]
    left = json.loads(plain("GET", "/_faults")[1])
    assert [(fault["status"], fault["reset"], fault["count"]) for fault in left] == [(0, True, 1)]
    log = json.loads(plain("GET", "/_log")[1])
    assert log[-1].items() >= {"method": "GET", "target": path, "status": 500}.items()
    plain("DELETE", "/_faults")
    assert plain("GET", path)[0] == 200


def test_what_is_not_emulated_is_said(plain):
    status, body, _ = plain("POST", "/storage/v1/b/models/o/x/compose", "{}")
    assert status == 400
    assert b"not emulated" in body


def test_a_closed_emulator_lets_go_of_its_clients():
    with Emulator() as emulator:
        connection = http.client.HTTPConnection(emulator.url.partition("//")[2], timeout=20)
        connection.request("GET", "/storage/v1/b")
        assert connection.getresponse().read()
    assert connection.sock.recv(1) == b""
    connection.close()
