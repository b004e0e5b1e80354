"""A run's checkpoints in the store: immutable objects and one pointer log.

An entry of the log names the newest state, the best one and those kept for good, so all move in one
write. Objects that neither the newest entry nor the one before it names are removed.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.records import Artifact
from tasks.stage import run_key
from tasks.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pointer:
    """The newest entry of the log."""

    epoch: int  # of `last`, from 0
    last: Artifact
    best: Artifact | None  # None while no best epoch was saved
    best_fitness: float
    kept: tuple[Artifact, ...] = ()  # weights/epoch<E>.pt, in the order they were made


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """What a checkpoint is to its run."""

    epoch: int  # from 0
    is_best: bool  # then it becomes the best one too
    best_fitness: float  # so far
    is_kept: bool = False  # then it stays as weights/epoch<E>.pt too


def newest(store: Store, run: str) -> Pointer | None:
    """What the log points at now, None before the first checkpoint."""
    entry = store.newest_pointer(_log(run))
    return None if entry is None else _parse(entry[1])


def commit(store: Store, run: str, local: Path, saved: Saved) -> Pointer:
    """Stores a checkpoint and points the log at it; safe to repeat.

    Args:
        store: Where the run lives.
        run: Run id.
        local: The checkpoint file.
        saved: What it is.

    Raises:
        StoreError: It could not be stored; the log is as before.
    """
    before = newest(store, run)
    count = len(store.keys(_folder(run)))  # a name no earlier attempt has used
    last = store.put_file(local, f"{_folder(run)}/epoch-{saved.epoch:04d}-{count:06d}.pt")
    best = last if saved.is_best else before and before.best
    kept = before.kept if before else ()
    if saved.is_kept:
        key = run_key(run, f"weights/epoch{saved.epoch}.pt")
        kept = (*(a for a in kept if a.key != key), store.put_file(local, key))
    pointer = Pointer(
        epoch=saved.epoch,
        last=last,
        best=best or None,
        best_fitness=saved.best_fitness,
        kept=kept,
    )
    store.append_pointer(_log(run), asdict(pointer))
    _prune(store, run, [pointer, before])
    return pointer


def _prune(store: Store, run: str, keep: list[Pointer | None]) -> None:
    named = {a.key for p in keep if p is not None for a in (p.last, p.best) if a is not None}
    for key in store.keys(_folder(run)):
        if key.endswith(".pt") and key not in named:
            store.delete(key)


def _folder(run: str) -> str:
    return run_key(run, "checkpoints")


def _log(run: str) -> str:
    return run_key(run, "checkpoints/log")


def _parse(doc: dict[str, Any]) -> Pointer:
    best = Artifact(**doc["best"]) if doc["best"] else None
    kept = tuple(Artifact(**each) for each in doc.get("kept", ()))  # earlier versions kept none
    return Pointer(**{**doc, "last": Artifact(**doc["last"]), "best": best, "kept": kept})
