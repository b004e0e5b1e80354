"""The stage protocol: a stage runs once for the same inputs, and its record, written last, says so.

An attempt first takes the stage's lease, so attempts have numbers, failed ones leave a trace, and
no two work at once. Work happens in a scratch folder; what counts goes to the store, verified. The
record is an entry of the log of attempts, where one that was taken for dead can put none any more;
`stages/<stage>.json` is its copy for people and other programs.
"""

import hashlib
import json
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from tasks.attempts import AttemptLog
from tasks.errors import DamagedObjectError, MissingObjectError
from tasks.lease import Lease, leased
from tasks.records import Artifact, StageRecord
from tasks.store import Store
from tasks.transfers import in_parallel

log = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("flows", "tasks", "yolov5_core")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageContext:
    """What a stage's work may touch: its run in the store and a scratch folder that goes away."""

    store: Store
    run: str
    stage: str
    lease: Lease
    scratch: Path
    outputs: list[Artifact] = field(default_factory=list)  # published so far, in order

    def key(self, name: str) -> str:
        """Store key of an object of this run: `weights/last.pt` to `runs/<run>/weights/last.pt`."""
        return run_key(self.run, name)

    def publish(self, local: Path, name: str) -> Artifact:
        """Stores a file under a name of this run; it becomes an output of the stage.

        Raises:
            LeaseLostError: Another attempt has begun.
            StoreError: It could not be stored.
        """
        return self.publish_all({name: local})[0]

    def publish_all(self, files: Mapping[str, Path]) -> list[Artifact]:
        """The same for several files at once, by their names.

        Raises:
            LeaseLostError: Another attempt has begun.
            StoreError: One could not be stored.
        """
        self.lease.check()
        stored = in_parallel(lambda f: self.store.put_file(f[1], self.key(f[0])), files.items())
        self.outputs.extend(stored)
        return stored

    def fetch(self, source: str | Artifact) -> Path:
        """Copies an object to the scratch folder: a name of this run, or a recorded artifact.

        Raises:
            MissingObjectError: It is not there.
            DamagedObjectError: It is not the recorded one.
        """
        expected = source if isinstance(source, Artifact) else None
        key = expected.key if expected else self.key(str(source))
        return self.store.get_file(key, self.scratch / "fetched" / key, expected)


def run_key(run: str, name: str) -> str:
    """Store key of an object of a run."""
    return f"runs/{run}/{name}"


def run_stage(
    store: Store,
    run: str,
    stage: str,
    inputs: Mapping[str, Any],
    work: Callable[[StageContext], Mapping[str, Any]],
    still_good: Callable[[StageRecord], bool] = lambda _: True,
) -> StageRecord:
    """Does the work of a stage, unless its record says that it is done for these inputs.

    Args:
        store: Where the run lives.
        run: Run id.
        stage: Name of the stage.
        inputs: All the result depends on, JSON types; our source code is added.
        work: Does it and returns the result, JSON types.
        still_good: For a stage with outputs outside the store: whether they are still there.

    Returns:
        The record, read back from the store's text either way.

    Raises:
        StageBusyError: Another process does the stage.
        LeaseLostError: Another attempt has begun meanwhile.
        StoreError: The store failed; whatever `work` raises passes through.
    """
    digest = inputs_digest(stage, inputs)

    def done() -> StageRecord | None:
        record = read_stage(store, run, stage)
        if record is None or record.inputs_digest != digest:
            return None
        return record if _complete(store, record) and still_good(record) else None

    if record := done():
        log.info("stage %s already done in run %s, skipping", stage, run)
        _copy(store, run, stage)
        return record
    with leased(store, run_key(run, "stages"), stage, {"inputs_digest": digest}) as lease:
        if lease.attempt > 1 and (record := done()):  # by whoever held the lease before
            log.info("stage %s was done meanwhile in run %s", stage, run)
            _copy(store, run, stage)
            return record
        return _do(store, run, inputs, digest, work, lease)


