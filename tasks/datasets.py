"""Prepared data sets in the store, and opening one: fetched, verified, read by offset.

`datasets/<digest>/manifest.json` names the classes, the index and the shards; a shard that an
earlier data set brought stays where it is and is named from there. All of it is immutable.
"""

import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.digests import file_sha256
from tasks.errors import DamagedObjectError, MissingObjectError, StoreUnavailableError
from tasks.progress import progress_bar
from tasks.records import Artifact, Prepared
from tasks.settings import RetrainConfig
from tasks.store import Store
from tasks.transfers import in_parallel
from yolov5_core.durable import settle
from yolov5_core.index import SPLITS, Index, Records, load_index

log = logging.getLogger(__name__)

MANIFEST_VERSION = 2
_BLOCK = 16_000_000  # bytes read from a bucket at once; what an interruption costs at most
_SIDE_BY_SIDE = 4  # shards fetched at once
_LOOK_UPS = 16  # at once
_KEEP_FREE = 1_000_000_000  # bytes of the cache's disk


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What `manifest.json` holds."""

    names: tuple[str, ...]
    index: Artifact
    shards: tuple[Artifact, ...]  # by the number that the index uses
    pictures: Mapping[str, int]  # by split


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """A data set ready to be read."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]  # in the source's COCO files; empty if there are none
    splits: Mapping[str, Records]


def manifest_key(digest: str) -> str:
    """Where the manifest of a data set is."""
    return f"datasets/{digest}/manifest.json"


def read_manifest(store: Store, digest: str) -> Manifest:
    """The manifest of a data set.

    Raises:
        DamagedObjectError: It is of another version or not a manifest.
        StoreError: It cannot be read.
    """
    key = manifest_key(digest)
    doc = store.read_json(key)
    if doc.get("version") != MANIFEST_VERSION:
        raise DamagedObjectError(
            f"{store.url(key)}: version {doc.get('version')}, not {MANIFEST_VERSION}; prepare the "
            "data again with a new run"
        )
    try:
        return Manifest(
            names=tuple(doc["names"]),
            index=Artifact(**doc["index"]),
            shards=tuple(Artifact(**shard) for shard in doc["shards"]),
            pictures=doc["pictures"],
        )
    except (KeyError, TypeError) as error:
        raise DamagedObjectError(f"{store.url(key)}: no manifest: {error}") from error


def whole_manifest(store: Store, digest: str) -> Manifest | None:
    """The manifest of a data set of which every part is there; None if there is none."""
    try:
        manifest = read_manifest(store, digest)
    except (MissingObjectError, DamagedObjectError) as error:
        log.debug("no manifest to use: %s", error)
        return None
    parts = (manifest.index, *manifest.shards)
    sizes = in_parallel(lambda part: store.size(part.key), parts, _LOOK_UPS)
    lost = [p.key for p, size in zip(parts, sizes, strict=True) if size != p.size]
    if lost:
        log.warning("%s is gone from data set %s", lost[0], digest[:12])
    return None if lost else manifest


def manifest_doc(manifest: Manifest) -> dict[str, Any]:
    """The manifest as JSON types."""
    return {"version": MANIFEST_VERSION, **asdict(manifest)}


