"""From a user's data to a prepared data set: read what changed, check it, pack it, name it.

Memory is bounded: pictures pass through worker processes in pieces, and only their index rows stay.
"""

import gc
import logging
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path

import cv2
import numpy as np

from tasks.cluster import on_cluster
from tasks.datasets import Manifest, manifest_doc, manifest_key, open_index, whole_manifest
from tasks.errors import DamagedObjectError, TransientError
from tasks.known import Known, key_of, load_known, save_known, stamps_of
from tasks.records import Artifact
from tasks.remote_files import open_files
from tasks.store import Store, json_bytes
from tasks.transfers import in_parallel
from yolov5_core.data_yaml import whole_path
from yolov5_core.dataset import DataError, first_lines
from yolov5_core.faults import Fault
from yolov5_core.files import Files
from yolov5_core.index import SPLITS, Index, build_index, concatenate
from yolov5_core.shards import (
    CheckedPiece,
    Piece,
    ShardWriter,
    check_piece,
    make_pieces,
    shard_name,
)
from yolov5_core.sources import Item, Sources, understand

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

_PIECE_BYTES, _PIECE_PICTURES = 16_000_000, 500
_WORTH_PROCESSES = 1000  # pictures; starting processes takes as long as checking that many
_UPLOADS = 4  # side by side
_STALE = 86_400  # seconds, of what a killed preparation left behind


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """A prepared data set and how it came about."""

    digest: str
    index: Index
    sources: Sources
    faults: tuple[Fault, ...]
    new_rows: np.ndarray  # of the index: read tonight
    removed: int  # pictures of the last preparation that are gone
    read: int  # pictures read tonight, left out or not


@dataclass(frozen=True, kw_only=True, slots=True)
class _Old:
    """The data set of the last preparation, as far as it can be used again."""

    known: Known
    index: Index
    shards: tuple[Artifact, ...]


def pack(store: Store, data: str, progress: Progress, dask: str = "") -> Packed:
    """Prepares a data set; the source is only read, and only where it changed.

    Args:
        store: Gets `datasets/<digest>/`.
        data: A data.yaml or folder, local or a URL.
        progress: Called with pictures done and to do.
        dask: Address of a scheduler whose workers check the pictures, if there are many; "": the
            processors of this machine do.

    Raises:
        DataError: Nothing usable there.
        ConfigError: The workers of the cluster cannot check this data, see tasks.cluster.
        StoreError: Store or source failed.
        TransientError: A worker process died, or there is no cluster.
    """
    source, files = whole_path(data), open_files(data)
    old = _load_old(store, source)
    known = old.known if old else None

    def is_known(item: Item) -> bool:
        number = known.numbers.get(key_of(item)) if known else None
        return number is not None and known.stamps[number] == stamps_of([item])[0]  # type: ignore[union-attr]  # a number comes from it

    with _no_garbage_collection():
        sources = understand(source, files, known.class_names if known else (), is_known)
    for line in sources.understood:
        log.info("%s", line)
    stamps, keys = stamps_of(sources.items), [key_of(item) for item in sources.items]
    before = _numbers_before(old, sources.names, keys, stamps)
    todo = np.flatnonzero(before < 0)
    log.info(
        "%d pictures: %d as they were, %d to read", len(before), len(before) - len(todo), len(todo)
    )
    with _staging(store) as folder:
        writer = ShardWriter(folder)
        elsewhere = partial(on_cluster, dask) if dask else _in_processes
        fresh, used, fresh_faults = _check_all(sources, files, todo, writer, (elsewhere, progress))
        origin = np.full(len(before), -1)
        origin[used] = np.arange(len(used))
        index, kept = _compose(old, before, origin, fresh)
        faults = sorted(fresh_faults + _faults_before(old, before), key=itemgetter(0))
        _require_usable(index, sources, [fault for _, fault in faults])
        digest = index.digest(sources.names)
        manifest = _commit(store, digest, sources.names, index, (kept, writer.paths, folder))
    log.info("data set %s: %d shards", digest[:12], len(manifest.shards))
    rows = np.full(len(before), -1)
    is_used = (origin >= 0) | (_rows_before(old, before) >= 0)
    rows[is_used] = np.arange(len(index))
    tonight = Known(
        digest=digest,
        class_names=sources.names,
        names=np.frombuffer(_written(keys), np.uint8),
        stamps=stamps,
        rows=rows,
        faults=tuple(faults),
    )
    save_known(store, source, tonight)
    return Packed(
        digest=digest,
        index=index,
        sources=sources,
        faults=(*sources.faults, *(fault for _, fault in faults)),
        new_rows=rows[origin >= 0],
        removed=len(known.numbers.keys() - keys) if known else 0,
        read=len(todo),
    )


