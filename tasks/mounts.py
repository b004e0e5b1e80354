"""What a stage's container must be given besides its image: folders, credentials, an identity.

Buckets need nothing. Folders of this machine appear in the container under the same path, so that
a run's settings mean the same inside.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.settings import SAMPLE, RetrainConfig
from tasks.store import open_store
from yolov5_core.config import ConfigError
from yolov5_core.data_yaml import read_data_yaml

CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"
# the same bytes of weights need the same number of threads
_PASSED_ON = (CREDENTIALS, "STORAGE_EMULATOR_HOST", "OMP_NUM_THREADS")
_PUBLISHES = ("train", "upload", "promote")


def container_variables(
    stage: str, config: RetrainConfig, deployed: Mapping[str, Any]
) -> dict[str, Any]:
    """Job variables of a stage's Docker container: the deployment's, with what this run needs.

    Args:
        stage: Name of the stage.
        config: Of the run, with whole paths.
        deployed: The deployment's own job variables; a run's replace them name by name.

    Raises:
        DataError: The description of a local data set cannot be read.
    """
    volumes = [*deployed.get("volumes", ()), *(f"{p}:{p}:ro" for p in _read(stage, config))]
    written = _written(stage, config)
    volumes += [f"{folder}:{folder}" for folder in written]
    variables: dict[str, Any] = {"volumes": list(dict.fromkeys(volumes)), "env": _environment()}
    if written:  # what it writes belongs to whoever owns the folder, as if it ran outside
        owner = written[0].stat()
        kwargs = deployed.get("container_create_kwargs") or {}
        user = f"{owner.st_uid}:{owner.st_gid}"
        variables["container_create_kwargs"] = {"user": user, **kwargs}
    return variables


def require_reachable(config: RetrainConfig) -> None:
    """Makes sure that pods, which share no folder with this machine, can reach all places.

    Raises:
        ConfigError: A setting names a folder of this machine.
    """
    for key in ("store", "bucket", "data"):
        value = getattr(config, key)
        if value and value != SAMPLE and "://" not in value:
            raise ConfigError(
                f"{key}={value}: a pod cannot see a folder of this machine; with "
                "run_on=kubernetes give a bucket, as in gs://BUCKET/PATH"
            )


def _environment() -> dict[str, str]:
    return {key: os.environ[key] for key in _PASSED_ON if os.environ.get(key)}


def _read(stage: str, config: RetrainConfig) -> Sequence[Path]:
    """Folders and files that are only read."""
    found = [Path(os.environ[CREDENTIALS])] if os.environ.get(CREDENTIALS) else []
    if stage == "prepare" and config.data != SAMPLE and "://" not in config.data:
        found += _data_folders(Path(config.data))
    return found


def _written(stage: str, config: RetrainConfig) -> Sequence[Path]:
    places = [config.store, *([config.bucket] if stage in _PUBLISHES and config.bucket else [])]
    return [folder for place in places if (folder := open_store(place).folder)]


def _data_folders(data: Path) -> list[Path]:
    """The folder of a data set, and where its description says that the pictures are."""
    if data.is_dir():
        return [data]
    spec = read_data_yaml(data)
    splits = [Path(s) for s in (*spec.train, *spec.val, *spec.test) if "://" not in s]
    outside = [path for path in splits if not path.is_relative_to(data.parent)]
    return [data.parent, *dict.fromkeys(map(_with_labels, outside))]


def _with_labels(split: Path) -> Path:
    """The folder that holds both images/ and labels/, as near as it can be."""
    folder = split if split.is_dir() else split.parent
    nearest = next((up for up in (folder, *folder.parents) if up.name == "images"), None)
    return nearest.parent if nearest else folder
