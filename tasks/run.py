"""A run's identity: its id, its run.json, and the checks made before any work starts."""

import logging
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tasks.errors import MissingObjectError
from tasks.inputs import keep_inputs
from tasks.records import Artifact, RunInfo
from tasks.settings import CHAMPION, LATEST, SAMPLE, RetrainConfig
from tasks.settings_files import config_from_mapping, config_to_mapping, merge_resumed
from tasks.stage import code_version, run_key
from tasks.store import Store, open_store
from tasks.time_limit import next_deadline
from yolov5_core.architecture import describe
from yolov5_core.config import ConfigError, load_hyperparameters

log = logging.getLogger(__name__)

_SQLITE = "sqlite:///"
_PACKAGES = ("torch", "prefect", "numpy", "opencv-python-headless", "fsspec", "gcsfs")


def preflight(config: RetrainConfig) -> None:
    """Finds what can be known to fail before any work starts.

    Raises:
        ConfigError: Settings that cannot work.
        StoreError: Store or bucket cannot be written.
    """
    load_hyperparameters(config.hyp)
    if config.cfg:
        description = describe(config.cfg)
        needed = 2 ** (description.num_levels + 2)  # the stride of the coarsest standard level
        if config.image_size % needed and description.num_levels > 3:
            near = max(needed, round(config.image_size / needed) * needed)
            raise ConfigError(
                f"image_size={config.image_size}: cfg={config.cfg} needs a multiple of {needed}, "
                f"such as {near}"
            )
    if config.weights not in ("", CHAMPION) and "://" not in config.weights:
        local_weights(config.weights)
    open_store(config.store).check_writable()
    if config.bucket:
        open_store(config.bucket).check_writable()


def local_weights(weights: str) -> Path:
    """The file that a setting `weights` names, which is no URL.

    Raises:
        ConfigError: No such file.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise ConfigError(f"weights={weights}: no such file; give a path or URL of a .pt file")
    return path


def begin_run(config: RetrainConfig, started: datetime) -> RunInfo:
    """Starts a new run, or finds the one to resume; its run.json then exists.

    Args:
        config: As asked for.
        started: Makes the id of a new run that was given none; a retry must pass the same.

    Raises:
        ConfigError: The run id is taken by a run with other settings, or there is none to resume.
        StoreError: The store failed.
    """
    store = open_store(config.store)
    config = with_whole_paths(config)
    if config.resume:
        return _resumed(store, config)
    run = config.run or f"{started.astimezone(UTC):%Y%m%d-%H%M%S}{config.name and '_'}{config.name}"
    config = replace(config, run=run)
    info = RunInfo(
        run=run,
        created=started.astimezone(UTC).isoformat(timespec="seconds"),
        config=config,
        data_digest="",
        code=code_version(),
        packages=package_versions(),
        ends=_ends(config, started),
    )
    known = load_run(store, run)
    if known is None:
        info = replace(info, inputs=keep_inputs(store, config))
        save_run(store, info)
        return info
    require_own(known)
    # The store is where it was found, and it may go on elsewhere than it began.
    if replace(known.config, store=config.store, run_on=config.run_on) != config:
        raise ConfigError(
            f"run={run}: this run exists in {store.shown} with other settings; choose another id, "
            f"or continue it with resume={run}"
        )
    return replace(known, config=config)


def _ends(config: RetrainConfig, now: datetime) -> str:
    return next_deadline(config.deadline, now).isoformat() if config.deadline else ""


def with_whole_paths(config: RetrainConfig) -> RetrainConfig:
    """The settings with whole paths of local files: a run can be resumed from any folder."""

    def whole(value: str) -> str:
        path = Path(value).expanduser()
        return str(path.absolute()) if value and path.is_file() else value

    def whole_yaml(value: str) -> str:  # cfg "n" is a variant, even beside a file of that name
        return whole(value) if value.endswith((".yaml", ".yml")) else value

    def whole_folder(value: str) -> str:
        return str(Path(value).expanduser().absolute()) if value and "://" not in value else value

    def whole_database(value: str) -> str:
        path = value.removeprefix(_SQLITE)
        return value if path == value else f"{_SQLITE}{Path(path).expanduser().absolute()}"

    folder = Path(config.data).expanduser()
    is_folder = config.data != SAMPLE and folder.is_dir()
    return replace(
        config,
        data=str(folder.absolute()) if is_folder else whole(config.data),
        weights=whole(config.weights),
        cfg=whole_yaml(config.cfg),
        hyp=whole_yaml(config.hyp),
        bucket=whole_folder(config.bucket),
        mlflow=whole_database(config.mlflow),
        store=whole_folder(config.store),
    )


def _resumed(store: Store, asked: RetrainConfig) -> RunInfo:
    run = newest_run(store) if asked.resume == LATEST else asked.resume
    info = load_run(store, run) if run else None
    if info is None:
        what = "it holds no runs" if asked.resume == LATEST else f"it holds no run {run!r}"
        raise ConfigError(f"resume={asked.resume}: nothing to resume in {store.shown}, {what}")
    require_own(info)
    log.info("resuming run %s", info.run)
    config = merge_resumed(info.config, asked)
    info = replace(info, config=config, ends=_ends(config, datetime.now(UTC)))
    save_run(store, info)
    return info


def require_own(info: RunInfo) -> None:
    """Makes sure that a run is one that has all its stages.

    Raises:
        ConfigError: It is a generation of an evolution.
    """
    if info.evolution:
        raise ConfigError(
            f"run={info.run}: a generation of the evolution {info.evolution}, which is trained and "
            "measured, no more; `yolov5-retrain evolve` goes on with it"
        )


def newest_run(store: Store) -> str:
    """Id of the run created last, "" without any; generations of an evolution do not count."""
    infos = [load_run(store, key.split("/")[1]) for key in store.keys("runs") if _is_info(key)]
    created = [(info.created, info.run) for info in infos if info and not info.evolution]
    return max(created, default=("", ""))[1]


def _is_info(key: str) -> bool:
    parts = key.split("/")
    return len(parts) == 3 and parts[2] == "run.json"


def load_run(store: Store, run: str) -> RunInfo | None:
    """The run's run.json, None if there is none.

    Raises:
        ConfigError: It was written by a version with other settings.
        StoreError: It cannot be read.
    """
    key = run_key(run, "run.json")
    try:
        doc = store.read_json(key)
    except MissingObjectError:
        return None
    told = {"patience": 0, **doc["config"]}  # runs begun before it existed never stop early
    config = config_from_mapping(told, store.url(key))
    inputs = {name: Artifact(**kept) for name, kept in doc.get("inputs", {}).items()}
    return RunInfo(**{**doc, "config": config, "inputs": inputs})


def save_run(store: Store, info: RunInfo) -> None:
    """Writes the run's run.json."""
    doc: dict[str, Any] = {**asdict(info), "config": config_to_mapping(info.config)}
    store.put_json(doc, run_key(info.run, "run.json"))


def package_versions() -> dict[str, str]:
    """Versions of the packages that a result may depend on."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
