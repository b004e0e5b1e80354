"""The records handed between stages; RetrainConfig is the one definition of what a run can be told.

The same fields are the Prefect parameter form, the keys of a YAML file and the command line.
Neither Prefect nor torch is imported, so that `yolov5-retrain --help` answers at once.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from yolov5_core.config import ConfigError, IouKind, LrCurve, nearest, shipped_tables

SAMPLE = "sample"  # the `data` value that draws pictures instead of reading them
STAGES = ("prepare", "train", "evaluate", "finalize", "upload", "plot")  # in their order
LATEST = "latest"  # the `resume` value that takes the newest run of the store

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_RUN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")  # start time, "_" and a name
_VARIANT = re.compile(r"(yolov5)?[nsmlx]6?(\.yaml)?")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(?P<slashes>/*)(?P<rest>.*)")
_GS_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_DEVICE = re.compile(r"|cpu|[0-9]+")


def setting(default: Any, description: str, *, group: str, unit: str = "") -> Any:
    """A field of RetrainConfig; its metadata make the UI form and `--help`.

    Pydantic, inside Prefect, reads `description` and `strict`: "16" for a number is refused there,
    not converted. It refuses a number for a text by itself, and a JSON list must become a tuple.
    """
    strict = {"strict": True} if isinstance(default, bool | int) else {}
    metadata = {"description": description, "group": group, "unit": unit, **strict}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrainConfig:
    """What a retraining run is told; everything else follows from it and the data.

    Raises:
        ConfigError: Values that cannot work, each with its key and the fix.
    """

    data: str = setting(
        SAMPLE, f"data.yaml of the labelled pictures; {SAMPLE!r} draws a small set", group="data"
    )
    single_cls: bool = setting(False, "train all classes as one", group="data")
    cache_images: bool = setting(False, "keep the resized pictures in memory", group="data")
    rect: bool = setting(
        False, "batches of like-shaped pictures, without mosaic or shuffling", group="data"
    )
    image_weights: bool = setting(False, "draw pictures of weak classes more often", group="data")
    name: str = setting("", "name of the published files: weights/last_NAME.pt", group="publish")
    bucket: str = setting(
        "", "where weights and results go: gs://BUCKET or a folder; empty: nowhere", group="publish"
    )
    store: str = setting(
        "store", "where runs are kept and resumed from: gs://BUCKET/PATH or a folder", group="run"
    )
    run: str = setting("", "id of this run; empty: start time and name", group="run")
    resume: str = setting("", f"id of an interrupted run to continue, or {LATEST!r}", group="run")
    device: str = setting(
        "", "'cpu' or the number of a GPU; empty: the first GPU, else the CPU", group="run"
    )
    workers: int = setting(
        2, "processes that load pictures; never changes the result", group="run", unit="processes"
    )
    seed: int = setting(0, "of every random choice: same seed, same weights", group="run")
    nosave: bool = setting(False, "save checkpoints at the last epoch only", group="run")
    notest: bool = setting(False, "evaluate after the last epoch only", group="run")
    cfg: str = setting(
        "",
        "model: n s m l x, n6 s6 m6 l6 x6, or a YAML file; empty: that of the weights, else n",
        group="model",
    )
    weights: str = setting(
        "", "checkpoint to start from, path or URL; empty: from scratch", group="model"
    )
    freeze: tuple[int, ...] = setting(
        (), "layers to keep as they are: K for the first K, or a list of numbers", group="model"
    )
    noautoanchor: bool = setting(
        False, "keep the model's anchors, even if they fit the boxes badly", group="model"
    )
    epochs: int = setting(100, "times through the training pictures", group="training")
    batch_size: int = setting(16, "pictures per step", group="training", unit="pictures")
    image_size: int = setting(
        640, "longer side in training, a multiple of 32", group="training", unit="pixels"
    )
    multi_scale: bool = setting(
        False, "vary the size between 0.5 and 1.5 times image_size", group="training"
    )
    hyp: str = setting(
        "scratch-low", "hyperparameters: a shipped table or a YAML file", group="training"
    )
    adam: bool = setting(False, "Adam instead of SGD", group="training")
    lr_curve: LrCurve = setting(  # noqa: RUF009  setting makes a field; ruff sees no literal here
        "linear", "how the learning rate falls", group="training"
    )
    iou: IouKind = setting(  # noqa: RUF009  as above
        "ciou", "overlap measure of the box loss", group="training"
    )
    autobalance: bool = setting(
        False, "balance the objectness loss of the levels while training", group="training"
    )

    def __post_init__(self) -> None:
        problems = list(_wrong_types(self)) or list(_wrong_values(self))
        if problems:
            raise ConfigError("\n".join(problems))

    @property
    def frozen_layers(self) -> tuple[int, ...]:
        """Indices of the layers that stay as they are; a single K means 0..K-1."""
        return tuple(range(self.freeze[0])) if len(self.freeze) == 1 else self.freeze


def _wrong_types(config: RetrainConfig) -> Iterator[str]:
    for key, hint in get_type_hints(RetrainConfig).items():
        value = getattr(config, key)
        if get_origin(hint) is Literal:
            if value not in get_args(hint):
                yield f"{key}={value!r}: must be one of {', '.join(get_args(hint))}"
        elif get_origin(hint) is tuple:
            if not isinstance(value, tuple) or any(type(item) is not int for item in value):
                yield f"{key}={value!r}: must be a list of whole numbers, as in [0, 1, 2]"
        elif type(value) is not hint:  # a bool is an int to isinstance
            kind = {int: "a whole number", bool: "true or false", str: "text"}[hint]
            quote = f'; in YAML write {key}: "{value}"' if hint is str else ""
            yield f"{key}={value!r}: must be {kind}, not {type(value).__name__}{quote}"


def _wrong_values(config: RetrainConfig) -> Iterator[str]:
    for key, low in (("epochs", 1), ("batch_size", 1), ("workers", 0), ("seed", 0)):
        if (value := getattr(config, key)) < low:
            yield f"{key}={value}: must be {low} or more"
    if config.image_size < 32 or config.image_size % 32:
        near = max(32, round(config.image_size / 32) * 32)
        yield f"image_size={config.image_size}: must be a multiple of 32, such as {near}"
    if any(layer < 0 for layer in config.freeze):
        yield f"freeze={list(config.freeze)}: layers are numbered from 0"
    if not config.data.strip():
        yield f"data={config.data!r}: give a data.yaml, or {SAMPLE!r}"
    if not _DEVICE.fullmatch(config.device):
        yield f"device={config.device!r}: must be empty, 'cpu' or the number of one GPU, as in '0'"
    if config.cfg and not (_VARIANT.fullmatch(config.cfg) or _is_yaml(config.cfg)):
        yield f"cfg={config.cfg!r}: must be one of n s m l x n6 s6 m6 l6 x6, or a YAML file"
    if not (config.hyp in shipped_tables() or _is_yaml(config.hyp)):
        hint = nearest(config.hyp, set(shipped_tables()))
        yield f"hyp={config.hyp!r}: no shipped table and no YAML file{hint}"
    for key, pattern, longest in (("name", _NAME, 64), ("run", _RUN, 100), ("resume", _RUN, 100)):
        value = getattr(config, key)
        if value and (not pattern.fullmatch(value) or ".." in value):
            yield (
                f"{key}={value!r}: must be 1-{longest} letters, digits, '.', '_' or '-', "
                "not begin with '.' or '-', and not contain '..'"
            )
    for key in ("bucket", "store"):
        if problem := _wrong_place(getattr(config, key)):
            yield f"{key}={getattr(config, key)!r}: {problem}"
    yield from _wrong_combinations(config)


def _wrong_combinations(config: RetrainConfig) -> Iterator[str]:
    if not config.store:
        yield "store='': a run needs a place to live, such as 'store' or 'gs://BUCKET/retrain'"
    if config.rect and config.image_weights:
        yield (
            "rect and image_weights: rect fixes the order of the pictures, image_weights draws "
            "them at random; leave one out"
        )
    if config.run == LATEST:
        yield f"run={LATEST!r}: this word means the newest run in resume; choose another id"
    if config.resume and config.run not in ("", config.resume):
        yield (
            f"run={config.run!r} and resume={config.resume!r}: resume already names the run; "
            "leave run out"
        )


def _is_yaml(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _wrong_place(value: str) -> str:
    """What is wrong with a URL or folder, or nothing; whether it can be reached comes later."""
    if value != value.strip() or not value.isprintable():
        return "blanks at the ends or control characters; remove them"
    match = _URL.fullmatch(value)
    if match is None:
        return ""  # a folder
    if match["slashes"] not in ("//", "///"):
        return f"a URL is written {match['scheme']}://…; a folder with a colon as ./{value}"
    if " " in value:
        return "a URL has no blanks"
    if match["scheme"] in ("gs", "gcs"):
        bucket = match["rest"].split("/")[0] if match["slashes"] == "//" else ""
        if not _GS_BUCKET.fullmatch(bucket):
            return (
                f"{bucket!r} is no bucket name: 3 or more lower-case letters, digits, '-', '_' "
                "or '.', a letter or digit at both ends"
            )
    return ""


def config_from_mapping(mapping: Mapping[Any, Any], where: str) -> RetrainConfig:
    """Builds the config from parsed YAML or JSON; `where` names the source in messages.

    A list becomes a tuple; nothing else is converted.

    Raises:
        ConfigError: Unknown keys (with the nearest known one), wrong values.
    """
    known = {f.name for f in fields(RetrainConfig)}
    unknown = [f"unknown key {key!r}{nearest(str(key), known)}" for key in mapping.keys() - known]
    if unknown:
        raise ConfigError(f"{where}: " + "\n".join(sorted(unknown)))
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in mapping.items()}
    try:
        return RetrainConfig(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


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
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read it: {error.strerror}; check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if content is not None and not isinstance(content, Mapping):
        raise ConfigError(f"{path}: must be `key: value` lines, got {type(content).__name__}")
    return content or {}


def config_to_mapping(config: RetrainConfig) -> dict[str, Any]:
    """The inverse of config_from_mapping, of JSON types only."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}


