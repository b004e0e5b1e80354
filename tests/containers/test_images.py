"""The images: what is in them, what is not, and how they run."""

import http.client
import json
import shutil
import time
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.containers.engine import BASE, Images, build, docker, inspect, run
from tests.stack import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.slow]

# Packages that a locked one asks for and that nothing here imports.
LEFT_OUT = {"setuptools", "tensorboard-data-server"}
# Direct dependencies of train, evaluate and finalize alone.
TRAIN_ONLY = {"torch", "tensorboard", "pycocotools"}
CPU_MODULES = (
    *("flows.cli", "flows.retrain", "flows.stages", "flows.server", "flows.setup"),
    *("tasks.prepare", "tasks.upload", "tasks.plot", "tasks.dispatch", "tasks.card"),
)
TRAIN_MODULES = (*CPU_MODULES, "tasks.train", "tasks.evaluate", "tasks.finalize")
WRITES = "import pathlib, sys; pathlib.Path(sys.argv[1], 'x').write_text('x')"
LISTS = """
import json
from importlib import metadata
print(json.dumps({d.metadata["Name"]: d.version for d in metadata.distributions()}))
"""


def installed(image: str) -> dict[str, str]:
    """Version by name of the packages in an image, without our own."""
    found: dict[str, str] = json.loads(run(image, "python", "-c", LISTS))
    versions = {canonicalize_name(name): version for name, version in found.items()}
    assert versions.pop("yolov5-retrain") == project()["version"]
    return versions


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text("utf-8").split()
    return dict(line.split("==") for line in lines)


def needed_without(dropped: set[str]) -> set[str]:
    """Names of all that our dependencies but the dropped ones need, as this environment tells."""
    ours = project()["dependencies"]
    todo = [r for r in map(Requirement, ours) if canonicalize_name(r.name) not in dropped]
    seen: set[tuple[str, str]] = set()
    while todo:
        asked = todo.pop()
        for extra in ("", *asked.extras):
            key = (canonicalize_name(asked.name), extra)
            if (asked.marker is None or asked.marker.evaluate({"extra": ""})) and key not in seen:
                seen.add(key)
                for text in metadata.requires(asked.name) or []:
                    more = Requirement(text)
                    if more.marker is None or more.marker.evaluate({"extra": extra}):
                        more.marker = None
                        todo.append(more)
    return {name for name, _ in seen}


def test_the_cpu_image_holds_what_its_stages_need_and_nothing_that_only_torch_needs(
    images: Images,
):
    found = installed(images.cpu)
    assert set(found) == needed_without(TRAIN_ONLY) - LEFT_OUT
    assert found == {name: version for name, version in locked().items() if name in found}
    assert "torch" not in found


def test_the_train_image_holds_the_whole_lock(images: Images):
    found = installed(images.train)
    found["torch"] = found["torch"].partition("+")[0]  # of the builds, the index's
    assert found == {name: v for name, v in locked().items() if name not in LEFT_OUT}


@pytest.mark.parametrize(("name", "megabytes"), [("cpu", 620), ("train", 1300), ("emulator", 5)])
def test_an_image_adds_no_more_than_this_to_its_base(images: Images, name: str, megabytes: int):
    added = (inspect(getattr(images, name))["Size"] - inspect(BASE)["Size"]) / 1e6
    assert added < megabytes


def test_the_images_share_their_largest_common_layer(images: Images):
    layers = [set(inspect(i)["RootFS"]["Layers"]) for i in (images.cpu, images.train)]
    only_cpu = layers[0] - layers[1]
    assert len(only_cpu) <= 1  # the code's, whose files bear another time


@pytest.mark.parametrize("modules", [CPU_MODULES, TRAIN_MODULES], ids=["cpu", "train"])
def test_every_module_of_an_images_stages_loads_without_a_network(
    images: Images, modules: tuple[str, ...]
):
    image = images.cpu if modules is CPU_MODULES else images.train
    loaded = run(
        image, "python", "-c", f"import {', '.join(modules)}, sys; print('torch' in sys.modules)"
    )
    assert loaded.splitlines()[-1] == str(modules is TRAIN_MODULES)


@pytest.mark.parametrize("name", ["cpu", "train", "emulator"])
def test_no_image_can_build_or_install(images: Images, name: str):
    tools = "gcc cc g++ c++ clang make cmake ld as git curl wget"
    look = f"for tool in {tools}; do command -v $tool; done; true"
    assert run(getattr(images, name), "sh", "-c", look) == ""
    if name != "emulator":
        said = run(
            images.cpu, "sh", "-c", "ls /opt/venv/bin | grep -i pip; python -m pip 2>&1; true"
        )
        assert said.endswith("No module named pip")