def open_dataset(
    store: Store,
    prepared: Prepared,
    *,
    single_class: bool = False,
    splits: Sequence[str] = SPLITS,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Dataset:
    """Opens a prepared data set: what is missing is fetched, everything is verified once.

    Args:
        store: Where it was prepared.
        prepared: Which one.
        single_class: All classes become one.
        splits: Only their shards are fetched.
        progress: Called with bytes fetched and to fetch.

    Raises:
        DamagedObjectError: A part of it is not what was prepared.
        StoreError: It cannot be read.
    """
    manifest = read_manifest(store, prepared.digest)
    index = open_index(store, manifest, prepared.digest)
    rows = np.concatenate([np.arange(*index.rows(split)) for split in splits])
    needed = np.unique(index.images["shard"][rows]).tolist()
    local = _fetch_all(store, [manifest.shards[number] for number in needed], progress)
    files = dict(zip(needed, local, strict=True))
    by_number = [files.get(number, Path()) for number in range(len(manifest.shards))]
    names = ("item",) if single_class and len(manifest.names) > 1 else manifest.names
    records = {s: Records(index, s, by_number, single_class=single_class) for s in splits}
    ids = prepared.category_ids if names == manifest.names else ()
    return Dataset(names=names, category_ids=ids, splits=records)


def open_run_data(
    store: Store, prepared: Prepared, config: RetrainConfig, splits: Sequence[str] = SPLITS
) -> Dataset:
    """open_dataset as a run wants it, with a progress bar on a terminal."""
    with progress_bar("fetching data") as progress:
        return open_dataset(
            store, prepared, single_class=config.single_cls, splits=splits, progress=progress
        )


def open_index(store: Store, manifest: Manifest, digest: str) -> Index:
    """The index of a data set, proven to be the one its digest names."""
    (path,) = _fetch_all(store, [manifest.index], lambda *_: None)
    try:
        index = load_index(path)
    except ValueError as error:
        raise DamagedObjectError(str(error)) from error
    if index.digest(manifest.names) != digest:
        raise DamagedObjectError(
            f"{store.url(manifest_key(digest))}: pictures or labels are not those of this digest"
        )
    return index


def cache_folder() -> Path:
    """Where copies of objects are kept on this machine: they can be deleted at any time."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "yolov5-retrain"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if writable:
        return folder
    folder = Path(tempfile.gettempdir()) / f"yolov5-retrain-{os.getuid()}"  # a read-only container
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _fetch_all(
    store: Store, artifacts: Sequence[Artifact], progress: Callable[[int, int], None]
) -> list[Path]:
    """Local files of objects, verified: those of a local store itself, else copies."""
    if store.folder:
        return in_parallel(lambda a: _verified_in_place(store, a), artifacts, _SIDE_BY_SIDE)
    folder = cache_folder() / "objects"
    folder.mkdir(exist_ok=True)
    missing = [a for a in artifacts if not _cached(folder, a).is_file()]
    total, done = sum(a.size for a in missing), 0
    _make_room(folder, total, {a.sha256 for a in artifacts})

    def advance(size: int) -> None:
        nonlocal done
        done += size
        progress(done, total)

    return in_parallel(lambda a: _fetch(store, a, folder, advance), artifacts, _SIDE_BY_SIDE)


def _cached(folder: Path, artifact: Artifact) -> Path:
    return folder / artifact.sha256


def _fetch(store: Store, artifact: Artifact, folder: Path, advance: Callable[[int], None]) -> Path:
    """Copies an object to the cache, going on where an earlier attempt stopped."""
    path = _cached(folder, artifact)
    if path.is_file():
        os.utime(path)  # recently used
        return path
    with _locked(folder / f"{artifact.sha256}.lock"):
        if path.is_file():  # somebody else fetched it while we waited
            return path
        part = folder / f"{artifact.sha256}.part"
        with part.open("ab") as file:
            while (start := file.tell()) < artifact.size:
                end = min(start + _BLOCK, artifact.size)
                block = store.read_range(artifact.key, start, end)
                if len(block) != end - start:
                    part.unlink()
                    raise DamagedObjectError(f"{store.url(artifact.key)}: shorter than recorded")
                file.write(block)
                advance(len(block))
        if file_sha256(part) != artifact.sha256:
            part.unlink()
            raise DamagedObjectError(
                f"{store.url(artifact.key)}: not what was prepared; it was damaged or replaced: "
                "delete it and start a new run"
            )
        settle(part, path)  # it will be believed without another look
    (folder / f"{artifact.sha256}.lock").unlink(missing_ok=True)
    return path


def _verified_in_place(store: Store, artifact: Artifact) -> Path:
    """The object's own file in a local store; read through once, until it changes."""
    path = Path(store.folder or "") / artifact.key
    try:
        status = path.stat()
    except OSError as error:
        raise DamagedObjectError(f"{path}: a part of the data set is gone: {error}") from error
    identity = f"{path} {artifact.sha256} {status.st_size} {status.st_mtime_ns} {status.st_ino}"
    seen = cache_folder() / "verified" / hashlib.sha256(identity.encode()).hexdigest()
    if seen.exists():
        return path
    if status.st_size != artifact.size or file_sha256(path) != artifact.sha256:
        raise DamagedObjectError(
            f"{path}: not what was prepared; it was damaged or replaced: delete it and start a "
            "new run"
        )
    seen.parent.mkdir(exist_ok=True)
    seen.touch()
    return path


def _make_room(folder: Path, needed: int, in_use: set[str]) -> None:
    """Removes the copies that were used longest ago, if the disk would get full."""

    def free() -> int:
        return shutil.disk_usage(folder).free - _KEEP_FREE

    old = sorted(
        (p for p in folder.iterdir() if p.suffix == "" and p.name not in in_use),
        key=lambda p: p.stat().st_mtime,
    )
    while needed > free() and old:
        log.info("removing %s from the cache to make room", old[0])
        old.pop(0).unlink(missing_ok=True)
    if needed > free():
        raise StoreUnavailableError(
            f"{folder}: {needed / 1e9:.1f} GB of data are to be copied here and "
            f"{max(free(), 0) / 1e9:.1f} GB are free; make room, or name a folder on a larger disk "
            "in XDG_CACHE_HOME"
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among all processes of this machine."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