_MAY_CHANGE = ("device", "workers", "cache_images", "bucket")  # none touches the numbers


def merge_resumed(stored: RetrainConfig, asked: RetrainConfig) -> RetrainConfig:
    """The config of a resumed run: the stored one, with what may change taken from `asked`.

    Only device, workers, cache_images and bucket may change, when asked for; `store` is where the
    run was found, and `run` and `resume` only say which run it is.

    Raises:
        ConfigError: Any other field of `asked` is neither its default nor the stored value.
    """
    default, refused = RetrainConfig(), []
    changes: dict[str, Any] = {"store": asked.store}
    for key in (f.name for f in fields(RetrainConfig)):
        old, new = getattr(stored, key), getattr(asked, key)
        if key in ("run", "resume", "store") or new in (old, getattr(default, key)):
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """One stored object, as it was when it was verified."""

    key: str  # below the store's root
    size: int  # bytes
    sha256: str  # hexadecimal


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecord:
    """`runs/<run>/stages/<stage>.json`: written last, so its presence means done."""

    run: str
    stage: str
    inputs_digest: str  # sha256 over stage, inputs and our source code
    inputs: Mapping[str, Any]  # JSON types
    result: Mapping[str, Any]  # JSON types
    outputs: tuple[Artifact, ...]
    attempt: int  # from 1
    started: str  # ISO 8601, UTC
    finished: str
    seconds: float
    host: str
    code: str  # version, commit, digest of the source


