"""Pools, deployments and automations of a running Prefect server; running it again changes nothing.

`make up` calls it; by hand: `PREFECT_API_URL=http://127.0.0.1:4200/api python -m flows.setup`.
What a person changed in the UI stays: a pause, parameters of a deployment, a switched-off
automation, a pool's limit.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import (
    DeploymentUpdate,
    VariableCreate,
    VariableUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

from flows.services import DOCKER, HEARTBEAT_S, HOME, KUBERNETES, ORCHESTRATOR, SILENCE_S
from tasks.errors import exit_code
from yolov5_core.config import ConfigError

_JOB_TEMPLATE = HOME / "containers" / "kubernetes" / "job-template.json"
_PENDING_MAX = timedelta(minutes=30)  # longer than a pod may wait for a GPU node
_DEPLOY_TIMEOUT_S = 300
# A Prefect variable: the parameters that prefect.yaml said last, to tell them from a person's.
_DEPLOYED = "yolov5_retrain_deployed"


class DeployError(RuntimeError):
    """`prefect deploy` failed; the message is what it said."""


def main() -> int:
    """Sets the server at PREFECT_API_URL up and returns the exit code."""
    try:
        for line in set_up(os.environ):
            sys.stdout.write(f"{line}\n")
    except Exception as error:  # noqa: BLE001  the edge: every error becomes a code and a line
        sys.stderr.write(f"setup: error: {str(error) or type(error).__name__}\n")
        return exit_code(error)
    return 0


def set_up(environment: Mapping[str, str]) -> list[str]:
    """Makes what is missing and updates what differs; says what was done.

    Args:
        environment: Of the process, with the RETRAIN_* settings.

    Raises:
        ConfigError: No server is named, or settings that cannot work.
        DeployError: prefect.yaml cannot be deployed.
    """
    if not PREFECT_API_URL.value():
        raise ConfigError(
            "PREFECT_API_URL: not set; give the server's, as in http://127.0.0.1:4200/api"
        )
    containers = _whole_number(environment, "RETRAIN_CONTAINERS", 2, least=1)
    silence = _whole_number(environment, "RETRAIN_SILENCE", SILENCE_S, least=HEARTBEAT_S + 5)
    with get_client(sync_client=True) as client:
        said = [
            *_pool(client, ORCHESTRATOR, "process", "Parents of runs, stages outside containers"),
            *_pool(client, DOCKER, "docker", "Stages in containers here", containers),
            *_pool(client, KUBERNETES, "kubernetes", "Stages in pods of a cluster"),
            # With a limit here, runs that CANCEL_NEW should cancel would pile up as Late instead.
            *_limit(client, ORCHESTRATOR, None),
        ]
        if "RETRAIN_CONTAINERS" in environment:
            said += _limit(client, DOCKER, containers)
        said += _deployments(client, environment)
        for wanted in automations(silence):
            said += _automation(client, wanted)
    return said or ["nothing to change"]


def _whole_number(environment: Mapping[str, str], key: str, default: int, *, least: int) -> int:
    text = environment.get(key, "") or str(default)
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(f"{key}={text}: give a whole number, {least} or more")
    return int(text)


def _pool(
    client: SyncPrefectClient, name: str, kind: str, description: str, limit: int | None = None
) -> Iterator[str]:
    """Makes a work pool; one that is there gets our job template, where we have one."""
    ours = None
    if name == KUBERNETES and _JOB_TEMPLATE.is_file():
        ours = json.loads(_JOB_TEMPLATE.read_text("utf-8"))
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        known = asyncio.run(get_default_base_job_template_for_infrastructure_type(kind))
        client.create_work_pool(
            WorkPoolCreate(
                name=name,
                type=kind,
                description=description,
                base_job_template=ours or known or {},
                concurrency_limit=limit,
            )
        )
        yield f"work pool {name}: made"
        return
    if pool.type != kind:
        raise ConfigError(
            f"work pool {name}: of type {pool.type}, not {kind}; delete it with "
            f"`prefect work-pool delete {name}`, then set up again"
        )
    if ours is not None and pool.base_job_template != ours:
        client.update_work_pool(name, WorkPoolUpdate(base_job_template=ours))
        yield f"work pool {name}: job template updated"


def _limit(client: SyncPrefectClient, name: str, limit: int | None) -> Iterator[str]:
    """Sets how many runs of a pool may go on at once, None for any number."""
    if client.read_work_pool(name).concurrency_limit != limit:
        client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit))
        yield f"work pool {name}: limit {limit or 'removed'}"


def _deployments(client: SyncPrefectClient, environment: Mapping[str, str]) -> Iterator[str]:
    """Deploys prefect.yaml, then puts back what a person had changed in the UI."""
    variable = client.read_variable_by_name(_DEPLOYED)
    deployed: Any = variable.value if variable else {}
    before = {str(found.id): found for found in client.read_deployments()}
    _deploy(environment)
    after = {str(found.id): found for found in client.read_deployments()}
    for key, new in after.items():
        old = before.get(key)
        if old is None:
            continue
        if old.paused and not new.paused:
            client.pause_deployment(new.id)
        if old.parameters not in (new.parameters, deployed.get(key, old.parameters)):
            yield _put_back(client, new, old.parameters)
    wanted = {key: found.parameters for key, found in after.items()}
    if variable is None:
        client.create_variable(VariableCreate(name=_DEPLOYED, value=wanted))
    elif deployed != wanted:
        client.update_variable(VariableUpdate(name=_DEPLOYED, value=wanted))
    if made := len(after.keys() - before.keys()):
        yield f"{made} deployments: made"
    if changed := sum(_differ(before[key], after[key]) for key in after.keys() & before.keys()):
        yield f"{changed} deployments: updated"


def _differ(old: DeploymentResponse, new: DeploymentResponse) -> bool:
    fields = ("job_variables", "entrypoint", "pull_steps", "parameter_openapi_schema", "tags")
    return any(getattr(old, name) != getattr(new, name) for name in (*fields, "description"))


def _deploy(environment: Mapping[str, str]) -> None:
    """Runs `prefect deploy --all`; what prefect.yaml leaves to the environment is then set.

    Raises:
        DeployError: It failed.
    """
    names = re.findall(r"\$(RETRAIN_\w+) *}}", (HOME / "prefect.yaml").read_text("utf-8"))
    gpus = "nvidia" if environment.get("RETRAIN_GPUS") else ""
    defaults = {**dict.fromkeys(names, ""), "RETRAIN_DOCKER_RUNTIME": gpus}
    try:
        subprocess.run(
            [sys.executable, "-m", "prefect", "deploy", "--all", "--no-prompt"],
            env={**defaults, **environment, "RETRAIN_HOME": str(HOME)},
            cwd=HOME,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_DEPLOY_TIMEOUT_S,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        said = f"{error.stdout}\n{error.stderr}".strip()[-2000:]
        raise DeployError(f"prefect deploy --all failed in {HOME}:\n{said}") from error


def _put_back(
    client: SyncPrefectClient, deployment: DeploymentResponse, parameters: dict[str, Any]
) -> str:
    """Gives a deployment the parameters again that a person had set."""
    name = deployment.name
    try:
        client.update_deployment(deployment.id, DeploymentUpdate(parameters=parameters))
    except PrefectHTTPStatusError as error:
        if error.response.status_code != HTTPStatus.CONFLICT:
            raise
        return (
            f"deployment {name}: its parameters do not fit this version any more, those of "
            f"prefect.yaml are used; they were {json.dumps(parameters)}"
        )
    return f"deployment {name}: parameters kept as set in the UI, not as in prefect.yaml"


def automations(silence_s: int) -> list[AutomationCore]:
    """What watches over runs whose process cannot report its own end."""

    def ended(
        name: str, state: StateType, message: str, after: str, expect: set[str], within: timedelta
    ) -> AutomationCore:
        trigger = EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            after={after},
            expect=expect,
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        )
        action = ChangeFlowRunState(name=None, state=state, message=message, force=False)
        return AutomationCore(name=name, description=message, trigger=trigger, actions=[action])

    cancelling_s = 5 * silence_s // 2  # a container is given 30 s, and may save its state
    return [
        ended(
            "crash-silent-runs",
            StateType.CRASHED,
            f"no heartbeat for {silence_s} s: the process or its machine is gone",
            "prefect.flow-run.heartbeat",
            {"prefect.flow-run.*"},
            timedelta(seconds=silence_s),
        ),
        ended(
            "crash-stuck-pending",
            StateType.CRASHED,
            f"pending for {_PENDING_MAX}: no process or container came up",
            "prefect.flow-run.Pending",
            {"prefect.flow-run.*"},
            _PENDING_MAX,
        ),
        ended(
            "end-stuck-cancelling",
            StateType.CANCELLED,
            f"cancelled; that it has ended was not reported within {cancelling_s} s",
            "prefect.flow-run.Cancelling",
            {f"prefect.flow-run.{end}" for end in ("Cancelled", "Completed", "Failed", "Crashed")},
            timedelta(seconds=cancelling_s),
        ),
    ]


def _automation(client: SyncPrefectClient, wanted: AutomationCore) -> Iterator[str]:
    """Makes or updates the automation of this name; there is one of it afterwards."""
    found = client.read_automations_by_name(wanted.name)
    if not found:
        client.create_automation(wanted)
        yield f"automation {wanted.name}: made"
        return
    first, *doubles = found
    for double in doubles:
        client.delete_automation(double.id)
        yield f"automation {wanted.name}: a double removed"
    if essence(first) != essence(wanted):
        enabled = wanted.model_copy(update={"enabled": first.enabled})
        client.update_automation(first.id, enabled)
        yield f"automation {wanted.name}: updated"


def essence(automation: AutomationCore) -> dict[str, Any]:
    """What an automation does, without the ids that a server gives its parts."""
    return automation.model_dump(  # not as JSON: sets become lists of any order there
        include={"description": True, "trigger": True, "actions": True}
    )


if __name__ == "__main__":
    sys.exit(main())
