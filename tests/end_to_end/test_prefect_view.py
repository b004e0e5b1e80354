"""What the Prefect server, and so its UI, knows of a run."""

import itertools
import json
import shutil
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterName,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)

from flows.cli import main
from tests.end_to_end.conftest import tiny_arguments

STAGES = ("prepare", "train", "evaluate", "finalize", "upload", "promote", "plot")


@pytest.fixture(scope="session")
def stage_runs(finished) -> dict[str, Any]:
    """The flow run of each stage."""
    names = [f"{stage} {finished.id}" for stage in STAGES]
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=names))
        )
    assert len(found) == len(STAGES)
    return {run.name.split()[0]: run for run in found}


def task_runs(*flow_run_ids: Any) -> list[Any]:
    flow_runs = TaskRunFilterFlowRunId(any_=list(flow_run_ids))
    with get_client(sync_client=True) as client:
        found = client.read_task_runs(task_run_filter=TaskRunFilter(flow_run_id=flow_runs))
    return sorted(found, key=lambda run: run.start_time)


def artifacts_of(flow_run: Any) -> dict[str, Any]:
    flow_runs = ArtifactFilterFlowRunId(any_=[flow_run])
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=flow_runs))
    return {artifact.key: artifact for artifact in found}


def parent_of(stage_runs: dict[str, Any]) -> Any:
    """Id of the flow run that the stages are part of."""
    wanted = {run.parent_task_run_id for run in stage_runs.values()}
    with get_client(sync_client=True) as client:
        parents = {client.read_task_run(task).flow_run_id for task in wanted}
    assert len(parents) == 1
    return parents.pop()


def test_the_run_is_one_flow_run_of_six_completed_stages(stage_runs):
    assert set(stage_runs) == set(STAGES)
    assert all(run.state.is_completed() for run in stage_runs.values())
    order = sorted(stage_runs, key=lambda stage: stage_runs[stage].start_time)
    assert tuple(order) == STAGES
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[parent_of(stage_runs)]))
        )
    assert found[0].name == "retrain street"
    assert found[0].state.is_completed()


def test_an_epoch_is_train_then_evaluate_then_record_then_checkpoint(stage_runs):
    runs = task_runs(stage_runs["train"].id)
    steps = ("train_epoch", "evaluate_epoch", "record", "checkpoint")
    assert [run.name for run in runs] == [f"{step} {n}/3" for n in (1, 2, 3) for step in steps]
    assert all(run.state.is_completed() for run in runs)
    for earlier, later in itertools.pairwise(runs):
        assert earlier.end_time <= later.start_time


def test_training_progress_ends_at_a_hundred_percent(stage_runs):
    progress = artifacts_of(stage_runs["train"].id)["training"]
    assert progress.type == "progress"
    assert float(progress.data) == 100


def test_the_metrics_table_has_a_row_for_all_and_for_every_class(stage_runs):
    table = artifacts_of(stage_runs["evaluate"].id)["metrics"]
    assert table.type == "table"
    rows = json.loads(table.data)
    assert rows[0]["class"] == "all"
    assert {"P", "R", "mAP50", "mAP50-95", "images", "labels"} <= rows[0].keys()


def test_the_data_set_table_counts_pictures_and_labels(stage_runs):
    table = artifacts_of(stage_runs["prepare"].id)["data-set"]
    rows = json.loads(table.data)
    assert [(row["split"], row["pictures"]) for row in rows] == [("train", 24), ("val", 8)]


def test_the_pictures_are_inside_the_artifact(stage_runs):
    gallery = artifacts_of(stage_runs["plot"].id)["plots"]
    assert gallery.type == "markdown"
    assert gallery.data.count("(data:image/jpeg;base64,") == 5
    assert len(gallery.data) < 512 * 1024  # Prefect drops the events of larger ones


def test_the_published_objects_are_listed(stage_runs):
    table = artifacts_of(stage_runs["upload"].id)["published"]
    assert [row["where"].rsplit("/", 1)[1] for row in json.loads(table.data)] == [
        *("last_street.pt", "best_street.pt", "resultsstreet.txt")
    ]


def test_the_run_says_where_everything_is(finished, stage_runs):
    links = artifacts_of(parent_of(stage_runs))["run"]
    assert links.type == "markdown"
    for url in (finished.summary.report, *finished.summary.weights, finished.summary.plot):
        assert f"`{url}`" in links.data


def test_the_data_report_of_a_stopped_night_is_in_the_ui(data, tmp_path):
    shutil.copytree(data.parent, tmp_path / "data")
    next((tmp_path / "data/labels/train").iterdir()).write_text("99 .5 .5 .1 .1\n")
    more = ("--run", "stopped-night", "--max-rejected", "0")
    assert main(tiny_arguments(tmp_path / "data" / "data.yaml", tmp_path, *more)) == 2
    with get_client(sync_client=True) as client:
        name = FlowRunFilterName(any_=["prepare stopped-night"])
        (run,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=name))
    assert run.state.is_failed()
    report = artifacts_of(run.id)["data-report"]
    assert report.data.startswith("# Data: stop")
    assert "label-class-unknown" in report.data
    card = tmp_path / "store/runs/stopped-night/report.html"
    first = card.read_text("utf-8")
    assert "label-class-unknown" in first or "class 99 of 4 classes" in first
    card.unlink()
    again = ("--only", "report", "--run", "stopped-night", "--store", str(tmp_path / "store"))
    assert main(list(again)) == 0
    assert card.is_file()
