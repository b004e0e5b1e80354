"""The bucket service of the tests marked `gcs`: one that somebody named, or our emulator."""

import os
from collections.abc import Iterator

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
    """As many tries as ever, six, but 300 times sooner: 0.1 instead of 34 s."""
    del emulator
    open_store("gs://models")  # sets what gcsfs reads when it is imported
    from tasks.google_requests import GoogleStorage, Patience  # noqa: PLC0415

    monkeypatch.setattr(GoogleStorage, "patience", Patience(wait_s=1 / 300))
