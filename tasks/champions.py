"""The champions of a bucket: which model is the best so far, and which were before.

A pointer log, `champions/<model>/00000001.json`, whose newest entry names the champion: a copy of
its weights that nobody ever writes again. `weights/champion<n>.pt` has the same bytes, for those
who serve it; the log is the truth.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.records import Artifact
from tasks.store import Store
from yolov5_core.results import result_suffix

log = logging.getLogger(__name__)

Kind = Literal["promoted", "rolled back"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Champion:
    """One entry of the log."""

    run: str  # that trained it
    store: str  # where this run is
    weights: Artifact  # below the bucket
    data: str  # digest of the data it was measured on
    metrics: Mapping[str, float]
    when: str  # ISO 8601, UTC
    kind: Kind
    reason: str
    verdict: Mapping[str, Any]  # numbers of the comparison, {} without one


def model_name(name: str) -> str:
    """The model that runs of a name make versions of."""
    return name or "default"


def newest(bucket: Store, name: str) -> tuple[int, Champion] | None:
    """Highest number of the log, and the champion: its newest readable entry; None before one.

    Raises:
        StoreError: The bucket failed.
    """
    number = bucket.highest_pointer(_log(name))
    found = next(bucket.pointers(_log(name), number), None)
    return None if found is None else (number, _parse(found[1]))


def entries(bucket: Store, name: str) -> list[tuple[int, Champion]]:
    """The readable entries of the log, the newest first.

    Raises:
        StoreError: The bucket failed.
    """
    found = bucket.pointers(_log(name), bucket.highest_pointer(_log(name)))
    return [(number, _parse(doc)) for number, doc in found]


def keep(bucket: Store, name: str, local: Path, sha256: str) -> Artifact:
    """Puts weights where no later run writes; twice the same is one object.

    Raises:
        StoreError: The bucket failed.
    """
    return bucket.put_file(local, f"champions/{model_name(name)}/weights/{sha256[:16]}.pt")


def crown(bucket: Store, name: str, after: int, champion: Champion) -> bool:
    """Enters a champion right after the entry it was compared with.

    Args:
        bucket: Where the log is.
        name: Of the runs.
        after: Number of that entry, 0 before the first.
        champion: The entry.

    Returns:
        False if another one was entered meanwhile.

    Raises:
        StoreError: The bucket failed.
    """
    return bucket.claim_pointer(_log(name), after + 1, asdict(champion))


def show(bucket: Store, name: str, scratch: Path) -> Artifact | None:
    """Gives `weights/champion<n>.pt` the bytes of the champion; None if there is none.

    Raises:
        MissingObjectError, DamagedObjectError: Its copy is gone or another one.
        StoreError: The bucket failed.
    """
    found = newest(bucket, name)
    if found is None:
        return None
    weights = found[1].weights
    local = bucket.get_file(weights.key, scratch / "champion.pt", weights)
    return bucket.put_file(local, address(name))


def address(name: str) -> str:
    """Key of the copy for those who serve the champion."""
    return f"weights/champion{result_suffix(name)}.pt"


def _log(name: str) -> str:
    return f"champions/{model_name(name)}"


def _parse(doc: Mapping[str, Any]) -> Champion:
    return Champion(**{**doc, "weights": Artifact(**doc["weights"])})
