"""What a Google Cloud Storage keeps and answers, for tests: the JSON API on objects in memory.

Strongly consistent like the original; a precondition and its write are one step.
Source: cloud.google.com/storage/docs/json_api/v1
"""

import base64
import email
import hashlib
import json
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.message import Message
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import google_crc32c

from tests.gcs_identity import PATHS, identity_reply

_BLOCK = 1 << 18  # bytes; every chunk of an upload but the last is a multiple of it
_WRITABLE = (
    *("contentType", "metadata", "cacheControl", "contentEncoding"),
    *("contentDisposition", "contentLanguage", "customTime"),
)


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Object:
    """One generation of an object."""

    bucket: str
    name: str
    data: bytes
    md5: str
    crc32c: str
    generation: int
    created: str
    updated: str
    fields: Mapping[str, Any]  # what its writer may set: contentType, metadata, ...
    metageneration: int = 1

    @property
    def etag(self) -> str:
        return base64.b64encode(f"{self.generation}/{self.metageneration}".encode()).decode()

    def resource(self) -> dict[str, Any]:
        """The object as the API describes it; 64-bit numbers are strings there."""
        return {
            "kind": "storage#object",
            "id": f"{self.bucket}/{self.name}/{self.generation}",
            "bucket": self.bucket,
            "name": self.name,
            "generation": str(self.generation),
            "metageneration": str(self.metageneration),
            "size": str(len(self.data)),
            "md5Hash": self.md5,
            "crc32c": self.crc32c,
            "etag": self.etag,
            "storageClass": "STANDARD",
            "timeCreated": self.created,
            "updated": self.updated,
            **self.fields,
        }


Objects = dict[tuple[str, str], Object]  # by bucket and name


@dataclass(frozen=True)
class Request:
    method: str
    target: str  # path and query, as sent
    headers: Message
    body: bytes
    listed: Objects | None = None  # an older state for a listing to tell of

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    def json(self) -> dict[str, Any]:
        return json.loads(self.body or b"{}")


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def json_reply(doc: object, status: int = 200) -> Reply:
    kind = {"Content-Type": "application/json; charset=UTF-8"}
    return Reply(status, json.dumps(doc).encode(), kind)


def error_reply(status: int, reason: str) -> Reply:
    said = {"code": status, "message": reason, "errors": [{"message": reason}]}
    return json_reply({"error": said}, status) if status not in (304, 308) else Reply(status)


@dataclass
class _Upload:
    bucket: str
    doc: dict[str, Any]
    query: dict[str, str]
    data: bytearray = field(default_factory=bytearray)
    reply: Reply | None = None  # once it is finished
    lock: threading.Lock = field(default_factory=threading.Lock)


