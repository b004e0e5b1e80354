"""The lease of a stage: of all processes that may want to do it, one does, and others can tell.

Attempts of a stage begin in its log, `stages/attempts/<stage>/00000001.json`; the newest one holds
the lease while it gives signs of life, `stages/leases/<stage>/00000001.json`, written again and
again. Its last writing says how it ended. A successor waits until then, or until there was no sign
for a while, and takes the next number of the log: the one under which its predecessor, should it
only be late, would have to commit.
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from prefect import runtime

from tasks.attempts import AttemptLog, Entry
from tasks.errors import (
    TEMPORARY,
    DamagedObjectError,
    MissingObjectError,
    StoreError,
    TransientError,
    exit_code,
)
from tasks.store import Store
from tasks.worker import Worker, this_worker

log = logging.getLogger(__name__)

LEASE = 60.0  # seconds without a sign of life after which a holder is taken for dead
_SIGN = LEASE / 4  # between two signs
_PATIENCE = 2 * LEASE  # to wait for a holder that lives, or may
_LOOK = 1.0  # between two looks at it
# The holder's clock is another machine's: only a difference that no clock has by error counts.
_STALE = 3600.0


class StageBusyError(TransientError):
    """Another process does this stage, and lives."""


class LeaseLostError(TransientError):
    """Another attempt has begun: this one is late, and may not finish."""


@dataclass(kw_only=True, slots=True)
class Watch:
    """How long holders have been silent, for one who looks at them again and again.

    No clock of another machine is compared: silence is what passed between the looks.
    """

    _seen: dict[str, tuple[Mapping[str, Any], float]] = field(default_factory=dict)

    def is_over(self, key: str, sign: Mapping[str, Any]) -> bool:
        """Whether an attempt is over, or has given no other sign than this for long enough."""
        now = time.monotonic()
        before, since = self._seen.get(key, ({}, now))
        if sign != before:
            self._seen[key] = (sign, now)
            since = now
        return _is_over(sign) or now - since > LEASE


@dataclass(kw_only=True, slots=True)
class Lease:
    """The right to do a stage of a run, until another attempt is begun."""

    store: Store
    folder: str  # runs/<run>/stages
    stage: str
    attempt: int  # from 1
    entry: int  # number in the log under which it began
    worker: Worker
    flow_run: str  # id of the Prefect flow run, "" outside of one
    _over: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Makes sure that no other attempt has begun.

        Raises:
            LeaseLostError: One has.
            StoreError: The store does not say.
        """
        if self._log.has(self.entry + 1):
            raise self._lost()

    def commit(self, record: Mapping[str, Any]) -> None:
        """Makes the record the result of the stage, unless another attempt has begun.

        Raises:
            LeaseLostError: One has.
            StoreError: The store does not say; it may be committed.
        """
        if not self._log.claim(self.entry + 1, self.attempt, {"record": record}):
            raise self._lost()

    @property
    def _log(self) -> AttemptLog:
        return AttemptLog(store=self.store, folder=self.folder, stage=self.stage)

    def _lost(self) -> LeaseLostError:
        return LeaseLostError(
            f"stage {self.stage}: attempt {self.attempt + 1} has begun while attempt "
            f"{self.attempt} gave no sign of life; this one stops and leaves the work to it"
        )

    def sign(self, **outcome: Any) -> None:
        """Gives a sign of life; the last one says how the attempt ended.

        Raises:
            StoreError: It could not be written.
        """
        document = {
            "worker": asdict(self.worker),
            "flow_run": self.flow_run,
            "renewed": _now(),
            "ended": "",
            **outcome,
        }
        self.store.put_json(document, _lease(self.folder, self.stage, self.entry))

    def keep(self) -> None:
        """Gives signs of life until the end, in a thread of its own."""
        while not self._over.wait(_SIGN):
            try:
                self.sign()
            except StoreError as error:  # the next may arrive; until then nobody else may begin
                log.warning("stage %s gives no sign of life: %s", self.stage, error)

    def end(self, error: BaseException | None) -> None:
        """Says that the attempt is over and how; a store that fails now is not the caller's."""
        self._over.set()
        outcome: dict[str, Any] = {"ended": _now(), "exit_code": 0, "error": ""}
        if error is not None:
            outcome |= {
                "exit_code": exit_code(error),
                "error": (str(error) or type(error).__name__)[:4000],
                "kind": type(error).__name__,
            }
        try:
            self.sign(**outcome)
        except StoreError as fault:
            log.warning("cannot release stage %s: %s", self.stage, fault)


