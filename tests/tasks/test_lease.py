import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks import lease
from tasks.errors import TEMPORARY, StoreUnavailableError, exit_code
from tasks.lease import LeaseLostError, StageBusyError, Watch, end_for, leased, outcome
from tasks.stage import read_stage, run_stage
from tasks.store import Store, open_store
from tasks.worker import this_worker
from yolov5_core.config import ConfigError

FOLDER = "runs/r/stages"
ROOT = Path(__file__).parents[2]
HOLD = f"""
import sys, time
from tasks.lease import leased
from tasks.store import open_store
with leased(open_store(sys.argv[1]), {FOLDER!r}, "train", {{}}):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path) -> Store:
    return open_store(
        str(tmp_path / "s") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"
    )


@pytest.fixture
def hasty(monkeypatch) -> None:
    """Leases of half a second."""
    monkeypatch.setattr(lease, "LEASE", 0.5)
    monkeypatch.setattr(lease, "_SIGN", 0.1)
    monkeypatch.setattr(lease, "_PATIENCE", 1.0)
    monkeypatch.setattr(lease, "_LOOK", 0.02)


@pytest.fixture
def elsewhere(store) -> dict[str, object]:
    """The entry and sign of an attempt that began just now in another machine's container."""
    with leased(store, FOLDER, "train", {}):
        sign = store.read_json(f"{FOLDER}/leases/train/00000001.json")
    sign |= {"worker": {**sign["worker"], "host": "another", "container": "c" * 64}, "ended": ""}
    store.put_json(sign, f"{FOLDER}/leases/train/00000001.json")
    return sign


@pytest.mark.usefixtures("hasty")
def test_of_many_that_want_a_stage_one_does_it_and_all_get_its_record(store):
    done: list[int] = []

    def work(context):
        done.append(context.lease.attempt)
        time.sleep(0.2)
        return {"by": context.lease.attempt}

    with ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(run_stage, store, "r", "train", {}, work) for _ in range(6)]
        records = [each.result() for each in waiting]
    assert done == [1]
    assert {record.result["by"] for record in records} == {1}


@pytest.mark.usefixtures("hasty")
def test_attempts_of_many_at_once_never_overlap(store):
    inside, most = 0, 0
    lock = threading.Lock()

    def attempt(_: int) -> int:
        nonlocal inside, most
        with leased(store, FOLDER, "train", {}) as held:
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.01)
            with lock:
                inside -= 1
            return held.attempt

    with ThreadPoolExecutor(5) as pool:
        numbers = list(pool.map(attempt, range(10)))
    assert sorted(numbers) == list(range(1, 11))
    assert most == 1


def test_a_process_that_was_killed_on_this_machine_is_succeeded_at_once(tmp_path):
    folder = str(tmp_path / "s")
    holder = subprocess.Popen(  # noqa: S603  our own words
        [sys.executable, "-c", HOLD, folder], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    begun = time.monotonic()
    with leased(open_store(folder), FOLDER, "train", {}) as held:
        assert held.attempt == 2
    assert time.monotonic() - begun < 5 < lease.LEASE


@pytest.mark.usefixtures("hasty", "elsewhere")
def test_a_holder_elsewhere_is_succeeded_after_a_lease_of_silence(store):
    begun = time.monotonic()
    with leased(store, FOLDER, "train", {}) as held:
        assert held.attempt == 2
    assert time.monotonic() - begun >= 0.5


@pytest.mark.usefixtures("hasty")
def test_a_holder_that_gives_signs_is_not_succeeded(store, elsewhere):
    stop = threading.Event()

    def live() -> None:
        while not stop.wait(0.1):
            renewed = datetime.now(UTC).isoformat()
            store.put_json(
                {**elsewhere, "renewed": renewed}, f"{FOLDER}/leases/train/00000001.json"
            )

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with (
            pytest.raises(StageBusyError, match=r"train is being done by another.*wait for it"),
            leased(store, FOLDER, "train", {}),
        ):
            pass
    finally:
        stop.set()
        thread.join()
    assert not store.exists(f"{FOLDER}/attempts/train/00000002.json")


def test_a_busy_stage_may_be_free_later():
    assert exit_code(StageBusyError("busy")) == exit_code(LeaseLostError("late")) == TEMPORARY


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("epochs=0: must be 1 or more"), 2), (StoreUnavailableError("full"), 75),
     (RuntimeError("a bug"), 1), (KeyboardInterrupt(), 1)],
)  # fmt: skip
def test_how_an_attempt_ended_can_be_read(store, error, code):
    def work(_context):
        raise error

    with pytest.raises(type(error)):
        run_stage(store, "r", "train", {}, work)
    told = outcome(store, FOLDER, "train")
    assert told is not None
    assert (told["attempt"], told["exit_code"]) == (1, code)
    assert told["error"] == (str(error) or "KeyboardInterrupt")
    assert told["kind"] == type(error).__name__
    assert told["ended"]


