"""`python -m flows.server up|down|status`: the Prefect server and its workers on this machine.

supervisord, in the background, starts each of them again when it ends. What runs is said in
flows/services.py, what the server is told in flows/setup.py.
"""

import argparse
import fcntl
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from types import ModuleType

import docker  # type: ignore[import-untyped]  # ships no types
from docker.errors import DockerException  # type: ignore[import-untyped]  # as above

from flows.services import (
    DOCKER,
    HOME,
    KUBERNETES,
    ORCHESTRATOR,
    Program,
    Site,
    client_environment,
    has_package,
    server_program,
    site_from,
    supervisor_configuration,
    worker_program,
)
from flows.supervisor import (
    Changes,
    ServerError,
    Supervisor,
    connected,
    listens,
    start_supervisord,
    wait,
    with_log,
    write_secret,
)
from tasks.errors import TransientError, exit_code
from yolov5_core.config import ConfigError

_HEALTHY_S, _SETUP_S, _CANCELLED_S = 180, 400, 60
_ENGINE_TIMEOUT_S = 5


class _SetupError(RuntimeError):
    """flows.setup said what is wrong and ended with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0, 2, 75 or 1 as `yolov5-retrain` does."""
    commands: dict[str, Callable[[Site], None]] = {"up": up, "down": down, "status": status}
    parser = argparse.ArgumentParser(prog="python -m flows.server", description=__doc__)
    parser.add_argument("command", choices=commands)
    command = commands[parser.parse_args(argv).command]
    try:
        command(site_from(os.environ))
    except _SetupError as error:
        return error.code
    except Exception as error:  # noqa: BLE001  the edge: every error becomes a code and a line
        sys.stderr.write(f"server: error: {str(error) or type(error).__name__}\n")
        return exit_code(error)
    return 0


