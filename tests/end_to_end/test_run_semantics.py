"""What a finished run leaves behind, word for word as the design's first contract says."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tasks import checkpoints
from tasks.finalize import finalize_stage
from tasks.run import load_run
from tasks.store import open_store
from tasks.upload import upload_stage
from tests.end_to_end.conftest import TRAIN, VAL, snapshot
from yolov5_core import checkpoint
from yolov5_core.results import TENSORBOARD_TAGS, parse_results

STAGES = ("prepare", "train", "evaluate", "finalize", "upload", "promote", "plot")
PICTURES = (
    *("labels.png", "train_batch0.jpg", "train_batch1.jpg", "train_batch2.jpg", "results.png"),
    *("PR_curve.png", "P_curve.png", "R_curve.png", "F1_curve.png", "confusion_matrix.png"),
    *("val_batch0_labels.jpg", "val_batch0_pred.jpg", "worst.jpg"),
)


def test_results_txt_has_one_row_of_fifteen_columns_an_epoch(finished):
    text = (finished.folder / "results_street.txt").read_text("ascii")
    lines = text.splitlines(keepends=True)
    assert len(lines) == 3
    for epoch, line in enumerate(lines):
        fields = [line[i : i + 10] for i in range(0, 150, 10)]
        assert line[150:] == "\n"
        assert fields[:2] == [f"{epoch}/2".rjust(10), "0G".rjust(10)]
        assert all(f"{float(field):10.4g}" == field for field in fields[2:])
        assert float(fields[5]) == pytest.approx(sum(map(float, fields[2:5])), abs=2e-4)
        assert fields[7].strip() == "64"


def test_results_txt_is_what_the_checkpoint_carries(finished):
    text = (finished.folder / "results_street.txt").read_text("ascii")
    assert finished.newest_state()["training_results"] == text
    assert (finished.folder / "results.txt").read_text("ascii") == text


def test_the_log_has_every_row(finished):
    rows = (finished.folder / "results_street.txt").read_text("ascii").splitlines()
    assert [line for line in finished.log if re.match(r" +\d/2 ", line)] == rows


def test_tensorboard_reads_exactly_ten_tags_with_a_value_an_epoch(finished):
    events = EventAccumulator(str(finished.folder / "tensorboard"))
    events.Reload()
    expected = [
        *("train/giou_loss", "train/obj_loss", "train/cls_loss"),
        *("metrics/precision", "metrics/recall", "metrics/mAP_0.5", "metrics/mAP_0.5:0.95"),
        *("val/giou_loss", "val/obj_loss", "val/cls_loss"),
    ]
    tags = {kind: found for kind, found in events.Tags().items() if found}
    assert tags == {"scalars": expected}
    assert list(TENSORBOARD_TAGS) == expected
    rows = parse_results((finished.folder / "results.txt").read_text("ascii"))
    for column, tag in enumerate(expected):
        scalars = events.Scalars(tag)
        assert [scalar.step for scalar in scalars] == [0, 1, 2]
        values = [row.scalars[column] for row in rows]
        np.testing.assert_allclose([scalar.value for scalar in scalars], values, rtol=1e-3)


def test_the_best_epoch_is_the_one_of_highest_fitness_and_the_later_of_equals(finished):
    history = finished.newest_state()["resume"]["history"]
    fitness = [0.1 * row["results"][2] + 0.9 * row["results"][3] for row in history]
    best = max(range(3), key=lambda epoch: (fitness[epoch], epoch))
    result = finished.record("train").result
    assert result["best_epoch"] == best
    assert result["best_fitness"] == pytest.approx(fitness[best], rel=1e-12)
    state = checkpoint.load(finished.store.folder / result["best"]["key"])
    assert state["epoch"] == best
    assert state["best_fitness"] == result["best_fitness"]


def test_the_resumable_checkpoint_is_complete_and_in_full_precision(finished):
    state = finished.newest_state()
    assert state["epoch"] == 2
    assert state["optimizer"]["param_groups"]
    resume = state["resume"]
    assert resume["step"] == 3 * TRAIN // 8
    assert resume["ema_updates"] > 0
    for tensors in (state["model"], resume["model"]):
        floats = [t for t in tensors.values() if t.is_floating_point()]
        assert {t.dtype for t in floats} == {torch.float32}
    raw, ema = resume["model"], state["model"]
    assert not all(torch.equal(raw[key], ema[key]) for key in raw)


@pytest.mark.parametrize("kind", ["last", "best"])
def test_the_stripped_file_holds_the_ema_weights_in_half_precision(finished, kind):
    path = finished.folder / "weights" / f"{kind}_street.pt"
    stripped = torch.load(path, weights_only=True)  # noqa: TID251  anyone may load it like this
    source = finished.record("train").result[kind]["key"]
    full = checkpoint.load(finished.store.folder / source)
    assert stripped["model"].keys() == full["model"].keys()
    for key, tensor in full["model"].items():
        expected = tensor.half() if tensor.is_floating_point() else tensor
        assert torch.equal(stripped["model"][key], expected), key


@pytest.mark.parametrize("kind", ["last", "best"])
def test_the_stripped_file_has_nothing_to_resume_and_all_there_is_to_know(finished, kind):
    payload = checkpoint.load(finished.folder / "weights" / f"{kind}_street.pt")
    assert payload["optimizer"] is None
    assert payload["epoch"] == -1
    assert payload["resume"] is None
    assert payload["description"]["width_multiple"] == 0.0625
    assert payload["names"] == ["disc", "square", "triangle", "star"]
    assert payload["nc"] == 4
    assert payload["stride"] == [8.0, 16.0, 32.0]
    anchors = next(v for key, v in payload["model"].items() if key.endswith("anchors"))
    assert anchors.shape == (3, 3, 2)
    assert payload["hyp"]["lr0"] == 0.01
    assert payload["image_size"] == 64
    names = ("precision", "recall", "map50", "map50_95", "val_box", "val_obj", "val_cls")
    assert tuple(payload["metrics"]) == names
    lineage = payload["lineage"]
    assert lineage["run"] == finished.id
    assert lineage["data"] == finished.record("prepare").result["digest"]
    assert lineage["parent"] == ""
    assert len(lineage["code"]) > 10
    assert checkpoint.build_detector(payload, "test").detect.nc == 4


def test_the_bucket_holds_the_same_bytes_under_the_published_names(finished):
    bucket = Path(finished.config.bucket)
    expected = {
        "weights/last_street.pt": "weights/last_street.pt",
        "weights/best_street.pt": "weights/best_street.pt",
        "results/resultsstreet.txt": "results_street.txt",
    }
    found = {str(p.relative_to(bucket)) for p in bucket.rglob("*") if p.is_file()}
    champion = {name for name in found if name.startswith(("champions/", "weights/champion"))}
    assert found - champion == set(expected)
    assert len(champion) == 3  # its entry, its copy, and the address of the newest
    best = (finished.folder / "weights" / "best_street.pt").read_bytes()
    assert (bucket / "weights" / "champion_street.pt").read_bytes() == best
    for there, here in expected.items():
        assert (bucket / there).read_bytes() == (finished.folder / here).read_bytes()
    assert {p.key for p in finished.summary.published} == set(expected)
    for published in finished.summary.published:
        content = (bucket / published.key).read_bytes()
        assert published.size == len(content)
        assert published.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(("name", "suffix"), [("", ""), ("street", "_street"), ("42", "42")])
def test_final_names_follow_the_rename_rule(finished, tmp_path, name, suffix):
    shutil.copytree(finished.config.store, tmp_path / "store")
    info = load_run(finished.store, finished.id)
    config = replace(info.config, name=name, store=str(tmp_path / "store"))
    record = finalize_stage(replace(info, config=config), finished.record("train"))
    keys = [f"weights/last{suffix}.pt", f"weights/best{suffix}.pt", f"results{suffix}.txt"]
    assert [output.key for output in record.outputs] == [f"runs/{finished.id}/{k}" for k in keys]
    store, bucket = open_store(config.store), str(tmp_path / "bucket")
    published = upload_stage(store, finished.id, bucket, name, record.outputs)
    expected = keys[:2] + ([f"results/results{name}.txt"] if name else [])
    assert [p.key for p in published] == expected


def test_the_log_says_how_many_epochs_took_how_long(finished):
    lines = [line for line in finished.log if "completed" in line]
    assert len(lines) == 1
    assert re.fullmatch(r"3 epochs completed in \d+\.\d{3} hours\.", lines[0])


def test_the_log_names_the_stripped_files_and_their_size(finished):
    lines = [line for line in finished.log if line.startswith("optimizer stripped from")]
    for name, line in zip(("last_street.pt", "best_street.pt"), lines, strict=True):
        megabytes = (finished.folder / "weights" / name).stat().st_size / 1e6
        assert line == f"optimizer stripped from {name}, {megabytes:.1f} MB"


def test_every_picture_is_there_and_decodes(finished):
    plots = finished.folder / "plots"
    assert {path.name for path in plots.iterdir()} == set(PICTURES)
    for path in plots.iterdir():
        image = cv2.imread(str(path))
        assert image is not None, path.name
        assert min(image.shape[:2]) >= 100, path.name
        assert image.std() > 5, f"{path.name} is blank"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_record_tells_outputs_as_they_are_in_the_store(finished, stage):
    record = finished.record(stage)
    assert (record.run, record.stage, record.attempt) == (finished.id, stage, 1)
    assert record.started <= record.finished
    assert record.host
    for output in record.outputs:
        content = (finished.store.folder / output.key).read_bytes()
        assert output.size == len(content)
        assert output.sha256 == hashlib.sha256(content).hexdigest()


def test_the_checkpoint_log_has_an_entry_an_epoch_and_points_at_what_exists(finished):
    log = finished.folder / "checkpoints" / "log"
    assert [path.name for path in sorted(log.iterdir())] == [f"{n:08d}.json" for n in (1, 2, 3)]
    epochs = [json.loads(path.read_text())["epoch"] for path in sorted(log.iterdir())]
    assert epochs == [0, 1, 2]
    pointer = checkpoints.newest(finished.store, finished.id)
    for artifact in (pointer.last, pointer.best):
        content = (finished.store.folder / artifact.key).read_bytes()
        assert artifact.sha256 == hashlib.sha256(content).hexdigest()


def test_run_json_says_what_the_run_was_told_and_made_from(finished):
    doc = json.loads((finished.folder / "run.json").read_text())
    assert doc["run"] == finished.id
    assert re.fullmatch(r"\d{8}-\d{6}_street", doc["run"])
    assert doc["config"]["epochs"] == 3
    assert doc["config"]["seed"] == 0
    assert doc["config"]["data"] == str(finished.data)
    assert doc["data_digest"] == finished.record("prepare").result["digest"]
    assert "source " in doc["code"]
    assert doc["packages"]["torch"] == metadata.version("torch")
    info = load_run(finished.store, finished.id)
    assert info.config == replace(finished.config, run=finished.id)


def test_the_data_set_is_untouched(finished):
    assert snapshot(finished.data.parent) == finished.data_before


def test_the_summary_says_where_everything_is_and_how_good(finished):
    summary = finished.summary
    names = [Path(url).name for url in summary.weights]
    assert names == ["last_street.pt", "best_street.pt"]
    for url in (*summary.weights, summary.results, summary.plot):
        assert Path(url).is_file()
    assert summary.epochs == 3
    assert 0 < summary.hours < 0.1
    assert tuple(summary.metrics) == ("precision", "recall", "map50", "map50_95")


def test_the_evaluate_stage_measures_the_best_checkpoint_as_training_did(finished):
    best = finished.record("train").result["best_epoch"]
    row = finished.newest_state()["resume"]["history"][best]
    metrics = finished.record("evaluate").result["metrics"]
    np.testing.assert_allclose(list(metrics.values()), row["results"][:4], rtol=1e-6)
    rows = finished.record("evaluate").result["classes"]
    assert rows[0]["class"] == "all"
    assert rows[0]["images"] == VAL
    assert sum(row["labels"] for row in rows[1:]) == rows[0]["labels"]