@contextmanager
def leased(
    store: Store,
    folder: str,
    stage: str,
    about: Mapping[str, Any],
    watch: Watch | None = None,
) -> Iterator[Lease]:
    """Holds the lease of a stage, as its next attempt, while the block runs.

    Args:
        store: Where the run lives.
        folder: `runs/<run>/stages`.
        stage: Name of the stage.
        about: What the attempt's entry says beside its worker, JSON types.
        watch: Of one who has other things to do than to wait: a stage that is held and was not
            silent for long enough since its first look is busy at once. None waits.

    Raises:
        StageBusyError: Another process holds it and lives.
        StoreError: The store failed.
    """
    lease = _acquire(store, folder, stage, about, watch)
    keeper = threading.Thread(target=lease.keep, name=f"lease of {stage}", daemon=True)
    keeper.start()
    try:
        yield lease
    except BaseException as error:
        lease.end(error)
        raise
    else:
        lease.end(None)
    finally:
        keeper.join(_SIGN)


def end_for(store: Store, folder: str, stage: str, flow_run: str, error: str) -> None:
    """Says that the newest attempt is over on behalf of a process that no longer can.

    Args:
        store: Where the run lives.
        folder: `runs/<run>/stages`.
        stage: Name of the stage.
        flow_run: The flow run that is known to have ended; attempts of others stay as they are.
        error: What is known of its end.

    Raises:
        StoreError: The store failed.
    """
    newest, sign = _last_sign(AttemptLog(store=store, folder=folder, stage=stage))
    if newest is None or sign.get("flow_run") != flow_run or sign["ended"]:
        return
    end = {"ended": _now(), "exit_code": TEMPORARY, "error": error, "kind": "killed"}
    store.put_json({**sign, **end}, _lease(folder, stage, newest.begun))


def outcome(store: Store, folder: str, stage: str) -> dict[str, Any] | None:
    """Last sign of the newest attempt of a stage, with its number; None if there is none."""
    newest, sign = _last_sign(AttemptLog(store=store, folder=folder, stage=stage))
    return None if newest is None else {"attempt": newest.attempt, **sign}


def _last_sign(log_: AttemptLog) -> tuple[Entry | None, dict[str, Any]]:
    newest = log_.newest()
    if newest is None:
        return None, {}
    return newest, _read(log_.store, _lease(log_.folder, log_.stage, newest.begun)) or {}


def _acquire(
    store: Store, folder: str, stage: str, about: Mapping[str, Any], watch: Watch | None
) -> Lease:
    worker, flow_run = this_worker(), str(runtime.flow_run.id or "")
    attempts = AttemptLog(store=store, folder=folder, stage=stage)
    while True:
        newest = attempts.newest()
        number, attempt = (newest.number, newest.attempt) if newest else (0, 0)
        if newest and newest.begun == number:  # a commit needs no waiting: its work is done
            _wait(attempts, number, newest.doc, watch)
        entry = {**about, "worker": asdict(worker), "flow_run": flow_run, "started": _now()}
        if attempts.claim(number + 1, attempt + 1, entry):
            break  # otherwise another one was quicker, or that one is done: look at it
    lease = Lease(
        store=store,
        folder=folder,
        stage=stage,
        attempt=attempt + 1,
        entry=number + 1,
        worker=worker,
        flow_run=flow_run,
    )
    lease.sign()
    return lease


def _wait(attempts: AttemptLog, number: int, entry: Mapping[str, Any], watch: Watch | None) -> None:
    """Returns when an attempt is over, or has given no sign of life for long enough.

    Raises:
        StageBusyError: It goes on giving signs.
    """
    begun, told, stage = time.monotonic(), False, attempts.stage
    patience = _PATIENCE if watch is None else 0.0
    watch = watch or Watch()
    key = _lease(attempts.folder, stage, number)
    while True:
        silent = {**entry, "renewed": entry.get("started", ""), "ended": ""}
        sign = _read(attempts.store, key) or silent
        if watch.is_over(key, sign):
            return
        where = _worker(sign).where if "worker" in sign else "another process"
        since = f"{where}, since {entry.get('started', 'a while')}"
        if time.monotonic() - begun >= patience:
            raise StageBusyError(
                f"stage {stage} is being done by {since}; wait for it to finish, or stop it first"
            )
        if not told:
            told = True
            log.info("stage %s is held by %s; it is waited for, %.0f s of silence at most",
                     stage, since, LEASE)  # fmt: skip
        time.sleep(_LOOK)


def _is_over(sign: Mapping[str, Any]) -> bool:
    if sign["ended"] or "worker" not in sign:  # earlier versions had no leases
        return True
    return _worker(sign).is_gone() or _age(sign["renewed"]) > _STALE


def _worker(sign: Mapping[str, Any]) -> Worker:
    return Worker(**sign["worker"])


def _age(stamp: str) -> float:
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds()
    except ValueError:
        return 0.0


def _read(store: Store, key: str) -> dict[str, Any] | None:
    try:
        return store.read_json(key)
    except (MissingObjectError, DamagedObjectError):
        return None


def _lease(folder: str, stage: str, entry: int) -> str:
    return f"{folder}/leases/{stage}/{entry:08d}.json"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
