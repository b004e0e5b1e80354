import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import temporary_api
from flows.temporary_api import start_temporary_api
from tasks.errors import TransientError, exit_code


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Nobody says where a server is, and starting one is only noted."""
    for name in temporary_api._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
    found: list[str] = []
    monkeypatch.setattr(temporary_api, "TemporaryApi", lambda: found.append("started"))
    return found


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_a_word_about_a_server_one_is_started(started: list[str]):
    put(Path("pyproject.toml"), 'dependencies = ["prefect"]')
    put(Path(".env"), "RETRAIN=1")
    start_temporary_api()
    assert started == ["started"]


@pytest.mark.parametrize("name", ["PREFECT_API_URL", "PREFECT_PROFILE"])
def test_a_variable_that_may_name_a_server_leaves_it_to_prefect(started, monkeypatch, name):
    monkeypatch.setenv(name, "x")
    assert start_temporary_api() is None
    assert started == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("home/profiles.toml", 'active = "mine"'),
        ("prefect.toml", "[api]"),
        ("pyproject.toml", "[tool.prefect.api]"),
        (".env", "PREFECT_API_URL=http://127.0.0.1:4200/api"),
    ],
)
def test_a_file_of_settings_leaves_it_to_prefect(started, path, text):
    put(Path(path), text)
    assert start_temporary_api() is None
    assert started == []


@pytest.mark.usefixtures("started")
def test_prefect_once_loaded_has_read_its_settings(monkeypatch):
    monkeypatch.setitem(sys.modules, "prefect", sys)
    assert start_temporary_api() is None


def test_a_server_that_ends_at_once_is_told_and_worth_another_try(monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    monkeypatch.setattr(temporary_api.atexit, "register", lambda _: None)
    monkeypatch.setenv("PREFECT_API_URL", "")  # so that it is put back
    monkeypatch.setenv("PREFECT_UI_URL", "")
    api = temporary_api.TemporaryApi()
    with pytest.raises(TransientError, match="ended with code 1") as caught:
        api.wait()
    assert exit_code(caught.value) == 75
    api.stop()


def test_a_port_that_is_taken_is_left_out():
    first = temporary_api._free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        assert temporary_api._free_port() != first


@pytest.mark.slow
def test_the_command_runs_on_the_server_it_starts_and_takes_it_away(tmp_path: Path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    environment |= {"PREFECT_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "flows.cli", "--data", "none.yaml", "--store", "store"]
    root = Path(__file__).parents[2]
    environment["PYTHONPATH"] = str(root)
    done = subprocess.run(  # noqa: S603  our own command
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert "Beginning flow run" in said
    assert "temporary server" not in said  # Prefect started none of its own
    assert "View at" not in said


def test_containers_are_still_refused_without_a_server_that_stays(tmp_path: Path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    environment |= {"PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    code = (
        "import os, flows.cli as c, flows.retrain as r; r.retrain = lambda _: 1 / 0; "
        "c._complain = print; c.main(['--run-on', 'docker']); "
        "print(os.environ.get('PREFECT_API_URL'))"
    )
    done = subprocess.run(  # noqa: S603  our own command
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["division by zero", "None"]


def test_a_server_ends_with_its_process_even_when_that_is_killed(tmp_path):
    code = (
        "import time; from flows.temporary_api import TemporaryApi; "
        "print(TemporaryApi()._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(  # noqa: S603  our own script
        [sys.executable, "-c", code],
        cwd=Path(temporary_api.__file__).parents[1],
        env={**os.environ, "PREFECT_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        server = Path("/proc", process.stdout.readline().strip())
        assert server.exists()
        process.kill()
    end = time.monotonic() + 30
    while server.exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not server.exists()
