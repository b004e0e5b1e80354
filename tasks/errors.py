"""What a fault means for the process: its exit code, and whether trying again can help.

Faults of the store are named here too: most of what can go wrong in a run is a bucket or a disk.
Configuration and data faults: 2, no retry. Transient faults and SIGTERM: 75. Everything else: 1.
"""

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tasks.secrets import without_secrets
from yolov5_core.durable import FULL

USAGE = 2  # the user has to change something
TEMPORARY = 75  # EX_TEMPFAIL of sysexits.h: the same command may work later
FAILURE = 1  # a bug, or something nobody foresaw

_OUR_PACKAGES = ("yolov5_core", "tasks", "flows")
# Named, not imported: this module must load without torch, Prefect and gcsfs.
# torch; Prefect's SIGTERM; our loader's, when a worker process died
_TRANSIENT_NAMES = ("OutOfMemoryError", "TerminationSignal", "WorkerLostError")
# Object stores raise their own kinds, some straight from Exception.
_BACKENDS = ("gcsfs", "google", "aiohttp", "requests", "urllib3", "botocore", "azure", "fsspec")

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


class TransientError(RuntimeError):
    """A fault that may be gone next time: the network, a full disk, a lost worker."""


class TerminatedError(TransientError):
    """SIGTERM arrived; what was done is saved."""


class StoreError(RuntimeError):
    """The store cannot do what was asked; the message says what, where and how to fix it."""


class StoreUnavailableError(StoreError, TransientError):
    """Not now: unreachable, full, or a write that did not arrive whole."""


class StoreRefusedError(StoreError, ValueError):
    """Not like this: a wrong URL, no such bucket, no permission."""


class MissingObjectError(StoreError):
    """No object under this key."""


class DamagedObjectError(StoreError):
    """An object is not the one that was recorded, or not readable as what it should be."""


class NotWholeError(OSError):
    """Below a store: a transfer that did not bring all bytes, or other ones; again may help."""


def exit_code(error: BaseException) -> int:
    """Exit code for an error: the first of it and its causes that says 2 or 75, else 1.

    A ValueError of our own packages' classes is the user's to fix; a bare ValueError is a bug.
    """
    for link in _chain(error):
        if _is_transient(link):
            return TEMPORARY
        if isinstance(link, ValueError) and _is_ours(link):
            return USAGE
    return FAILURE


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _is_transient(error: BaseException) -> bool:
    known = TransientError | ConnectionError | TimeoutError | MemoryError
    full = isinstance(error, OSError) and error.errno in FULL
    # torch raises it anywhere, from a signal handler; after SIGTERM workers may die before us
    lost = isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")
    return full or lost or isinstance(error, known) or type(error).__name__ in _TRANSIENT_NAMES


def _is_ours(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in _OUR_PACKAGES


def retry_if_transient(_task: Any, _run: Any, state: Any) -> bool:
    """`retry_condition_fn` of every task with retries: trying again must be able to help."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and exit_code(error) == TEMPORARY


def explain_fault(error: Exception, what: str) -> StoreError | None:
    """The StoreError for what a file system or bucket raised; None if it is no fault of theirs.

    Args:
        error: As raised.
        what: The failed action and place, as in "cannot write gs://bucket/key".
    """
    backend = type(error).__module__.split(".")[0] in _BACKENDS
    invalid = str(error).startswith("Bad Request")  # gcsfs: a bare ValueError for 400
    unreadable = isinstance(error, json.JSONDecodeError)  # a cut answer, or what a proxy has to say
    if not (isinstance(error, OSError) or backend or invalid or unreadable):
        return None
    what, code = without_secrets(what), str(getattr(error, "code", ""))
    if isinstance(error, FileNotFoundError) or code == "404":
        return MissingObjectError(f"{what}: it is not there; it was removed, or never written")
    said = without_secrets(f"{type(error).__name__}: {error}".splitlines()[0])[:200]
    kind, advice = _advice(error, code, said, invalid=invalid)
    return kind(f"{what}: {advice}")


def _advice(
    error: Exception, code: str, said: str, *, invalid: bool
) -> tuple[type[StoreError], str]:
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, NotWholeError):
        return StoreUnavailableError, f"{error}; try again"
    if number in FULL:
        return StoreUnavailableError, (
            f"no space left ({said}); make room and run again: finished work is kept"
        )
    if code == "401" or type(error).__name__ in ("DefaultCredentialsError", "NonRetryableError"):
        return StoreRefusedError, (
            f"no valid credentials ({said}); set GOOGLE_APPLICATION_CREDENTIALS to a key file, log "
            "in with `gcloud auth application-default login`, or give this machine or pod a "
            "service account"
        )
    forbidden = str(error).startswith("Forbidden")  # gcsfs: a bare OSError for 403
    if number in _REFUSED or code == "403" or forbidden or invalid:
        return StoreRefusedError, f"refused ({said}); check the path and the permissions"
    return StoreUnavailableError, (
        f"the store does not answer ({said}); check the network and the URL, "
        "then run again: finished work is kept"
    )


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns what a file system or bucket raises inside into a StoreError with a sentence.

    Args:
        what: What could not be done, as in "cannot read gs://bucket/key".
    """
    try:
        yield
    except (StoreError, FileExistsError):
        raise
    except Exception as error:  # backends raise kinds of their own; what is no fault goes on
        fault = explain_fault(error, what)
        if fault is None:
            raise  # a bug of ours keeps its name
        raise fault from error
