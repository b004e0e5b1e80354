"""An evolution: what all its workers share, the run of each generation, and the files made of it.

Its settings are those of whoever began it, `evolve/<model>/evolution.json` in the bucket; another
worker joins with them, and may differ only in what touches no number.
"""

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tasks.errors import MissingObjectError
from tasks.generations import Generations, Plan, json_lines
from tasks.inputs import input_file, keep_inputs
from tasks.records import Artifact, Prepared, RunInfo
from tasks.run import package_versions, save_run, with_whole_paths
from tasks.settings import RetrainConfig
from tasks.settings_files import config_from_mapping, config_to_mapping, merge_resumed
from tasks.stage import code_version, run_key
from tasks.store import Store, json_bytes, open_store
from yolov5_core.config import ConfigError, load_hyperparameters
from yolov5_core.evolve import Table
from yolov5_core.evolve_text import evolve_text, evolved_yaml, table_yaml
from yolov5_core.results import result_suffix

log = logging.getLogger(__name__)

_TABLE = "generation.yaml"  # a generation's hyperparameters, among the inputs of its run


@dataclass(frozen=True, kw_only=True, slots=True)
class Evolution:
    """What a worker of an evolution needs."""

    info: RunInfo  # its settings and the files they name; `run` is the evolution's id
    log: Generations
    given: Table  # the first generation's

    @property
    def bucket(self) -> Store:
        """Where its generations and files are."""
        return self.log.bucket


def require_evolvable(config: RetrainConfig, generations: int) -> None:
    """Refuses settings that mean nothing for an evolution, or would make it incomparable.

    Raises:
        ConfigError: All of them, each with the fix.
    """
    if problems := list(_problems(config, generations)):
        raise ConfigError("\n".join(problems))


def _problems(config: RetrainConfig, generations: int) -> Iterator[str]:
    if generations < 1:
        yield f"generations={generations}: must be 1 or more"
    if config.resume:
        yield (
            f"resume={config.resume}: an evolution goes on by itself, the same command again does "
            "it; leave it out"
        )
    for key in ("max_hours", "deadline"):
        if value := getattr(config, key):
            yield (
                f"{key}={value}: a generation that was cut short cannot be compared with the "
                "others; leave it out, and stop the evolution at any time: it can go on later"
            )
    if config.save_period:
        yield f"save_period={config.save_period}: generations save nothing; leave it out"
    if config.run_on != "here":
        yield (
            f"run_on={config.run_on}: a worker of an evolution trains in its own process; leave it "
            "out, and start as many workers as there are machines"
        )


def begin_evolution(config: RetrainConfig, started: datetime) -> Evolution:
    """Begins an evolution, or joins the one of this name in the bucket.

    Args:
        config: As asked for. Without a bucket the evolution is in the store.
        started: When.

    Raises:
        ConfigError: There is one with other settings.
        StoreError: Store or bucket failed.
    """
    config = with_whole_paths(config)
    generations = Generations(bucket=open_store(config.bucket or config.store), name=config.name)
    key = f"{generations.folder}/evolution.json"
    known = _known(generations.bucket, key)
    if known is None:
        config = replace(config, run=config.run or f"evolve{result_suffix(config.name)}")
        info = RunInfo(
            run=config.run,
            created=started.isoformat(timespec="seconds"),
            config=config,
            data_digest="",
            code=code_version(),
            packages=package_versions(),
            inputs=keep_inputs(open_store(config.store), config),
            evolution=config.run,
        )
        doc: dict[str, Any] = {**asdict(info), "config": config_to_mapping(config)}
        generations.bucket.claim(json_bytes(doc), key)
        known = _known(generations.bucket, key) or info  # of several at once one has begun it
    try:
        info = replace(known, config=merge_resumed(known.config, replace(config, run="")))
    except ConfigError as error:
        raise ConfigError(
            f"{generations.bucket.url(key)}: this evolution began with other settings; give "
            f"another name, or the same settings. {error}"
        ) from error
    if config.run not in ("", info.run):
        raise ConfigError(f"run={config.run}: this evolution is {info.run}; leave run out")
    return Evolution(
        info=info, log=generations, given=asdict(load_hyperparameters(input_file(info, "hyp")))
    )


def begin_generation(evolution: Evolution, plan: Plan) -> RunInfo:
    """The run that trains a generation; its run.json and its table then exist.

    Raises:
        StoreError: The store failed.
    """
    info, store = evolution.info, open_store(evolution.info.config.store)
    table = store.put_bytes(
        table_yaml(plan.hyp).encode(), run_key(plan.run, f"inputs/hyp/{_TABLE}")
    )
    # Without a name: results of generations are not those of the model that runs of it publish.
    config = replace(
        info.config, run=plan.run, name="", hyp=_TABLE, notest=True, nosave=True, patience=0
    )
    generation = replace(
        info,
        run=plan.run,
        created=plan.planned,
        config=config,
        data_digest=plan.data,
        code=code_version(),
        packages=package_versions(),
        inputs={**info.inputs, "hyp": table},
    )
    save_run(store, generation)
    return generation


def require_same_data(evolution: Evolution, prepared: Prepared) -> None:
    """Makes sure that generations of one evolution are measured on the same pictures.

    Raises:
        ConfigError: They changed since it began.
    """
    digests = {plan.data for plan in evolution.log.plans.values()}
    if digests - {prepared.digest}:
        raise ConfigError(
            f"data={evolution.info.config.data}: the pictures changed since the evolution "
            f"{evolution.info.run} began, so its generations could not be compared any more; "
            "begin another one under another name"
        )


def write_files(evolution: Evolution) -> None:
    """Makes the files what the records say, whoever wrote them before or writes them now.

    Raises:
        StoreError: The bucket failed.
    """
    written = -1
    while written != len(evolution.log.records):  # another worker's may have come meanwhile
        written = len(evolution.log.records)
        for key, text in _texts(evolution):
            evolution.bucket.put_bytes(text.encode(), key)
        evolution.log.read()


def write_plot(evolution: Evolution) -> bytes:
    """Draws evolve.png from the records; returns it.

    Raises:
        StoreError: The bucket failed.
    """
    from yolov5_core.evolve_plot import plot_evolution  # noqa: PLC0415  matplotlib

    with tempfile.TemporaryDirectory(prefix="evolve-") as scratch:
        path = plot_evolution(evolution.log.individuals, Path(scratch) / "evolve.png")
        evolution.bucket.put_file(path, file_key(evolution, "evolve", "png"))
        return path.read_bytes()


def file_key(evolution: Evolution, stem: str, suffix: str) -> str:
    """Key of a file in the bucket, named as those that a run of this name publishes."""
    return f"{stem}{result_suffix(evolution.log.name)}.{suffix}"


def _texts(evolution: Evolution) -> Iterator[tuple[str, str]]:
    individuals = evolution.log.individuals
    if individuals:
        yield file_key(evolution, "evolve", "txt"), evolve_text(individuals)
        records = list(evolution.log.records.values())
        yield file_key(evolution, "evolve", "jsonl"), json_lines(records)
        yield file_key(evolution, "hyp_evolved", "yaml"), evolved_yaml(individuals)


def _known(bucket: Store, key: str) -> RunInfo | None:
    try:
        doc = bucket.read_json(key)
    except MissingObjectError:
        return None
    config = config_from_mapping(doc["config"], bucket.url(key))
    inputs = {name: Artifact(**kept) for name, kept in doc["inputs"].items()}
    return RunInfo(**{**doc, "config": config, "inputs": inputs})
