"""Several objects at once: a bucket takes its time for each, and most of it is waiting."""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_parallel(
    function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int = 4
) -> list[_Result]:
    """What a function returns for each item, in their order; called side by side.

    Each call sees the context variables of the caller, so that Prefect's logs and artifacts keep
    their run. No item or one needs no thread.

    Args:
        function: Called once for each item.
        items: What it is called with.
        workers: Calls at once.

    Raises:
        Exception: What the first of the items raised that failed. By then every call that was
            begun has ended, and the others will not begin.
    """
    todo = list(items)
    if len(todo) < 2:
        return [function(item) for item in todo]
    with ThreadPoolExecutor(min(workers, len(todo)), "transfer") as pool:
        # a context can be entered by one thread at a time: a copy for each
        calls = [pool.submit(copy_context().run, function, item) for item in todo]
        try:
            wait(calls, return_when=FIRST_EXCEPTION)
        finally:  # also when a signal ends the wait
            pool.shutdown(cancel_futures=True)
    return [call.result() for call in calls]  # calls begin in order: an error is before any gap
