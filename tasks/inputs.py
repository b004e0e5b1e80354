"""The files that a run's settings name, kept with the run.

A stage may work on another machine, and a run may be resumed after such a file was moved or edited.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from tasks.champions import newest
from tasks.datasets import cache_folder
from tasks.digests import file_sha256
from tasks.records import Artifact, RunInfo
from tasks.settings import CHAMPION, RetrainConfig
from tasks.stage import run_key
from tasks.store import Store, open_store

log = logging.getLogger(__name__)

KEPT = ("cfg", "hyp", "weights")


def keep_inputs(store: Store, config: RetrainConfig) -> Mapping[str, Artifact]:
    """Stores the files that settings name, by their whole paths, below `runs/<run>/inputs`.

    The champion, too, if the run is to start from it: another may be champion when it is resumed.

    Raises:
        StoreError: One could not be read or stored.
    """
    named = {key: Path(getattr(config, key)) for key in KEPT}
    with TemporaryDirectory(prefix="inputs-") as scratch:
        if config.weights == CHAMPION and (champion := _fetch_champion(config, Path(scratch))):
            named["weights"] = champion
        return {
            key: store.put_file(path, run_key(config.run, f"inputs/{key}/{path.name}"))
            for key, path in named.items()
            if path.is_absolute()  # a shipped table, a variant and a URL are not
        }


def _fetch_champion(config: RetrainConfig, scratch: Path) -> Path | None:
    bucket = open_store(config.bucket)
    found = newest(bucket, config.name)
    if found is None:
        log.info("%s has no champion yet: the run starts from scratch", bucket.shown)
        return None
    number, champion = found
    log.info("the run starts from champion %d, of run %s", number, champion.run)
    return bucket.get_file(champion.weights.key, scratch / "champion.pt", champion.weights)


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
