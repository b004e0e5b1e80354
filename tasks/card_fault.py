"""Why a run did not finish, for its card: what, where, what it means and what to do."""

import json
import math
import shlex
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.errors import FAILURE, TEMPORARY, USAGE, TerminatedError, exit_code
from tasks.records import RunInfo
from tasks.secrets import without_secrets

_LONGEST = 4000  # characters of a message or a traceback
# Named, not imported: Prefect's, and ours for containers.
_INTERRUPTIONS = ("TerminationSignal", "StageCancelledError", "CancelledRun", "KeyboardInterrupt")
_MEANING = {
    USAGE: "A setting or the data is wrong; trying again helps only after a change.",
    TEMPORARY: "A fault that may pass; the same command may work later.",
    FAILURE: "Nobody foresaw this; it may be a bug.",
}


def describe_fault(
    info: RunInfo,
    stage: str,
    attempts: Sequence[Mapping[str, Any]],
    error: BaseException | None,
) -> dict[str, Any] | None:
    """Facts about what a run ended with, JSON types; None if it ended well or has not ended.

    Args:
        info: Of the run.
        stage: The unfinished one, "" if all are done.
        attempts: Those of this stage.
        error: What the run ended with.
    """
    if error is None:
        return None
    code = exit_code(error)
    trace = "".join(traceback.format_exception(error)) if code == FAILURE else ""
    interrupted = isinstance(error, TerminatedError) or type(error).__name__ in _INTERRUPTIONS
    return {
        "stage": stage,
        "attempts": len(attempts),
        "kind": type(error).__name__,
        "message": without_secrets(str(error) or type(error).__name__)[:_LONGEST],
        "trace": without_secrets(trace)[-_LONGEST:],
        "exit_code": code,
        "meaning": _MEANING[code],
        "by": "interruption" if interrupted else "",  # or "gate": then nothing is broken
        "commands": _commands(info, stage),
    }


def stopped_by_gates(
    info: RunInfo, gates: Sequence[Mapping[str, Any]], commands: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """What is different about a fault where the gates of the data stopped the run.

    Args:
        info: Of the run.
        gates: Of the data report.
        commands: Of the fault.
    """
    flags = [
        f"--{gate['name'].replace('_', '-')} {math.ceil(1000 * gate['value']) / 1000}"
        for gate in gates
        if gate["verdict"] == "stop"
    ]
    accept = f"yolov5-retrain {_place(info)} --resume {info.run} {' '.join(flags)}"
    return {"by": "gate", "commands": [*commands, ("accept this data, for this run", accept)]}


def _commands(info: RunInfo, stage: str) -> list[tuple[str, str]]:
    """What each command does, and the command."""
    config, run = info.config, info.run
    place = _place(info)
    commands = [
        (
            "go on with the whole run; finished stages and epochs are kept",
            f"yolov5-retrain {place} --resume {run}",
        )
    ]
    if stage:
        name = json.dumps(run) if _is_json(run) else run  # Prefect reads JSON where it can
        commands += [
            (f"only {stage}, here", f"yolov5-retrain {place} --only {stage} --run {run}"),
            (
                f"only {stage}, by its deployment",
                f"prefect deployment run {stage}/{config.run_on} "
                f"-p {shlex.quote(f'store={config.store}')} -p {shlex.quote(f'run={name}')}",
            ),
        ]
    return commands


def _place(info: RunInfo) -> str:
    return f"--store {shlex.quote(info.config.store)}"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
