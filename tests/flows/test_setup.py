"""Pools, deployments and automations: made once, kept as people change them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import yaml
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.services import (
    DOCKER,
    HEARTBEAT_S,
    HOME,
    KUBERNETES,
    ORCHESTRATOR,
    SILENCE_S,
    client_environment,
)
from flows.setup import automations, essence, set_up
from tasks.records import STAGES
from tests.stack import Stack, stack
from yolov5_core.config import ConfigError

PREFECT_YAML = yaml.safe_load((HOME / "prefect.yaml").read_text("utf-8"))
IMAGES = {"prepare": "cpu", "upload": "cpu", "plot": "cpu"}  # the others need torch


def deployment_names() -> list[str]:
    """As prefect.yaml has them, `flow/name`."""
    return [
        f"{found['entrypoint'].partition(':')[2]}/{found['name']}"
        for found in PREFECT_YAML["deployments"]
    ]


def test_every_stage_can_be_started_by_hand_in_every_place():
    stages = [f"{stage}/{place}" for place in ("here", "docker", "kubernetes") for stage in STAGES]
    others = ["retrain/nightly", "retrain/on-demand", "evolve/here"]
    assert sorted(deployment_names()) == sorted([*others, *stages])


@pytest.mark.parametrize("place", ["docker", "kubernetes"])
def test_only_stages_that_need_torch_get_the_image_that_has_it(place):
    for found in PREFECT_YAML["deployments"]:
        stage = found["entrypoint"].partition(":")[2]
        if found["name"] == place:
            image = found["work_pool"]["job_variables"]["image"]
            assert f"yolov5-retrain:{IMAGES.get(stage, 'train')}" in image


def test_a_run_is_dead_after_four_missed_heartbeats_or_half_an_hour_of_pending():
    silent, pending, cancelling = automations(SILENCE_S)
    assert (silent.trigger.within, pending.trigger.within) == (
        timedelta(seconds=4 * HEARTBEAT_S),
        timedelta(minutes=30),
    )
    assert cancelling.trigger.within == timedelta(minutes=5)
    assert cancelling.actions[0].state == StateType.CANCELLED
    assert silent.trigger.after == {"prefect.flow-run.heartbeat"}
    assert pending.trigger.after == {"prefect.flow-run.Pending"}
    assert {silent.actions[0].state, pending.actions[0].state} == {StateType.CRASHED}


def test_automations_that_do_the_same_are_the_same_in_any_order_of_events():
    cancelling = automations(SILENCE_S)[2]
    answer = json.loads(cancelling.model_dump_json())  # as a server sends it
    answer["trigger"]["expect"].reverse()
    assert essence(AutomationCore.model_validate(answer)) == essence(cancelling)
    assert essence(cancelling)["trigger"]["expect"] == cancelling.trigger.expect  # a set


def test_without_a_server_nothing_is_set_up():
    with (
        temporary_settings({PREFECT_API_URL: None}),  # other tests have servers
        pytest.raises(ConfigError, match="PREFECT_API_URL: not set"),
    ):
        set_up({})


def test_importing_what_is_deployed_loads_no_torch():
    code = "import sys, flows.retrain, flows.stages, flows.setup; print('torch' in sys.modules)"
    done = subprocess.run(  # noqa: S603  our own script
        [sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("up")) as running:
        yield running


def python(served: Stack, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A Python module against this server, in the checkout."""
    return subprocess.run(  # noqa: S603  our own words
        [sys.executable, "-m", *words],
        env={**client_environment(served.site), **settings},
        cwd=HOME,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def timeless(value: Any) -> Any:
    """Without what moves by itself: times of change, the state of workers."""
    if isinstance(value, dict):
        moving = ("updated", "last_polled", "status")
        return {key: timeless(part) for key, part in value.items() if key not in moving}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def everything(served: Stack) -> dict[str, dict[str, Any]]:
    """Ids and contents of all that setup makes."""
    with served.client() as client:
        found = {
            "deployments": client.read_deployments(),
            "pools": client.read_work_pools(),
            "automations": client.read_automations(),
        }
    return {
        kind: {str(one.id): timeless(one.model_dump(mode="json")) for one in ones}
        for kind, ones in found.items()
    }


@pytest.mark.slow
def test_setting_up_again_changes_nothing(served):
    before = everything(served)
    counts = {kind: len(ones) for kind, ones in before.items()}
    assert counts == {"deployments": 24, "pools": 3, "automations": 3}
    done = python(served, "flows.setup")
    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing to change\n", "")
    assert everything(served) == before


@pytest.mark.slow
def test_deploying_by_hand_needs_only_the_home(served):
    done = python(served, "prefect", "deploy", "--all", "--no-prompt", RETRAIN_HOME=str(HOME))
    assert done.returncode == 0, done.stdout + done.stderr
    with served.client() as client:
        train = client.read_deployment_by_name("train/docker")
        nightly = client.read_deployment_by_name("retrain/nightly")
    assert train.job_variables["image"] == "yolov5-retrain:train"
    assert train.job_variables["mem_limit"] == ""
    assert train.job_variables["env"]["PREFECT_HOME"] != str(served.site.state / "prefect")
    assert nightly.global_concurrency_limit.limit == 1
    assert nightly.concurrency_options.collision_strategy == "CANCEL_NEW"
    (schedule,) = nightly.schedules
    assert (schedule.schedule.cron, schedule.active) == ("0 2 * * *", True)


@pytest.mark.slow
def test_settings_of_the_environment_reach_the_deployments(served):
    settings = {"RETRAIN_REGISTRY": "reg/x/", "RETRAIN_TAG": "-1", "RETRAIN_MEMORY": "8g"}
    done = python(
        served, "flows.setup", **settings, RETRAIN_GPUS="0,1", RETRAIN_TIMEZONE="Europe/Berlin"
    )
    assert "deployments: updated" in done.stdout
    with served.client() as client:
        job = client.read_deployment_by_name("train/docker").job_variables
        (schedule,) = client.read_deployment_by_name("retrain/nightly").schedules
    assert (job["image"], job["mem_limit"]) == ("reg/x/yolov5-retrain:train-1", "8g")
    assert job["env"]["NVIDIA_VISIBLE_DEVICES"] == "0,1"
    assert job["container_create_kwargs"]["runtime"] == "nvidia"
    assert schedule.schedule.timezone == "Europe/Berlin"


@pytest.mark.slow
def test_what_a_person_changed_in_the_ui_stays(served):
    mine = {"config": {"data": "/srv/pictures/data.yaml", "epochs": 300}}
    with served.client() as client:
        nightly = client.read_deployment_by_name("retrain/nightly")
        client.update_deployment(nightly.id, DeploymentUpdate(parameters=mine))
        client.pause_deployment(nightly.id)
        client.update_deployment_schedule(nightly.id, nightly.schedules[0].id, active=False)
        client.update_work_pool(DOCKER, WorkPoolUpdate(concurrency_limit=5))
        silent = client.find_automation("crash-silent-runs")
        client.pause_automation(silent.id)
    for _ in range(2):
        done = python(served, "flows.setup")
        assert "nightly: parameters kept as set in the UI" in done.stdout
    with served.client() as client:
        nightly = client.read_deployment_by_name("retrain/nightly")
        assert nightly.parameters == mine
        assert nightly.paused
        assert not nightly.schedules[0].active
        assert client.read_work_pool(DOCKER).concurrency_limit == 5
        assert not client.find_automation("crash-silent-runs").enabled


@pytest.mark.slow
def test_what_would_break_the_nights_is_put_right(served):
    with served.client() as client:
        client.update_work_pool(ORCHESTRATOR, WorkPoolUpdate(concurrency_limit=1))
        client.create_automation(automations(SILENCE_S)[1])
    done = python(served, "flows.setup", RETRAIN_CONTAINERS="3")
    assert "work pool orchestrator: limit removed" in done.stdout
    assert "automation crash-stuck-pending: a double removed" in done.stdout
    with served.client() as client:
        pools = {pool.name: pool.concurrency_limit for pool in client.read_work_pools()}
        names = [automation.name for automation in client.read_automations()]
    assert pools == {ORCHESTRATOR: None, DOCKER: 3, KUBERNETES: None}
    assert sorted(names) == ["crash-silent-runs", "crash-stuck-pending", "end-stuck-cancelling"]


@pytest.mark.slow
def test_a_number_of_containers_that_is_none_is_a_sentence_and_exit_2(served):
    done = python(served, "flows.setup", RETRAIN_CONTAINERS="many")
    assert done.returncode == 2
    assert done.stderr == (
        "setup: error: RETRAIN_CONTAINERS=many: give a whole number, 1 or more\n"
    )
