"""Two processes at one stage: whatever stops them wherever, one of them commits."""

import json
import select
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tasks import lease, stage
from tasks.lease import Lease, LeaseLostError
from tasks.stage import StageContext, read_stage, run_stage
from tasks.store import Store, open_store
from tests.tasks.fenced_rounds import RUN, STAGE
from tests.undone import begun_and_done

ROOT = Path(__file__).parents[2]
Act = Callable[[], None]
KEY = f"runs/{RUN}/stages/{STAGE}.json"


class Process:
    """A process of fenced_rounds, which is woken whenever it has stopped itself."""

    def __init__(self, url: str, seed: int) -> None:
        command = [sys.executable, "-m", "tests.tasks.fenced_rounds", url, str(seed)]
        self._process = subprocess.Popen(  # noqa: S603  our own words
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.stops: list[str] = []

    def round(self, number: int) -> dict[str, Any]:
        """What it got in a round."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % number)
        while "stops" in (said := self._said()):
            self.stops.append(said["stops"])
            time.sleep(said["for_s"])
            self._wake()
        return said

    def close(self) -> None:
        self._process.send_signal(signal.SIGCONT)
        self._process.communicate(timeout=30)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _said(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"it ended: {self._process.wait()}"
        return json.loads(line)

    def _wake(self) -> None:
        """Until it says the next word: it may not have stopped yet when it is woken first."""
        said = False
        while not said:
            self._process.send_signal(signal.SIGCONT)
            said = bool(select.select([self._process.stdout], [], [], 0.05)[0])


@contextmanager
def two_processes(url: str) -> Iterator[tuple[Process, Process]]:
    both = Process(url, 1), Process(url, 2)
    try:
        yield both
        for each in both:
            each.close()
    finally:
        for each in both:
            each.kill()


def play(store: Store, rounds: int) -> Counter[str]:
    """Plays rounds, each of which must end with one commit; what the processes got, in all."""
    got: Counter[str] = Counter()
    with two_processes(store.url("")) as both, ThreadPoolExecutor(2) as pool:
        for number in range(rounds):
            before = begun_and_done(store, RUN, STAGE)[1]
            answers = list(pool.map(Process.round, both, [number] * 2))
            commits = begun_and_done(store, RUN, STAGE)[1]
            assert len(commits) == len(before) + 1, answers
            committed = store.read_json(commits[-1])["record"]
            assert committed["inputs"] == {"round": number}
            assert store.read_json(KEY) == committed
            record = read_stage(store, RUN, STAGE)
            assert record is not None
            assert json.loads(json.dumps(asdict(record))) == committed
            assert store.read_artifact(record.outputs[0]) == f"weights of round {number}".encode()
            for answer in answers:
                assert "lost" in answer or answer["record"] == committed
            got.update(word for answer in answers for word in answer)
        got.update(place for each in both for place in each.stops)
    return got


@pytest.mark.slow
def test_in_a_hundred_rounds_of_pauses_each_has_one_commit(tmp_path):
    begun = time.monotonic()
    got = play(open_store(str(tmp_path)), 100)
    assert time.monotonic() - begun < 60
    assert got["record"] + got["lost"] == 200
    assert got["lost"] >= 10, got  # so often one was taken for dead, and was only late
    for what in ("commit", "copy"):
        assert got[f"before {what}"] >= 10, got
        assert got[f"after {what}"] >= 10, got


@pytest.mark.slow
@pytest.mark.gcs
@pytest.mark.usefixtures("emulator")
def test_in_a_bucket_each_round_has_one_commit_too():
    got = play(open_store(f"gs://models/{uuid.uuid4().hex}"), 25)
    assert got["record"] + got["lost"] == 50
    assert got["lost"] >= 2, got


@pytest.fixture
def silent(monkeypatch) -> None:
    """Leases of a moment, of which no holder gives a sign: this process is as if it were paused."""
    monkeypatch.setattr(lease, "LEASE", 0.05)
    monkeypatch.setattr(lease, "_SIGN", 60)
    monkeypatch.setattr(lease, "_LOOK", 0.01)


def pause(monkeypatch: pytest.MonkeyPatch, of: object, name: str, meanwhile: Act) -> None:
    """Lets something happen right before a function does its work for the first time."""
    act = getattr(of, name)

    def late(*args: Any) -> Any:
        monkeypatch.setattr(of, name, act)
        meanwhile()
        return act(*args)

    monkeypatch.setattr(of, name, late)


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path) -> Store:
    return open_store(
        str(tmp_path / "s") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"
    )


def write(by: str) -> Callable[[StageContext], dict[str, object]]:
    def work(context: StageContext) -> dict[str, object]:
        local = context.scratch / "weights"
        local.write_text(by, "ascii")
        context.publish(local, "weights")
        return {"by": by}

    return work


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("where", ["commit", "claim"])
def test_who_was_succeeded_right_before_its_commit_does_not_commit(store, monkeypatch, where):
    """The moment that a check before the write cannot cover: the last one before the write."""

    def successor() -> None:
        assert run_stage(store, RUN, STAGE, {}, write("successor")).attempt == 2

    if where == "commit":
        pause(monkeypatch, Lease, "commit", successor)
        work = write("late")
    else:  # deeper: once the late one has prepared what it will write

        def work(context: StageContext) -> dict[str, object]:
            pause(monkeypatch, Store, "claim", successor)
            return write("late")(context)

    with pytest.raises(LeaseLostError, match="attempt 2 has begun while attempt 1 gave no sign"):
        run_stage(store, RUN, STAGE, {}, work)
    begun, commits = begun_and_done(store, RUN, STAGE)
    assert (len(begun), len(commits)) == (2, 1)
    record = read_stage(store, RUN, STAGE)
    assert record is not None
    assert (record.attempt, record.result) == (2, {"by": "successor"})
    assert store.read_json(KEY)["attempt"] == 2


@pytest.mark.usefixtures("silent")
def test_who_comes_right_after_the_commit_gets_the_record(store, monkeypatch):
    """The first one has not written the copy yet, nor said that it has ended."""
    found = []

    def second() -> None:
        found.append(run_stage(store, RUN, STAGE, {}, write("second")))

    pause(monkeypatch, stage, "_copy", second)
    first = run_stage(store, RUN, STAGE, {}, write("first"))
    assert found == [first]
    assert len(begun_and_done(store, RUN, STAGE)[1]) == 1


@pytest.mark.usefixtures("silent")
def test_the_copy_is_of_the_newest_commit_though_an_older_one_is_written_late(store, monkeypatch):
    """The first attempt is about to write its copy when one with other inputs does all its work."""

    def other() -> None:
        run_stage(store, RUN, STAGE, {"epochs": 2}, write("second"))

    def work(context: StageContext) -> dict[str, object]:
        pause(monkeypatch, Store, "put_json", other)
        return write("first")(context)

    first = run_stage(store, RUN, STAGE, {"epochs": 1}, work)
    assert first.result == {"by": "first"}
    assert len(begun_and_done(store, RUN, STAGE)[1]) == 2
    assert store.read_json(KEY)["result"] == {"by": "second"}


@pytest.mark.usefixtures("silent")
def test_what_a_late_attempt_writes_over_is_found_out_and_made_again(store, monkeypatch):
    def successor() -> None:
        run_stage(store, RUN, STAGE, {}, write("right"))

    def work(context: StageContext) -> dict[str, object]:
        pause(monkeypatch, Store, "put_file", successor)
        return write("wrong")(context)

    with pytest.raises(LeaseLostError):
        run_stage(store, RUN, STAGE, {}, work)
    assert store.read_bytes("runs/r/weights") == b"wrong"
    assert run_stage(store, RUN, STAGE, {}, write("right")).attempt == 3
    assert store.read_bytes("runs/r/weights") == b"right"
