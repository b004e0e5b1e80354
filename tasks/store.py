"""The store: objects under keys below one URL; the only module that touches a bucket.

gs://, memory:// and a plain folder behave alike: an object appears whole or not at all, a write is
read back before it counts, listings are never cached, and one of many writers wins a claim.
"""

import base64
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec  # type: ignore[import-untyped]  # it has neither types nor stubs
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from tasks.errors import (
    DamagedObjectError,
    MissingObjectError,
    StoreError,
    StoreRefusedError,
    StoreUnavailableError,
    explained,
)
from tasks.records import Artifact

log = logging.getLogger(__name__)

_PART = ".part-"  # in the name of a file that is being written
_CHUNK = 1 << 20  # bytes
_POINTER = re.compile(r"(\d{8})\.json")


def open_store(url: str) -> "Store":
    """Opens a folder or any fsspec URL; nothing is contacted or created yet.

    Raises:
        StoreRefusedError: An unknown kind of URL, or its package is not installed.
    """
    shown = re.sub(r"//[^/@]*@", "//", url)  # no user:password in messages
    if url.startswith(("gs://", "gcs://")):
        # Read when gcsfs is imported. Otherwise each first look-up of a bucket tries gRPC for 60 s
        # against an emulator, and plain buckets need none.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # we say it once, in a sentence
    options: dict[str, Any] = {"use_listings_cache": False}
    if url.startswith(("gs://", "gcs://")) and os.environ.get("STORAGE_EMULATOR_HOST"):
        options["token"] = "anon"  # noqa: S105  an emulator knows no credentials
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
    folder = Path(root) if isinstance(fs, LocalFileSystem) else None
    shown = str(folder) if folder else shown.rstrip("/")
    return Store(fs=fs, root=root.rstrip("/"), shown=shown, folder=folder)


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """Objects below one root. Keys are relative, with slashes: `runs/7/results.txt`."""

    fs: Any  # fsspec.AbstractFileSystem, which has no types
    root: str
    shown: str  # the root as people write it, without credentials
    folder: Path | None  # the root, if it is a folder of this machine

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
            if self.folder:
                self._put_local(artifact, lambda part: shutil.copyfile(local, part))
            else:
                self.fs.put_file(str(local), self._path(key))
                self._verify_remote(artifact, _md5(local))
        return artifact

    def put_bytes(self, data: bytes, key: str) -> Artifact:
        """Stores bytes under a key, replacing what is there, and reads them back.

        Raises:
            StoreError: They could not be stored, or what is stored differs.
        """
        artifact = Artifact(key=key, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        with self._explained("write", key):
            if self.folder:
                self._put_local(artifact, lambda part: part.write_bytes(data))
            else:
                self.fs.pipe_file(self._path(key), data)
                md5 = hashlib.md5(data, usedforsecurity=False)
                self._verify_remote(artifact, base64.b64encode(md5.digest()).decode())
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
        with self._explained("read", key), _part(local) as part:
            self.fs.get_file(self._path(key), str(part))
            if expected:
                _compare(expected, part, self.url(key), DamagedObjectError)
            part.replace(local)
        return local

    def read_bytes(self, key: str) -> bytes:
        """The content of an object.

        Raises:
            MissingObjectError: No such object.
            StoreError: It cannot be read.
        """
        with self._explained("read", key):
            return bytes(self.fs.cat_file(self._path(key)))

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
        """Bytes start to end (exclusive) of an object.

        Raises:
            MissingObjectError: No such object.
            StoreError: They cannot be read.
        """
        with self._explained("read", key):
            return bytes(self.fs.cat_file(self._path(key), start=start, end=end))

    def read_json(self, key: str) -> dict[str, Any]:
        """The document under a key.

        Raises:
            MissingObjectError: No such object.
            DamagedObjectError: It is not a JSON object.
        """
        try:
            doc = json.loads(self.read_bytes(key))
        except ValueError as error:
            raise DamagedObjectError(f"{self.url(key)}: not JSON: {error}") from error
        if not isinstance(doc, dict):
            raise DamagedObjectError(f"{self.url(key)}: a {type(doc).__name__}, not a JSON object")
        return doc

    def size(self, key: str) -> int | None:
        """Bytes of an object, None if there is none."""
        try:
            with self._explained("look up", key):
                info = self.fs.info(self._path(key))
        except MissingObjectError:
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def exists(self, key: str) -> bool:
        """Whether there is an object under a key, now."""
        return self.size(key) is not None

    def keys(self, prefix: str) -> list[str]:
        """Keys of all objects below a folder ("": the root), at any depth, sorted."""
        with self._explained("list", prefix):
            try:
                paths = self.fs.find(self._path(prefix) if prefix else self.root)
            except FileNotFoundError:
                paths = []
        start = len(self.root) + 1
        return sorted(path[start:] for path in paths if _PART not in path)

    def delete(self, key: str) -> None:
        """Removes an object; there being none is fine."""
        try:
            with self._explained("remove", key):
                self.fs.rm_file(self._path(key))
        except MissingObjectError:
            pass

    def claim(self, data: bytes, key: str) -> bool:
        """Creates an object only if there is none; True if the one there now is ours.

        Of several claimants one wins, if their bytes differ: an answer can get lost after the
        object was made, and then only the bytes tell whose it is.
        """
        with self._explained("claim", key):
            try:
                if self.folder:
                    path = Path(self._path(key))
                    with _part(path) as part:
                        part.write_bytes(data)
                        _sync(part)
                        os.link(part, path)  # fails if there is one; never half there
                    _sync(path.parent)
                else:
                    self.fs.pipe_file(self._path(key), data, mode="create")
            except FileExistsError:
                return self.read_bytes(key) == data
        return True

    def append_pointer(self, prefix: str, doc: Mapping[str, Any]) -> int:
        """Adds an entry to a pointer log and returns its number, from 1.

        An entry is `<prefix>/00000001.json`; entries are never rewritten, the newest one counts.
        """
        data = json_bytes({**doc, "claim": uuid.uuid4().hex})
        while True:
            number = max(self._pointers(prefix), default=0) + 1
            if self.claim(data, f"{prefix}/{number:08d}.json"):
                return number

    def newest_pointer(self, prefix: str) -> tuple[int, dict[str, Any]] | None:
        """Number and document of the newest readable entry of a pointer log, None without any."""
        for number in sorted(self._pointers(prefix), reverse=True):
            try:
                doc = self.read_json(f"{prefix}/{number:08d}.json")
            except (DamagedObjectError, MissingObjectError) as error:
                log.warning("skipping an entry: %s", error)
                continue
            doc.pop("claim", None)
            return number, doc
        return None

    def _pointers(self, prefix: str) -> list[int]:
        names = (key.removeprefix(f"{prefix}/") for key in self.keys(prefix))
        return [int(match[1]) for name in names if (match := _POINTER.fullmatch(name))]

    def _path(self, key: str) -> str:
        if not key or key.startswith("/") or ".." in PurePosixPath(key).parts:
            raise ValueError(f"key {key!r}: must be relative and stay below the root")
        return f"{self.root}/{key}"

    def _put_local(self, artifact: Artifact, fill: Callable[[Path], object]) -> None:
        path = Path(self._path(artifact.key))
        with _part(path) as part:
            fill(part)
            _sync(part)
            _compare(artifact, part, self.url(artifact.key))
            part.replace(path)
        _sync(path.parent)

    def _verify_remote(self, artifact: Artifact, md5: str) -> None:
        """Reads back size and checksum, or the content where the store keeps no checksum."""
        try:
            info = self.fs.info(self._path(artifact.key))
        except FileNotFoundError:  # acknowledged and yet not there
            info = {"size": -1}
        same = info["size"] == artifact.size
        if same and "md5Hash" in info:
            same = info["md5Hash"] == md5
        elif same:
            with self.fs.open(self._path(artifact.key), "rb") as file:
                same = hashlib.file_digest(file, "sha256").hexdigest() == artifact.sha256
        if not same:
            raise StoreUnavailableError(
                f"{self.url(artifact.key)}: read back something else than was written; try again"
            )

    def _explained(self, action: str, key: str) -> AbstractContextManager[None]:
        """Turns what a backend raises into a StoreError with a sentence."""
        return explained(f"cannot {action} {self.url(key)}")


@contextmanager
def _part(path: Path) -> Iterator[Path]:
    """A temporary name beside a path; what is left under it afterwards is removed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # elsewhere this kind means that a claim is lost
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path.parent)) from error
    part = path.with_name(f"{path.name[:100]}{_PART}{uuid.uuid4().hex}")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Waits until a file or a folder's entries are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _compare(
    expected: Artifact, part: Path, where: str, kind: type[StoreError] = StoreUnavailableError
) -> None:
    size = part.stat().st_size
    if size != expected.size or file_sha256(part) != expected.sha256:
        raise kind(
            f"{where}: {size} bytes, not the {expected.size} bytes that were recorded, or changed; "
            "it was damaged or replaced"
        )


def file_sha256(path: Path) -> str:
    """Sha256 of a local file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()
    return base64.b64encode(digest).decode()


def json_bytes(doc: Mapping[str, Any]) -> bytes:
    """Indented JSON, UTF-8, keys in their order.

    Raises:
        ValueError: NaN or infinity, which JSON does not have.
    """
    return (json.dumps(doc, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
