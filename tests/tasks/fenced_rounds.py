"""One of the processes of test_fencing: does a stage again and again, and stops at random places.

It is told a round on stdin, says on stdout where it stops (SIGSTOP, all its threads with it), and
at the end of the round what it got: a record, or that it lost its lease.
"""

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from typing import Any

from tasks import lease, stage
from tasks.lease import Lease, LeaseLostError
from tasks.stage import StageContext, run_stage
from tasks.store import open_store

RUN, STAGE = "r", "train"
SILENCE = 0.1  # seconds after which a process that stopped is succeeded
LONGEST = 2 * SILENCE  # that it stops for
OFTEN = 0.3  # at each place, of 1


def tell(**words: Any) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def may_stop(rng: random.Random, place: str) -> None:
    if rng.random() < OFTEN:
        tell(stops=place, for_s=rng.uniform(0, LONGEST))
        os.kill(os.getpid(), signal.SIGSTOP)


def stopping(rng: random.Random, place: str, act: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, with a place to stop right before it and right after it."""

    @wraps(act)
    def around(*args: Any) -> Any:
        may_stop(rng, f"before {place}")
        result = act(*args)
        may_stop(rng, f"after {place}")
        return result

    return around


def main(url: str, seed: int) -> None:
    rng, store = random.Random(seed), open_store(url)  # noqa: S311  no secret
    lease.LEASE, lease._SIGN, lease._LOOK = SILENCE, SILENCE / 5, SILENCE / 20
    Lease.commit = stopping(rng, "commit", Lease.commit)  # type: ignore[method-assign]  to stop in it
    stage._copy = stopping(rng, "copy", stage._copy)
    for line in sys.stdin:
        number = int(line)

        def work(context: StageContext, number: int = number) -> dict[str, object]:
            may_stop(rng, "work")
            local = context.scratch / "weights"
            local.write_text(f"weights of round {number}", "ascii")
            context.publish(local, "weights")
            return {"pid": os.getpid()}

        may_stop(rng, "claim")
        try:
            record = run_stage(store, RUN, STAGE, {"round": number}, work)
            tell(record=asdict(record))
        except LeaseLostError as error:
            tell(lost=str(error))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
