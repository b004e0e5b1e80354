"""A run's checkpoints in the store: immutable objects and one pointer log.

An entry of the log names the newest state, the best one and those kept for good, so all move in one
write. It carries the attempt that made it and takes the number after the entry it builds on, so
once an attempt has resumed or saved, a late older one finds its number taken and adds no more.
Objects that neither the newest entry nor the one before it names are removed.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from tasks.errors import StoreUnavailableError
from tasks.lease import LeaseLostError
from tasks.records import Artifact
from tasks.stage import run_key
from tasks.store import Store

log = logging.getLogger(__name__)

_BACK = 4  # entries to try; older ones have lost their objects
_TRIES = 200  # numbers of the log that others may take before us
_ATTEMPT = re.compile(r"step-\d{8,}-\d{6,}-(\d{4,})\.pt")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pointer:
    """The newest entry of the log."""

    epoch: int  # last finished one, from 0; -1 before the first
    last: Artifact
    best: Artifact | None  # None while no best epoch was saved
    best_fitness: float
    kept: tuple[Artifact, ...] = ()  # weights/epoch<E>.pt, in the order they were made
    step: int = 0  # optimizer batches done; 0 in entries of earlier versions
    batch: int = 0  # batches done of the epoch under way, 0 at an epoch's end
    attempt: int = 0  # of the train stage; 0 in entries of earlier versions
    finished: Artifact | None = None  # state at the newest end of an epoch, None before the first


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """What a checkpoint is to its run."""

    epoch: int  # last finished one, from 0; -1 before the first
    is_best: bool  # then it becomes the best one too
    best_fitness: float  # so far
    is_kept: bool = False  # then it stays as weights/epoch<E>.pt too
    step: int = 0  # optimizer batches done
    batch: int = 0  # batches done of the epoch under way, 0 at an epoch's end
    attempt: int = 0  # of the stage that saves it


def newest(store: Store, run: str) -> Pointer | None:
    """What the log points at now, None before the first checkpoint."""
    return _newest(store, run)[1]


def resume(store: Store, run: str, attempt: int) -> Pointer | None:
    """The newest entry whose objects are whole, for an attempt that goes on from there.

    It becomes an entry of this attempt, after which no older attempt adds one.

    Raises:
        LeaseLostError: A newer attempt has resumed or saved already.
        StoreError: The store failed.
    """
    latest = newest(store, run)
    if latest is None:
        return None
    found = _newest_whole(store, run)
    if found == latest and latest.attempt == attempt:
        return latest
    return _add(store, run, attempt, lambda: replace(_newest_whole(store, run), attempt=attempt))


def commit(store: Store, run: str, content: bytes, saved: Saved) -> Pointer:
    """Stores a checkpoint and points the log at it; safe to repeat.

    Args:
        store: Where the run lives.
        run: Run id.
        content: Of the checkpoint's file.
        saved: What it is.

    Raises:
        LeaseLostError: A newer attempt has resumed or saved; the log is as before.
        StoreError: It could not be stored; the log is as before.
    """
    number, found = _newest(store, run)
    _check(found, saved.attempt)
    # An older attempt's entry that we did not resume from came late: its best is not ours.
    before = found if found and found.attempt == saved.attempt else None
    # No entry names it yet: this attempt's have other numbers, and those of others are told apart.
    name = f"step-{saved.step:08d}-{number + 1:06d}-{saved.attempt:04d}.pt"
    last = store.put_bytes(content, f"{_folder(run)}/{name}")
    best = last if saved.is_best else before and before.best
    kept = before.kept if before else ()
    if saved.is_kept:
        key = run_key(run, f"weights/epoch{saved.epoch}.pt")
        kept = (*(a for a in kept if a.key != key), store.put_bytes(content, key))
    pointer = Pointer(
        epoch=saved.epoch,
        last=last,
        best=best or None,
        best_fitness=saved.best_fitness,
        kept=kept,
        step=saved.step,
        batch=saved.batch,
        attempt=saved.attempt,
        finished=last if not saved.batch else before.finished if before else None,
    )
    _add(store, run, saved.attempt, lambda: pointer)
    _prune(store, run, [pointer, before])
    return pointer


def _newest(store: Store, run: str) -> tuple[int, Pointer | None]:
    number, doc = store.newest_pointer(_log(run)) or (0, None)
    return number, None if doc is None else _parse(doc)


def _newest_whole(store: Store, run: str) -> Pointer:
    """The newest entry whose objects are what was recorded; if there is none, the newest."""
    log_ = _log(run)
    entries = store.pointers(log_, store.highest_pointer(log_))
    latest = [_parse(doc) for _, doc in islice(entries, _BACK)]
    for pointer in latest:
        objects = [artifact for artifact in (pointer.last, pointer.best) if artifact]
        lost = [artifact.key for artifact in objects if not store.holds(artifact)]
        if not lost:
            return pointer
        log.warning("%s is gone or changed; the checkpoint before it is tried", store.url(lost[0]))
    return latest[0]


def _add(store: Store, run: str, attempt: int, build: Callable[[], Pointer]) -> Pointer:
    """Adds an entry right after the newest; what it builds on is read after that one was found."""
    start, latest = _newest(store, run)
    for number in range(start + 1, start + 1 + _TRIES):
        _check(latest, attempt)
        pointer = build()
        if store.claim_pointer(_log(run), number, asdict(pointer)):
            return pointer
        latest = newest(store, run)  # another one was quicker, or the entry is unreadable
    raise StoreUnavailableError(
        f"cannot add to {store.url(_log(run))}: others took the next number {_TRIES} times; see "
        "who writes there all the time, then run again"
    )


def _check(latest: Pointer | None, attempt: int) -> None:
    if latest is not None and latest.attempt > attempt:
        raise LeaseLostError(
            f"attempt {latest.attempt} has gone on from the checkpoints meanwhile; attempt "
            f"{attempt} stops and leaves the work to it"
        )


def _prune(store: Store, run: str, keep: list[Pointer | None]) -> None:
    """Removes what none of these names; never what a newer attempt stored and may name next."""
    named = {a.key for p in keep if p is not None for a in (p.last, p.best, p.finished) if a}
    ours = max(p.attempt for p in keep if p is not None)
    for key in store.keys(_folder(run)):
        made = _ATTEMPT.search(key)
        if key.endswith(".pt") and key not in named and (made is None or int(made[1]) <= ours):
            store.delete(key)


def _folder(run: str) -> str:
    return run_key(run, "checkpoints")


def _log(run: str) -> str:
    return run_key(run, "checkpoints/log")


def _parse(doc: dict[str, Any]) -> Pointer:
    best = Artifact(**doc["best"]) if doc["best"] else None
    kept = tuple(Artifact(**each) for each in doc.get("kept", ()))  # earlier versions kept none
    last = Artifact(**doc["last"])
    finished = doc.get("finished", doc["last"])  # earlier versions saved at the ends of epochs only
    return Pointer(
        **{
            **doc,
            "last": last,
            "best": best,
            "kept": kept,
            "finished": Artifact(**finished) if finished else None,
        }
    )
