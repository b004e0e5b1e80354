"""A process that has everything imported and forks itself for every run: imports take seconds.

One JSON line in, `{"arguments": [...], "point": {...} or null, "log": path}`; one number out, the
exit status as subprocess gives it.
"""

import importlib
import json
import os
import sys
from pathlib import Path

from flows.cli import main
from tasks.records import STAGES
from tests.kill_matrix.points import Point, arm


def _child(order: dict[str, object]) -> None:
    log = os.open(str(order["log"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if order["point"]:
        arm(Point(**order["point"]))  # type: ignore[arg-type]
    code = 1
    try:
        code = main(order["arguments"])  # type: ignore[arg-type]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Until the end of the input."""
    for name in ("flows.retrain", *(f"tasks.{stage}" for stage in STAGES), "tasks.card"):
        importlib.import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        Path(order["log"]).parent.mkdir(parents=True, exist_ok=True)
        child = os.fork()
        if child == 0:
            _child(order)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
