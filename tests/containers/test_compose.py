"""The compose file of a server: valid, complete, and of one mind with `make up`."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

import pytest
import yaml

from flows import services
from flows.services import client_environment, server_program, site_from
from tests.containers.engine import TAG, Images, run
from tests.stack import ROOT

COMPOSE = ROOT / "containers" / "compose.yaml"
EXAMPLE = ROOT / "containers" / "env.example"
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<how>[-?])(?P<text>[^}]*))?\}")
_LEAST = {"POSTGRES_PASSWORD": "secret", "RETRAIN_FOLDER": "/srv/pictures", "DOCKER_GROUP": "998"}


def filled_in(settings: Mapping[str, str]) -> dict[str, Any]:
    """The file as compose understands it: variables put in, extensions left out.

    Raises:
        KeyError: A required variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        name, how = match["name"], match["how"]
        if found := settings.get(name, ""):
            return found
        if how == "-":
            return str(match["text"])
        raise KeyError(name)

    doc: dict[str, Any] = yaml.safe_load(_VARIABLE.sub(value, COMPOSE.read_text("utf-8")))
    return {key: part for key, part in doc.items() if not key.startswith("x-")}


def services_of(settings: Mapping[str, str] = _LEAST) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = filled_in(settings)["services"]
    return found


def ours() -> dict[str, dict[str, Any]]:
    return {name: s for name, s in services_of().items() if "yolov5-retrain" in s["image"]}


def workers() -> dict[str, dict[str, Any]]:
    return {name: s for name, s in ours().items() if "worker" in s["command"]}


def test_it_keeps_to_the_schema_of_compose():
    command = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(  # noqa: S603  our own words
        [sys.executable, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", _LEAST)
def test_a_setting_that_nobody_can_guess_must_be_given(name: str):
    services_of()
    with pytest.raises(KeyError, match=name):
        services_of({key: text for key, text in _LEAST.items() if key != name})


def test_the_example_names_every_setting_and_no_other():
    text = COMPOSE.read_text("utf-8")
    used = {match["name"] for match in _VARIABLE.finditer(text)}
    used |= set(re.findall(r"^ +(\w+):(?: +#.*)?$", text, re.MULTILINE)) & {
        name
        for s in services_of().values()
        for name, v in s.get("environment", {}).items()
        if not v
    }
    named = set(re.findall(r"^#?([A-Z_]+)=", EXAMPLE.read_text("utf-8"), re.MULTILINE))
    assert named == used


def test_passwords_come_from_the_environment_alone():
    for name, service in services_of().items():
        for key, text in service.get("environment", {}).items():
            if "AUTH" in key:
                assert text is None, name
    assert "secret" not in COMPOSE.read_text("utf-8")
    assert "/containers/.env" in (ROOT / ".gitignore").read_text("utf-8").split()
    assert not re.search(
        r"^(POSTGRES_PASSWORD|\w*AUTH_STRING)=.", EXAMPLE.read_text("utf-8"), re.MULTILINE
    )


def test_workers_are_told_what_make_up_tells_them():
    told = client_environment(site_from({"RETRAIN_STATE": "/state", "PATH": ""}))
    same = {k: v for k, v in told.items() if k.startswith("PREFECT_") and k != "PREFECT_HOME"}
    in_the_image = {"PREFECT_SERVER_ANALYTICS_ENABLED"}
    assert sorted(workers()) == [services.ORCHESTRATOR, services.DOCKER]
    for worker in workers().values():
        found = worker["environment"]
        assert {key: found[key] for key in same.keys() - in_the_image} == {
            key: same[key] for key in same.keys() - in_the_image
        }


def test_the_server_is_told_what_make_up_tells_it():
    told = server_program(site_from({"RETRAIN_STATE": "/state", "PATH": ""})).environment
    found = services_of()["server"]["environment"]
    same = {key for key in told if key.startswith("PREFECT_")} - {
        *("PREFECT_HOME", "PREFECT_SERVER_DATABASE_CONNECTION_URL"),  # here in PostgreSQL
        "PREFECT_SERVER_ANALYTICS_ENABLED",  # set in the image
    }
    assert {key: found[key] for key in same} == {key: told[key] for key in same}
    assert found["PREFECT_SERVER_DATABASE_CONNECTION_URL"].startswith("postgresql+asyncpg://")


def test_nothing_listens_to_other_machines():
    for name, service in services_of().items():
        assert service["network_mode"] == "host", name
        assert "0.0.0.0" not in yaml.safe_dump(service), name  # noqa: S104  looked for
        assert "ports" not in service, name
    assert "listen_addresses=127.0.0.1" in services_of()["database"]["command"]
    command = services_of()["server"]["command"]
    assert command[command.index("--host") + 1] == "127.0.0.1"


def test_what_runs_on_is_started_again_and_says_how_it_does():
    for name, service in services_of().items():
        if name == "setup":
            assert service["restart"] == "on-failure"
        else:
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["logging"]["options"]["max-size"], name


def test_each_waits_for_what_it_needs():
    found = services_of()
    for name, service in found.items():
        for other, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in found[other], name
    assert set(found["setup"]["depends_on"]) == {"server"}
    for worker in workers().values():
        assert worker["depends_on"] == {"setup": {"condition": "service_completed_successfully"}}


def test_a_folder_has_the_same_path_inside_and_outside():
    settings = {**_LEAST, "GOOGLE_APPLICATION_CREDENTIALS": "/etc/key.json"}
    mounts = services_of(settings)["orchestrator"]["volumes"]
    assert mounts == ["/srv/pictures:/srv/pictures", "/etc/key.json:/etc/key.json:ro"]


def test_every_module_and_command_exists():
    for name, service in ours().items():
        words = service["command"]
        if words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]), name
        else:
            done = subprocess.run(  # noqa: S603  our own words
                [sys.executable, "-m", *words[:3], "--help"],
                capture_output=True,
                text=True,
                check=True,
            )
            for option in (word for word in words if word.startswith("--")):
                assert option in done.stdout, f"{name}: {option}"


@pytest.mark.docker
@pytest.mark.slow
def test_every_command_is_in_its_image(images: Images):
    known = {image.removesuffix(TAG): image for image in astuple(images)}
    for name, service in ours().items():
        program = service["command"][0]
        assert run(known[service["image"]], "sh", "-c", f"command -v {program}"), name
