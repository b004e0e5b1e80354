"""What `make up` keeps running, as data: the settings, the programs, supervisord's configuration.

Every program starts in an environment made here, not in the caller's: workers hand all their
PREFECT_* settings on to the containers they start, so a password or a path of this machine in
them would travel along.
"""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from urllib.parse import urlunsplit

from yolov5_core.config import ConfigError

HOME = Path(__file__).resolve().parents[1]  # the checkout: prefect.yaml and our packages
ORCHESTRATOR, DOCKER, KUBERNETES = "orchestrator", "stages-docker", "stages-kubernetes"
HEARTBEAT_S = 30  # the shortest that Prefect accepts
# Four missed heartbeats: the run is dead. Fewer would not do: a server on SQLite may not write for
# a minute (its busy time-out), and what was sent meanwhile is lost.
SILENCE_S = 120

# What programs get of the caller's environment, besides RETRAIN_*.
_PASSED_ON = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_CACHE_HOME"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT"),
    *("CLOUDSDK_CONFIG", "DOCKER_HOST", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY", "KUBECONFIG"),
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"),
)
# The same in every process that speaks to the server, containers included.
_CLIENT_SETTINGS = {
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
    "PREFECT_LOGGING_EXTRA_LOGGERS": "yolov5_core,tasks,flows",
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "WARNING",  # we log a line an epoch
    "PREFECT_WORKER_QUERY_SECONDS": "2",  # the default of 10 is dead time before every stage
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}
_LEASE_STORAGES = "prefect.server.concurrency.lease_storage"
_SERVER_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # How soon the stages of a cancelled run are cancelled; the default is 20.
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "5",
    # In memory, the default, a restart forgets who holds the slot of `one run at a time`: it would
    # stay taken for ever, and every later night be cancelled.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": f"{_LEASE_STORAGES}.filesystem",
}
_DATABASES = ("postgresql+asyncpg://", "sqlite+aiosqlite:///")
_AUTH = "PREFECT_SERVER_API_AUTH_STRING"
_SOCKET_NAME_MAX = 90  # supervisord first binds a longer name; the kernel takes 107 characters
_UNQUOTABLE = ('"', "\n", " ;", " #")  # supervisord's configuration knows no escapes


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Where the server of this machine lives and what its programs are told.

    Raises:
        ConfigError: Settings that cannot work.
    """

    state: Path  # database, logs, socket
    host: str
    port: int
    database: str  # URL; "" for SQLite in the state folder
    auth: str  # user:password of the API, "" for none
    passed_on: Mapping[str, str]  # of the caller's environment

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ConfigError(f"RETRAIN_PORT={self.port}: a port is a number from 1 to 65535")
        if self.database and not self.database.startswith(_DATABASES):
            raise ConfigError(  # not the value: it holds a password
                f"RETRAIN_DATABASE: must start with {' or '.join(_DATABASES)}"
            )
        if len(str(self.socket)) > _SOCKET_NAME_MAX:
            raise ConfigError(
                f"RETRAIN_STATE={self.state}: too long for a socket in it, "
                f"{len(str(self.socket))} of {_SOCKET_NAME_MAX} characters; choose a shorter path"
            )
        for key, value in {**self.passed_on, "RETRAIN_DATABASE": self.database}.items():
            if any(text in value for text in _UNQUOTABLE):
                raise ConfigError(f'{key}: must not hold a quote ("), a new line, " ;" or " #"')

    @property
    def socket(self) -> Path:
        """Where supervisord listens."""
        return self.state / "supervisor.sock"

    @property
    def configuration(self) -> Path:
        """Supervisord's file."""
        return self.state / "supervisord.conf"

    @property
    def logs(self) -> Path:
        """The folder of all logs."""
        return self.state / "logs"

    @property
    def url_file(self) -> Path:
        """Holds the URL of the server that runs, for `status` and for shells."""
        return self.state / "url"

    def remembered_url(self) -> str:
        """The URL that the last `up` used, "" before the first."""
        return self.url_file.read_text("utf-8").strip() if self.url_file.is_file() else ""

    @property
    def url(self) -> str:
        """The UI, as seen from this machine."""
        everywhere = self.host in ("0.0.0.0", "::")  # noqa: S104  compared, not bound
        host = "127.0.0.1" if everywhere else self.host
        return urlunsplit(("http", f"{host}:{self.port}", "", "", ""))


