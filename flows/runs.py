"""What a Prefect server knows of our runs, and how to end them."""

import os
import time

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelling, Crashed

_RETRAIN = FlowFilter(name=FlowFilterName(any_=["retrain"]))
_SCHEDULED = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
_BEGUN = FlowRunFilterState(type=FlowRunFilterStateType(not_any_=[StateType.SCHEDULED]))
_GOING_ON = FlowRunFilterState(
    type=FlowRunFilterStateType(
        any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED]
    )
)
# Runs with a process or container of their own; a stage inside its parent's process has none.
_ON_THEIR_OWN = FlowRunFilterDeploymentId(is_null_=False)
_INSIDE = FlowRunFilterDeploymentId(is_null_=True)


def next_and_last() -> list[tuple[str, str]]:
    """The next scheduled retraining and the newest that began, as titled rows."""
    with get_client(sync_client=True) as client:
        coming = client.read_flow_runs(
            flow_filter=_RETRAIN,
            flow_run_filter=FlowRunFilter(state=_SCHEDULED),
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=1,
        )
        begun = client.read_flow_runs(
            flow_filter=_RETRAIN,
            flow_run_filter=FlowRunFilter(state=_BEGUN),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=1,
        )
    return [("next run", _line(coming)), ("last run", _line(begun))]


def _line(runs: list[FlowRun]) -> str:
    if not runs:
        return "none"
    when = runs[0].expected_start_time
    local = f"{when.astimezone():%Y-%m-%d %H:%M %Z}  " if when else ""
    return f"{local}{_state(runs[0])}  {runs[0].name}"


def _state(run: FlowRun) -> str:
    return str(run.state.name) if run.state else "unknown"


def going_on() -> list[str]:
    """Names of the runs that a worker has started and that have not ended."""
    with get_client(sync_client=True) as client:
        return [run.name for run in _going_on(client)]


def _going_on(client: SyncPrefectClient) -> list[FlowRun]:
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=_GOING_ON, deployment_id=_ON_THEIR_OWN)
    )


def _going_on_inside(client: SyncPrefectClient, parent: FlowRun) -> list[FlowRun]:
    """The stages that ran in the process of their parent."""
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=_GOING_ON,
            parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[parent.id]),
            deployment_id=_INSIDE,
        )
    )


def cancel_all(timeout_s: float) -> list[str]:
    """Cancels every run that is going on and waits until their workers have ended them.

    Returns:
        A line on each.
    """
    state: State[None] = Cancelling(
        message="the server was taken down; resume the run to continue it"
    )
    with get_client(sync_client=True) as client:
        runs = _going_on(client)
        for run in runs:
            client.set_flow_run_state(run.id, state)
        end = time.monotonic() + timeout_s
        while runs and _going_on(client) and time.monotonic() < end:
            time.sleep(1)
        known = FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in runs]))
        ended = client.read_flow_runs(flow_run_filter=known) if runs else []
    return [f"run {run.name}: {_state(run).lower()}" for run in ended]


def crash_dead() -> list[str]:
    """Says Crashed of runs whose process ended together with all that could have reported it.

    Call it before a worker starts: a run of its own would be too young to be known here.

    Returns:
        A line on each.
    """
    state: State[None] = Crashed(message="its process ended with the machine or the server")
    said = []
    with get_client(sync_client=True) as client:
        for run in _going_on(client):
            pid = run.infrastructure_pid or ""  # a bare number for processes of this machine
            if pid.isdecimal() and not _is_alive(int(pid)):
                for part in (run, *_going_on_inside(client, run)):
                    client.set_flow_run_state(part.id, state, force=True)
                said.append(f"run {run.name}: ended with the machine or the server, now crashed")
    return said


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
