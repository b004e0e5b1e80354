"""Docker's command line and the project's images, as tests use them."""

import json
import logging
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.stack import ROOT

log = logging.getLogger(__name__)

BASE = "python:3.11-slim-bookworm"
TAG = "-test"  # images of the tests never take the place of those that a server here runs
BUILD_S = 1200


@dataclass(frozen=True, kw_only=True)
class Images:
    """Names of the images that this checkout makes; prefect.yaml finds them with RETRAIN_TAG."""

    cpu: str = f"yolov5-retrain:cpu{TAG}"
    train: str = f"yolov5-retrain:train{TAG}"
    emulator: str = f"yolov5-retrain:emulator{TAG}"


def docker(*words: str, timeout_s: float = 60, check: bool = True) -> str:
    """What a docker command says; with `check` it has to succeed."""
    done = subprocess.run(  # noqa: S603  our own words
        ["docker", *words],  # noqa: S607  whichever client is installed
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0 or not check, f"docker {' '.join(words)}\n{said[-8000:]}"
    return said.strip()


def build(target: str, tag: str, context: Path = ROOT, **arguments: str) -> str:
    """Builds one image as docs/containers.md says and returns what the builder said."""
    start = time.monotonic()
    words = [f"--build-arg={key}={value}" for key, value in arguments.items()]
    dockerfile = str(context / "containers" / "Dockerfile")
    where = ("--network", "host", "--target", target, "--tag", tag, "--file", dockerfile)
    said = docker("build", *where, *words, str(context), timeout_s=BUILD_S)
    seconds, megabytes = time.monotonic() - start, inspect(tag)["Size"] / 1e6
    log.info("%s: built in %.0f s, %.0f MB", tag, seconds, megabytes)
    return said


def inspect(name: str) -> Any:
    """All the engine knows about an image or a container."""
    return json.loads(docker("inspect", name))[0]


def run(image: str, *command: str, options: tuple[str, ...] = (), timeout_s: float = 120) -> str:
    """Output of a command in a new container as deployments start it, but without a network."""
    offline = () if "--network" in options else ("--network", "none")
    as_deployed = ("--rm", "--init", "--read-only", *offline, *options)
    return docker("run", *as_deployed, image, *command, timeout_s=timeout_s)
