"""`make up` and `make down`: settings, environments of the programs, and the real thing."""

import io
import os
import pwd
import shlex
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from supervisor.options import ServerOptions

from flows.services import (
    DOCKER,
    ORCHESTRATOR,
    client_environment,
    server_program,
    site_from,
    supervisor_configuration,
    worker_program,
)
from tests.stack import Stack, free_port, server_command, stack, stack_environment
from yolov5_core.config import ConfigError

POSTGRES = Path("/usr/lib/postgresql")
DATABASE = "postgresql+asyncpg://prefect:geheim%21@127.0.0.1:5432/prefect"


def refusal(**settings: str) -> str:
    with pytest.raises(ConfigError) as caught:
        site_from({"HOME": "/h", **settings})
    return str(caught.value)


def test_without_settings_the_server_is_for_this_machine_only():
    site = site_from({})
    assert (site.host, site.port, site.database) == ("127.0.0.1", 4200, "")
    assert site.url == "http://127.0.0.1:4200"


def test_the_state_folder_is_the_one_that_is_named_most_exactly():
    below = {"XDG_STATE_HOME": "/srv/s"}
    assert site_from({**below, "RETRAIN_STATE": "/srv/r"}).state == Path("/srv/r")
    assert site_from(below).state == Path("/srv/s/yolov5-retrain")
    assert site_from({}).state == Path("~/.local/state/yolov5-retrain").expanduser()


def test_a_server_for_everybody_is_still_reached_from_here_by_loopback():
    assert site_from({"RETRAIN_HOST": "::"}).url == "http://127.0.0.1:4200"


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1"])
def test_a_port_is_a_number_that_can_be_one(port):
    assert refusal(RETRAIN_PORT=port).startswith(f"RETRAIN_PORT={port}: a port is a number")


def test_a_state_folder_too_deep_for_a_socket_is_refused_by_its_length():
    assert "105 of 90 characters" in refusal(RETRAIN_STATE="/" + "d" * 88)


def test_a_wrong_database_is_refused_without_saying_its_password():
    said = refusal(RETRAIN_DATABASE="postgres://prefect:geheim@db/prefect")
    assert said.startswith("RETRAIN_DATABASE: must start with postgresql+asyncpg://")
    assert "geheim" not in said


def test_what_the_configuration_cannot_hold_is_refused():
    assert refusal(RETRAIN_NOTE='a "b"').startswith("RETRAIN_NOTE: must not hold a quote")


def test_only_the_server_knows_the_database():
    site = site_from({"RETRAIN_DATABASE": DATABASE})
    key = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
    assert server_program(site).environment[key] == DATABASE
    for pool in (ORCHESTRATOR, DOCKER):
        assert "geheim" not in str(worker_program(site, pool).environment)


def test_programs_get_the_bucket_and_the_engine_but_no_prefect_settings_of_the_caller():
    given = {
        "PREFECT_API_KEY": "k",
        "PREFECT_PROFILE": "cloud",
        "SECRET": "s",
        "STORAGE_EMULATOR_HOST": "http://127.0.0.1:4443",
        "GOOGLE_APPLICATION_CREDENTIALS": "/k.json",
        "DOCKER_HOST": "unix:///d.sock",
        "RETRAIN_CONTAINERS": "4",
    }
    told = client_environment(site_from(given))
    assert {key: told.get(key) for key in given} == {
        **given,
        "PREFECT_API_KEY": None,
        "PREFECT_PROFILE": None,
        "SECRET": None,
    }


def test_a_password_of_the_api_reaches_the_server_and_its_clients():
    site = site_from({"PREFECT_SERVER_API_AUTH_STRING": "admin:pass"})
    assert server_program(site).environment["PREFECT_SERVER_API_AUTH_STRING"] == "admin:pass"
    assert client_environment(site)["PREFECT_API_AUTH_STRING"] == "admin:pass"
    assert "PREFECT_SERVER_API_AUTH_STRING" not in client_environment(site)


def test_supervisord_reads_the_environment_that_was_meant(tmp_path):
    odd = {"RETRAIN_ODD": "100%, it's a\\b#1;=x", "RETRAIN_EMPTY": ""}
    site = site_from({"RETRAIN_STATE": str(tmp_path), "RETRAIN_DATABASE": DATABASE, **odd})
    site.logs.mkdir()
    programs = (server_program(site), worker_program(site, ORCHESTRATOR))
    read = ServerOptions().read_config(io.StringIO(supervisor_configuration(site, programs)))
    found = {p.name: p for group in read.process_group_configs for p in group.process_configs}
    assert odd.items() <= programs[1].environment.items()
    for program in programs:
        assert found[program.name].environment == program.environment
        assert tuple(shlex.split(found[program.name].command)) == program.command


