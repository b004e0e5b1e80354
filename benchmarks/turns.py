"""Candidates in processes of their own that take turns, for what belongs to a process.

Settings of the memory allocator and peak memory do; `measure.in_turns` is for the rest.
A candidate runs `serve`, its parent asks it for one turn after the other.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from benchmarks import measure

Turn = dict[str, float]


class Peer:
    """A candidate in a process of its own."""

    def __init__(self, module: str, arguments: Sequence[str], changes: Mapping[str, str]) -> None:
        """Starts it.

        Args:
            module: Runs it, as in python -m.
            arguments: Its command line.
            changes: Environment variables that it has besides.
        """
        self._process = subprocess.Popen(  # noqa: S603  our own program
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **changes},
        )

    def turn(self) -> Turn:
        """One turn of work: what `serve` writes of it.

        Raises:
            RuntimeError: The process ended.
        """
        assert self._process.stdin is not None  # noqa: S101  pipes, as we asked for
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a candidate ended with {self._process.wait()}")
        found: Turn = json.loads(line)
        return found

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process: it sees the end of its input."""
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.close()
        self._process.wait()


def serve(work: Callable[[], Mapping[str, float]]) -> None:
    """Does the work each time the parent asks, until it asks no more.

    Writes what `work` returns, with wall seconds, CPU seconds and minor page faults of this process
    and its children that live on, the most memory that this process has held so far, and what it
    holds now with its children, megabytes.
    """
    for _ in sys.stdin:
        before, started = _used(), time.perf_counter()
        said = work()
        seconds, after = time.perf_counter() - started, _used()
        turn = {
            "seconds": seconds,
            "cpu_s": after.cpu_s - before.cpu_s,
            "faults": float(after.faults - before.faults),
            "peak_rss_mb": measure.peak_rss_mb(),
            "held_mb": after.held_mb,
            **said,
        }
        sys.stdout.write(json.dumps(turn) + "\n")
        sys.stdout.flush()


class _Used(NamedTuple):
    cpu_s: float
    faults: int
    held_mb: float  # what is shared is counted once


def _used() -> _Used:
    own = Path("/proc/self")
    children = " ".join(file.read_text("ascii") for file in own.glob("task/*/children")).split()
    cpu_s, faults, held_mb = 0.0, 0, 0.0
    for folder in (own, *(Path("/proc") / pid for pid in children)):
        # proc(5): from the third on, behind a name that may have blanks
        fields = (folder / "stat").read_text("ascii").rpartition(") ")[2].split()
        faults += int(fields[7])
        cpu_s += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        memory = (folder / "smaps_rollup").read_text("ascii")
        held_mb += int(memory.partition("\nPss:")[2].split()[0]) / 1024
    return _Used(cpu_s, faults, held_mb)


def turns(peers: Mapping[str, Peer], rounds: int, warmup: int = 1) -> dict[str, list[Turn]]:
    """So many turns of each, one after the other, round by round; those to warm up left out."""
    found: dict[str, list[Turn]] = {name: [] for name in peers}
    for number in range(warmup + rounds):
        for name, peer in peers.items():
            turn = peer.turn()
            if number >= warmup:
                found[name].append(turn)
    return found


def column(found: Sequence[Turn], name: str) -> list[float]:
    """One figure of every turn."""
    return [turn[name] for turn in found]
