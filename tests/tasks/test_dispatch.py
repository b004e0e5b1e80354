"""What became of a stage that ran elsewhere; the running itself is tested in tests/containers."""

from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Crashed, Failed, State

from tasks.dispatch import (
    StageCancelledError,
    StageFailedError,
    StageInterruptedError,
    StageRefusedError,
    _failure,
    require_deployments,
)
from tasks.errors import StoreUnavailableError, exit_code
from tasks.lease import leased, outcome
from tasks.records import RunInfo
from tasks.settings import RetrainConfig
from tasks.store import open_store
from yolov5_core.config import ConfigError

FOLDER = "runs/r/stages"


@pytest.fixture
def info(tmp_path) -> RunInfo:
    config = RetrainConfig(store=str(tmp_path / "store"), run="r", run_on="docker")
    return RunInfo(run="r", created="", config=config, data_digest="", code="", packages={})


def child(state: State[None]) -> FlowRun:
    return FlowRun(id=uuid4(), flow_id=uuid4(), name="train r", state=state)


def attempt(info: RunInfo, run: FlowRun, error: Exception | None = None) -> None:
    """What an attempt of this flow run leaves in the store; without an error it was killed."""
    store = open_store(info.config.store)
    try:
        with leased(store, FOLDER, "train", {}) as lease:
            lease.flow_run = str(run.id)
            lease.sign()
            if error:
                raise error
    except type(error or ConfigError()):
        return
    sign = store.read_json(f"{FOLDER}/leases/train/00000001.json")
    store.put_json({**sign, "ended": ""}, f"{FOLDER}/leases/train/00000001.json")


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ConfigError("epochs=0: must be 1 or more"), StageRefusedError, 2),
        (StoreUnavailableError("no space left"), StageInterruptedError, 75),
        (KeyError("a bug"), StageFailedError, 1),
    ],
)
def test_the_store_tells_how_a_stage_failed(info, error, kind, code):
    run = child(Failed(message="Flow run encountered an exception: whatever"))
    attempt(info, run, error)
    found = _failure("train", info, run)
    assert type(found) is kind
    assert exit_code(found) == code
    assert str(found) == f"stage train: {error}"


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Flow run encountered an exception: ConfigError: no such run", StageRefusedError),
        ("Flow run encountered an exception: StoreUnavailableError: off", StageInterruptedError),
        ("Flow run encountered an exception: KeyError: 'x'", StageFailedError),
        ("", StageFailedError),
    ],
)
def test_without_an_attempt_prefects_words_tell(info, message, kind):
    assert type(_failure("train", info, child(Failed(message=message)))) is kind


def test_a_crash_is_tried_again_and_ends_the_lease_of_what_crashed(info):
    run = child(Crashed(message="status code 137"))
    attempt(info, run)
    found = _failure("train", info, run)
    assert type(found) is StageInterruptedError
    assert "status code 137" in str(found)
    told = outcome(open_store(info.config.store), FOLDER, "train")
    assert told is not None
    assert told["ended"]
    assert told["exit_code"] == 75


def test_a_crash_says_nothing_of_an_attempt_of_another_flow_run(info):
    attempt(info, child(Failed()))
    _failure("train", info, child(Crashed(message="status code 137")))
    told = outcome(open_store(info.config.store), FOLDER, "train")
    assert told is not None
    assert not told["ended"]


def test_a_stage_that_somebody_cancelled_is_not_tried_again_and_can_be_resumed(info):
    found = _failure("train", info, child(Cancelled()))
    assert type(found) is StageCancelledError
    assert not isinstance(found, StageInterruptedError)
    assert exit_code(found) == 75


def test_containers_need_a_server_and_pods_need_buckets(info):
    with (
        temporary_settings({PREFECT_API_URL: None}),
        pytest.raises(ConfigError, match="run_on=docker: containers need a Prefect server"),
    ):
        require_deployments(info.config)
    with pytest.raises(ConfigError, match=r"store=.*a pod cannot see a folder"):
        require_deployments(RetrainConfig(store="here", run_on="kubernetes"))
