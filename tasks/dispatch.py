"""Runs a stage elsewhere: finds or starts its deployment, waits, and says how it ended.

The stage's flow run is found again by its idempotency key, which counts the attempts of this
parent, or by its tags, if another parent began it: whoever waits, the stage runs once. What came of
it is in the store; Prefect only tells when to look.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
from prefect import runtime, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterIdempotencyKey,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelling

from tasks import errors
from tasks.errors import FAILURE, TEMPORARY, USAGE, TransientError, exit_code
from tasks.lease import end_for, outcome
from tasks.mounts import container_variables, require_reachable
from tasks.records import STAGES, RunInfo
from tasks.settings import RetrainConfig
from tasks.stage import run_key
from tasks.store import open_store
from tasks.task_options import PLAIN
from yolov5_core.config import ConfigError

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

_POLL = 2.0  # seconds between two looks at a stage
_OUTAGE = 900.0  # seconds without Prefect's server that are waited out
_UNSTARTED = 1800.0  # seconds until a stage that no worker takes is given up
_TELL = 60.0  # seconds of waiting for a worker until that is said


class StageFailedError(RuntimeError):
    """A stage failed elsewhere, and would again."""


class StageRefusedError(StageFailedError, ValueError):
    """A stage failed elsewhere, for settings or data that the user has to change."""


class StageInterruptedError(StageFailedError, TransientError):
    """A stage was cut off elsewhere: another attempt goes on from what it left in the store."""


class StageCancelledError(StageFailedError, TransientError):
    """Somebody cancelled the stage: no other attempt is made."""


def require_deployments(config: RetrainConfig) -> None:
    """Makes sure, before any work, that the run's stages can be started.

    Raises:
        ConfigError: No Prefect server, deployments that are missing, folders out of reach.
    """
    if config.run_on == "kubernetes":
        require_reachable(config)
    if not PREFECT_API_URL.value():
        raise ConfigError(
            f"run_on={config.run_on}: containers need a Prefect server to report to; start one "
            "with `make up` and set PREFECT_API_URL as it says"
        )
    with get_client(sync_client=True) as client:
        for stage in STAGES:
            name = f"{stage}/{config.run_on}"
            try:
                client.read_deployment_by_name(name)
            except ObjectNotFound as error:
                raise ConfigError(
                    f"run_on={config.run_on}: Prefect at {PREFECT_API_URL.value()} knows no "
                    f"deployment {name}; `make up` makes them"
                ) from error


def _is_interrupted(_task: Any, _run: Any, state: State[Any]) -> bool:
    return isinstance(state.result(raise_on_failure=False), StageInterruptedError)


@task(
    name="stage",
    task_run_name="{stage}",
    retries=3,
    retry_delay_seconds=[5, 60, 300],
    retry_condition_fn=_is_interrupted,
    **PLAIN,
)
def run_elsewhere(stage: str, info: RunInfo) -> None:
    """Runs a stage of a run in its deployment, unless it is already running there, and waits.

    Raises:
        StageRefusedError, StageInterruptedError, StageCancelledError, StageFailedError: It did not
            complete; the message says why.
    """
    child = _patiently(lambda client: _child(client, stage, info))
    with _cancelled_with_us(child):
        child = _wait(stage, child, info.config.run_on)
    state = child.state
    if state is None or not state.is_completed():
        raise _failure(stage, info, child)


def _child(client: SyncPrefectClient, stage: str, info: RunInfo) -> FlowRun:
    """The stage's flow run: one that is under way, or has completed for us, or a new one."""
    tags = [f"run:{info.run}", f"stage:{stage}", f"store:{_short(info.config.store)}"]
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=tags))
    for found in client.read_flow_runs(flow_run_filter=wanted):
        if found.state and not found.state.is_final():
            log.info("stage %s is under way in flow run %s", stage, found.name)
            return found
    attempt = 0
    while earlier := _by_key(client, _key(stage, attempt)):
        if earlier.state and earlier.state.is_completed():
            return earlier
        attempt += 1
    name = f"{stage}/{info.config.run_on}"
    variables = None
    if info.config.run_on == "docker":
        deployed = client.read_deployment_by_name(name).job_variables
        variables = container_variables(stage, info.config, deployed or {})
    started: FlowRun = run_deployment(  # type: ignore[assignment]  # here it is not async
        name,
        parameters={"store": info.config.store, "run": info.run},
        flow_run_name=f"{stage} {info.run}",
        tags=tags,
        idempotency_key=_key(stage, attempt),
        job_variables=variables,
        timeout=0,
    )
    log.info("stage %s: started %s, attempt %d of this night", stage, name, attempt + 1)
    return started


