"""Signs of life of flow runs that are called, as stages are by the run in whose process they are.

Prefect's own thread for them looks only once a second whether its run is over, and the run waits
for it: seven stages, seconds a night. Ours ends at once and sends the same event. A flow run that a
worker started leaves them to Prefect.
"""

import contextvars
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

from prefect import runtime
from prefect.events import emit_event
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

log = logging.getLogger(__name__)

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_PATIENCE = 2.0  # seconds for a sign that is being sent while its run ends
# Seconds between two signs; None where Prefect gives them, or nobody asked for any.
_every: ContextVar[float | None] = ContextVar("seconds between heartbeats", default=None)


@contextmanager
def our_heartbeats() -> Iterator[None]:
    """Flows called in the block give no signs through Prefect; those that are `beating` by us."""
    asked = PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value()
    token = _every.set(_every.get() if asked is None else asked)
    try:
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            yield
    finally:
        _every.reset(token)


def beating(work: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """The body of a flow, with our signs of life while it runs where they are ours to give."""

    @wraps(work)
    def with_heartbeats(*arguments: _Parameters.args, **named: _Parameters.kwargs) -> _Result:
        every = _every.get()
        if every is None:
            return work(*arguments, **named)
        over = threading.Event()
        beats = contextvars.copy_context().run  # of which server, Prefect keeps in the context
        thread = threading.Thread(target=beats, args=(_beat, every, over), daemon=True)
        thread.start()
        try:
            return work(*arguments, **named)
        finally:
            over.set()
            thread.join(_PATIENCE)

    return with_heartbeats


def _beat(every: float, over: threading.Event) -> None:
    resource = {
        "prefect.resource.id": f"prefect.flow-run.{runtime.flow_run.id}",
        "prefect.resource.name": runtime.flow_run.name or "",
    }
    while not over.is_set():
        try:
            emit_event(event="prefect.flow-run.heartbeat", resource=resource)
        except Exception as error:  # noqa: BLE001  a sign is lost, the work is not
            log.debug("no sign of life was sent: %s", error)
        over.wait(every)
