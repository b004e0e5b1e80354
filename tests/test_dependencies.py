"""The locks are whole and agree with each other: every package's needs are in them, none is idle.

Known weaknesses are looked up by `make audit`, which asks a data base in the network.
"""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
DIRECT = [
    Requirement(text)
    for text in (
        *PROJECT["dependencies"],
        *(text for extra in PROJECT["optional-dependencies"].values() for text in extra),
    )
]


def locked() -> dict[str, Version]:
    versions: dict[str, Version] = {}
    for lock in ("requirements.lock", "requirements-dev.lock"):
        for line in (ROOT / lock).read_text("utf-8").splitlines():
            if match := re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s;]+).*", line):
                name = canonicalize_name(match[1])
                assert name not in versions, f"{name} is locked twice"
                versions[name] = Version(match[2])
    return versions


LOCKED = locked()


def needs(name: str, extras: frozenset[str] = frozenset()) -> list[Requirement]:
    """What a package asks for on this platform, with these extras."""
    found = [Requirement(text) for text in metadata.requires(name) or []]
    return [
        need
        for need in found
        if need.marker is None or any(need.marker.evaluate({"extra": e}) for e in ("", *extras))
    ]


def torch_brings(name: str) -> bool:
    """CUDA packages, which only torch's CUDA build uses: they are left out on purpose."""
    return name.startswith(("nvidia-", "cuda-")) or name == "triton"


@pytest.mark.parametrize("name", sorted(LOCKED))
def test_what_a_package_needs_is_locked_in_a_version_that_fits(name: str):
    try:
        asked = needs(name)
    except metadata.PackageNotFoundError:
        pytest.skip("for another platform")
    for need in asked:
        needed = canonicalize_name(need.name)
        if torch_brings(needed):
            continue
        assert needed in LOCKED, f"{name} needs {need}"
        assert need.specifier.contains(LOCKED[needed], prereleases=True), f"{name} needs {need}"


@pytest.mark.parametrize("need", DIRECT, ids=str)
def test_what_we_ask_for_is_what_is_locked(need: Requirement):
    name = canonicalize_name(need.name)
    if need.marker is None or need.marker.evaluate():
        assert name in LOCKED
        assert need.specifier.contains(LOCKED[name])


def test_nothing_is_locked_that_nobody_needs():
    wanted: set[str] = set()
    waiting = [(canonicalize_name(need.name), frozenset(need.extras)) for need in DIRECT]
    while waiting:
        name, extras = waiting.pop()
        if torch_brings(name):
            continue
        try:
            asked = needs(name, extras)
        except metadata.PackageNotFoundError:  # for another platform
            asked = []
        if name in wanted and not extras:
            continue
        wanted.add(name)
        waiting += [(canonicalize_name(n.name), frozenset(n.extras)) for n in asked]
    assert set(LOCKED) - wanted == set()


def test_what_is_installed_is_what_is_locked():
    wrong = {}
    for name, version in LOCKED.items():
        try:
            installed = Version(metadata.version(name))
        except metadata.PackageNotFoundError:
            continue
        if installed.public != version.public:
            wrong[name] = f"{installed}, not {version}"
    assert wrong == {}
