"""A stage's container under the worker's command: it works, and a stop of it is known."""

import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from tasks.errors import TEMPORARY
from tasks.lease import LEASE, outcome
from tasks.run import begin_run
from tasks.settings import RetrainConfig
from tasks.stage import run_key
from tasks.store import open_store
from tests.containers.engine import Images, docker, inspect
from tests.stack import Stack, stack

log = logging.getLogger(__name__)

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture(scope="module")
def served(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A server without a Docker worker: the tests do its part."""
    del engine
    with stack(tmp_path_factory.mktemp("up")) as running:
        yield running


def execute(served: Stack, image: str, stage: str, store: Path, run: str) -> tuple[UUID, str]:
    """Starts a stage's container as a worker does; returns the flow run and the container."""
    with served.client() as client:
        deployment = client.read_deployment_by_name(f"{stage}/docker")
        parameters = {"store": str(store), "run": run}
        made = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
    owner = store.stat()
    options = ("--network", "host", "--read-only", "--init", "--shm-size", "1g")
    settings = {
        "PREFECT_API_URL": served.api,
        "PREFECT__FLOW_RUN_ID": str(made.id),
        "OMP_NUM_THREADS": "1",
    }
    started = docker(
        *("run", "--detach", *options, "--user", f"{owner.st_uid}:{owner.st_gid}"),
        *("--volume", f"{store}:{store}"),
        *(f"--env={key}={value}" for key, value in settings.items()),
        *(image, "prefect", "flow-run", "execute"),
    )
    return made.id, started


def test_a_stopped_training_says_so_and_the_next_container_goes_on_from_its_last_epoch(
    served: Stack, images: Images, tmp_path: Path
):
    store = tmp_path / "store"
    store.mkdir()
    config = RetrainConfig(store=str(store), epochs=1000, image_size=64, hyp="quick", workers=2)
    run = begin_run(config, datetime.now(UTC)).run
    containers = []

    def log_has(text: str) -> bool:
        return text in docker("logs", containers[-1])

    try:
        prepared, container = execute(served, images.cpu, "prepare", store, run)
        containers.append(container)
        assert docker("wait", container, timeout_s=180) == "0", docker("logs", container)
        assert served.finished(prepared, 30).is_completed()

        trained, container = execute(served, images.train, "train", store, run)
        containers.append(container)
        served.wait(180, lambda: log_has("epoch 3/1000"), "the third epoch")
        start = time.monotonic()
        docker("stop", "--time", "60", container, timeout_s=90)
        seconds, code = time.monotonic() - start, inspect(container)["State"]["ExitCode"]
        log.info("stopped after %.1f s with exit code %d", seconds, code)
        assert seconds < 15
        assert code not in (0, 137)  # 137: it had to be killed
        state = served.finished(trained, 180)  # by itself, or for its silence
        assert state.is_failed() or state.is_crashed()
        said = outcome(open_store(str(store)), run_key(run, "stages"), "train")
        assert said is not None
        assert (said["flow_run"], said["exit_code"]) == (str(trained), TEMPORARY)

        _, container = execute(served, images.train, "train", store, run)
        containers.append(container)
        served.wait(LEASE - 20, lambda: log_has("continuing after epoch "), "it to go on at once")
    finally:
        docker("rm", "--force", "--volumes", *containers)
