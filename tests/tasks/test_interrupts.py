import os
import signal
import subprocess
import threading
import time

import pytest
from prefect.utilities.engine import can_ack_control_intent, capture_sigterm

from tasks import interrupts
from tasks.errors import TEMPORARY, TerminatedError, exit_code
from tasks.interrupts import termination


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_the_signal_waits_until_work_is_at_a_boundary():
    with termination() as stop:
        assert not stop.asked
        terminate()
        done = sum(range(1000))  # the rest of the step
        assert stop.asked
        with pytest.raises(TerminatedError) as caught:
            stop.strike()
    assert done == 499500
    assert exit_code(caught.value) == TEMPORARY


def test_it_strikes_by_itself_when_a_step_takes_too_long(monkeypatch):
    monkeypatch.setattr(interrupts, "GRACE", 0.2)
    begun = time.monotonic()

    def endless_step() -> None:
        while time.monotonic() - begun < 10:
            time.sleep(0.01)

    with termination():
        terminate()
        with pytest.raises(TerminatedError):
            endless_step()
    assert 0.2 <= time.monotonic() - begun < 2


def test_a_second_signal_strikes_at_once():
    with termination():
        terminate()
        with pytest.raises(TerminatedError):
            terminate()


def test_whoever_handled_it_before_is_asked_first():
    class TakenAwayError(BaseException):
        pass

    def handler(*_: object) -> None:
        raise TakenAwayError

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with termination() as stop:
            terminate()
            with pytest.raises(TakenAwayError):
                stop.strike()
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_afterwards_no_alarm_is_left_and_the_handlers_are_as_before():
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)]
    with termination():
        terminate()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGALRM)] == handlers


def test_in_another_thread_signals_stay_as_they_are():
    seen: list[object] = []

    def work() -> None:
        with termination() as stop:
            seen.extend((signal.getsignal(signal.SIGTERM), stop.asked))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, False]


def test_prefect_knows_meanwhile_that_a_stop_will_be_heeded():
    with capture_sigterm():
        before = signal.getsignal(signal.SIGTERM)
        with termination() as stop:
            assert can_ack_control_intent()
            with capture_sigterm():  # a flow within
                assert can_ack_control_intent()
                terminate()
            assert stop.asked
        assert signal.getsignal(signal.SIGTERM) is before
        assert can_ack_control_intent()


def test_children_that_the_same_signal_ended_do_not_disturb_what_is_saved_then():
    def complains(*_: object) -> None:
        raise RuntimeError("a worker is killed by signal: Terminated")

    before = signal.signal(signal.SIGCHLD, complains)
    try:
        with termination() as stop:
            terminate()
            assert stop.asked
            subprocess.run(["true"], check=True)  # noqa: S607  its end is a child's
        assert signal.getsignal(signal.SIGCHLD) is complains
    finally:
        signal.signal(signal.SIGCHLD, before)
