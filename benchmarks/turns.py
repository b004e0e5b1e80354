"""Candidates in processes of their own that take turns, for what belongs to a process.

Settings of the memory allocator and peak memory do; `measure.in_turns` is for the rest.
A candidate runs `serve`, its parent asks it for one turn after the other.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

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

    Writes what `work` returns, with wall and CPU seconds of this process, minor page faults, and
    the most memory so far, megabytes.
    """
    for _ in sys.stdin:
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        said = work()
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
        turn = {
            "seconds": seconds,
            "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            "faults": float(after.ru_minflt - before.ru_minflt),
            "peak_rss_mb": after.ru_maxrss / 1024,
            **said,
        }
        sys.stdout.write(json.dumps(turn) + "\n")
        sys.stdout.flush()


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
