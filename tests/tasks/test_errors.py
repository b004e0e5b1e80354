import errno

import pytest
from prefect.exceptions import TerminationSignal
from prefect.states import Failed

from tasks.errors import (
    StoreRefusedError,
    StoreUnavailableError,
    TerminatedError,
    TransientError,
    exit_code,
    retry_if_transient,
)
from yolov5_core.config import ConfigError
from yolov5_core.dataset import DataError


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("epochs=0"), 2),
        (DataError("no images"), 2),
        (StoreRefusedError("no such bucket"), 2),
        (StoreUnavailableError("unreachable"), 75),
        (TransientError("a worker died"), 75),
        (TerminatedError("SIGTERM"), 75),
        (TerminationSignal(15), 75),
        (ConnectionResetError("reset"), 75),
        (TimeoutError("slow"), 75),
        (MemoryError(), 75),
        (RuntimeError("DataLoader worker (pid 29) is killed by signal: Terminated. "), 75),
        (OSError(errno.ENOSPC, "No space left on device"), 75),
        (OSError(errno.EBADF, "Bad file descriptor"), 1),
        (ValueError("operands could not be broadcast"), 1),
        (KeyError("x"), 1),
        (caused(RuntimeError("flow failed"), DataError("no images")), 2),
        (caused(RuntimeError("stage failed"), caused(RuntimeError("x"), TimeoutError())), 75),
        (caused(ConfigError("bad"), TimeoutError()), 2),
    ],
)
def test_an_error_has_an_exit_code(error, code):
    assert exit_code(error) == code


@pytest.mark.parametrize(("error", "again"), [(TimeoutError(), True), (ConfigError("x"), False)])
def test_only_a_passing_fault_is_tried_again(error, again):
    assert retry_if_transient(None, None, Failed(data=error)) is again
