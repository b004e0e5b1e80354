"""A run is one of MLflow's, epoch by epoch once, whatever happens; and MLflow never costs a run."""

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows.report import report
from tasks import mlflow_tracker
from tasks.mlflow_tracker import MlflowTracker, epoch_points
from tasks.records import RunInfo
from tasks.run import begin_run
from tasks.settings import RetrainConfig
from tests.tasks.test_card import Run
from tests.tiny import draw_records, tiny_trainer
from yolov5_core.results import TENSORBOARD_TAGS, ResultsRow
from yolov5_core.trainer import Trainer

MAP = "metrics/mAP_0.5:0.95"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tracking database; making its tables takes MLflow a few seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    train, val = draw_records(tmp_path_factory.mktemp("data"), train=2, val=1)
    return tiny_trainer(train, val)


@pytest.fixture
def fresh(trainer: Trainer) -> Iterator[Trainer]:
    trainer.history.clear()
    yield trainer
    trainer.history.clear()


def row(epoch: int, map50_95: float = 0.5) -> tuple[ResultsRow, float]:
    results = (0.7, 0.6, 0.8, map50_95, 0.1, 0.2, 0.3) if map50_95 else (0.0,) * 7
    one = ResultsRow(
        epoch=epoch,
        epochs=3,
        memory="0G",
        losses=(0.1, 0.2, 0.0, 0.3),
        targets=1,
        image_size=64,
        results=results,
    )
    return one, 1000.0 + epoch


def tracked(server: str) -> Any:
    from mlflow import MlflowClient  # noqa: PLC0415  slow to import

    return MlflowClient(tracking_uri=server)


def run_of(server: str, info: RunInfo) -> Any:
    client = tracked(server)
    experiment = client.get_experiment_by_name("yolov5-retrain/street")
    (found,) = client.search_runs(
        [experiment.experiment_id], filter_string=f"tags.run LIKE '%{info.config.store}%'"
    )
    return found


def steps(server: str, info: RunInfo, tag: str = MAP) -> list[int]:
    run_id = run_of(server, info).info.run_id
    return [metric.step for metric in tracked(server).get_metric_history(run_id, tag)]


def test_an_epoch_that_was_not_evaluated_has_losses_alone_and_no_number_that_is_none():
    nan = replace(row(1)[0], losses=(float("nan"), 0.2, 0.0, 0.3))
    points = epoch_points([row(0, 0.0), (nan, 5.0)])
    assert [p for p in points if p[3] == 0] == [
        (tag, value, 1000.0, 0)
        for tag, value in zip(TENSORBOARD_TAGS[:3], (0.1, 0.2, 0.0), strict=True)
    ]
    assert [p[0] for p in points if p[3] == 1] == list(TENSORBOARD_TAGS[1:])
    assert (MAP, 0.5, 5.0, 1) in points


def test_a_run_is_shown_with_settings_epochs_quality_and_report(server, fresh, tmp_path):
    run = Run(tmp_path, mlflow=server)
    tracker = MlflowTracker(run.info)
    for epoch in range(3):
        fresh.history.append(row(epoch, 0.1 * epoch + 0.1))
        tracker.show(fresh)
    run.do()
    run.store.put_bytes(b"<p>card</p>", "runs/n1/report.html")
    MlflowTracker(run.info).end(None)
    found = run_of(server, run.info)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "n1"
    assert found.data.params["epochs"] == "3"
    assert found.data.params["hyp.lr0"] == "0.01"
    assert found.data.metrics["best/map50_95"] == 0.5
    assert found.data.metrics[MAP] == pytest.approx(0.3)
    assert steps(server, run.info) == steps(server, run.info, "train/cls_loss") == [0, 1, 2]
    assert found.data.tags["best_weights"].endswith("runs/n1/weights/best_street.pt")
    assert len(found.data.tags["best_weights_sha256"]) == 64
    files = [a.path for a in tracked(server).list_artifacts(found.info.run_id)]
    assert "report.html" in files
    beside = Path(server.removeprefix("sqlite:///")).parent / "mlflow-artifacts"
    assert beside.is_dir()  # not in whatever folder one is in