class Storage:
    """Buckets and objects, and what the API does with them."""

    def __init__(self) -> None:
        self.objects: Objects = {}
        self._buckets: dict[str, str] = {}  # to the time of creation
        self._uploads: dict[str, _Upload] = {}
        self._lock = threading.RLock()  # a precondition and its write are one step
        self._generation = 0
        one, two = "/storage/v1/b/([^/]+)", "/storage/v1/b/([^/]+)/o/([^/]+)"
        self._routes: list[tuple[str, str, Callable[..., Reply]]] = [
            ("GET", "/storage/v1/b", self._list_buckets),
            ("POST", "/storage/v1/b", self._create_bucket),
            ("GET", one, self._get_bucket),
            ("GET", f"{one}/o", self._list),
            ("POST|PUT", f"/upload{one}/o", self._upload),
            ("GET", f"(?:/download)?{two}", self._get),
            ("PATCH", two, self._patch),
            ("DELETE", two, self._delete),
            ("POST", f"{two}/(rewriteTo|copyTo)/b/([^/]+)/o/([^/]+)", self._copy),
            ("POST", "/batch/storage/v1", self._batch),
            ("GET|POST", PATHS, lambda request: Reply(200, *identity_reply(request.path))),
        ]

    def create_bucket(self, name: str) -> None:
        with self._lock:
            if name in self._buckets:
                raise RefusedError(409, "You already own this bucket.")
            self._buckets[name] = _now()

    def answer(self, request: Request) -> Reply:
        """Does what a request asks for."""
        try:
            if "upload_id" in request.query:
                return self._resume(request)
            for method, path, act in self._routes:
                match = re.fullmatch(path, request.path)
                if match and re.fullmatch(method, request.method):
                    return act(request, *map(unquote, match.groups()))
        except RefusedError as error:
            return error_reply(error.status, str(error))
        return error_reply(400, f"not emulated: {request.method} {request.target}")

    def _list_buckets(self, _: Request) -> Reply:
        return json_reply({"kind": "storage#buckets", "items": [*map(self._bucket, self._buckets)]})

    def _create_bucket(self, request: Request) -> Reply:
        name = request.json()["name"]
        self.create_bucket(name)
        return json_reply(self._bucket(name))

    def _get_bucket(self, _: Request, name: str) -> Reply:
        return json_reply(self._bucket(name))

    def _bucket(self, name: str) -> dict[str, Any]:
        if name not in self._buckets:
            raise RefusedError(404, "The specified bucket does not exist.")
        times = dict.fromkeys(("timeCreated", "updated"), self._buckets[name])
        fixed = {"kind": "storage#bucket", "location": "US", "storageClass": "STANDARD"}
        return {**fixed, **times, "id": name, "name": name, "metageneration": "1", "etag": "CAE="}

    def _list(self, request: Request, bucket: str) -> Reply:
        self._bucket(bucket)
        query, page = request.query, {"items": [], "prefixes": []}
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        objects = self.objects.copy() if request.listed is None else request.listed
        last = base64.urlsafe_b64decode(query.get("pageToken", "")).decode()
        left = int(query.get("maxResults") or 1000)
        doc: dict[str, Any] = {"kind": "storage#objects"}
        for name in sorted(name for of, name in objects if of == bucket):
            deeper = delimiter != "" and delimiter in name[len(prefix) :]
            end = name.index(delimiter, len(prefix)) + len(delimiter) if deeper else len(name)
            shown = name[:end]
            before = name < query.get("startOffset", "") or shown <= last
            if (
                before
                or not name.startswith(prefix)
                or name >= query.get("endOffset", "\U0010ffff")
            ):
                continue
            if not left:
                doc["nextPageToken"] = base64.urlsafe_b64encode(last.encode()).decode()
                break
            left, last = left - 1, shown
            if deeper:
                page["prefixes"].append(shown)
            else:
                page["items"].append(objects[bucket, name].resource())
        return json_reply({**doc, **{key: found for key, found in page.items() if found}})

    def _find(self, request: Request, bucket: str, name: str, of: str = "if") -> Object:
        """The object a request is about; `of` is how the names of its preconditions begin."""
        self._bucket(bucket)
        found = self.objects.get((bucket, name))
        wanted = request.query.get("generation" if of == "if" else "sourceGeneration")
        if not found or wanted not in (None, str(found.generation)):
            raise RefusedError(404, f"No such object: {bucket}/{name}")
        _check(found, request.query, of, 304 if request.method == "GET" else 412)
        return found

    def _get(self, request: Request, bucket: str, name: str) -> Reply:
        found = self._find(request, bucket, name)
        if request.query.get("alt") != "media":
            return json_reply(found.resource())
        headers = {
            "Content-Type": found.fields["contentType"],
            "ETag": found.etag,
            "X-Goog-Hash": f"crc32c={found.crc32c},md5={found.md5}",
            "X-Goog-Generation": str(found.generation),
            "X-Goog-Metageneration": str(found.metageneration),
            "X-Goog-Stored-Content-Length": str(len(found.data)),
        }
        size = len(found.data)
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
        if not asked or not any(asked.groups()):
            return Reply(200, found.data, headers)
        first = int(asked[1]) if asked[1] else max(size - int(asked[2]), 0)
        end = min(int(asked[2]) + 1, size) if asked[1] and asked[2] else size
        if first >= size or first >= end:
            reply = error_reply(416, "Request range not satisfiable")
            return replace(reply, headers={**reply.headers, "Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
        return Reply(206, found.data[first:end], headers)

    def _patch(self, request: Request, bucket: str, name: str) -> Reply:
        with self._lock:
            old = self._find(request, bucket, name)
            fields = {**old.fields, **_fields(request.json())}
            new = replace(old, fields=fields, updated=_now(), metageneration=old.metageneration + 1)
            self.objects[bucket, name] = new
        return json_reply(new.resource())

    def _delete(self, request: Request, bucket: str, name: str) -> Reply:
        with self._lock:
            self._find(request, bucket, name)
            del self.objects[bucket, name]
        return Reply(204)

    def _copy(self, request: Request, bucket: str, name: str, how: str, *to: str) -> Reply:
        found = self._find(request, bucket, name, "ifSource")
        doc = {"contentType": "", **found.fields, **_fields(request.json()), "name": to[1]}
        made = self._store(to[0], doc, found.data, request.query).resource()
        if how == "copyTo":
            return json_reply(made)
        size = {"objectSize": made["size"], "totalBytesRewritten": made["size"]}
        return json_reply(
            {"kind": "storage#rewriteResponse", **size, "done": True, "resource": made}
        )

    def _batch(self, request: Request) -> Reply:
        boundary = f"batch_{uuid.uuid4().hex}"
        whole = b"Content-Type: %b\n\n" % request.headers["Content-Type"].encode() + request.body
        answers = []
        for part in email.message_from_bytes(whole).get_payload():
            head, _, body = part.get_payload(decode=True).replace(b"\r\n", b"\n").partition(b"\n\n")
            line, _, headers = head.decode().partition("\n")
            method, target, _ = line.split(" ")
            split = urlsplit(target)  # Google's client sends whole URLs
            inner = split._replace(scheme="", netloc="").geturl()
            reply = self.answer(Request(method, inner, email.message_from_string(headers), body))
            answers.append(
                f"--{boundary}\r\nContent-Type: application/http\r\n"
                f"Content-ID: <response-{(part['Content-ID'] or '<>')[1:]}\r\n\r\n"
                f"HTTP/1.1 {reply.status} -\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(reply.body)}\r\n\r\n{reply.body.decode()}\r\n"
            )
        text = "".join(answers) + f"--{boundary}--"
        return Reply(200, text.encode(), {"Content-Type": f"multipart/mixed; boundary={boundary}"})

    def _upload(self, request: Request, bucket: str) -> Reply:
        self._bucket(bucket)
        query, kind = request.query, request.query.get("uploadType")
        named = {"name": query["name"]} if "name" in query else {}
        if kind == "media":
            doc = {**named, "contentType": request.headers.get("Content-Type", "")}
            return json_reply(self._store(bucket, doc, request.body, query).resource())
        if kind == "multipart":
            doc, data = _parts(request)
            return json_reply(self._store(bucket, {**named, **doc}, data, query).resource())
        doc = {"contentType": request.headers.get("X-Upload-Content-Type", "")}
        upload = _Upload(bucket, {**doc, **named, **request.json()}, query)
        _check(self.objects.get((bucket, upload.doc["name"])), query)
        number = uuid.uuid4().hex
        self._uploads[number] = upload
        more = {"uploadType": "resumable", "upload_id": number}
        more |= {key: value for key, value in query.items() if key.startswith("if")}
        asked = "&".join(f"{key}={value}" for key, value in more.items())
        port = request.headers["Host"].rpartition(":")[2]
        location = f"http://127.0.0.1:{port}{request.path}?{asked}"
        return Reply(200, headers={"Location": location, "X-GUploader-UploadID": number})

    def _resume(self, request: Request) -> Reply:
        """Takes the next chunk of an upload, or tells how much of it arrived."""
        number, body = request.query["upload_id"], request.body
        upload = self._uploads.get(number)
        if not upload:
            raise RefusedError(404, "No such upload.")
        with upload.lock:
            if request.method == "DELETE":
                del self._uploads[number]
                return Reply(499)
            if upload.reply:
                return upload.reply  # the first answer got lost
            whole = f"bytes 0-{len(body) - 1}/{len(body)}" if body else "bytes */0"
            sent = request.headers.get("Content-Range", whole)
            asked = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", sent)
            first = int(asked[1] or len(upload.data)) if asked else -1
            if not asked or not 0 <= first <= len(upload.data):
                raise RefusedError(400, f"{sent}: does not follow {len(upload.data)} bytes")
            total = int(asked[3]) if asked[3] != "*" else sys.maxsize
            if first + len(body) != total and len(body) % _BLOCK:
                raise RefusedError(400, f"{sent}: no multiple of {_BLOCK} bytes, nor the last")
            upload.data += body[len(upload.data) - first :]
            if len(upload.data) == total:
                made = self._store(upload.bucket, upload.doc, bytes(upload.data), upload.query)
                upload.reply = json_reply(made.resource())
                return upload.reply
            last = len(upload.data) - 1
            return Reply(308, headers={"Range": f"bytes=0-{last}"} if upload.data else {})

    def _store(
        self, bucket: str, doc: Mapping[str, Any], data: bytes, query: Mapping[str, str]
    ) -> Object:
        md5 = hashlib.md5(data, usedforsecurity=False).digest()
        crc = google_crc32c.value(data).to_bytes(4, "big")
        hashes = [base64.b64encode(value).decode() for value in (md5, crc)]
        if [doc.get("md5Hash", hashes[0]), doc.get("crc32c", hashes[1])] != hashes:
            raise RefusedError(400, "The provided hash does not match that of the content.")
        name, now = doc["name"], _now()
        fields = {**_fields(doc), "contentType": doc.get("contentType") or "binary/octet-stream"}
        with self._lock:
            self._bucket(bucket)
            _check(self.objects.get((bucket, name)), query)
            self._generation = max(self._generation + 1, time.time_ns() // 1000)
            made = Object(bucket, name, data, *hashes, self._generation, now, now, fields)
            self.objects[bucket, name] = made
        return made


def _fields(doc: Mapping[str, Any]) -> dict[str, Any]:
    return {key: doc[key] for key in _WRITABLE if key in doc}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _check(found: Object | None, query: Mapping[str, str], of: str = "if", same: int = 412) -> None:
    """Raises unless the preconditions hold; `same` is for one that asks for something else."""
    numbers = (found.generation, found.metageneration) if found else (0, 0)
    for what, number in zip(("Generation", "Metageneration"), map(str, numbers), strict=True):
        if query.get(f"{of}{what}Match", number) != number:
            raise RefusedError(412, f"{what} is {number}: a precondition does not hold.")
        if query.get(f"{of}{what}NotMatch") == number:
            raise RefusedError(same, f"{what} is {number}: a precondition does not hold.")


def _parts(request: Request) -> tuple[dict[str, Any], bytes]:
    """Description and content of a multipart upload; by hand, since content is any bytes."""
    boundary = b"--" + str(request.headers.get_boundary()).encode()
    start = request.body.index(boundary) + len(boundary)
    line = b"\r\n" if request.body[start : start + 2] == b"\r\n" else b"\n"
    doc, _, content = request.body[start:].partition(2 * line)[2].partition(line + boundary)
    headers, _, data = content.partition(2 * line)
    kind = email.message_from_bytes(headers.lstrip()).get("Content-Type", "")
    return {"contentType": kind, **json.loads(doc)}, data[: data.rindex(line + boundary + b"--")]