def up(site: Site) -> None:
    """Starts what does not run yet, and again what runs with other settings.

    Raises:
        ConfigError: Settings that cannot work, or a port that is taken.
        ServerError: A program did not come up.
        TransientError: The server takes too long, or another command is at work.
    """
    if not (HOME / "prefect.yaml").is_file():
        raise ConfigError(f"{HOME}: no prefect.yaml; run this from a checkout of the project")
    for folder in (site.state, site.logs, site.state / "prefect"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(site):
        server, workers = server_program(site), tuple(_workers(site))
        if not _serves(site):
            _check_port_is_free(site)
        write_secret(site.configuration, supervisor_configuration(site, (server, *workers)))
        if not listens(site):
            start_supervisord(site)
        with connected(site) as supervisor:
            changes = supervisor.read_again()
            _serve(site, supervisor, server, changes)
            _set_up(site)
            _work(site, supervisor, workers, changes)
    _say(f"logs     {site.logs}")


def down(site: Site) -> None:
    """Cancels what runs, ends the workers, the server and supervisord; all data stays.

    Raises:
        TransientError: Something does not end, or another command is at work.
    """
    if not listens(site):
        _say("nothing runs")
        return
    with _alone(site), connected(site) as supervisor:
        if _healthy(site.remembered_url()):
            for line in _runs(site).cancel_all(_CANCELLED_S):
                _say(line)
        names = [program.name for program in supervisor.programs()]
        for name in sorted(names, key=lambda name: name == "server"):
            if supervisor.stop(name):
                _say(f"{name}: ended")
        supervisor.end()


def status(site: Site) -> None:
    """Shows what runs here, what runs next and how the last run ended."""
    if not listens(site):
        _say("server                    down")
        return
    url = site.remembered_url()
    rows = [("url", url)]
    with connected(site) as supervisor:
        rows += [(p.name, f"{p.state.lower():<9}{p.description}") for p in supervisor.programs()]
    if _healthy(url):
        rows += _runs(site).next_and_last()
    for title, text in rows:
        _say(f"{title:<25} {text}")


def _workers(site: Site) -> Iterator[Program]:
    """The workers that can work here; says which one cannot, and why."""
    yield worker_program(site, ORCHESTRATOR)
    if _engine_answers():
        yield worker_program(site, DOCKER)
    else:
        where = site.passed_on.get("DOCKER_HOST", "its usual socket")
        _say(f"no Docker worker: no engine answers at {where}; start one, then `up` again")
    if site.passed_on.get("RETRAIN_KUBERNETES") == "1":
        if not has_package("prefect_kubernetes"):
            raise ConfigError(
                "RETRAIN_KUBERNETES=1: its worker is not installed; install the package "
                "prefect-kubernetes in the version that pyproject.toml says"
            )
        yield worker_program(site, KUBERNETES)


def _serve(site: Site, supervisor: Supervisor, server: Program, changes: Changes) -> None:
    """Has the server run; one with other settings is started again, runs outlive that."""
    if server.name in changes.changed:
        supervisor.remove(server.name)
        _say("server   has other settings, started again")
    if server.name in (*changes.changed, *changes.added):
        supervisor.add(server.name)
    supervisor.start(server.name)
    write_secret(site.url_file, f"{site.url}\n")

    def healthy() -> bool:
        if (state := supervisor.state(server.name)) not in ("RUNNING", "STARTING"):
            raise ServerError(with_log(site, server.name, state))
        return _healthy(site.url)

    wait(_HEALTHY_S, healthy, f"the server does not answer at {site.url}; see {site.logs}")
    _say(f"server   {site.url}")


def _work(
    site: Site, supervisor: Supervisor, workers: tuple[Program, ...], changes: Changes
) -> None:
    """Has the workers run; one with other settings is replaced, but never below a run."""
    other = [name for name in (*changes.changed, *changes.removed) if name != "server"]
    busy = _runs(site).going_on() if other else []
    for name in other:
        if busy:
            _say(f"{name} keeps its settings for now, {busy[0]} is going on; `up` again later")
            continue
        supervisor.remove(name)
        _say(f"{name} had other settings, ended")
        if name in changes.changed:
            supervisor.add(name)
    if supervisor.state(workers[0].name) != "RUNNING":
        for line in _runs(site).crash_dead():
            _say(line)
    for worker in workers:
        if worker.name in changes.added:
            supervisor.add(worker.name)
        supervisor.start(worker.name)
        _say(f"worker   {worker.name.removeprefix('worker-')}")


def _serves(site: Site) -> bool:
    """Whether our own server has the port."""
    if not listens(site) or site.remembered_url() != site.url:
        return False
    with connected(site) as supervisor:
        return supervisor.state("server") == "RUNNING"


def _check_port_is_free(site: Site) -> None:
    family = socket.AF_INET6 if ":" in site.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind((site.host, site.port))
        except OSError as error:
            raise ConfigError(
                f"RETRAIN_HOST={site.host} RETRAIN_PORT={site.port}: cannot listen there "
                f"({error.strerror}); if another program has the port, choose a free RETRAIN_PORT"
            ) from error


def _set_up(site: Site) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.setup"],
        env=client_environment(site),
        cwd=HOME,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_SETUP_S,
        check=False,
    )
    for line in done.stdout.splitlines():
        _say(f"setup    {line}")
    if done.returncode:
        raise _SetupError(done.returncode)


@contextmanager
def _alone(site: Site) -> Iterator[None]:
    with (site.state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TransientError(
                f"another up or down is at work in {site.state}; wait for it, then try again"
            ) from error
        yield


def _engine_answers() -> bool:
    try:
        client = docker.from_env(timeout=_ENGINE_TIMEOUT_S)
        client.ping()
    except DockerException:
        return False
    client.close()
    return True


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/api/health", timeout=5) as answer:  # noqa: S310  http
            return bool(answer.status == 200)
    except (OSError, HTTPException, ValueError):  # the last without a URL
        return False


def _runs(site: Site) -> ModuleType:
    """flows.runs, told which server it asks: Prefect reads its settings when it is imported."""
    url = site.remembered_url()
    os.environ.update({**client_environment(site), "PREFECT_API_URL": f"{url}/api"})
    from flows import runs  # noqa: PLC0415  see above

    return runs


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