def _do(
    store: Store,
    run: str,
    inputs: Mapping[str, Any],
    digest: str,
    work: Callable[[StageContext], Mapping[str, Any]],
    lease: Lease,
) -> StageRecord:
    started, clock, stage = _now(), time.monotonic(), lease.stage
    log.info("stage %s of run %s begins, attempt %d", stage, run, lease.attempt)
    with tempfile.TemporaryDirectory(prefix=f"{stage}-") as scratch:
        context = StageContext(
            store=store, run=run, stage=stage, lease=lease, scratch=Path(scratch)
        )
        result = work(context)
    seconds = time.monotonic() - clock
    record = StageRecord(
        run=run,
        stage=stage,
        inputs_digest=digest,
        inputs=inputs,
        result=result,
        outputs=tuple(context.outputs),
        attempt=lease.attempt,
        started=started,
        finished=_now(),
        seconds=round(seconds, 3),
        host=lease.worker.host,
        container=lease.worker.container,
        code=code_version(),
    )
    lease.commit(asdict(record))
    _copy(store, run, stage)
    log.info("stage %s done in %.1f s, %d outputs", stage, seconds, len(record.outputs))
    return _parse(json.loads(json.dumps(asdict(record))))


def read_stage(store: Store, run: str, stage: str) -> StageRecord | None:
    """The record of a finished stage, None if there is none that can be read."""
    found = _committed(store, run, stage)
    return found or _read_copy(store, run, stage)  # runs of earlier versions have nothing else


def inputs_digest(stage: str, inputs: Mapping[str, Any]) -> str:
    """Sha256 of a stage's name, inputs and our source code, the same on every machine.

    Raises:
        TypeError: Inputs that JSON cannot hold.
    """
    request = {"stage": stage, "inputs": inputs, "source": source_digest()}
    text = json.dumps(request, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def source_digest() -> str:
    """Sha256 over the names and contents of our source files, hexadecimal."""
    digest = hashlib.sha256()
    files = (p for name in _PACKAGES for p in (_ROOT / name).rglob("*"))
    for path in sorted(p for p in files if p.suffix in (".py", ".yaml")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(_ROOT).as_posix()} {content}\n".encode())
    return digest.hexdigest()


@cache
def code_identity() -> str:
    """Version and digest of the source: the same in a checkout and in an image made from it."""
    try:
        version = metadata.version("yolov5-retrain")
    except metadata.PackageNotFoundError:
        version = "not installed"
    return f"{version} source {source_digest()[:12]}"


@cache
def code_version() -> str:
    """The same with the commit, where a git checkout or the image's build tells it."""
    commit = os.environ.get("RETRAIN_REVISION") or _commit()
    version, source = code_identity().split(" source ")
    return f"{version}{f' commit {commit[:12]}' if commit else ''} source {source}"


def _commit() -> str:
    if not (_ROOT / ".git").exists():  # site-packages may lie in somebody else's checkout
        return ""
    command = ["git", "-C", str(_ROOT), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(  # noqa: S603  no user input in it
            command, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.debug("git does not tell the commit: %s", error)
        return ""
    return answer.stdout.strip()


def _committed(store: Store, run: str, stage: str) -> StageRecord | None:
    """The record of the newest attempt that committed."""
    attempts = AttemptLog(store=store, folder=run_key(run, "stages"), stage=stage)
    for doc in attempts.records():
        try:
            return _parse(doc)
        except (TypeError, KeyError) as error:
            log.warning("a commit of stage %s of run %s is unreadable (%s)", stage, run, error)
    return None


def _copy(store: Store, run: str, stage: str) -> None:
    """Makes the copy what was committed last, whoever wrote it before or writes it now."""
    while (record := _committed(store, run, stage)) not in (None, _read_copy(store, run, stage)):
        store.put_json(asdict(record), _record_key(run, stage))


def _read_copy(store: Store, run: str, stage: str) -> StageRecord | None:
    try:
        return _parse(store.read_json(_record_key(run, stage)))
    except MissingObjectError:
        return None
    except (DamagedObjectError, TypeError, KeyError) as error:
        log.warning("the record of stage %s of run %s is unreadable (%s)", stage, run, error)
        return None


def _record_key(run: str, stage: str) -> str:
    return run_key(run, f"stages/{stage}.json")


def _parse(doc: Mapping[str, Any]) -> StageRecord:
    outputs = tuple(Artifact(**output) for output in doc["outputs"])
    return StageRecord(**{**doc, "outputs": outputs})


def _complete(store: Store, record: StageRecord) -> bool:
    """Whether all outputs are what was recorded: a late attempt may have written over them."""
    found = in_parallel(store.holds, record.outputs)
    for output, held in zip(record.outputs, found, strict=True):
        if not held:
            log.warning(
                "stage %s is done again: %s is gone or changed", record.stage, store.url(output.key)
            )
    return all(found)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
