"""Whole nights in containers: the same bytes as without, and what happens when things are killed.

A stage runs in a container of its own on a real engine, hands over through a bucket (our emulator),
and is started by a real Prefect server with its workers, as `make up` does it.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling, Scheduled

from tasks.lease import outcome
from tasks.records import STAGES, StageRecord
from tasks.settings import RetrainConfig
from tasks.stage import read_stage
from tasks.store import Store, open_store
from tests.containers.engine import TAG, Images, docker
from tests.end_to_end.conftest import TINY, draw_tiny
from tests.gcs_emulator import Emulator
from tests.stack import STALL_S, Stack, stack
from tests.undone import begun_and_done

pytestmark = [pytest.mark.docker, pytest.mark.slow]

RUN = "night"  # part of the lineage, so the same wherever bytes are compared
EPOCHS = 6
NIGHT_S = 420


@pytest.fixture(scope="module")
def bucket() -> Iterator[Emulator]:
    with Emulator("models") as emulator:
        yield emulator


@pytest.fixture(scope="module", autouse=True)
def environment(bucket: Emulator) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", bucket.url)
        yield


@pytest.fixture(scope="module")
def site(
    images: Images, bucket: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    del images  # they are built
    settings = {"RETRAIN_TAG": TAG, "STORAGE_EMULATOR_HOST": bucket.url}
    with stack(tmp_path_factory.mktemp("site"), docker=True, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_tiny(tmp_path_factory.mktemp("tiny") / "data")


def night(data: Path, place: str, run_on: str, epochs: int = EPOCHS) -> RetrainConfig:
    """A run of seconds in a store of its own."""
    return RetrainConfig(
        data=str(data),
        store=f"gs://models/{place}",
        bucket=f"gs://models/{place}/published",
        name="street",
        run=RUN,
        run_on=run_on,  # type: ignore[arg-type]  # a test's word
        cfg=str(TINY),
        epochs=epochs,
        batch_size=4,
        image_size=64,
        workers=1,
        device="cpu",
    )


def record(store: Store, stage: str) -> StageRecord:
    found = read_stage(store, RUN, stage)
    assert found is not None
    return found


def published(place: str) -> dict[str, bytes]:
    """What Google's own client reads in the bucket; it checks the checksums."""
    client = storage.Client(project="p", credentials=AnonymousCredentials())  # type: ignore[no-untyped-call]
    return {
        blob.name.rpartition("/")[2]: blob.download_as_bytes()
        for folder in ("weights", "results")  # the log of champions tells the time and the store
        for blob in client.list_blobs("models", prefix=f"{place}/published/{folder}/")
    }


def attempts(store: Store, stage: str) -> int:
    return len(begun_and_done(store, RUN, stage)[0])


def epochs_saved(store: Store) -> int:
    return len(store.keys(f"runs/{RUN}/checkpoints/log"))


def containers() -> list[str]:
    """Names of the stage containers that run."""
    return docker("ps", "--format", "{{.Names}}", "--filter", "label=app=yolov5-retrain").split()


def parent_process(run: UUID) -> int:
    """The process of a flow run that a process worker started."""
    wanted = f"PREFECT__FLOW_RUN_ID={run}".encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                variables = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if wanted in variables:
                return int(folder.name)
    raise AssertionError(f"no process of flow run {run}")


def completed(site: Stack, config: RetrainConfig) -> Store:
    state = site.finished(site.run("retrain/on-demand", config), NIGHT_S)
    assert state.is_completed(), f"{state}\n{site.log_ends()}"
    return open_store(config.store)


@pytest.fixture(scope="module")
def here(site: Stack, data: Path) -> Store:
    """A night in one process."""
    return completed(site, night(data, "here", "here"))


@pytest.fixture(scope="module")
def quiet(site: Stack, data: Path) -> Store:
    """The same night in containers."""
    return completed(site, night(data, "quiet", "docker"))


def test_every_stage_ran_in_a_container_of_its_own(quiet, here):
    ids = [record(quiet, stage).container for stage in STAGES]
    assert all(len(each) == 64 for each in ids)
    assert len(set(ids)) == len(STAGES)
    assert {record(here, stage).container for stage in STAGES} == {""}
    assert containers() == []  # they are gone when they are done


