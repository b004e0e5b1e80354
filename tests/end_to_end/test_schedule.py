"""Runs that the server starts: on time, one at a time, whatever is killed meanwhile."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelling, Running

from flows.retrain import retrain
from tasks.run import newest_run
from tasks.store import open_store
from tests.end_to_end.conftest import tiny_config
from tests.stack import STALL_S, Stack, stack

pytestmark = pytest.mark.slow
LONG = 2000  # epochs that nobody waits for
SILENCE_S = 45  # the shortest sensible: a heartbeat is sent every 30 s


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("up"), RETRAIN_SILENCE=str(SILENCE_S)) as running:
        yield running


@pytest.fixture(scope="module")
def lost(served: Stack) -> UUID:
    """A cancelled run that nobody is there to end; the server does so while other tests run."""
    running: State[None] = Running()
    with served.client() as client:
        run = client.create_flow_run(retrain, state=running).id
        client.set_flow_run_state(run, Cancelling())
    return run


@pytest.fixture(autouse=True)
def one_server_and_unchanged_settings() -> None:
    """These tests have a server of their own, not the one of the folder."""


def running_in(served: Stack, run: UUID, timeout_s: float = 60 + STALL_S) -> int:
    """Waits until a run trains and returns the id of its process."""
    served.wait(timeout_s, lambda: train_stages(served, run), f"run {run} to train")
    return int(served.flow_run(run).infrastructure_pid or 0)


def train_stages(served: Stack, run: UUID) -> list[UUID]:
    """Ids of the stage's flow runs within a run."""
    parents = FlowRunFilterParentFlowRunId(any_=[run])
    with served.client() as client:
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=parents))
    return [part.id for part in found if part.name.startswith("train ")]


def has_heartbeat(served: Stack, run: UUID) -> bool:
    """Whether a sign of life of a flow run has come to the server."""
    wanted = {
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "resource": {"id": [f"prefect.flow-run.{run}"]},
    }
    with served.client() as client:
        found = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1})
    return bool(found.json()["events"])


def cancel(served: Stack, run: UUID) -> None:
    with served.client() as client:
        client.request(
            "POST",
            "/flow_runs/{id}/set_state",
            path_params={"id": run},
            json={"state": {"type": "CANCELLING"}},
        )
    assert served.finished(run, 60).is_cancelled()


@pytest.mark.usefixtures("lost")  # its time begins here
def test_the_cron_schedule_makes_runs_and_the_server_logs_no_error(served):
    def scheduled() -> int:
        with served.client() as client:
            nightly = client.read_deployment_by_name("retrain/nightly")
            types = FlowRunFilterStateType(any_=[StateType.SCHEDULED])
            return len(
                client.read_flow_runs(
                    flow_run_filter=FlowRunFilter(
                        deployment_id=FlowRunFilterDeploymentId(any_=[nightly.id]),
                        state=FlowRunFilterState(type=types),
                    )
                )
            )

    served.wait(90 + STALL_S, scheduled, "a scheduled nightly run")
    assert "ERROR" not in served.log("server")


def test_a_second_nightly_run_is_cancelled_and_the_first_goes_on(served, data, tmp_path):
    config = tiny_config(data, tmp_path, epochs=LONG)
    first = served.run("retrain/nightly", config)
    running_in(served, first)
    second = served.finished(served.run("retrain/nightly", config), 30)
    assert second.is_cancelled()
    assert second.message == "Deployment concurrency limit reached."
    assert served.state(first).is_running()
    cancel(served, first)


def test_a_killed_worker_is_back_within_seconds_and_takes_the_next_run(served, data, tmp_path):
    before = served.pids()["worker-orchestrator"]
    served.kill("worker-orchestrator")
    served.wait(10, lambda: served.pids()["worker-orchestrator"] not in (0, before), "a new worker")
    run = served.run("retrain/on-demand", tiny_config(data, tmp_path))
    assert served.finished(run, 90).is_completed()
    assert newest_run(open_store(str(tmp_path / "store")))


def test_a_cancelled_run_whose_end_nobody_reports_is_cancelled(served, lost):
    state = served.finished(lost, 2.5 * SILENCE_S + 60)
    assert state.is_cancelled()
    assert "was not reported within 112 s" in state.message


def test_a_run_outlives_the_death_of_its_server(served, data, tmp_path):
    run = served.run("retrain/on-demand", tiny_config(data, tmp_path, epochs=8))
    running_in(served, run)
    before = served.pids()["server"]
    served.kill("server")
    served.wait(10, lambda: served.pids()["server"] not in (0, before), "a new server")
    served.wait(60 + STALL_S, lambda: served.state(run).is_running(), "the new server to answer")
    assert served.finished(run, 120).is_completed()


def test_a_run_without_heartbeats_is_crashed(served, data, tmp_path):
    run = served.run("retrain/on-demand", tiny_config(data, tmp_path, epochs=LONG))
    process = running_in(served, run)
    [stage] = train_stages(served, run)
    served.wait(60 + STALL_S, lambda: has_heartbeat(served, stage), "a sign of life of the stage")
    served.kill("worker-orchestrator")  # else it would report its process's end at once
    os.kill(process, signal.SIGKILL)
    killed = time.monotonic()
    state = served.finished(run, SILENCE_S + 60)
    assert state.is_crashed()
    assert state.message == f"no heartbeat for {SILENCE_S} s: the process or its machine is gone"
    assert time.monotonic() - killed < SILENCE_S + 30 + STALL_S
    assert served.finished(stage, 60).message == state.message


def test_taking_the_server_down_cancels_what_runs_and_up_finds_it_so(served, data, tmp_path):
    run = served.run("retrain/on-demand", tiny_config(data, tmp_path, epochs=LONG))
    process = running_in(served, run)
    done = served.command("down")
    assert done.returncode == 0
    assert "cancelled" in done.stdout
    assert not Path(f"/proc/{process}").exists()
    assert served.command("up").returncode == 0
    assert served.state(run).is_cancelled()


def test_after_a_power_cut_up_says_that_the_run_is_dead(served, data, tmp_path):
    run = served.run("retrain/nightly", tiny_config(data, tmp_path, epochs=LONG))
    process = running_in(served, run)
    supervisord = int((served.site.state / "supervisord.pid").read_text())
    for pid in (supervisord, *served.pids().values(), process):
        os.kill(pid, signal.SIGKILL)
    done = served.command("up")
    assert done.returncode == 0, done.stderr
    assert served.state(run).is_crashed()
    assert served.state(run).message == "its process ended with the machine or the server"
    follower = served.run("retrain/nightly", tiny_config(data, tmp_path / "next"))
    assert served.finished(follower, 90).is_completed()  # the slot of the night is free again