@dataclass(frozen=True, kw_only=True, slots=True)
class RunInfo:
    """`runs/<run>/run.json`: what a run was told and made from."""

    run: str
    created: str  # ISO 8601, UTC
    config: RetrainConfig
    data_digest: str
    code: str
    packages: Mapping[str, str]  # name to version
    parent_sha256: str = ""  # of the weights it started from; empty: from scratch


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Result of the prepare stage: which data, and what was found in it."""

    digest: str  # names the manifest in the store
    root: str  # folder the manifest's image paths are below
    names: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]  # split: pictures, labels, background, left_out ...
    rejected: tuple[Mapping[str, str], ...]  # path, where, reason, action; the first of them


def prepared_from(result: Mapping[str, Any]) -> Prepared:
    """The record again, from the JSON of the prepare stage's result."""
    lists = {"names": tuple(result["names"]), "rejected": tuple(result["rejected"])}
    return Prepared(**{**result, **lists})


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """One file in the bucket."""

    key: str  # below the bucket's root
    url: str
    size: int  # bytes
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """What the flow returns and the command line prints: where everything is."""

    run: str
    folder: str  # of the run, in the store
    weights: tuple[str, ...]  # stripped last and best
    results: str  # results.txt
    plot: str  # results.png
    published: tuple[Published, ...]
    metrics: Mapping[str, float]  # precision, recall, map50, map50_95 of the best checkpoint
    epochs: int
    hours: float