def test_the_same_bytes_come_out_of_containers_and_of_one_process(quiet, here):
    sources = {record(store, "train").code.rpartition(" ")[2] for store in (quiet, here)}
    assert len(sources) == 1, "the checkout changed while its images were built"
    in_containers, in_one_process = published("quiet"), published("here")
    weights = {f"{which}_street.pt" for which in ("last", "best", "champion")}
    assert set(in_containers) == {*weights, "resultsstreet.txt"}
    assert in_containers == in_one_process


def test_the_run_card_shows_the_containers(quiet):
    page = quiet.read_bytes(f"runs/{RUN}/report.html").decode()
    assert all(record(quiet, stage).container[:12] in page for stage in STAGES)


@pytest.fixture(scope="module")
def worst(site: Stack, data: Path, bucket: Emulator) -> tuple[Store, dict[str, float]]:
    """The same night, in which all that runs is killed once and the bucket fails as it may.

    Returns:
        The store, and how many seconds things took.
    """
    config, seconds = night(data, "worst", "docker"), {}
    store = open_store(config.store)
    run = site.run("retrain/on-demand", config)
    site.wait(NIGHT_S, lambda: epochs_saved(store) >= 1, "a first checkpoint")
    (container,) = containers()
    docker("kill", "--signal", "KILL", container)
    killed = time.monotonic()
    site.wait(120, lambda: attempts(store, "train") == 2, "another attempt to train")
    seconds["until the next attempt"] = time.monotonic() - killed
    before = epochs_saved(store)
    site.wait(NIGHT_S, lambda: epochs_saved(store) > before, "training to go on")
    os.kill(parent_process(run), signal.SIGKILL)
    site.kill("worker-stages-docker")
    for fault in (
        {"status": 503, "count": 2},
        {"reset": True},
        {"truncate": True},
        {"stale": True},
    ):
        bucket.fail(match="worst/runs", **fault)
    site.wait(120 + STALL_S, lambda: site.state(run).is_crashed(), "the parent to be missed")
    time.sleep(15)  # sooner, a late report of the crash may hit the new attempt
    with site.client() as client:
        client.set_flow_run_state(run, Scheduled(), force=True)
    site.wait(NIGHT_S, lambda: store.exists(f"runs/{RUN}/stages/train.json"), "training to end")
    site.kill("server")
    state = site.finished(run, NIGHT_S)
    assert state.is_completed(), f"{state}\n{site.log_ends()}"
    return store, seconds


def test_a_killed_container_is_noticed_within_two_minutes_and_its_stage_goes_on(worst):
    store, seconds = worst
    assert seconds["until the next attempt"] < 120
    rows = store.read_bytes(f"runs/{RUN}/results.txt").decode().splitlines()
    assert [row.split()[0] for row in rows] == [f"{epoch}/{EPOCHS - 1}" for epoch in range(EPOCHS)]


def test_a_parent_that_is_killed_and_started_again_repeats_no_stage(worst):
    store, _ = worst
    counts = {stage: attempts(store, stage) for stage in STAGES}
    assert counts == {**dict.fromkeys(STAGES, 1), "train": 2}


@pytest.mark.usefixtures("worst", "quiet")
def test_after_all_of_that_the_same_bytes_are_published():
    assert published("worst") == published("quiet")


def test_a_cancelled_run_leaves_no_container_and_no_lease(site, data):
    config = night(data, "cancelled", "docker", epochs=200)
    store = open_store(config.store)
    run = site.run("retrain/on-demand", config)
    site.wait(NIGHT_S, lambda: epochs_saved(store) >= 1, "a first checkpoint")
    with site.client() as client:
        client.set_flow_run_state(run, Cancelling())
    site.wait(60 + STALL_S, lambda: containers() == [], "its container to go")
    told = outcome(store, f"runs/{RUN}/stages", "train")
    assert told is not None
    assert told["ended"]
    site.wait(60, lambda: store.exists("history/street/00000001.json"), "the run card")
    card = json.loads(store.read_bytes("history/street/00000001.json"))
    assert card["run"] == RUN
    # Nothing runs any more; what the server says of it comes last, and a stall of its database may
    # lose that word: then it says Cancelling until the next `make up`.
    assert site.state(run).type in (StateType.CANCELLED, StateType.CANCELLING)
