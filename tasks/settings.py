"""RetrainConfig, the one definition of what a run can be told.

The same fields are the Prefect parameter form, the keys of a YAML file and the command line.
Neither Prefect nor torch is imported, so that `yolov5-retrain --help` answers at once.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tasks.secrets import NO_SECRETS, holds_secret
from tasks.time_limit import next_deadline
from yolov5_core.config import (
    ConfigError,
    IouKind,
    LrCurve,
    OptimizerKind,
    Precision,
    nearest,
    shipped_tables,
)

_URLS = ("data", "store", "bucket", "weights", "cfg", "hyp", "mlflow")
RunOn = Literal["here", "docker", "kubernetes"]

SAMPLE = "sample"  # the `data` value that draws pictures instead of reading them
LATEST = "latest"  # the `resume` value that takes the newest run of the store
CHAMPION = "champion"  # the `weights` value that takes the best model published so far
GENERATIONS = 100  # of an evolution, where nobody says how many, as in v3

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_RUN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")  # start time, "_" and a name
_VARIANT = re.compile(r"(yolov5)?[nsmlx]6?(\.yaml)?")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(?P<slashes>/*)(?P<rest>.*)")
_GS_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_MLFLOW = re.compile(r"https?://[^/\s].*|sqlite:///[^\s?]+")
_SCHEDULER = re.compile(r"(tcp|tls|ws|wss)://[^\s/@]+:[0-9]{1,5}")
_DEVICE = re.compile(r"|cpu|[0-9]+")


def setting(default: Any, description: str, *, group: str, unit: str = "") -> Any:
    """A field of RetrainConfig; its metadata make the UI form and `--help`.

    Pydantic, inside Prefect, reads `description` and `strict`: "16" for a number is refused there,
    not converted. It refuses a number for a text by itself, and a JSON list must become a tuple.
    """
    strict = {"strict": True} if isinstance(default, bool | int | float) else {}
    metadata = {"description": description, "group": group, "unit": unit, **strict}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrainConfig:
    """What a retraining run is told; everything else follows from it and the data.

    Raises:
        ConfigError: Values that cannot work, each with its key and the fix.
    """

    data: str = setting(
        SAMPLE,
        f"data.yaml or folder of the labelled pictures, path or URL; {SAMPLE!r} draws a small set",
        group="data",
    )
    single_cls: bool = setting(False, "train all classes as one", group="data")
    cache_images: bool = setting(False, "keep the resized pictures in memory", group="data")
    rect: bool = setting(
        False, "batches of like-shaped pictures, without mosaic or shuffling", group="data"
    )
    image_weights: bool = setting(False, "draw pictures of weak classes more often", group="data")
    max_rejected: float = setting(
        0.05,
        "share of pictures that may be left out; above it the run stops before training, 1 never",
        group="data",
    )
    max_leakage: float = setting(
        0.02,
        "share of validation pictures that are also in training; above it the run stops, 1 never",
        group="data",
    )
    max_drift: float = setting(
        0.5,
        "largest change of the data against the last accepted set; above it the run stops, 1 never",
        group="data",
    )
    name: str = setting("", "name of the published files: weights/last_NAME.pt", group="publish")
    bucket: str = setting(
        "", "where weights and results go: gs://BUCKET or a folder; empty: nowhere", group="publish"
    )
    promote: bool = setting(
        True,
        "compare the new model with the champion of this name in the bucket; the better one of "
        "the two is the champion",
        group="publish",
    )
    min_gain: float = setting(
        0.0,
        "by how much the fitness (0.1 mAP50 + 0.9 mAP50-95) must rise above the champion's",
        group="publish",
    )
    max_class_loss: float = setting(
        0.05,
        "by how much the mAP50-95 of any one class may fall below the champion's, 1 any",
        group="publish",
    )
    mlflow: str = setting(
        "",
        "MLflow server to show the run in, as in http://127.0.0.1:5000 or sqlite:///mlflow.db; "
        "needs the extra yolov5-retrain[mlflow]; empty: none",
        group="publish",
    )
    store: str = setting(
        "store", "where runs are kept and resumed from: gs://BUCKET/PATH or a folder", group="run"
    )
    run: str = setting("", "id of this run; empty: start time and name", group="run")
    run_on: RunOn = setting(  # noqa: RUF009  setting makes a field, no shared default
        "here",
        "where stages run: in this process, or each in a container of its own; never changes the "
        "result on CPUs",
        group="run",
    )
    dask: str = setting(
        "",
        "address of a Dask scheduler whose workers check the pictures, as in tcp://HOST:8786; "
        "empty: this machine does; never changes the result",
        group="run",
    )
    resume: str = setting("", f"id of an interrupted run to continue, or {LATEST!r}", group="run")
    device: str = setting(
        "", "'cpu' or the number of a GPU; empty: the first GPU, else the CPU", group="run"
    )
    gpus: int = setting(
        1,
        "GPUs that train together, from `device` on, batch_size being that of all together; with "
        "device=cpu so many processes",
        group="run",
    )
    workers: int = setting(
        2,
        "processes that load pictures, for each GPU; never changes the result",
        group="run",
        unit="processes",
    )
    seed: int = setting(0, "of every random choice: same seed, same weights", group="run")
    nosave: bool = setting(False, "save checkpoints at the last epoch only", group="run")
    save_period: int = setting(
        0,
        "keep the checkpoint of every N-th epoch as weights/epochE.pt, E as in results.txt; "
        "0 keeps none",
        group="run",
        unit="epochs",
    )
    checkpoint_minutes: float = setting(
        15.0,
        "save the state this often inside long epochs too, so that little is lost; 0 only at "
        "their ends",
        group="run",
        unit="minutes",
    )
    max_hours: float = setting(
        0.0,
        "training ends with the epoch after which no other fits into so many hours; 0 no limit",
        group="run",
        unit="hours",
    )
    deadline: str = setting(
        "",
        "the same by the clock: '06:30' of the machine that starts the run, or "
        "'2026-01-31T06:30+01:00'",
        group="run",
    )
    notest: bool = setting(False, "evaluate after the last epoch only", group="run")
    test_time_augmentation: bool = setting(
        False,
        "evaluate the finished model on flipped and resized copies of each picture too",
        group="run",
    )
    cfg: str = setting(
        "",
        "model: n s m l x, n6 s6 m6 l6 x6, or a YAML file; empty: that of the weights, else n",
        group="model",
    )
    weights: str = setting(
        "",
        f"checkpoint to start from, path or URL; {CHAMPION!r}: the best one in the bucket; empty: "
        "from scratch",
        group="model",
    )
    freeze: tuple[int, ...] = setting(
        (), "layers to keep as they are: K for the first K, or a list of numbers", group="model"
    )
    noautoanchor: bool = setting(
        False, "keep the model's anchors, even if they fit the boxes badly", group="model"
    )
    epochs: int = setting(100, "times through the training pictures", group="training")
    patience: int = setting(
        100,
        "epochs without a better fitness before training stops early; 0 never stops",
        group="training",
        unit="epochs",
    )
    batch_size: int = setting(16, "pictures per step", group="training", unit="pictures")
    auto_batch: bool = setting(
        False,
        "the largest batch that fits the GPU instead of batch_size; on a CPU batch_size holds",
        group="training",
    )
    image_size: int = setting(
        640, "longer side in training, a multiple of 32", group="training", unit="pixels"
    )
    multi_scale: bool = setting(
        False, "vary the size between 0.5 and 1.5 times image_size", group="training"
    )
    quad: bool = setting(
        False, "make one picture of twice the size of every four in a batch", group="training"
    )
    hyp: str = setting(
        "scratch-low", "hyperparameters: a shipped table or a YAML file", group="training"
    )
    optimizer: OptimizerKind = setting(  # noqa: RUF009  setting makes a field, no shared default
        "sgd", "how the weights move", group="training"
    )
    precision: Precision = setting(  # noqa: RUF009  as above
        "mixed",
        "of training on a GPU: float16 where it suffices, bfloat16 there (newer GPUs), or float32 "
        "in full; a CPU always takes the last",
        group="training",
    )
    lr_curve: LrCurve = setting(  # noqa: RUF009  as above
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


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _wrong_types(config: RetrainConfig) -> Iterator[str]:
    for key, hint in get_type_hints(RetrainConfig).items():
        value = getattr(config, key)
        if get_origin(hint) is Literal:
            if value not in get_args(hint):
                yield f"{key}={value!r}: must be one of {', '.join(get_args(hint))}"
        elif get_origin(hint) is tuple:
            if not isinstance(value, tuple) or any(type(item) is not int for item in value):
                yield f"{key}={value!r}: must be a list of whole numbers, as in [0, 1, 2]"
        elif type(value) is not hint and not (hint is float and type(value) is int):
            # by type(), for a bool is an int to isinstance; 1 is as good as 1.0
            kind = _KINDS[hint]
            quote = f'; in YAML write {key}: "{value}"' if hint is str else ""
            yield f"{key}={value!r}: must be {kind}, not {type(value).__name__}{quote}"


_LEAST = dict.fromkeys(("epochs", "batch_size", "gpus"), 1) | dict.fromkeys(
    ("workers", "seed", "patience", "save_period"), 0
)


def _wrong_numbers(config: RetrainConfig) -> Iterator[str]:
    for key, low in _LEAST.items():
        if (value := getattr(config, key)) < low:
            yield f"{key}={value}: must be {low} or more"
    for key in ("max_rejected", "max_leakage", "max_drift", "min_gain", "max_class_loss"):
        if not 0 <= (value := getattr(config, key)) <= 1:  # NaN fails too
            yield f"{key}={value}: must be a share from 0 to 1, as in 0.05"
    for key in ("checkpoint_minutes", "max_hours"):
        if not 0 <= (value := getattr(config, key)) < float("inf"):  # NaN fails too
            yield f"{key}={value}: must be 0 or more, as in 1.5"
    if config.image_size < 32 or config.image_size % 32:
        near = max(32, round(config.image_size / 32) * 32)
        yield f"image_size={config.image_size}: must be a multiple of 32, such as {near}"
    if any(layer < 0 for layer in config.freeze):
        yield f"freeze={list(config.freeze)}: layers are numbered from 0"


def _wrong_values(config: RetrainConfig) -> Iterator[str]:
    secret = [key for key in _URLS if holds_secret(getattr(config, key))]
    if secret:  # the rest would show it
        yield f"{', '.join(secret)}: {NO_SECRETS}"
        return
    yield from _wrong_numbers(config)
    if not config.data.strip():
        yield f"data={config.data!r}: give a data.yaml, or {SAMPLE!r}"
    if not _DEVICE.fullmatch(config.device):
        yield f"device={config.device!r}: must be empty, 'cpu' or the number of one GPU, as in '0'"
    if config.dask and not _SCHEDULER.fullmatch(config.dask):
        yield f"dask={config.dask!r}: must be the address of a scheduler, as in tcp://HOST:8786"
    if config.deadline and not _is_time(config.deadline):
        yield f"deadline={config.deadline!r}: write a time, as in '06:30' or '2026-01-31T06:30'"
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
    if config.mlflow and not _MLFLOW.fullmatch(config.mlflow):
        yield (
            f"mlflow={config.mlflow!r}: write it as in http://127.0.0.1:5000 or "
            "sqlite:///mlflow.db; MLflow itself no longer tracks into plain folders"
        )
    yield from _wrong_combinations(config)


def _wrong_combinations(config: RetrainConfig) -> Iterator[str]:
    if not config.store:
        yield "store='': a run needs a place to live, such as 'store' or 'gs://BUCKET/retrain'"
    if config.weights == CHAMPION and not config.bucket:
        yield f"weights={CHAMPION!r}: give the bucket whose champion it is"
    if config.rect and config.image_weights:
        yield (
            "rect and image_weights: rect fixes the order of the pictures, image_weights draws "
            "them at random; leave one out"
        )
    if config.quad and config.rect:
        yield (
            "quad and rect: quad joins square pictures, rect batches have other shapes; leave one "
            "out"
        )
    if config.quad and config.batch_size % 4:
        near = max(4, round(config.batch_size / 4) * 4)
        yield f"batch_size={config.batch_size}: quad needs a multiple of 4, such as {near}"
    pictures = config.batch_size // (4 if config.quad else 1)
    if config.gpus > max(pictures, 1):
        yield f"gpus={config.gpus}: more than a batch has pictures ({pictures}); raise batch_size"
    if config.gpus > 1 and config.auto_batch:
        yield "gpus and auto_batch: that finds the size for one GPU; give batch_size, that of all"
    if config.gpus > 1 and config.cache_images:
        yield (
            "gpus and cache_images: every process would keep all pictures in memory; leave one out"
        )
    if config.nosave and config.save_period:
        yield (
            f"nosave and save_period={config.save_period}: nosave keeps the last epoch only; leave "
            "one out"
        )
    if config.run == LATEST:
        yield f"run={LATEST!r}: this word means the newest run in resume; choose another id"
    if config.resume and config.run not in ("", config.resume):
        yield (
            f"run={config.run!r} and resume={config.resume!r}: resume already names the run; "
            "leave run out"
        )


def _is_time(text: str) -> bool:
    try:
        next_deadline(text, datetime.now(UTC))
    except (ValueError, OverflowError):
        return False
    return True


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
