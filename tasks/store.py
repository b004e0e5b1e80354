"""The store: objects under keys below one URL; all the rest of the program sees of a bucket.

gs://, memory:// and a plain folder behave alike: an object appears whole or not at all, a write is
read back before it counts, a read brings all of an object or fails, listings are never cached and
nothing is decided from one alone, and one of many writers wins a claim.
"""

import hashlib
import json
import logging
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import fsspec  # type: ignore[import-untyped]  # it has neither types nor stubs
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from tasks.digests import file_sha256
from tasks.errors import (
    DamagedObjectError,
    MissingObjectError,
    StoreRefusedError,
    StoreUnavailableError,
    explained,
)
from tasks.folder_objects import FolderObjects
from tasks.records import Artifact
from tasks.remote_objects import RemoteObjects
from tasks.secrets import NO_SECRETS, holds_secret, without_secrets
from yolov5_core.durable import part_of
from yolov5_core.limits import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from tasks.google_objects import GoogleObjects

log = logging.getLogger(__name__)

_POINTER = re.compile(r"(\d{8})\.json")
_TAKEN = 200  # numbers of a pointer log that others may take before us
_GOOGLE = ("gs://", "gcs://")
# Their debug lines show URLs and headers; what failed is said by us, in a sentence.
_TALKATIVE = ("gcsfs", "google", "urllib3", "requests_oauthlib", "aiohttp", "fsspec")


def open_store(url: str) -> "Store":
    """Opens a folder or any fsspec URL; no bucket is contacted, and nothing created yet.

    Raises:
        StoreRefusedError: An unknown kind of URL, one with a password, unusable credentials, or
            its package is not installed.
    """
    shown = without_secrets(url)
    if holds_secret(url):
        raise StoreRefusedError(f"{shown}: {NO_SECRETS}")
    if url.startswith(_GOOGLE):
        return _open_google(url)
    _hush()
    options: dict[str, Any] = {"use_listings_cache": False}
    if "://" not in url or url.startswith(("file://", "local://")):
        options = {"auto_mkdir": True}
        url = str(Path(url).expanduser().absolute()) if "://" not in url else url
    try:
        fs, root = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise StoreRefusedError(
            f"{shown}: the package for this kind of URL is not installed: {error}"
        ) from error
    except ValueError as error:
        raise StoreRefusedError(
            f"{shown}: {error}; use a folder, gs://BUCKET/PATH or another fsspec URL"
        ) from error
    root = root.rstrip("/")
    if isinstance(fs, LocalFileSystem):
        return Store(fs=fs, root=root, shown=root, folder=Path(root), objects=FolderObjects())
    shown = shown.rstrip("/")
    return Store(fs=fs, root=root, shown=shown, folder=None, objects=RemoteObjects(fs))


def _open_google(url: str) -> "Store":
    # Read when gcsfs is imported. Otherwise each first look-up of a bucket tries gRPC for 60 s
    # against an emulator, and plain buckets need none.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    from tasks.google_objects import GoogleObjects  # noqa: PLC0415  gcsfs takes half a second
    from tasks.google_requests import google_storage  # noqa: PLC0415  as above

    _hush()
    with explained(f"cannot open {url}"):
        fs = google_storage()
    root = url.partition("://")[2].rstrip("/")
    return Store(fs=fs, root=root, shown=url.rstrip("/"), folder=None, objects=GoogleObjects(fs))