@pytest.mark.parametrize("name", ["cpu", "train", "emulator"])
def test_an_image_says_what_it_is_made_of(images: Images, name: str):
    labels = inspect(getattr(images, name))["Config"]["Labels"]
    prefix = "org.opencontainers.image."
    told = {key.removeprefix(prefix): text for key, text in labels.items() if prefix in key}
    assert told.pop("title").startswith("yolov5-retrain ")
    assert told == {"licenses": "Apache-2.0", "version": "0.0.test", "revision": "0123abc"}


@pytest.mark.parametrize("name", ["cpu", "train", "emulator"])
def test_an_image_does_not_run_as_root(images: Images, name: str):
    assert run(getattr(images, name), "id", "-u") == "1000"


@pytest.mark.parametrize("user", ["1000:1000", "12345:54321"])
@pytest.mark.parametrize("name", ["cpu", "train"])
def test_any_user_writes_to_tmp_and_the_cache_and_nowhere_else(
    images: Images, name: str, user: str
):
    image, options = getattr(images, name), ("--user", user)
    for folder in ("/tmp", "/cache"):  # noqa: S108  the container's
        run(image, "python", "-c", WRITES, folder, options=options)
    for folder in ("/app", "/opt/venv", "/"):
        with pytest.raises(AssertionError, match="Read-only file system"):
            run(image, "python", "-c", WRITES, folder, options=options)


def test_a_named_volume_for_the_cache_is_writable_by_every_user(images: Images):
    volume = "yolov5-retrain-cache-test"
    options = ("--volume", f"{volume}:/cache")
    try:
        for user in ("1000:1000", "12345:54321"):
            command = ("sh", "-c", f"mkdir /cache/{user} && ls /cache")
            said = run(images.cpu, *command, options=(*options, "--user", user))
        assert said.split() == ["1000:1000", "12345:54321"]
    finally:
        docker("volume", "rm", "--force", volume)


def test_the_bytecode_is_in_the_image_and_used(images: Images):
    modules = "flows.retrain, prefect, torch"
    code = f"import {modules}; print(*(m.__cached__ for m in ({modules})))"
    paths = run(images.train, "python", "-c", code).split()
    assert len(paths) == 3
    run(images.train, "ls", *paths)
    loading = run(images.train, "python", "-v", "-c", "import flows.retrain")
    assert f"code object from '{paths[0]}'" in loading


def test_a_change_of_the_code_installs_nothing_again(images: Images, tmp_path: Path):
    del images
    for name in ("flows", "tasks", "yolov5_core", "containers"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    files = ("LICENSE", "README.md", "prefect.yaml", "pyproject.toml", "requirements.lock")
    for path in (*files, ".dockerignore", "tests/__init__.py"):
        shutil.copy(ROOT / path, tmp_path / path)
    for path in ROOT.glob("tests/gcs_*.py"):
        shutil.copy(path, tmp_path / "tests")
    with (tmp_path / "flows" / "retrain.py").open("a") as file:
        file.write("# changed\n")
    start = time.monotonic()
    said = build("train", "yolov5-retrain:changed-test", tmp_path)
    seconds = time.monotonic() - start
    docker("rmi", "yolov5-retrain:changed-test")
    assert "Successfully installed yolov5-retrain" in said
    assert "Successfully installed" not in said.replace("installed yolov5-retrain", "")
    assert seconds < 60


def test_a_whole_run_needs_no_network_no_root_and_no_writable_image(images: Images):
    small = ("--epochs", "1", "--image-size", "64", "--hyp", "quick", "--name", "offline")
    places = ("--store", "/tmp/store", "--bucket", "/tmp/bucket")  # noqa: S108  the container's
    options = ("--user", "12345:54321", "--env", "OMP_NUM_THREADS=2")
    said = run(images.train, "yolov5-retrain", *small, *places, options=options, timeout_s=400)
    assert "1 epochs completed" in said
    assert "/tmp/bucket/weights/best_offline.pt" in said  # noqa: S108  as above


def test_the_emulator_serves_and_ends_at_once(images: Images):
    command = ("python", "-m", "tests.gcs_emulator", "--port", "0", "models")
    started = docker(
        "run", "--detach", "--read-only", "--network", "host", images.emulator, *command
    )
    try:
        end = time.monotonic() + 20
        while "STORAGE_EMULATOR_HOST=" not in docker("logs", started):
            assert time.monotonic() < end
            time.sleep(0.2)
        host = docker("logs", started).partition("http://")[2]
        connection = http.client.HTTPConnection(host, timeout=20)
        connection.request("GET", "/storage/v1/b/models")
        assert json.loads(connection.getresponse().read())["name"] == "models"
        connection.close()
        start = time.monotonic()
        docker("stop", "--time", "20", started)
        assert time.monotonic() - start < 5
        assert inspect(started)["State"]["ExitCode"] == 0
    finally:
        docker("rm", "--force", "--volumes", started)