def test_a_resumed_run_goes_on_where_it_was_with_no_epoch_twice_and_none_missing(
    server, fresh, tmp_path
):
    run = Run(tmp_path, mlflow=server)
    fresh.history[:] = [row(0), row(1)]
    MlflowTracker(run.info).show(fresh)
    MlflowTracker(run.info).end(RuntimeError("power cut"))
    assert run_of(server, run.info).info.status == "FAILED"
    fresh.history.append(row(2))
    later = MlflowTracker(replace(run.info, config=replace(run.info.config, workers=0)))
    later.show(fresh)
    assert run_of(server, run.info).info.status == "RUNNING"
    later.show(fresh)
    later.end(None)
    assert steps(server, run.info) == [0, 1, 2]
    assert run_of(server, run.info).data.params["workers"] == "2"  # as it began
    assert len(run.store.keys("runs/n1/mlflow")) == 1


def test_a_crash_before_the_id_was_kept_makes_no_second_run(server, fresh, tmp_path):
    run = Run(tmp_path, mlflow=server)
    fresh.history.append(row(0))
    MlflowTracker(run.info).show(fresh)
    (key,) = run.store.keys("runs/n1/mlflow")
    before = run.store.read_json(key)
    run.store.delete(key)
    MlflowTracker(run.info).show(fresh)
    assert run.store.read_json(key) == before
    assert steps(server, run.info) == [0]


def test_of_two_that_begin_at_once_one_run_stays(server, fresh, tmp_path, monkeypatch):
    run = Run(tmp_path, mlflow=server)
    fresh.history.append(row(0))
    MlflowTracker(run.info).show(fresh)
    (key,) = run.store.keys("runs/n1/mlflow")
    kept = run.store.read_json(key)
    monkeypatch.setattr(mlflow_tracker, "_TAG", "another")  # the other one does not find ours
    client = tracked(server)
    assert mlflow_tracker._claim(client, run.store, run.info, key) == kept["run_id"]
    assert run_of(server, run.info).info.run_id == kept["run_id"]  # the one left


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def test_a_server_that_is_away_costs_a_warning_and_is_left_alone_a_while(fresh, tmp_path, caplog):
    run = Run(tmp_path, mlflow=f"http://127.0.0.1:{free_port()}")
    fresh.history.append(row(0))
    tracker = MlflowTracker(run.info)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING, "tasks"):
        tracker.show(fresh)
        tracker.show(fresh)
    assert time.monotonic() - started < 60
    said = [r.getMessage() for r in caplog.records if r.name == "tasks.mlflow_tracker"]
    assert len(said) == 1
    assert "the run goes on" in said[0]


def test_epochs_that_a_fault_held_back_come_later(server, fresh, tmp_path, monkeypatch):
    run = Run(tmp_path, mlflow=server)
    tracker = MlflowTracker(run.info)
    fresh.history.append(row(0))
    with monkeypatch.context() as patch:
        patch.setattr(mlflow_tracker, "_enter", lambda *_: 1 / 0)
        tracker.show(fresh)
    fresh.history.append(row(1))
    tracker._quiet_until = 0.0
    tracker.show(fresh)
    assert steps(server, run.info) == [0, 1]


def test_without_the_package_the_run_goes_on_and_is_told_how_to_get_it(
    fresh, tmp_path, monkeypatch, caplog
):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    run = Run(tmp_path, mlflow="sqlite:///mlflow.db")
    MlflowTracker(run.info).show(fresh)
    assert "pip install 'yolov5-retrain[mlflow]'" in caplog.text


def test_without_the_setting_nothing_happens(fresh, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    run = Run(tmp_path)
    MlflowTracker(run.info).show(fresh)
    MlflowTracker(run.info).end(None)
    assert not run.store.keys("runs/n1/mlflow")


def test_a_database_beside_is_meant_by_its_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = RetrainConfig(store=str(tmp_path / "store"), mlflow="sqlite:///mlflow.db")
    info = begin_run(config, datetime(2026, 1, 1, tzinfo=UTC))
    assert info.config.mlflow == f"sqlite:///{tmp_path}/mlflow.db"


def test_the_report_of_a_night_ends_it_in_mlflow_too(server, tmp_path, monkeypatch):
    monkeypatch.setattr("flows.report.create_markdown_artifact", lambda *_, **__: None)
    run = Run(tmp_path, mlflow=server)
    run.do("prepare")
    report.fn(run.info, RuntimeError("no luck"))
    assert run_of(server, run.info).info.status == "FAILED"


def test_the_end_of_a_run_can_be_shown_where_there_is_no_torch():
    code = "import sys, tasks.mlflow_tracker; print({'torch', 'mlflow'} & set(sys.modules))"
    done = subprocess.run(  # noqa: S603  our own script
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"