def _load_old(store: Store, source: str) -> _Old | None:
    known = load_known(store, source)
    if known is None:
        return None
    manifest = whole_manifest(store, known.digest)
    if manifest is None:
        log.warning("the last preparation is not whole any more: reading all of it")
        return None
    try:
        index = open_index(store, manifest, known.digest)
    except DamagedObjectError as error:
        log.warning("the last preparation cannot be used again (%s): reading all of it", error)
        return None
    return _Old(known=known, index=index, shards=manifest.shards)


def _numbers_before(
    old: _Old | None, names: tuple[str, ...], keys: Sequence[str], stamps: np.ndarray
) -> np.ndarray:
    """For each item its number in the last preparation if it is unchanged, else -1."""
    if old is None or names[: len(old.known.class_names)] != old.known.class_names:
        return np.full(len(stamps), -1)
    if _written(keys) == old.known.names.tobytes():  # no picture came or went
        found = np.arange(len(keys))
    else:
        numbers = old.known.numbers
        found = np.array([numbers.get(key, -1) for key in keys], np.int64)
    same = found >= 0
    same[same] = old.known.stamps[found[same]] == stamps[same]
    if len(names) > len(old.known.class_names):  # a new class may heal an old fault
        faulty = np.unique(np.array([number for number, _ in old.known.faults], np.int64))
        same &= ~np.isin(found, faulty)
    return np.where(same, found, -1)


def _written(keys: Sequence[str]) -> bytes:
    """The keys as Known.names has them."""
    return ("\0".join(keys) + "\0").encode()


def _rows_before(old: _Old | None, before: np.ndarray) -> np.ndarray:
    """Row of each unchanged item in the last index; -1 if it has none."""
    rows = np.full(len(before), -1)
    if old is not None:
        rows[before >= 0] = old.known.rows[before[before >= 0]]
    return rows


def _faults_before(old: _Old | None, before: np.ndarray) -> list[tuple[int, Fault]]:
    if old is None:
        return []
    now = {int(number): i for i, number in enumerate(before) if number >= 0}
    return [(now[number], fault) for number, fault in old.known.faults if number in now]


def _compose(
    old: _Old | None, before: np.ndarray, origin: np.ndarray, new: Index
) -> tuple[Index, list[Artifact]]:
    """The whole index in the order of the items, and the old shards it uses, numbered first."""
    rows = _rows_before(old, before)
    if old is None or not (rows >= 0).any():
        return new, []
    reused = old.index.take(rows[rows >= 0])
    numbers, compact = np.unique(reused.images["shard"], return_inverse=True)
    reused.images["shard"] = compact
    fresh = new.images.copy()
    fresh["shard"] += len(numbers)
    both = concatenate([reused, Index(new.names, fresh, new.labels, new.points)])
    place = np.where(origin >= 0, origin + len(reused), -1)
    place[rows >= 0] = np.arange(len(reused))
    return both.take(place[place >= 0]), [old.shards[number] for number in numbers]


