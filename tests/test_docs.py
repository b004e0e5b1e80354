"""Every command of README.md and docs/*.md is covered, each in one of these ways:

- RUN: a named test runs it, or does in its own words what it does; the test must exist.
- CHECKS: `yolov5-retrain` lines are parsed by the real parser, `make` lines are run with
  `make -n`, `prefect deployment run` names a deployment of prefect.yaml with settings that it
  takes, modules and test files exist and know the flags. Nothing of it is carried out.
- NOT_RUN: nobody can run it here; the reason is given.

A new command that is none of them fails, with a sentence that says where to enter it.
"""

import argparse
import importlib
import itertools
import json
import os
import re
import shlex
import subprocess
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest
import yaml

from flows import cli
from tasks.settings_files import config_from_mapping

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
SHELLS = ("sh", "bash", "console")

# What a command begins with, and the test that runs the same; the longest beginning counts.
RUN = {
    "make run": "tests/end_to_end/test_run_semantics.py",  # the flow that it starts, on less
    "make up": "tests/flows/test_server.py::test_up_again_starts_nothing_again_and_changes_nothing",
    "make down": "tests/flows/test_server.py::"
    "test_down_ends_everything_twice_and_up_finds_its_data_again",
    "make status": "tests/flows/test_server.py::test_status_is_a_short_table",
    "make images": "tests/containers/test_images.py::test_an_image_says_what_it_is_made_of",
    "make kill-matrix": "tests/end_to_end/test_kill_matrix.py",
    "prefect deploy --all": "tests/flows/test_setup.py::test_deploying_by_hand_needs_only_the_home",
    "prefect deployment run retrain/": "tests/end_to_end/test_schedule.py::"
    "test_a_second_nightly_run_is_cancelled_and_the_first_goes_on",
    "docker run --rm": "tests/containers/test_images.py::"
    "test_a_whole_run_needs_no_network_no_root_and_no_writable_image",
    "docker inspect": "tests/containers/test_images.py::test_an_image_says_what_it_is_made_of",
    "docker stop": "tests/containers/test_stop.py::"
    "test_a_stopped_training_says_so_and_the_next_container_goes_on_from_its_last_epoch",
    "docker compose -f containers/compose.yaml": "tests/containers/test_compose.py::"
    "test_every_module_and_command_exists",
    "dask worker": "tests/tasks/test_cluster.py",
    "dask scheduler": "tests/tasks/test_cluster.py",
    "torchrun": "tests/tasks/test_group.py::"
    "test_ranks_that_torchrun_starts_find_each_other_and_end_together",
    "kubectl apply -f containers/kubernetes/worker.yaml": "tests/containers/test_kubernetes.py::"
    "test_the_workers_own_objects_are_valid_and_may_do_what_it_does",
}
# What a command begins with, and why no test runs it.
NOT_RUN = {
    "kubectl": "needs a cluster",
    "gcloud": "needs a Google account",
    "docker tag": "needs a registry",
    "docker push": "needs a registry",
    "git pull": "needs a remote",
    "ssh": "needs a server",
    "systemctl": "needs systemd, for good",
    "crontab": "is an editor",
    "tensorboard": "serves until it is ended; test_events.py reads its files back",
    "mlflow": "needs all of MLflow; test_mlflow_tracker.py uses its client",
    "pip": "changes the environment",
    "prefect version": "is Prefect's own",
    "prefect deployment schedule": "is Prefect's own, and needs the ID of a schedule",
    "export": "sets a variable of a shell",
    "cp containers/env.example": "makes a file of one's own; test_compose.py reads the example",
}
SHELL_WORDS = ("for", "done", "do")  # of loops around commands
PROGRAMS = frozenset(
    (
        *(beginning.split()[0] for beginning in (*RUN, *NOT_RUN)),
        *(
            "yolov5-retrain",
            "python",
            "python3",
            "pytest",
            "gsutil",
            "torchrun",
            "helm",
            "nvidia-smi",
        ),
    )
)
_ASSIGNMENT = re.compile(r"[A-Z_][A-Z0-9_]*=\S*")
_QUOTED = re.compile(r"='\{[^']*'")  # JSON over several lines
_Entry = TypeVar("_Entry")
_INLINE = re.compile(r"`([^`\n]+)`")


def blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Kind and lines of the code in a page: a fence's language, "indented" or "inline"."""
    lines = text.splitlines()
    rest: list[str] = []
    at = 0
    while at < len(lines):
        if (fence := lines[at].strip()).startswith("```"):
            end = next(i for i in range(at + 1, len(lines)) if lines[i].strip() == "```")
            yield fence.removeprefix("```"), [line.strip() for line in lines[at + 1 : end]]
            at = end
        elif lines[at].startswith("    ") and (at == 0 or not lines[at - 1].strip()):
            end = next((i for i in range(at, len(lines)) if lines[i][:4].strip()), len(lines))
            yield "indented", [line.strip() for line in lines[at:end]]
            at = end - 1
        else:
            rest.append(lines[at])
        at += 1
    yield "inline", _INLINE.findall("\n".join(rest))


def commands(text: str) -> Iterator[str]:
    """The commands of a page, each in one line, without what is before and behind the program.

    In a shell's fence every line is one; elsewhere those are that begin with a known program.
    """
    for kind, lines in blocks(text):
        is_shell = kind in SHELLS
        if not (is_shell or kind in ("indented", "inline")):
            continue
        joined = _QUOTED.sub(lambda q: q[0].replace("\n", " "), "\n".join(lines))
        for line in joined.replace("\\\n", " ").splitlines():
            for part in re.split(r"\s&&\s|;\s|\s>>?\s.*", line.partition(" #")[0]):
                words = part.removeprefix("$ ").removeprefix("@reboot ").split()
                while words and _ASSIGNMENT.fullmatch(words[0]):
                    words = words[1:]
                command = " ".join(words).removeprefix(".venv/bin/")
                first = command.partition(" ")[0]
                if (is_shell and command) or (first in PROGRAMS and first != command):
                    yield command


ALL = sorted(
    {(page.name, command) for page in PAGES for command in commands(page.read_text("utf-8"))}
)


def entry(table: Mapping[str, _Entry], command: str) -> _Entry | None:
    """What a table says of the longest beginning of a command."""
    found = [key for key in table if command == key or command.startswith(key)]
    return table[max(found, key=len)] if found else None


class Parsed(Exception):  # noqa: N818  no error
    """The real parser took the words."""


def parse_ours(words: Sequence[str]) -> None:
    """Gives the words to the real parsers and stops before anything is done."""
    if not words or words[0] not in cli.COMMANDS:
        if "--help" not in words:
            with tempfile.NamedTemporaryFile(suffix=".yaml") as settings:  # the reader's own file
                is_file = ["", *(word == "--config" for word in words)]
                taken = [
                    settings.name if its else w for its, w in zip(is_file, words, strict=False)
                ]
                cli.parse(taken)
        return
    module, _, function = cli.COMMANDS[words[0]].partition(":")
    real = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, args: Sequence[str] | None = None) -> None:
        if "--help" not in (args or ()):
            real(self, args)
        raise Parsed

    def stop() -> None:
        raise Parsed

    command = getattr(importlib.import_module(module), function)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        patch.setattr("flows.evolve_command.ready_prefect", stop)  # it takes a run's flags, too
        with pytest.raises((Parsed, SystemExit)):  # the latter after its --help
            command(words[1:])


def check_ours(command: str) -> None:
    words = shlex.split(command.replace("[RUN]", "RUN").replace(" ...", ""))[1:]
    parse_ours([word for word in words if word != "…"])


def check_make(command: str) -> None:
    """`make -n` names every target and reads every variable; it runs nothing."""
    words = shlex.split(command)
    done = subprocess.run(  # noqa: S603  our own Makefile
        [*words[:1], "-n", *words[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")},
        check=False,
    )
    assert done.returncode == 0, done.stderr


@cache
def deployments() -> set[str]:
    found = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))["deployments"]
    return {
        f"{deployment['entrypoint'].rpartition(':')[2]}/{deployment['name']}"
        for deployment in found
    }


