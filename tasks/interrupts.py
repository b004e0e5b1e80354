"""SIGTERM, kept until work is at a place where its state is complete.

Whoever takes a machine away says so some seconds before. In the midst of a step there is nothing to
save, so the signal waits for the step's end; not for ever, though: after a while it strikes anyway.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from prefect.utilities import engine

from tasks.errors import TerminatedError

GRACE = 5.0  # seconds for a step to end; with the save itself, 10 are promised

_Handler = Callable[[int, FrameType | None], Any] | int | None


class Termination:
    """Whether SIGTERM arrived.

    Attributes:
        asked: True once it has.
    """

    def __init__(self, before: _Handler) -> None:
        self.asked = False
        self._before = before

    def keep(self, _number: int, _frame: FrameType | None) -> None:
        """Handles the signal: remembers it; a second one strikes at once."""
        if self.asked:
            self.strike()
        self.asked = True
        # Who ends a whole group of processes ends the loader's workers, too; torch would raise that
        # wherever we are, amid the saving of the state. It is told when the next batch is wanted.
        signal.signal(signal.SIGCHLD, _ignored)
        signal.setitimer(signal.ITIMER_REAL, GRACE)

    def strike(self) -> NoReturn:
        """Does what the signal would have done without us.

        Raises:
            TerminatedError: Unless whoever handled it before raises something else.
        """
        signal.setitimer(signal.ITIMER_REAL, 0)
        if callable(self._before):
            self._before(signal.SIGTERM, None)
        raise TerminatedError(
            "stopped by SIGTERM; what was done is saved, --resume continues the run"
        )


def _ignored(_number: int, _frame: FrameType | None) -> None:
    """Handles a signal by doing nothing: to ignore SIGCHLD would take away exit statuses."""


@contextmanager
def termination() -> Iterator[Termination]:
    """Keeps SIGTERM while the block runs; the block asks for it at its boundaries.

    Outside of the main thread nothing can be kept, and the signal strikes wherever it does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Termination(None)
        return
    before, of_children = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGCHLD)
    kept = Termination(before)
    alarm = signal.signal(signal.SIGALRM, lambda _number, _frame: kept.strike())
    try:
        with _in_place_of(before, kept.keep):
            yield kept
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
        if kept.asked:
            signal.signal(signal.SIGCHLD, of_children)


@contextmanager
def _in_place_of(before: _Handler, handler: _Handler) -> Iterator[None]:
    """Handles SIGTERM while the block runs, in the eyes of Prefect too.

    Prefect's supervisor of a flow run first says that a stop is coming. The run confirms it only if
    the handler in place is the one that Prefect knows as its own; without that it is killed at once
    and can save nothing (Prefect 3.8.8).
    """
    is_prefects = before is engine._prefect_sigterm_handler
    with engine._prefect_sigterm_bridge_lock:
        signal.signal(signal.SIGTERM, handler)
        if is_prefects:
            vars(engine)["_prefect_sigterm_handler"] = handler
    try:
        yield
    finally:
        with engine._prefect_sigterm_bridge_lock:
            signal.signal(signal.SIGTERM, before)
            if is_prefects:
                vars(engine)["_prefect_sigterm_handler"] = before
