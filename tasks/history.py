"""What came of the runs of a model name, night by night: a pointer log below `history/`.

An entry is a run's outcome. Entries are never rewritten: of several for one run the newest counts.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from tasks.errors import DamagedObjectError, MissingObjectError
from tasks.store import Store
from tasks.transfers import in_parallel

log = logging.getLogger(__name__)

Status = Literal["completed", "failed", "stopped"]

_UNNAMED = "unnamed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Night:
    """The outcome of a run."""

    run: str
    created: str  # ISO 8601, UTC
    when: str  # its last sign of life
    status: Status
    epochs: int  # in results.txt
    metrics: Mapping[str, float]  # precision, recall, map50, map50_95; {} without an evaluation
    classes: Mapping[str, float]  # mAP50-95 of each class with labels
    data_digest: str
    counts: Mapping[str, Mapping[str, int]]  # split: pictures, labels, background, left_out ...
    hours: float  # from its first stage to its last sign of life
    code: str
    seconds: Mapping[str, float]  # of each finished stage


def enter(store: Store, name: str, night: Night) -> bool:
    """Enters a run's outcome, unless the newest entry of the run says the same.

    Args:
        store: Where the runs live.
        name: Of the model, as in the settings; may be empty.
        night: The outcome.

    Returns:
        Whether there is a new entry.

    Raises:
        StoreError: The store failed.
    """
    if night in nights(store, name):
        return False
    store.append_pointer(_log(name), asdict(night))
    return True


def nights(store: Store, name: str, limit: int = 30) -> list[Night]:
    """The newest runs of a name by the time they were created, oldest first.

    Reads at most `limit` entries, and one more to find the newest; what cannot be read is left out.

    Raises:
        StoreError: The store failed.
    """
    prefix = _log(name)
    newest = store.newest_pointer(prefix)
    if newest is None:
        return []

    def read(number: int) -> Night | None:
        key = f"{prefix}/{number:08d}.json"
        try:
            return _parse(store.read_json(key))
        except (DamagedObjectError, MissingObjectError, KeyError, TypeError, ValueError) as error:
            log.warning("the history entry %s is left out: %s", store.url(key), error)
            return None

    numbers = range(max(1, newest[0] - limit + 1), newest[0] + 1)
    of_run = {night.run: night for night in in_parallel(read, numbers, 8) if night}
    return sorted(of_run.values(), key=_order)


def previous(known: Sequence[Night], run: str, created: str) -> Night | None:
    """The last completed run before one.

    Args:
        known: As `nights` gives them.
        run: The one that looks back.
        created: When it was created, ISO 8601, UTC.
    """
    before = [
        night
        for night in known
        if night.status == "completed" and night.run != run and night.created <= created
    ]
    return max(before, key=_order, default=None)


def _order(night: Night) -> tuple[str, str]:
    return night.created, night.run


def _log(name: str) -> str:
    return f"history/{name or _UNNAMED}"


def _parse(doc: Mapping[str, Any]) -> Night:
    """An entry; keys that a later version added are left out.

    Raises:
        KeyError, TypeError, ValueError: It is none.
    """
    if doc["status"] not in get_args(Status):
        raise ValueError(f"status {doc['status']!r}")
    texts = {key: doc[key] for key in ("run", "created", "when", "data_digest", "code")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise TypeError("a text is none")
    return Night(
        **texts,
        status=doc["status"],
        epochs=int(doc["epochs"]),
        metrics=_numbers(doc["metrics"]),
        classes=_numbers(doc["classes"]),
        counts={
            str(split): {str(what): int(n) for what, n in _mapping(row).items()}
            for split, row in _mapping(doc["counts"]).items()
        },
        hours=_finite(doc["hours"]),
        seconds=_numbers(doc["seconds"]),
    )


def _numbers(values: Any) -> dict[str, float]:
    return {str(key): _finite(value) for key, value in _mapping(values).items()}


def _mapping(values: Any) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise TypeError(f"a {type(values).__name__}, not a mapping")
    return values


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is no measurement")
    return number
