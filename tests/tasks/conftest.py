"""The bucket service of the tests marked `gcs`: one that somebody named, or our emulator."""

import asyncio
import os
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tasks.store import open_store
from tests.gcs_emulator import Emulator


@pytest.fixture(scope="session")
def gcs_emulator() -> Iterator[Emulator]:
    """Our own emulator with a bucket `models`."""
    with Emulator("models") as emulator:
        yield emulator


@pytest.fixture(autouse=True)
def bucket_service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never writes to somebody's real bucket of the name `models`."""
    named = os.environ.get("STORAGE_EMULATOR_HOST") not in (None, "", "default")  # gcsfs: Google
    if request.node.get_closest_marker("gcs") and not named:
        emulator = request.getfixturevalue("gcs_emulator")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator.url)


@pytest.fixture
def emulator(gcs_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Our emulator even if another is named, without faults and with an empty log."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_emulator.url)
    gcs_emulator.clear()
    yield gcs_emulator
    gcs_emulator.clear()


@pytest.fixture
def hasty_gcsfs(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gcsfs tries as often as ever, six times, but 300 times sooner: 0.1 instead of 34 s."""
    del emulator
    open_store("gs://models")  # imports gcsfs, with the settings that the store wants
    hasty = SimpleNamespace(sleep=lambda seconds: asyncio.sleep(seconds / 300))
    monkeypatch.setattr("gcsfs.retry.asyncio", hasty)