def _hush() -> None:
    for name in _TALKATIVE:
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """Objects below one root. Keys are relative, with slashes: `runs/7/results.txt`."""

    fs: Any  # fsspec.AbstractFileSystem, which has no types
    root: str
    shown: str  # the root as people write it, without credentials
    folder: Path | None  # the root, if it is a folder of this machine
    objects: "FolderObjects | RemoteObjects | GoogleObjects"

    def url(self, key: str) -> str:
        """Where an object is, for people: a path or a URL."""
        return f"{self.shown}/{key}"

    def check_writable(self) -> None:
        """Writes and removes a small object, so that a fault shows before any work.

        Raises:
            StoreError: Unreachable, no such bucket, no permission, no space.
        """
        probe = f"probe-{uuid.uuid4().hex}"
        log.info("checking that %s can be written", self.shown)
        try:
            self.put_bytes(b"probe", probe)
            self.delete(probe)
        except MissingObjectError as error:
            raise StoreRefusedError(
                f"{self.shown}: no such bucket; create it or correct the URL"
            ) from error

    def put_file(self, local: Path, key: str) -> Artifact:
        """Stores a file under a key, replacing what is there, and reads it back.

        Raises:
            FileNotFoundError: No such local file.
            StoreError: It could not be stored, or what is stored differs.
        """
        artifact = Artifact(key=key, size=local.stat().st_size, sha256=file_sha256(local))
        with self._explained("write", key):
            self.objects.write(self._path(key), local, artifact.sha256)
        return artifact

    def put_bytes(self, data: bytes, key: str) -> Artifact:
        """Stores bytes under a key, replacing what is there, and reads them back.

        Raises:
            StoreError: They could not be stored, or what is stored differs.
        """
        artifact = Artifact(key=key, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        with self._explained("write", key):
            self.objects.write(self._path(key), data, artifact.sha256)
        return artifact

    def put_json(self, doc: Mapping[str, Any], key: str) -> Artifact:
        """Stores a document as indented JSON."""
        return self.put_bytes(json_bytes(doc), key)

    def get_file(self, key: str, local: Path, expected: Artifact | None = None) -> Path:
        """Copies an object to a local file, which appears whole or not at all.

        Raises:
            MissingObjectError: No such object.
            DamagedObjectError: It is not the expected one.
            StoreError: It cannot be read.
        """
        with self._explained("read", key), part_of(local) as part:
            self.objects.fetch(self._path(key), part)
            if expected:
                _compare(expected, part, self.url(key))
            part.replace(local)
        return local

    def read_bytes(self, key: str) -> bytes:
        """The content of an object.

        Raises:
            MissingObjectError: No such object.
            StoreError: It cannot be read.
        """
        with self._explained("read", key):
            return self.objects.read(self._path(key))

    def read_artifact(self, artifact: Artifact) -> bytes:
        """The content of a recorded object.

        Raises:
            MissingObjectError: No such object.
            DamagedObjectError: It is not the recorded one.
        """
        data = self.read_bytes(artifact.key)
        if hashlib.sha256(data).hexdigest() != artifact.sha256:
            raise DamagedObjectError(f"{self.url(artifact.key)}: not the bytes that were recorded")
        return data

    def read_range(self, key: str, start: int, end: int) -> bytes:
        """Bytes start to end (exclusive) of an object, fewer at its end.

        Raises:
            MissingObjectError: No such object.
            StoreError: They cannot be read.
        """
        with self._explained("read", key):
            return self.objects.read_range(self._path(key), start, end)

    def read_json(self, key: str) -> dict[str, Any]:
        """The document under a key.

        Raises:
            MissingObjectError: No such object.
            DamagedObjectError: It is not a JSON object.
        """
        data = self.read_bytes(key)  # not in the try: a refusal is a ValueError too
        if len(data) > MAX_RECORD_BYTES:
            raise DamagedObjectError(
                f"{self.url(key)}: {len(data)} bytes, no record of ours has over {MAX_RECORD_BYTES}"
            )
        try:
            doc = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise DamagedObjectError(f"{self.url(key)}: not JSON: {error}") from error
        if not isinstance(doc, dict):
            raise DamagedObjectError(f"{self.url(key)}: a {type(doc).__name__}, not a JSON object")
        return doc

    def size(self, key: str) -> int | None:
        """Bytes of an object, None if there is none."""
        try:
            with self._explained("look up", key):
                return self.objects.size(self._path(key))
        except MissingObjectError:
            return None

    def exists(self, key: str) -> bool:
        """Whether there is an object under a key, now."""
        return self.size(key) is not None

    def holds(self, artifact: Artifact) -> bool:
        """Whether the object recorded is there and still the same.

        Raises:
            StoreError: The store does not say.
        """
        if self.size(artifact.key) != artifact.size:
            return False
        try:
            with self._explained("look up", artifact.key):
                digest = self.objects.sha256(self._path(artifact.key))
        except MissingObjectError:
            return False
        return digest in ("", artifact.sha256)

    def keys(self, prefix: str) -> list[str]:
        """Keys of all objects below a folder ("": the root), at any depth, sorted."""
        with self._explained("list", prefix):
            try:
                paths = self.objects.below(self._path(prefix) if prefix else self.root)
            except FileNotFoundError:
                paths = []
        start = len(self.root) + 1
        return sorted(path[start:] for path in paths)

    def delete(self, key: str) -> None:
        """Removes an object; there being none is fine."""
        try:
            with self._explained("remove", key):
                self.objects.remove(self._path(key))
        except MissingObjectError:
            pass

    def claim(self, data: bytes, key: str) -> bool:
        """Creates an object only if there is none; True if the one there now is ours.

        Of several claimants one wins, if their bytes differ: an answer can get lost after the
        object was made, and then only the bytes tell whose it is.

        Raises:
            MissingObjectError: There was one, and it was removed before it could be read.
            StoreError: It cannot be told who won.
        """
        with self._explained("claim", key):
            try:
                self.objects.create(self._path(key), data)
            except FileExistsError:
                return self.read_bytes(key) == data
        return True

    def append_pointer(self, prefix: str, doc: Mapping[str, Any]) -> int:
        """Adds an entry to a pointer log and returns its number, from 1.

        An entry is `<prefix>/00000001.json`; entries are never rewritten, the newest one counts.

        Raises:
            StoreUnavailableError: Others take every number first.
            StoreError: The store failed.
        """
        first = self._highest(prefix) + 1
        for number in range(first, first + _TAKEN):  # a taken one leads to the next: no gaps
            if self.claim_pointer(prefix, number, doc):
                return number
        raise StoreUnavailableError(
            f"cannot add to {self.url(prefix)}: others took the {_TAKEN} numbers from {first} on; "
            "see who writes there all the time, then run again"
        )

    def claim_pointer(self, prefix: str, number: int, doc: Mapping[str, Any]) -> bool:
        """Adds an entry to a pointer log under just this number; False if another one has it.

        Raises:
            StoreError: It cannot be told who has it.
        """
        claim = {**doc, "claim": uuid.uuid4().hex}  # bytes tell claims apart
        return self.claim(json_bytes(claim), f"{prefix}/{number:08d}.json")

    def newest_pointer(self, prefix: str) -> tuple[int, dict[str, Any]] | None:
        """Number and document of the newest readable entry of a pointer log, None without any."""
        return next(self.pointers(prefix, self.highest_pointer(prefix)), None)

    def pointers(self, prefix: str, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Numbers and documents of the readable entries of a pointer log, from one downwards."""
        for number in range(start, 0, -1):
            try:
                doc = self.read_json(f"{prefix}/{number:08d}.json")
            except (DamagedObjectError, MissingObjectError) as error:
                log.warning("skipping an entry: %s", error)
                continue
            doc.pop("claim", None)
            yield number, doc

    def highest_pointer(self, prefix: str) -> int:
        """The highest number of a pointer log, readable or not; 0 without any."""
        newest = self._highest(prefix)
        while self.exists(f"{prefix}/{newest + 1:08d}.json"):  # one that the listing did not have
            newest += 1
        return newest

    def _highest(self, prefix: str) -> int:
        """The highest number of a pointer log that a listing has, 0 without any."""
        names = (key.removeprefix(f"{prefix}/") for key in self.keys(prefix))
        return max((int(m[1]) for name in names if (m := _POINTER.fullmatch(name))), default=0)

    def _path(self, key: str) -> str:
        if not key or key.startswith("/") or ".." in PurePosixPath(key).parts:
            raise ValueError(f"key {key!r}: must be relative and stay below the root")
        return f"{self.root}/{key}"

    def _explained(self, action: str, key: str) -> AbstractContextManager[None]:
        """Turns what a backend raises into a StoreError with a sentence."""
        return explained(f"cannot {action} {self.url(key)}")


def _compare(expected: Artifact, part: Path, where: str) -> None:
    size = part.stat().st_size
    if size != expected.size or file_sha256(part) != expected.sha256:
        raise DamagedObjectError(
            f"{where}: {size} bytes, not the {expected.size} bytes that were recorded, or changed; "
            "it was damaged or replaced"
        )


def json_bytes(doc: Mapping[str, Any]) -> bytes:
    """Indented JSON, UTF-8, keys in their order.

    Raises:
        ValueError: NaN or infinity, which JSON does not have.
    """
    return (json.dumps(doc, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