def site_from(environment: Mapping[str, str]) -> Site:
    """Reads the RETRAIN_* settings.

    Raises:
        ConfigError: Settings that cannot work.
    """
    port = environment.get("RETRAIN_PORT", "") or "4200"
    if not port.isdecimal():
        raise ConfigError(f"RETRAIN_PORT={port}: a port is a number from 1 to 65535")
    secret = ("RETRAIN_DATABASE", "RETRAIN_STATE", "RETRAIN_HOST", "RETRAIN_PORT")
    return Site(
        state=_state_folder(environment),
        host=environment.get("RETRAIN_HOST", "") or "127.0.0.1",
        port=int(port),
        database=environment.get("RETRAIN_DATABASE", ""),
        auth=environment.get(_AUTH, ""),
        passed_on={
            key: value
            for key, value in sorted(environment.items())
            if key in _PASSED_ON or (key.startswith("RETRAIN_") and key not in secret)
        },
    )


def _state_folder(environment: Mapping[str, str]) -> Path:
    chosen = environment.get("RETRAIN_STATE", "")
    shared = environment.get("XDG_STATE_HOME", "") or "~/.local/state"
    return Path(chosen or Path(shared) / "yolov5-retrain").expanduser().absolute()


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """One process that is started again whenever it ends."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    stop_s: int  # seconds to end by itself before it is killed


def client_environment(site: Site) -> dict[str, str]:
    """For workers and for whoever else speaks to the server."""
    return {
        **site.passed_on,
        **_CLIENT_SETTINGS,
        **({"PREFECT_API_AUTH_STRING": site.auth} if site.auth else {}),
        "PREFECT_API_URL": f"{site.url}/api",
        # No profile of the user's own may change what these processes do.
        "PREFECT_HOME": str(site.state / "prefect"),
        "RETRAIN_HOME": str(HOME),
        # A new version of Prefect is a new configuration: the program is started again.
        "RETRAIN_RUNS_ON": f"prefect {metadata.version('prefect')}",
    }


def server_program(site: Site) -> Program:
    """The Prefect server: API, UI, scheduler."""
    home = site.state / "prefect"
    environment = {
        # Ours are for runs: a change of them is no reason to start the server again.
        **{k: v for k, v in site.passed_on.items() if not k.startswith("RETRAIN_")},
        **_SERVER_SETTINGS,
        **({_AUTH: site.auth} if site.auth else {}),
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": site.database
        or f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        # The browser's own address, also behind a reverse proxy.
        "PREFECT_SERVER_UI_API_URL": "/api",
        "RETRAIN_RUNS_ON": f"prefect {metadata.version('prefect')}",
    }
    arguments = ("server", "start", "--host", site.host, "--port", str(site.port))
    return Program(name="server", command=_prefect(*arguments), environment=environment, stop_s=20)


def worker_program(site: Site, pool: str) -> Program:
    """The worker of a pool; its kind is the pool's."""
    arguments = ("worker", "start", "--pool", pool, "--name", pool, "--install-policy", "never")
    return Program(
        name=f"worker-{pool}",
        command=_prefect(*arguments),
        environment=client_environment(site),
        stop_s=60,
    )


def has_package(name: str) -> bool:
    """Whether a package is installed; nothing of it is loaded."""
    return util.find_spec(name) is not None


def _prefect(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "prefect", *arguments)


def supervisor_configuration(site: Site, programs: tuple[Program, ...]) -> str:
    """The text of supervisord's configuration; holds secrets, so the file is its owner's alone."""
    head: dict[str, dict[str, object]] = {
        "unix_http_server": {"file": site.socket, "chmod": "0700"},
        "supervisord": {
            "logfile": site.logs / "supervisord.log",
            "logfile_maxbytes": "10MB",
            "logfile_backups": 3,
            "pidfile": site.state / "supervisord.pid",
            "identifier": "yolov5-retrain",
        },
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        },
    }
    sections = {**head, **{f"program:{p.name}": _section(site, p) for p in programs}}
    texts = (
        "\n".join((f"[{title}]", *(f"{key}={_percent(value)}" for key, value in rows.items())))
        for title, rows in sections.items()
    )
    return "\n\n".join(texts) + "\n"


def _section(site: Site, program: Program) -> dict[str, object]:
    return {
        "command": shlex.join(program.command),
        "directory": HOME,
        "environment": ",".join(f'{key}="{value}"' for key, value in program.environment.items()),
        "autostart": "false",  # `up` starts them in order
        "autorestart": "true",
        "startsecs": 3,
        "startretries": 1000,  # each a second later than the one before: a week
        "stopwaitsecs": program.stop_s,
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": site.logs / f"{program.name}.log",
        "stdout_logfile_maxbytes": "10MB",
        "stdout_logfile_backups": 5,
    }


def _percent(value: object) -> str:
    return str(value).replace("%", "%%")
