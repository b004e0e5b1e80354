"""The supervisord of this machine: start it, ask it, have it start and end programs."""

import os
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from supervisor.xmlrpc import SupervisorTransport  # type: ignore[import-untyped]  # ships no types

from flows.services import Site
from tasks.errors import TransientError
from yolov5_core.durable import settle

_STARTED = ("RUNNING", "STARTING", "BACKOFF")
_LISTENING_S, _ENDED_S = 20, 60


class ServerError(RuntimeError):
    """A program did not come up; the message holds the end of its log."""


class Running(NamedTuple):
    """A program as supervisord sees it."""

    name: str
    state: str  # RUNNING, STARTING, BACKOFF, STOPPED, FATAL ...
    pid: int  # 0 without a process
    description: str  # pid and time, or what went wrong


class Changes(NamedTuple):
    """How a new configuration differs from what supervisord has, names of programs."""

    added: list[str]
    changed: list[str]
    removed: list[str]


class Supervisor:
    """The methods of a running supervisord that we need; see `connected`."""

    def __init__(self, site: Site, methods: Any) -> None:
        self._site, self._methods = site, methods

    def programs(self) -> list[Running]:
        """All programs, running or not."""
        found = self._methods.getAllProcessInfo()
        return [Running(f["name"], f["statename"], f["pid"], f["description"]) for f in found]

    def state(self, name: str) -> str:
        """State of a program, UNKNOWN if there is none of this name."""
        return {known.name: known.state for known in self.programs()}.get(name, "UNKNOWN")

    def read_again(self) -> Changes:
        """Reads the configuration; what differs takes effect with `replace`, `add`, `remove`."""
        [[added, changed, removed]] = self._methods.reloadConfig()
        return Changes(added, changed, removed)

    def add(self, name: str) -> None:
        """Takes a program of the configuration in; it is not started."""
        self._methods.addProcessGroup(name)

    def remove(self, name: str) -> None:
        """Ends a program and forgets it."""
        self.stop(name)
        self._methods.removeProcessGroup(name)

    def start(self, name: str) -> None:
        """Starts a program unless it runs, and waits until it has stayed up for some seconds.

        Raises:
            ServerError: It ended at once.
        """
        if self.state(name) in _STARTED:
            return
        try:
            self._methods.startProcess(name)
        except xmlrpc.client.Fault as fault:
            raise ServerError(with_log(self._site, name, fault.faultString)) from fault

    def stop(self, name: str) -> bool:
        """Ends a program and waits for it; False if it does not run."""
        try:
            self._methods.stopProcess(name)
        except xmlrpc.client.Fault as fault:
            if "NOT_RUNNING" in fault.faultString:
                return False
            raise
        return True

    def end(self) -> None:
        """Ends supervisord itself and waits for it."""
        self._methods.shutdown()
        wait(_ENDED_S, lambda: not listens(self._site), "supervisord does not end")


@contextmanager
def connected(site: Site) -> Iterator[Supervisor]:
    """The running supervisord of a site."""
    transport = SupervisorTransport(None, None, f"unix://{site.socket}")
    try:  # the address is there for its form only, the transport knows the socket
        proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
        yield Supervisor(site, proxy.supervisor)
    finally:
        transport.close()


def listens(site: Site) -> bool:
    """Whether a supervisord answers."""
    try:
        with connected(site) as supervisor:
            supervisor.programs()
    except (OSError, HTTPException):
        return False
    return True


def start_supervisord(site: Site) -> None:
    """Starts it in the background.

    Raises:
        ServerError: It does not start.
        TransientError: It does not answer.
    """
    # The rest of the environment is said program by program.
    kept = {key: site.passed_on[key] for key in ("PATH", "HOME") if key in site.passed_on}
    done = subprocess.run(  # noqa: S603  our own words
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(site.configuration)],
        env=kept,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServerError(f"supervisord does not start:\n{done.stdout}{done.stderr}")
    wait(_LISTENING_S, lambda: listens(site), f"supervisord does not answer; see {site.logs}")


def with_log(site: Site, name: str, what: str) -> str:
    """A message with the end of a program's log."""
    path = site.logs / f"{name}.log"
    lines = path.read_text("utf-8", "replace").splitlines()[-15:] if path.is_file() else []
    return "\n".join((f"{name} did not come up ({what}); the end of {path}:", *lines))


def write_secret(path: Path, text: str) -> None:
    """Replaces a file that only its owner may read."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    settle(part, path)


def wait(timeout_s: float, is_so: Callable[[], bool], complaint: str) -> None:
    """Waits until something is so.

    Raises:
        TransientError: It takes too long; the message is the complaint.
    """
    end = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > end:
            raise TransientError(f"{complaint} ({timeout_s:.0f} s waited)")
        time.sleep(0.3)
