import signal
import threading
import time
from contextvars import ContextVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.transfers import in_parallel

RUN = ContextVar("RUN", default="none")


@given(st.lists(st.integers(), max_size=20), st.integers(1, 8))
def test_results_come_in_the_order_of_the_items(items, workers):
    assert in_parallel(lambda n: 2 * n, items, workers) == [2 * n for n in items]


@pytest.mark.parametrize("items", [[], ["one"]])
def test_no_item_or_one_needs_no_thread(items):
    here = threading.get_ident()
    assert in_parallel(lambda _: threading.get_ident(), items) == [here] * len(items)


def test_calls_are_under_way_at_once_but_never_more_than_asked_for():
    meeting = threading.Barrier(3, timeout=10)
    now, most, lock = [0], [0], threading.Lock()

    def call(_: int) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        meeting.wait()  # passes only if three are here together
        with lock:
            now[0] -= 1

    in_parallel(call, range(9), workers=3)
    assert most == [3]


def test_the_error_of_the_first_item_that_failed_is_raised_once_the_begun_ones_ended():
    ended = []

    def call(n: int) -> None:
        if n == 1:
            raise ValueError("item 1")
        time.sleep(0.2)
        ended.append(n)
        if n == 2:
            raise KeyError("item 2")

    with pytest.raises(ValueError, match="item 1"):
        in_parallel(call, range(100), workers=3)
    assert {0, 2} <= set(ended)
    before = list(ended)
    time.sleep(0.3)
    assert ended == before
    assert len(ended) < 10  # the others were not begun


def test_calls_see_the_context_of_the_caller_and_do_not_disturb_it():
    def call(n: int) -> str:
        seen = RUN.get()
        RUN.set(str(n))
        return seen

    token = RUN.set("tonight")
    try:
        assert in_parallel(call, range(5), workers=2) == ["tonight"] * 5
        assert RUN.get() == "tonight"
    finally:
        RUN.reset(token)


def test_an_interruption_ends_what_was_not_begun():
    begun, main = [], threading.main_thread().ident
    assert main is not None

    def call(n: int) -> None:
        begun.append(n)
        if n == 0:
            signal_soon()
        time.sleep(0.3)

    def signal_soon() -> None:
        threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGUSR1)).start()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            in_parallel(call, range(40), workers=2)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(begun) <= 4
