"""The whole flow shows itself in MLflow, and going on shows nothing twice."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.retrain import retrain
from tests.end_to_end.conftest import tiny_config


@pytest.mark.slow
def test_a_night_is_one_run_of_mlflow_with_every_epoch_once(data: Path, tmp_path: Path):
    server = f"sqlite:///{tmp_path / 'mlflow.db'}"
    config = tiny_config(data, tmp_path, name="street", epochs=2, mlflow=server)
    summary = retrain(config)
    retrain(replace(config, resume=summary.run))

    from mlflow import MlflowClient  # noqa: PLC0415  slow to import

    client = MlflowClient(tracking_uri=server)
    experiment = client.get_experiment_by_name("yolov5-retrain/street")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    history = client.get_metric_history(found.info.run_id, "metrics/mAP_0.5")
    assert [metric.step for metric in history] == [0, 1]
    assert found.data.metrics["best/map50"] == summary.metrics["map50"]
    assert found.data.params["image_size"] == "64"
    shown = {artifact.path for artifact in client.list_artifacts(found.info.run_id)}
    assert shown == {"report.html", "results.png"}
    assert found.data.tags["best_weights"] == summary.weights[1]