def _check_all(
    sources: Sources,
    files: Files,
    todo: np.ndarray,
    writer: ShardWriter,
    by: tuple[Callable[[Sequence[Piece]], Iterator[CheckedPiece]], Progress],
) -> tuple[Index, np.ndarray, list[tuple[int, Fault]]]:
    """Checks and packs chosen items: index of the good ones, their numbers, and all faults."""
    elsewhere, progress = by
    items = [sources.items[number] for number in todo.tolist()]
    bounds = make_pieces(items, piece_bytes=_PIECE_BYTES, piece_items=_PIECE_PICTURES)
    pieces = [
        Piece(
            items=tuple(items[first:last]),
            first=first,
            files=files,
            class_names=sources.names,
            categories=sources.categories,
            output=writer.folder / f"piece-{first}",
        )
        for first, last in bounds
    ]
    indices, used, faults = [build_index([])], [np.zeros(0, np.int64)], []
    started = said = time.monotonic()
    checked = elsewhere(pieces) if len(items) > _WORTH_PROCESSES else map(check_piece, pieces)
    with closing(writer):
        for (first, last), piece in zip(bounds, checked, strict=True):
            indices.append(writer.add(piece))
            used.append(piece.used + first)
            faults += [(int(todo[first + number]), fault) for number, fault in piece.faults]
            progress(last, len(items))
            if time.monotonic() - said > 30:
                said = time.monotonic()
                rate = last / (said - started)
                log.info("%d of %d pictures checked, %.0f a second", last, len(items), rate)
    return concatenate(indices), todo[np.concatenate(used)], faults


def _in_processes(pieces: Sequence[Piece]) -> Iterator[CheckedPiece]:
    """The pieces in their order, checked side by side."""
    context = multiprocessing.get_context("spawn")  # we may be a thread of a busy process
    with ProcessPoolExecutor(os.cpu_count(), context, cv2.setNumThreads, (1,)) as pool:
        try:
            yield from pool.map(check_piece, pieces)
        except BrokenProcessPool as error:
            raise TransientError(
                "a process that checks pictures died, most often for want of memory; start again"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _require_usable(index: Index, sources: Sources, faults: Sequence[Fault]) -> None:
    """Raises DataError for a split without a usable picture or a single label (spec C.3)."""
    ends = index.images["label_end"]
    for number, split in enumerate(SPLITS):
        first, last = index.rows(split)
        if first < last and ends[last - 1] > (ends[first - 1] if first else 0):
            continue
        items = [item for item in sources.items if item.split == number]
        if first == last:
            reasons = [f"{f.where}: {f.reason}" for f in faults if f.effect == "picture left out"]
            raise DataError(
                f"{split}: none of {len(items)} images can be used:\n{first_lines(reasons)}"
            )
        without = sum(not item.truth for item in items)
        example = items[0]
        raise DataError(
            f"{split}: no labels in {last - first} images ({without} without a label file, "
            f"{len(items) - without} with an empty one); the labels of {example.image} are looked "
            f"for at {example.truth or example.label_place}"
        )


def _commit(
    store: Store,
    digest: str,
    names: tuple[str, ...],
    index: Index,
    parts: tuple[list[Artifact], list[Path], Path],
) -> Manifest:
    """Stores shards and index, then the manifest: the first whole one of a digest counts."""
    key = manifest_key(digest)
    kept, shards, folder = parts
    if (manifest := whole_manifest(store, digest)) is not None:
        return manifest

    def put(number_and_path: tuple[int, Path]) -> Artifact:
        number, path = number_and_path
        target = f"datasets/{digest}/{shard_name(number)}"
        if store.exists(target):  # of an attempt that did not end, or of one beside us
            target = f"datasets/{digest}/{os.urandom(4).hex()}-{shard_name(number)}"
        return store.put_file(path, target)

    new = in_parallel(put, enumerate(shards, len(kept)), _UPLOADS)
    local = index.save(folder / "index.npz")
    stem = f"datasets/{digest}/index"
    index_key = (
        f"{stem}-{os.urandom(4).hex()}.npz" if store.exists(f"{stem}.npz") else f"{stem}.npz"
    )
    manifest = Manifest(
        names=names,
        index=store.put_file(local, index_key),
        shards=(*kept, *new),
        pictures={split: int(np.diff(index.rows(split))[0]) for split in SPLITS},
    )
    if not store.claim(json_bytes(manifest_doc(manifest)), key):
        if (first := whole_manifest(store, digest)) is not None:
            return first
        store.put_json(manifest_doc(manifest), key)  # the same data, of which parts were lost
    return manifest


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """For a while that makes many objects which all stay: looking for garbage costs a fifth."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def _staging(store: Store) -> Iterator[Path]:
    """A folder for shards until they have a name: beside the store's own if it is local."""
    parent = store.folder / "datasets" if store.folder else Path(tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(".staging-*"):
        if left.stat().st_mtime < time.time() - _STALE:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=parent) as folder:
        yield Path(folder)
