"""The engine and the images of the tests marked `docker`."""

import shutil
import subprocess

import pytest

from tests.containers.engine import BASE, Images, build, docker


def _engine_fault() -> str:
    """Why there is no engine to test with, "" if there is one."""
    if shutil.which("docker") is None:
        return "no docker command"
    try:
        docker("version", timeout_s=30)
    except (AssertionError, subprocess.TimeoutExpired):
        return "no Docker Engine answers"
    return ""


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker Engine that answers, or the test is skipped."""
    if fault := _engine_fault():
        pytest.skip(f'{fault}; `eval "$(.ci/engine-up)"` starts an engine')


@pytest.fixture(scope="session")
def images(engine: None) -> Images:
    """Images of this checkout, built once."""
    del engine
    found = docker("image", "inspect", BASE, check=False)
    if "No such image" in found and "Error" in docker(
        "pull", "-q", BASE, timeout_s=300, check=False
    ):
        pytest.skip(f"{BASE} cannot be pulled; .ci/base-image makes a stand-in")
    made = Images()
    for target in ("emulator", "cpu", "train"):
        build(target, getattr(made, target), VERSION="0.0.test", REVISION="0123abc")
    return made
