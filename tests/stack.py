"""A whole installation for tests: `up` with its own port and state folder, `down` at the end.

Every wait ends, and what a wait was in vain for is said with the ends of all logs.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State

from flows.services import Site, site_from
from flows.supervisor import connected
from tasks.settings import RetrainConfig
from tasks.settings_files import config_to_mapping

ROOT = Path(__file__).parents[1]
COMMAND_S = 300  # for an up or down on a busy machine
STALL_S = 60  # for which Prefect's server on SQLite may not write, now and then (its busy time-out)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A running server with its workers."""

    environment: Mapping[str, str]  # of the commands

    @property
    def site(self) -> Site:
        return site_from(self.environment)

    @property
    def api(self) -> str:
        return f"{self.site.url}/api"

    def client(self) -> SyncPrefectClient:
        """Speaks to this server, whatever PREFECT_API_URL says."""
        return SyncPrefectClient(api=self.api)

    def command(self, word: str) -> subprocess.CompletedProcess[str]:
        """Runs `python -m flows.server up|down|status`."""
        return server_command(word, self.environment)

    def pids(self) -> dict[str, int]:
        """The processes that supervisord watches, by name."""
        with connected(self.site) as supervisor:
            return {program.name: program.pid for program in supervisor.programs()}

    def kill(self, program: str) -> None:
        """What the kernel does to a process that takes too much memory."""
        os.kill(self.pids()[program], signal.SIGKILL)

    def run(self, deployment: str, config: RetrainConfig) -> UUID:
        """Starts a deployment of the retrain flow and returns at once."""
        parameters = {"config": config_to_mapping(config)}
        with self.client() as client:
            found = client.read_deployment_by_name(deployment)
            return client.create_flow_run_from_deployment(found.id, parameters=parameters).id

    def flow_run(self, run: UUID) -> FlowRun:
        with self.client() as client:
            return client.read_flow_run(run)

    def state(self, run: UUID) -> State[Any]:
        state = self.flow_run(run).state
        assert state is not None
        return state

    def finished(self, run: UUID, timeout_s: float) -> State[Any]:
        """The final state of a run, once it has one; a stall of the server is added to the wait."""
        self.wait(timeout_s + STALL_S, lambda: self.state(run).is_final(), f"run {run} to end")
        return self.state(run)

    def wait(self, timeout_s: float, is_so: Callable[[], Any], what: str) -> None:
        """Waits until something is so; a server that is away for a moment is asked again."""
        end = time.monotonic() + timeout_s
        while not _unless_away(is_so):
            if time.monotonic() > end:
                raise AssertionError(f"waited {timeout_s} s in vain for {what}\n{self.log_ends()}")
            time.sleep(0.5)

    def log(self, program: str) -> str:
        path = self.site.logs / f"{program}.log"
        return path.read_text("utf-8", "replace") if path.is_file() else ""

    def log_ends(self) -> str:
        paths = sorted(self.site.logs.glob("*.log"))
        return "\n".join(
            f"--- {path.name}\n{path.read_text('utf-8', 'replace')[-3000:]}" for path in paths
        )


def _unless_away(is_so: Callable[[], Any]) -> Any:
    try:
        return is_so()
    except httpx.TransportError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stack_environment(state: Path, *, docker: bool = False, **settings: str) -> dict[str, str]:
    """For commands on an installation of its own below `state`."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    engine = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    return {
        **kept,
        "OMP_NUM_THREADS": "1",
        "DOCKER_HOST": engine if docker else f"unix://{state}/no-engine.sock",
        "RETRAIN_STATE": str(state),
        "RETRAIN_PORT": str(free_port()),
        **settings,
    }


def server_command(word: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603  our own words
        [sys.executable, "-m", "flows.server", word],
        env=dict(environment),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )


@contextmanager
def stack(state: Path, *, docker: bool = False, **settings: str) -> Iterator[Stack]:
    """An installation that is up; it is taken down in any case.

    Args:
        state: Its folder; short, since a socket lies in it.
        docker: Whether it has a Docker worker, for the engine that DOCKER_HOST names.
        settings: More environment variables.
    """
    running = Stack(environment=stack_environment(state, docker=docker, **settings))
    try:
        done = running.command("up")
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{running.log_ends()}"
        yield running
    finally:
        running.command("down")