def _key(stage: str, attempt: int) -> str:
    return f"{runtime.flow_run.id}:{stage}:{attempt}"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _by_key(client: SyncPrefectClient, key: str) -> FlowRun | None:
    wanted = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=[key]))
    return next(iter(client.read_flow_runs(flow_run_filter=wanted)), None)


@contextmanager
def _cancelled_with_us(child: FlowRun) -> Iterator[None]:
    """Cancels the child if we are cancelled meanwhile; if we are only stopped, it goes on."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or _are_cancelled():
            _cancel(child)
            log.info("cancelled flow run %s too", child.name)
        raise


def _cancel(child: FlowRun) -> None:
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(child.id, Cancelling())


def _are_cancelled() -> bool:
    state = _patiently(lambda client: client.read_flow_run(runtime.flow_run.id)).state
    return state is not None and state.type in (StateType.CANCELLING, StateType.CANCELLED)


def _wait(stage: str, child: FlowRun, run_on: str) -> FlowRun:
    """The child in its final state.

    Raises:
        StageInterruptedError: No worker takes it, or Prefect's server stays away.
    """
    since, told, seen, child_id = time.monotonic(), False, "", child.id
    while True:
        child = _patiently(lambda client: client.read_flow_run(child_id))
        state = child.state
        if state and state.name != seen:
            log.info("stage %s is %s", stage, state.name)
            seen = state.name or ""
        if state and state.is_final():
            return child
        if not (state and state.is_scheduled()):  # it may be again: its pod was evicted
            since = time.monotonic()
        waited = time.monotonic() - since
        if waited > _TELL and not told:
            told = True
            log.warning("stage %s waits for a worker of %s; `make up` starts one", stage, run_on)
        if waited > _UNSTARTED:
            _cancel(child)
            raise StageInterruptedError(
                f"stage {stage}: no {run_on} worker took it within {_UNSTARTED / 60:.0f} minutes; "
                "start one with `make up`, then resume the run"
            )
        time.sleep(_POLL)


def _patiently(ask: Callable[[SyncPrefectClient], _Answer]) -> _Answer:
    """What Prefect's server answers; one that is away is waited for: stages go on without it.

    Raises:
        StageInterruptedError: It stays away.
    """
    begun = time.monotonic()
    while True:
        try:
            with get_client(sync_client=True) as client:
                return ask(client)
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
                raise
            if time.monotonic() - begun > _OUTAGE:
                raise StageInterruptedError(
                    f"Prefect's server did not answer for {_OUTAGE / 60:.0f} minutes ({error})"
                ) from error
            log.warning("Prefect's server does not answer; stages go on without it")
            time.sleep(_POLL)


def _failure(stage: str, info: RunInfo, child: FlowRun) -> StageFailedError:
    """What became of a stage that did not complete, as the store and its flow run tell it."""
    state = child.state
    if state is None or state.is_cancelled():
        return StageCancelledError(f"stage {stage}: its flow run {child.name} was cancelled")
    store, folder = open_store(info.config.store), run_key(info.run, "stages")
    if state.is_crashed():  # its worker saw it end: the next attempt need not wait for silence
        end_for(store, folder, stage, str(child.id), state.message or "no word of why")
    found = outcome(store, folder, stage) or {}
    if found.get("flow_run") == str(child.id) and found.get("ended"):
        code, text = found["exit_code"], found["error"]
    elif state.is_crashed():
        code, text = TEMPORARY, state.message or "its process ended without a word"
    else:
        code, text = _code_of(state.message or ""), state.message or "no message"
    kind = {USAGE: StageRefusedError, TEMPORARY: StageInterruptedError}.get(code, StageFailedError)
    return kind(f"stage {stage}: {text}")


def _code_of(message: str) -> int:
    """Exit code for Prefect's words on an error, "... an exception: ConfigError: ..."."""
    name = message.partition("exception: ")[2].partition(":")[0]
    known = {"ConfigError": USAGE, "DataError": USAGE}
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        return exit_code(kind(message))
    return known.get(name, FAILURE)
