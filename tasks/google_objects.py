"""Objects in Google Cloud Storage: in pieces side by side, resumed after a cut, checked by CRC-32C.

Decisions are taken from answers about one object, which are always up to date; listings find names.
Source: cloud.google.com/storage/docs/performing-resumable-uploads
"""

import json
import mimetypes
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from gcsfs.retry import HttpError  # type: ignore[import-untyped]  # neither types nor stubs

from tasks.digests import crc32c, file_crc32c
from tasks.errors import NotWholeError
from tasks.google_requests import GoogleStorage, is_passing, stored_crc32c
from tasks.transfers import in_parallel

_PIECE = 8 << 20  # bytes of one request; a multiple of 256 KiB, as uploads want
_SIDE_BY_SIDE = 4  # pieces of one download
_SHA256 = "sha256"  # name of our checksum in an object's metadata
_ANEW = 3  # whole transfers, where the upload or the object was lost on the way
_Answer = tuple[int, Mapping[str, str], bytes]
_PieceAt = Callable[[int], bytes]  # from an offset, _PIECE bytes or what is left


class _LostError(Exception):
    """The service has forgotten an upload."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    content: bytes
    total: int  # bytes of the whole object
    generation: str
    crc32c: str  # of the whole object


class GoogleObjects:
    """What a store does with objects; a path is `bucket/name`."""

    def __init__(self, fs: GoogleStorage) -> None:
        self._fs = fs

    def write(self, path: str, content: bytes | Path, sha256: str) -> None:
        """Puts bytes or a file there; Google refuses what arrives damaged, and it is read back.

        Raises:
            NotWholeError: What is there afterwards is something else.
        """
        about: dict[str, Any] = {"metadata": {_SHA256: sha256}}  # of its own it has CRC-32C only
        if isinstance(content, Path):
            size, about["crc32c"] = content.stat().st_size, file_crc32c(content)
            with content.open("rb") as file:
                handle = file.fileno()
                self._put(path, lambda start: os.pread(handle, _PIECE, start), size, about)
        else:
            size, about["crc32c"] = len(content), crc32c(content)
            self._put(path, lambda start: content[start : start + _PIECE], size, about)
        try:
            stored = self._describe(path)
        except FileNotFoundError:  # acknowledged and yet not there
            stored = {}
        if (stored.get("size"), stored.get("crc32c")) != (str(size), about["crc32c"]):
            raise NotWholeError("read back something else than was written")

    def create(self, path: str, data: bytes) -> None:
        """Puts bytes there if nothing is.

        Raises:
            FileExistsError: Something is; it may be ours, if an answer got lost.
        """
        self._upload(path, data, {"crc32c": crc32c(data)}, ifGenerationMatch="0")

    def read(self, path: str) -> bytes:
        """All bytes of an object."""
        return self._media(path)[2]

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes start to end (exclusive), fewer at the end of the object."""
        return self._piece(path, start, end).content if end > start else b""

    def fetch(self, path: str, local: Path) -> None:
        """Copies an object to a local file.

        Raises:
            NotWholeError: What came is not the object.
        """
        for tries in range(1, _ANEW + 1):
            first = self._piece(path, 0, _PIECE)
            try:
                self._fetch_from(first, path, local)
            except (FileNotFoundError, NotWholeError):  # replaced on the way, or damaged
                if tries == _ANEW:
                    raise
            else:
                break

    def size(self, path: str) -> int | None:
        """Bytes of an object."""
        return int(self._describe(path)["size"])

    def sha256(self, path: str) -> str:
        """Sha256 of an object, hexadecimal, as its writer told Google; "" if it did not."""
        return str(self._describe(path).get("metadata", {}).get(_SHA256, ""))

    def below(self, folder: str) -> list[str]:
        """Paths of all objects below a folder."""
        bucket, _, name = folder.partition("/")
        asked = {"prefix": f"{name}/" if name else "", "fields": "items(name),nextPageToken"}
        found: list[str] = []
        while True:
            page = json.loads(self._ask("GET", "b/{}/o", bucket, **asked)[2])
            found += (item["name"] for item in page.get("items", ()))
            if "nextPageToken" not in page:
                return [f"{bucket}/{name}" for name in found if not name.endswith("/")]
            asked["pageToken"] = page["nextPageToken"]

    def remove(self, path: str) -> None:
        """Removes an object."""
        self._ask("DELETE", "b/{}/o/{}", *path.split("/", 1))

    def _ask(self, method: str, url: str, *names: str, **more: Any) -> _Answer:
        status, headers, _, content = self._fs.ask(method, url, *names, **more)
        return status, headers, content

    def _describe(self, path: str) -> dict[str, Any]:
        return json.loads(self._ask("GET", "b/{}/o/{}", *path.split("/", 1))[2])

    def _media(self, path: str, headers: Mapping[str, str] | None = None, **query: str) -> _Answer:
        return self._ask("GET", self._fs.url(path), headers=headers, **query)

    def _piece(self, path: str, start: int, end: int, **query: str) -> _Piece:
        """Bytes start to end of an object, as far as it goes."""
        try:
            status, headers, content = self._media(
                path, {"Range": f"bytes={start}-{end - 1}"}, **query
            )
        except HttpError as error:
            if error.code != 416:
                raise
            return _Piece(content=b"", total=0, generation="", crc32c="")  # it ends before start
        total = len(content)
        if status == 200:  # the whole of it
            content = content[start:end]
        else:
            said = headers.get("Content-Range", "")
            total = int(said.rpartition("/")[2]) if re.search(r"/\d+$", said) else 0
            if said != f"bytes {start}-{min(end, total) - 1}/{total}":
                raise NotWholeError(f"{said or 'something'} came instead of {start}-{end - 1}")
        return _Piece(
            content=content,
            total=total,
            generation=headers.get("X-Goog-Generation", ""),
            crc32c=stored_crc32c(headers),
        )

    def _fetch_from(self, first: _Piece, path: str, local: Path) -> None:
        """Writes an object of which the first piece is here; a cut costs one piece, not all."""
        # of one generation, so that an object replaced meanwhile is no mixture
        pinned = {"generation": first.generation} if first.generation else {}
        with local.open("wb") as file:
            file.truncate(first.total)
            handle = file.fileno()
            _write_at(handle, first.content, 0)

            def fetch(start: int) -> None:
                end = min(start + _PIECE, first.total)
                _write_at(handle, self._piece(path, start, end, **pinned).content, start)

            in_parallel(fetch, range(len(first.content), first.total, _PIECE), _SIDE_BY_SIDE)
        if first.crc32c not in ("", file_crc32c(local)):
            raise NotWholeError(f"the {first.total} bytes that came are not those of the object")

    def _upload(self, path: str, data: bytes, about: Mapping[str, Any], **query: str) -> None:
        """Description and content in one request: the object is there as a whole or not at all."""
        bucket, name = path.split("/", 1)
        border = uuid4().hex
        head = (
            f"--{border}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n"
            f"{json.dumps({'name': name, **about})}\r\n"
            f"--{border}\r\nContent-Type: {_kind(name)}\r\n\r\n"
        )
        self._ask(
            "POST",
            f"{self._fs.upload_base}b/{{}}/o",
            bucket,
            uploadType="multipart",
            headers={"Content-Type": f"multipart/related; boundary={border}"},
            data=b"".join((head.encode(), data, f"\r\n--{border}--\r\n".encode())),
            **query,
        )

    def _put(self, path: str, piece_at: _PieceAt, size: int, about: Mapping[str, Any]) -> None:
        """Sends a small object in one request, a large one in pieces."""
        if size <= _PIECE:
            self._upload(path, piece_at(0), about)
            return
        bucket, name = path.split("/", 1)
        for tries in range(1, _ANEW + 1):
            _, headers, _ = self._ask(
                "POST",
                f"{self._fs.upload_base}b/{{}}/o",
                bucket,
                uploadType="resumable",
                headers={
                    "X-Upload-Content-Type": _kind(name),
                    "X-Upload-Content-Length": str(size),
                },
                json={"name": name, **about},
            )
            try:
                self._send(headers["Location"], piece_at, size)
            except _LostError as error:
                if tries == _ANEW:
                    raise NotWholeError(
                        f"the service forgot the upload {_ANEW} times before it was whole"
                    ) from error
            else:
                break

    def _send(self, session: str, piece_at: _PieceAt, size: int) -> None:
        """Sends an object by pieces, each from where the service says that it has got to."""
        arrived = idle = 0
        while idle < self._fs.patience.tries:
            status, headers = self._send_piece(session, piece_at(arrived), (arrived, size), idle)
            if status != 308:
                return
            before, arrived = arrived, _arrived(headers)
            idle = 0 if arrived > before else idle + 1
        raise NotWholeError(f"the upload does not get beyond {arrived} of {size} bytes")

    def _send_piece(
        self, session: str, piece: bytes, place: tuple[int, int], idle: int
    ) -> tuple[int, Mapping[str, str]]:
        """The answer to a piece, or to the question how much arrived, if that was lost."""
        start, size = place
        span = f"{start}-{start + len(piece) - 1}" if piece else "*"
        try:
            return self._go_on(session, f"bytes {span}/{size}", piece, tries=1)
        except Exception as error:
            if not is_passing(error):
                raise
        time.sleep(self._fs.patience.pause(idle + 1))
        return self._go_on(session, f"bytes */{size}", b"")

    def _go_on(
        self, session: str, span: str, piece: bytes, tries: int = 0
    ) -> tuple[int, Mapping[str, str]]:
        try:
            status, headers, _ = self._ask(
                "PUT", session, headers={"Content-Range": span}, data=piece, tries=tries
            )
        except FileNotFoundError as error:
            raise _LostError from error
        except HttpError as error:
            if error.code == 410:
                raise _LostError from error
            raise
        return status, headers


def _arrived(headers: Mapping[str, str]) -> int:
    """Bytes of an upload that are safe, from an answer that wants more."""
    match = re.fullmatch(r"bytes=0-(\d+)", headers.get("Range", ""))
    return int(match[1]) + 1 if match else 0


def _kind(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _write_at(handle: int, data: bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(handle, rest, offset)
        rest, offset = rest[written:], offset + written
