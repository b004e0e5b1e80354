"""A RetrainConfig from text and back: YAML files, mappings, and what a resumed run may change.

Neither Prefect nor torch is imported, so that `yolov5-retrain --help` answers at once.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from tasks.settings import RetrainConfig
from yolov5_core.config import ConfigError, nearest
from yolov5_core.strict_yaml import YamlError, load_yaml_file


def config_from_mapping(mapping: Mapping[Any, Any], where: str) -> RetrainConfig:
    """Builds the config from parsed YAML or JSON; `where` names the source in messages.

    A list becomes a tuple; nothing else is converted. Names of earlier versions are understood.

    Raises:
        ConfigError: Unknown keys (with the nearest known one), wrong values.
    """
    mapping = with_current_names(mapping, where)
    known = {f.name for f in fields(RetrainConfig)}
    unknown = [f"unknown key {key!r}{nearest(str(key), known)}" for key in mapping.keys() - known]
    if unknown:
        raise ConfigError(f"{where}: " + "\n".join(sorted(unknown)))
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in mapping.items()}
    try:
        return RetrainConfig(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def with_current_names(mapping: Mapping[Any, Any], where: str) -> Mapping[Any, Any]:
    """Says in today's keys what an earlier version's settings file or run.json says.

    `adam: true` was what `optimizer: adam` is now.

    Raises:
        ConfigError: The two contradict each other, or `adam` is neither true nor false.
    """
    if "adam" not in mapping:
        return mapping
    adam, rest = mapping["adam"], {k: v for k, v in mapping.items() if k != "adam"}
    if type(adam) is not bool:
        raise ConfigError(f"{where}: adam={adam!r}: write optimizer: adam, or leave it out")
    if adam and rest.setdefault("optimizer", "adam") != "adam":
        raise ConfigError(
            f"{where}: adam: true and optimizer: {rest['optimizer']} contradict each other; "
            "leave adam out"
        )
    return rest


def config_from_yaml(path: Path) -> RetrainConfig:
    """Reads a config from a YAML file; an empty file gives the defaults.

    Raises:
        ConfigError: What read_yaml_settings or config_from_mapping refuses.
    """
    return config_from_mapping(read_yaml_settings(path), str(path))


def read_yaml_settings(path: Path) -> Mapping[Any, Any]:
    """The `key: value` lines of a settings file, {} if it is empty; not checked any further.

    Raises:
        ConfigError: No such file, not YAML, or something else than such lines.
    """
    try:
        content = load_yaml_file(path)
    except YamlError as error:
        raise ConfigError(f"{path}: {error}") from error
    if content is not None and not isinstance(content, Mapping):
        raise ConfigError(f"{path}: must be `key: value` lines, got {type(content).__name__}")
    return content or {}


def config_to_mapping(config: RetrainConfig) -> dict[str, Any]:
    """The inverse of config_from_mapping, of JSON types only."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}


# None of them touches the numbers of an epoch: patience only says how many there are.
_MAY_CHANGE = (
    *("run_on", "dask", "device", "workers", "cache_images", "bucket", "patience"),
    *("max_rejected", "max_leakage", "max_drift", "promote", "min_gain", "max_class_loss"),
    *("checkpoint_minutes", "max_hours", "deadline", "mlflow"),
)


def merge_resumed(stored: RetrainConfig, asked: RetrainConfig) -> RetrainConfig:
    """The config of a resumed run: the stored one, with what may change taken from `asked`.

    Only what is in _MAY_CHANGE may, when asked for; `store` is where the run was found, `gpus` what
    this machine shall give, and `run` and `resume` only say which run it is.

    Raises:
        ConfigError: Any other field of `asked` is neither its default nor the stored value.
    """
    default, refused = RetrainConfig(), []
    changes: dict[str, Any] = {"store": asked.store, "gpus": asked.gpus}
    for key in (f.name for f in fields(RetrainConfig)):
        old, new = getattr(stored, key), getattr(asked, key)
        if key in ("run", "resume", "store", "gpus") or new in (old, getattr(default, key)):
            continue
        if key in _MAY_CHANGE:
            changes[key] = new
        else:
            refused.append(f"{key} cannot change from {old!r} to {new!r}")
    if refused:
        raise ConfigError(
            f"resume continues the same run: {', '.join(refused)}; leave out what differs, "
            "or start a new run"
        )
    return replace(stored, **changes)