def test_a_port_that_somebody_has_is_a_sentence_and_exit_2(tmp_path):
    environment = stack_environment(tmp_path / "s")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(environment["RETRAIN_PORT"])))
        taken.listen()
        done = server_command("up", environment)
    assert done.returncode == 2
    assert "choose a free RETRAIN_PORT" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "s" / "supervisor.sock").exists()


def test_down_and_status_where_nothing_was_ever_up(tmp_path):
    environment = stack_environment(tmp_path / "s")
    for word, said in (("down", "nothing runs"), ("status", "down")):
        done = server_command(word, environment)
        assert (done.returncode, said in done.stdout) == (0, True)
    assert not (tmp_path / "s").exists()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("up")) as running:
        yield running


@pytest.mark.slow
def test_up_again_starts_nothing_again_and_changes_nothing(served):
    before = served.pids()
    done = served.command("up")
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing to change" in done.stdout
    assert served.pids() == before
    assert set(before) == {"server", "worker-orchestrator"}  # no engine, no Docker worker
    assert f"no engine answers at {served.environment['DOCKER_HOST']}" in done.stdout


@pytest.mark.slow
def test_other_settings_of_the_worker_restart_the_worker_and_not_the_server(served):
    before = served.pids()
    changed = {**served.environment, "RETRAIN_CONTAINERS": "3"}
    assert server_command("up", changed).returncode == 0
    now = served.pids()
    assert now["worker-orchestrator"] != before["worker-orchestrator"]
    assert now["server"] == before["server"]


@pytest.mark.slow
def test_secrets_and_data_are_the_owners_alone(served):
    site = served.site
    assert stat.S_IMODE(site.state.stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE(site.configuration.stat().st_mode) == 0o600


@pytest.mark.slow
def test_status_is_a_short_table(served):
    lines = served.command("status").stdout.splitlines()
    titles = [line.split("  ")[0] for line in lines]
    assert titles == ["url", "server", "worker-orchestrator", "next run", "last run"]
    assert lines[0].endswith(served.site.url)
    assert "running" in lines[1]
    assert "02:00 UTC" in lines[3]


@pytest.mark.slow
def test_down_ends_everything_twice_and_up_finds_its_data_again(served):
    def deployments() -> dict[str, str]:
        with served.client() as client:
            return {str(found.id): found.name for found in client.read_deployments()}

    before, processes = deployments(), served.pids()
    assert served.command("down").returncode == 0
    assert not [pid for pid in processes.values() if Path(f"/proc/{pid}").exists()]
    again = served.command("down")
    assert (again.returncode, again.stdout) == (0, "nothing runs\n")
    assert served.command("up").returncode == 0
    assert deployments() == before


@pytest.fixture
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server of this test's own."""
    found = sorted(POSTGRES.glob("*/bin/initdb"))
    if not found:
        pytest.skip(f"no PostgreSQL below {POSTGRES}")
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        port = free_port()
        account: dict[str, Any] = {}
        if os.geteuid() == 0:  # it refuses to be root's
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            account = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

        def command(program: str, *words: str) -> None:
            subprocess.run(  # noqa: S603  our own words
                [found[-1].with_name(program), "-D", f"{folder}/data", *words],
                cwd=folder,
                check=True,
                timeout=60,
                stdout=subprocess.DEVNULL,
                **account,
            )

        command("initdb", "-A", "trust", "-U", "prefect", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -c fsync=off"
        command("pg_ctl", "-w", "-o", options, "-l", f"{folder}/log", "start")
        try:
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        finally:
            command("pg_ctl", "-w", "-m", "immediate", "stop")


@pytest.mark.slow
def test_the_server_keeps_its_data_in_postgresql_when_told(postgres, tmp_path):
    with stack(tmp_path / "s", RETRAIN_DATABASE=postgres) as running:
        with running.client() as client:
            assert client.read_deployment_by_name("retrain/nightly")
        assert not (running.site.state / "prefect" / "prefect.db").exists()
        assert "ERROR" not in running.log("server")