def check_prefect(command: str) -> None:
    """`prefect deployment run FLOW/NAME` names what prefect.yaml deploys, and real parameters."""
    words = shlex.split(command)
    assert words[3] in deployments()
    pairs = [word.split("=", 1) for key, word in itertools.pairwise(words) if key == "--param"]
    given = {key: value for key, value in pairs if value != "..."}
    if not words[3].startswith("retrain/"):
        assert set(given) <= {"store", "run"}
    elif "config" in given:
        config_from_mapping(json.loads(given["config"]), command)


def check_python(command: str) -> None:
    """`python -m package.module --flag`: the module is ours and knows the flags."""
    words = shlex.split(command)
    path = ROOT / f"{words[2].replace('.', '/')}.py"
    source = path.read_text("utf-8") + (ROOT / "benchmarks" / "measure.py").read_text("utf-8")
    for flag in (word for word in words[3:] if word.startswith("--")):
        assert f'"{flag}"' in source, f"{path.name} has no {flag}"


def check_pytest(command: str) -> None:
    words = shlex.split(command)[1:]
    markers = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    known = [m.partition(":")[0] for m in markers["tool"]["pytest"]["ini_options"]["markers"]]
    if "-m" in words:
        at = words.index("-m")
        assert words[at + 1] in known
        words = words[:at] + words[at + 2 :]
    assert all((ROOT / word.partition("::")[0]).exists() for word in words if word[0] != "-")


CHECKS: dict[str, Callable[[str], None]] = {
    "yolov5-retrain": check_ours,
    "make ": check_make,
    "prefect deployment run ": check_prefect,
    "python -m ": check_python,
    "pytest": check_pytest,
}


@pytest.mark.parametrize(("page", "command"), ALL)
def test_a_command_of_the_documents_is_covered(page: str, command: str):
    program = command.partition(" ")[0]
    if program in SHELL_WORDS or entry(NOT_RUN, command):
        return
    check = entry(CHECKS, command)
    if check:
        check(command)
    elif not entry(RUN, command):
        pytest.fail(
            f"{page} has a command that nothing covers: {command!r}; enter its beginning in RUN of "
            "tests/test_docs.py with the test that runs it, or in NOT_RUN with the reason"
        )


@pytest.mark.parametrize("test", sorted(set(RUN.values())))
def test_a_test_that_is_said_to_run_a_command_exists(test: str):
    path, _, name = test.partition("::")
    assert not name or f"def {name}(" in (ROOT / path).read_text("utf-8")
    assert (ROOT / path).is_file()


def test_what_is_entered_is_still_in_the_documents():
    every = [command for _, command in ALL]
    unused = [key for key in RUN if not any(c.startswith(key) for c in every)]
    assert unused == []


def test_commands_are_found_wherever_they_are_written():
    page = """\
Text with `make up`, `make` and `name=x`.

```sh
NAME=1 make run DATA=d \\
    EPOCHS=3   # a remark
unknown --flag
```

```yaml
make: no command
```

    docker ps    # indented
    key: value

1. A step:

        kubectl get pods

    of several.
"""
    assert list(commands(page)) == [
        *("make run DATA=d EPOCHS=3", "unknown --flag", "docker ps", "kubectl get pods", "make up")
    ]


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("yolov5-retrain --epoch 3", ValueError),
        ("yolov5-retrain predict x.jpg", ValueError),
        ("yolov5-retrain rollback --bucket b --too 3", ValueError),
        ("make ups", AssertionError),
        ("prefect deployment run retrain/never", AssertionError),
        ("prefect deployment run plot/docker --param where=x", AssertionError),
        ("python -m benchmarks.loader --speed 3", AssertionError),
        ("python -m benchmarks.nothing", FileNotFoundError),
        ("pytest -m sometimes tests", AssertionError),
    ],
)
def test_a_wrong_command_would_be_found(command: str, error: type[Exception]):
    with pytest.raises(error):
        entry(CHECKS, command)(command)
