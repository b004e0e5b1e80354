"""Prefect's temporary API server, started before Prefect itself is imported.

Where no server is named Prefect starts one by itself, but late: it imports the whole server into
the process that will only ask it, and then waits for it. Started from here, the server comes up on
another core while this process imports what it needs.
"""

import atexit
import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from tasks.errors import TransientError

_HOST = "127.0.0.1"
_PORTS = range(8000, 9000)  # where Prefect looks for one too
_PATIENCE_S = 120.0  # a fresh home has its database made first
# Any of them may say where Prefect's server is, or that there shall be none.
_VARIABLES = (
    *("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"),
    *("PREFECT_SERVER_EPHEMERAL_ENABLED", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"),
    *("PREFECT_TEST_MODE", "PREFECT_UNIT_TEST_MODE"),
)
_OF_A_TEMPORARY_SERVER = {  # the first three as Prefect 3.8.8 starts its own
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    # Blocks are never used here, and to look for them costs the import of every Prefect package
    # that is installed, the one for Kubernetes among them.
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
}


class TemporaryApi:
    """A server of this process, which ends with it."""

    def __init__(self) -> None:
        """Starts it and names it in PREFECT_API_URL; it does not answer yet."""
        self.port = _free_port()
        command = [sys.executable, "-m", "flows.temporary_server", _HOST, str(self.port)]
        command.append(str(os.getpid()))
        environment = {**os.environ, **_OF_A_TEMPORARY_SERVER}
        self._process = subprocess.Popen(command, env=environment)  # noqa: S603  no user input in it
        # Registered before Prefect registers its own: what Prefect has to say at exit is heard.
        atexit.register(self.stop)
        os.environ["PREFECT_API_URL"] = f"http://{_HOST}:{self.port}/api"
        os.environ.setdefault("PREFECT_UI_URL", "")  # it shows none, so no line shall point there

    def wait(self) -> None:
        """Returns when it answers.

        Raises:
            TransientError: It ended, or does not answer in time.
        """
        end = time.monotonic() + _PATIENCE_S
        while not self._answers():
            if (code := self._process.poll()) is not None:
                raise TransientError(
                    f"Prefect's temporary server ended with code {code}; what it said is above; "
                    "start again, or name a server in PREFECT_API_URL"
                )
            if time.monotonic() > end:
                raise TransientError(
                    f"Prefect's temporary server does not answer after {_PATIENCE_S:.0f} s; start "
                    "again when the machine has less to do, or name a server in PREFECT_API_URL"
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends it; again it does nothing."""
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=5)
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/api/health")
                return connection.getresponse().status == http.client.OK
            except (OSError, http.client.HTTPException):
                return False


def start_temporary_api() -> TemporaryApi | None:
    """Starts one, unless Prefect is loaded already or may have been told of a server.

    It is enough that a file of Prefect's settings is there: whoever wrote one gets Prefect's own
    way, which reads it.
    """
    told = any(name in os.environ for name in _VARIABLES) or any(
        _is_told(path, word) for path, word in _setting_files().items()
    )
    return None if told or "prefect" in sys.modules else TemporaryApi()


def _setting_files() -> dict[Path, str]:
    """Where Prefect looks for settings, and what such a file then has in it."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    here = {Path(".env"): "PREFECT_", Path("pyproject.toml"): "[tool.prefect"}
    return {home / "profiles.toml": "", Path("prefect.toml"): "", **here}


def _is_told(path: Path, word: str) -> bool:
    try:
        return word in path.read_text("utf-8", errors="replace")
    except OSError:
        return False


def _free_port() -> int:
    start = os.getpid() % len(_PORTS)  # two that start at once try different ones first
    for port in (*_PORTS[start:], *_PORTS[:start]):
        with contextlib.closing(socket.socket()) as probe:
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
            return port
    raise TransientError(f"no port of {_HOST} from {_PORTS[0]} to {_PORTS[-1]} is free; end others")
