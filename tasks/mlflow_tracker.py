"""A run of ours as one of MLflow's: settings, metrics of every epoch, report, place of the weights.

MLflow is an extra (`pip install 'yolov5-retrain[mlflow]'`) and for people: whatever is wrong with
it is a warning and never costs a run. Which of its runs is ours is kept with the run, so a resumed
run goes on there; epochs come from the run's history, and those that are there are left alone.
"""

import hashlib
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.errors import MissingObjectError, TerminatedError
from tasks.records import Artifact, RunInfo
from tasks.secrets import without_secrets
from tasks.settings_files import config_to_mapping
from tasks.stage import read_stage, run_key
from tasks.store import Store, json_bytes, open_store
from yolov5_core.results import TENSORBOARD_TAGS, ResultsRow

if TYPE_CHECKING:
    from yolov5_core.trainer import Trainer  # torch, which the machine of the last stage may lack

log = logging.getLogger(__name__)

_QUIET = 300.0  # seconds without another try after a fault
_AT_ONCE = 100  # MLflow's limit for parameters; it takes more metrics
_LONGEST = 6000  # characters of a parameter, MLflow's limit
_TAG = "yolov5_retrain.id"
_SHOWN = ("report.html", "plots/results.png")
_ENVIRONMENT = {  # read when mlflow is imported; a server that is away must not hold up an epoch
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",  # seconds
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

_Point = tuple[str, float, float, int]  # name, value, Unix time, step


class _Opened(NamedTuple):
    """Our run on a tracking server, and what is there already."""

    client: Any  # mlflow.MlflowClient; mlflow need not be installed
    run_id: str
    params: set[str]
    steps: dict[str, set[int]]  # of each metric that was asked for


class MlflowTracker:
    """Shows a run in MLflow, where its setting `mlflow` says; does nothing without one."""

    def __init__(self, info: RunInfo) -> None:
        self._info = info
        self._store = open_store(info.config.store)
        self._opened: _Opened | None = None
        self._quiet_until = 0.0

    def show(self, trainer: "Trainer") -> None:
        """Enters the epochs of a training that are not there yet."""
        hyp = {f"hyp.{key}": value for key, value in asdict(trainer.config.hyp).items()}
        self._try(lambda opened: _enter(opened, hyp, epoch_points(trainer.history)))

    def end(self, fault: BaseException | None) -> None:
        """Enters what a run has at its end: quality, where its weights are, report and curves."""
        self._quiet_until = 0.0  # the last chance
        self._try(lambda opened: self._end(opened, fault))

    def _try(self, action: Callable[[_Opened], None]) -> None:
        uri = self._info.config.mlflow
        if not uri or time.monotonic() < self._quiet_until:
            return
        try:
            self._opened = self._opened or _open(self._store, self._info)
            action(self._opened)
        except TerminatedError:
            raise
        except ImportError as error:
            self._pause(f"{error}; pip install 'yolov5-retrain[mlflow]'")
        except Exception as error:  # noqa: BLE001  it is for people: the run goes on, whatever it is
            self._pause(f"{type(error).__name__}: {str(error)[:300]}")

    def _pause(self, why: str) -> None:
        self._opened, self._quiet_until = None, time.monotonic() + _QUIET
        uri = self._info.config.mlflow
        log.warning("not shown in MLflow (%s), the run goes on: %s", uri, without_secrets(why))

    def _end(self, opened: _Opened, fault: BaseException | None) -> None:
        store, run = self._store, self._info.run
        evaluated, finalized = (read_stage(store, run, stage) for stage in ("evaluate", "finalize"))
        if evaluated:
            ended = _seconds(evaluated.finished)
            found = evaluated.result["metrics"].items()
            step = int(evaluated.result["epoch"])
            _enter(opened, {}, [(f"best/{key}", value, ended, step) for key, value in found])
        for weights in _weights(finalized.outputs if finalized else ()):
            kind = "best" if "/best" in weights.key else "last"
            opened.client.set_tag(opened.run_id, f"{kind}_weights", store.url(weights.key))
            opened.client.set_tag(opened.run_id, f"{kind}_weights_sha256", weights.sha256)
        with tempfile.TemporaryDirectory(prefix="mlflow-") as scratch:
            for name in _SHOWN:
                try:
                    local = store.get_file(run_key(run, name), Path(scratch) / Path(name).name)
                except MissingObjectError:  # a run that failed has no curves
                    continue
                opened.client.log_artifact(opened.run_id, str(local))
        interrupted = isinstance(fault, TerminatedError | KeyboardInterrupt)
        status = "FINISHED" if fault is None else "KILLED" if interrupted else "FAILED"
        opened.client.set_terminated(opened.run_id, status)


def epoch_points(history: Sequence[tuple[ResultsRow, float]]) -> list[_Point]:
    """The ten scalars of every epoch under TensorBoard's names; step = epoch.

    An epoch that was not evaluated has losses alone, and what is no finite number is left out.
    """
    return [
        (tag, value, ended, row.epoch)
        for row, ended in history
        for number, (tag, value) in enumerate(zip(TENSORBOARD_TAGS, row.scalars, strict=True))
        if math.isfinite(value) and (row.is_evaluated or number < 3)
    ]


def _open(store: Store, info: RunInfo) -> _Opened:
    """Finds or makes our run; its settings are entered.

    Raises:
        ImportError: mlflow is not installed.
        Exception: Whatever MLflow raises.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient  # noqa: PLC0415  an extra, and slow to import

    uri = info.config.mlflow
    client = MlflowClient(tracking_uri=uri)
    key = run_key(info.run, f"mlflow/{hashlib.sha256(uri.encode()).hexdigest()[:12]}.json")
    try:
        run_id = str(store.read_json(key)["run_id"])
    except MissingObjectError:
        run_id = _claim(client, store, info, key)
    found = client.get_run(run_id)
    opened = _Opened(client, run_id, set(found.data.params), {})
    if found.info.status != "RUNNING":  # the run was resumed
        client.update_run(run_id, status="RUNNING")
    _enter(opened, config_to_mapping(info.config), [])
    return opened


def _claim(client: Any, store: Store, info: RunInfo, key: str) -> str:
    """Our run's id, kept in the store by exclusive create: of two at once one counts."""
    experiment = _experiment(client, info)
    own = hashlib.sha256(store.url(run_key(info.run, "")).encode()).hexdigest()[:32]
    made = ""
    # one that was made just before a crash, so that its id was not kept
    before = client.search_runs([experiment], filter_string=f"tags.`{_TAG}` = '{own}'")
    if before:
        run_id = before[0].info.run_id
    else:
        tags = {_TAG: own, "run": store.url(run_key(info.run, "").rstrip("/")), "code": info.code}
        started = int(_seconds(info.created) * 1000)
        created = client.create_run(experiment, started, tags, run_name=info.run)
        run_id = made = created.info.run_id
    if store.claim(json_bytes({"uri": info.config.mlflow, "run_id": run_id}), key):
        return str(run_id)
    if made:
        client.delete_run(made)
    return str(store.read_json(key)["run_id"])


def _experiment(client: Any, info: RunInfo) -> str:
    """One for each model name; of SQLite, its artifacts lie beside the database."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415  as above

    name, uri = f"yolov5-retrain/{info.config.name or 'unnamed'}", info.config.mlflow
    place = None
    if uri.startswith("sqlite:///"):
        place = (Path(uri.removeprefix("sqlite:///")).parent / "mlflow-artifacts").as_uri()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=place))
        except MlflowException:  # another run was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def _enter(opened: _Opened, params: Mapping[str, Any], points: Iterable[_Point]) -> None:
    """Enters what is not there yet: a parameter never changes, a metric has one value a step."""
    from mlflow.entities import Metric, Param  # noqa: PLC0415  as above

    new = {key: str(v)[:_LONGEST] for key, v in params.items() if key not in opened.params}
    missing = [point for point in points if point[3] not in _steps(opened, point[0])]
    texts = [Param(key, value) for key, value in new.items()]
    numbers = [Metric(tag, value, int(when * 1000), step) for tag, value, when, step in missing]
    for start in range(0, max(len(texts), len(numbers)), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        opened.client.log_batch(opened.run_id, metrics=numbers[part], params=texts[part])
        opened.params.update(param.key for param in texts[part])
        for tag, _, _, step in missing[part]:
            opened.steps[tag].add(step)


def _steps(opened: _Opened, tag: str) -> set[int]:
    if tag not in opened.steps:
        entered = opened.client.get_metric_history(opened.run_id, tag)
        opened.steps[tag] = {metric.step for metric in entered}
    return opened.steps[tag]


def _weights(outputs: Iterable[Artifact]) -> list[Artifact]:
    return [output for output in outputs if output.key.endswith(".pt")]


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()
