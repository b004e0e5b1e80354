"""The files that a run's settings name, kept with the run.

A stage may work on another machine, and a run may be resumed after such a file was moved or edited.
"""

from collections.abc import Mapping
from pathlib import Path

from tasks.datasets import cache_folder
from tasks.digests import file_sha256
from tasks.records import Artifact, RunInfo
from tasks.settings import RetrainConfig
from tasks.stage import run_key
from tasks.store import Store, open_store

KEPT = ("cfg", "hyp", "weights")


def keep_inputs(store: Store, config: RetrainConfig) -> Mapping[str, Artifact]:
    """Stores the files that settings name, by their whole paths, below `runs/<run>/inputs`.

    Raises:
        StoreError: One could not be stored.
    """
    named = {key: Path(getattr(config, key)) for key in KEPT}
    return {
        key: store.put_file(path, run_key(config.run, f"inputs/{key}/{path.name}"))
        for key, path in named.items()
        if path.is_absolute()  # a shipped table, a variant and a URL are not
    }


def input_file(info: RunInfo, key: str) -> str:
    """What a setting names, for reading here.

    Where the file is still the one that was kept, its own path, which people know; else a copy in
    this machine's cache. What is no file (a shipped table, a variant, a URL) stays as it is.

    Raises:
        MissingObjectError, DamagedObjectError: The kept file is gone or another one.
        StoreError: It cannot be read.
    """
    kept = info.inputs.get(key)
    if kept is None:
        return str(getattr(info.config, key))
    original = Path(getattr(info.config, key))
    copy = cache_folder() / "inputs" / kept.sha256 / original.name
    for path in (original, copy):
        if path.is_file() and file_sha256(path) == kept.sha256:
            return str(path)
    return str(open_store(info.config.store).get_file(kept.key, copy, kept))


def identity(info: RunInfo, key: str) -> str:
    """What a setting means, the same on every machine: a kept file's digest, else its value."""
    kept = info.inputs.get(key)
    return str(getattr(info.config, key)) if kept is None else kept.sha256