def test_an_attempt_that_succeeded_says_so_and_a_stage_never_begun_says_nothing(store):
    assert outcome(store, FOLDER, "train") is None
    record = run_stage(store, "r", "train", {}, lambda _: {})
    told = outcome(store, FOLDER, "train")
    assert told is not None
    assert (told["exit_code"], told["error"]) == (0, "")
    assert told["worker"]["host"] == record.host == this_worker().host


def test_a_late_attempt_cannot_finish(store):
    def work(context):
        # what a successor does that took this one for dead
        store.claim(b"{}", f"{FOLDER}/attempts/train/{context.lease.attempt + 1:08d}.json")
        return {}

    with pytest.raises(LeaseLostError, match="attempt 2 has begun"):
        run_stage(store, "r", "train", {}, work)
    assert read_stage(store, "r", "train") is None


@pytest.mark.usefixtures("hasty")
def test_signs_are_given_while_the_work_lasts(store):
    with leased(store, FOLDER, "train", {}):
        key = f"{FOLDER}/leases/train/00000001.json"
        first = store.read_json(key)["renewed"]
        time.sleep(0.4)
        assert store.read_json(key)["renewed"] > first
        assert store.read_json(key)["ended"] == ""


def test_an_entry_of_a_version_without_leases_holds_nothing(store):
    store.put_json({"host": "h", "started": "2026-01-01T00:00:00+00:00"},
                   f"{FOLDER}/attempts/train/00000001.json")  # fmt: skip
    with leased(store, FOLDER, "train", {}) as held:
        assert held.attempt == 2


def test_this_process_lives_and_another_machines_is_not_judged():
    worker = this_worker()
    assert not worker.is_gone()
    child = subprocess.run(
        [sys.executable, "-c", "from tasks.worker import this_worker; w = this_worker();"
         "print(w.host, w.container or '-', w.boot, w.pid, w.started)"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    host, container, boot, pid, started = child.stdout.split()
    ended = type(worker)(
        host=host, container=container.strip("-"), boot=boot, pid=int(pid), started=started
    )
    assert ended.is_gone()
    away = type(worker)(host="x", container="", boot=boot, pid=int(pid), started=started)
    assert not away.is_gone()


def test_who_saw_a_process_end_can_say_so_for_it_and_for_no_other(store, elsewhere):
    elsewhere["flow_run"] = "killed-one"
    store.put_json(elsewhere, f"{FOLDER}/leases/train/00000001.json")
    end_for(store, FOLDER, "train", "another", "killed: out of memory")
    assert not store.read_json(f"{FOLDER}/leases/train/00000001.json")["ended"]
    end_for(store, FOLDER, "train", "killed-one", "killed: out of memory")
    told = outcome(store, FOLDER, "train")
    assert told is not None
    assert (told["exit_code"], told["error"]) == (TEMPORARY, "killed: out of memory")
    begun = time.monotonic()
    with leased(store, FOLDER, "train", {}) as held:
        assert held.attempt == 2
    assert time.monotonic() - begun < 5 < lease.LEASE


def test_an_attempt_that_ended_by_itself_keeps_its_own_words(store):
    def work(context):
        context.lease.flow_run = "f"
        raise ConfigError("epochs=0")

    with pytest.raises(ConfigError):
        run_stage(store, "r", "train", {}, work)
    end_for(store, FOLDER, "train", "f", "killed")
    told = outcome(store, FOLDER, "train")
    assert told is not None
    assert (told["exit_code"], told["error"]) == (2, "epochs=0")


@pytest.mark.usefixtures("hasty", "elsewhere")
def test_one_who_does_not_wait_gets_a_silent_holders_stage_after_the_silence_that_it_saw(store):
    sign = f"{FOLDER}/leases/train/00000001.json"
    watch, begun = Watch(), time.monotonic()
    with pytest.raises(StageBusyError), leased(store, FOLDER, "train", {}, watch):
        pass
    assert time.monotonic() - begun < 0.4, "it waited"
    time.sleep(0.3)
    store.put_json({**store.read_json(sign), "renewed": datetime.now(UTC).isoformat()}, sign)
    with pytest.raises(StageBusyError), leased(store, FOLDER, "train", {}, watch):
        pass
    time.sleep(0.3)  # 0.6 s since the first look, 0.3 since the last sign
    with pytest.raises(StageBusyError), leased(store, FOLDER, "train", {}, watch):
        pass
    time.sleep(0.6)
    with leased(store, FOLDER, "train", {}, watch) as lease:
        assert lease.attempt == 2


def test_one_who_does_not_wait_gets_at_once_what_is_over(store):
    with leased(store, FOLDER, "train", {}):
        pass
    with leased(store, FOLDER, "train", {}, Watch()) as lease:
        assert lease.attempt == 2
