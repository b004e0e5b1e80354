"""Feeds every parser of users' files hostile input for some minutes.

    python -m benchmarks.fuzz --minutes 10 2> /dev/null

(The decoders in C write to standard error about damaged pictures.) Rounds of damaged files, fast,
alternate with rounds of hypothesis, which writes files by their grammar and makes a failing one
small. A round is a pure function of its seed. Exit status 1 at the first thing that goes wrong.
"""

import argparse
import faulthandler
import secrets
import sys
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, seed, settings

from tests.fuzz import Target, mutated, randomness, targets

_DAMAGED = 2000  # files a round
_BY_GRAMMAR = 200


@dataclass
class Tally:
    """What was done for one parser."""

    runs: int = 0
    read: int = 0  # the others were refused
    slowest_s: float = 0.0
    slow: bytes = field(default=b"", repr=False)

    def check(self, target: Target, data: bytes) -> None:
        """Tries one file."""
        started = time.perf_counter()
        self.read += target.check(data)
        self.runs += 1
        seconds = time.perf_counter() - started
        if seconds > self.slowest_s:
            self.slowest_s, self.slow = seconds, data


def damaged_round(target: Target, tally: Tally, number: int) -> None:
    """Tries damaged files; a failing one is shown."""
    rng = randomness(number)
    for _ in range(_DAMAGED):
        data = mutated(rng, target)
        try:
            tally.check(target, data)
        except Exception:
            sys.stdout.write(f"failing input: {data!r}\n")
            raise


def grammar_round(target: Target, tally: Tally, number: int) -> None:
    """Tries what hypothesis writes."""

    @seed(number)
    @settings(
        max_examples=_BY_GRAMMAR,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs)
    def run(data: bytes) -> None:
        tally.check(target, data)

    run()


def main() -> int:
    """Runs until the time is over and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    arguments = parser.parse_args()
    faulthandler.enable()  # a crash in C names the parser at work
    warnings.simplefilter("ignore")  # PIL remarks on damage
    sys.stdout.write(f"seed {arguments.seed}\n")
    tallies = {name: Tally() for name in targets()}
    spent: Counter[str] = Counter()  # seconds
    number = arguments.seed
    end = time.monotonic() + 60 * arguments.minutes
    while (now := time.monotonic()) < end:
        name = min(tallies, key=lambda name: spent[name])  # each gets the same time
        target, tally = targets()[name], tallies[name]
        for run in (damaged_round, grammar_round):
            try:
                run(target, tally, number)
            except Exception:  # noqa: BLE001  any is what we look for
                sys.stdout.write(
                    f"{name}: {run.__name__} {number} failed\n{traceback.format_exc()}"
                )
                return 1
        spent[name] += int(1e6 * (time.monotonic() - now))
        number += 1
    for name, tally in tallies.items():
        sys.stdout.write(
            f"{name:<9} {tally.runs:>9,} files in {spent[name] / 1e6:.0f} s, {tally.read:,} read, "
            f"the others refused; slowest {tally.slowest_s:.2f} s ({len(tally.slow)} bytes)\n"
        )
    sys.stdout.write(f"{sum(t.runs for t in tallies.values()):,} files, nothing went wrong\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
