"""Runs are compared from the store alone, a folder or a bucket, which stays as it is."""

import uuid
from pathlib import Path

import cv2
import pytest

from flows.cli import main
from flows.compare import compare_command
from tests.tasks.test_card import Run


def two_runs(root: Path, **store: str) -> None:
    first = Run(root, "n1", 1, **store)
    first.do()
    second = Run(root, "n2", 2, epochs=5, iou="giou", **store)
    second.map50_95 = 0.625
    second.do()


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_settings_metrics_and_curves_of_two_runs(tmp_path, kind):
    url = str(tmp_path / "store") if kind == "folder" else f"memory://{uuid.uuid4().hex}"
    two_runs(tmp_path, store=url)
    text = compare_command(["n1", "n2", "--store", url, "--out", str(tmp_path / "out")])
    words = [line.split() for line in text.splitlines()]
    assert ["n1", "n2"] in words
    assert ["mAP50-95", "0.500", "0.625", "(+0.125)"] in words
    assert ["epochs", "3", "5"] in words
    assert ["iou", "ciou", "giou"] in words
    table = (tmp_path / "out" / "comparison.txt").read_text("utf-8")
    assert text.startswith(table.rstrip())
    assert cv2.imread(str(tmp_path / "out" / "comparison.png")).shape[1] > 500


def test_a_run_that_never_trained_is_compared_by_what_it_has(tmp_path):
    Run(tmp_path, "n1").do()
    Run(tmp_path, "n2", 2).do("prepare")
    url, out = str(tmp_path / "store"), tmp_path / "out"
    text = compare_command(["n1", "n2", "--store", url, "--out", str(out)])
    assert ["status", "completed", "unfinished"] in [line.split() for line in text.splitlines()]
    assert (out / "comparison.png").is_file()


def test_the_store_stays_as_it_is(tmp_path):
    two_runs(tmp_path)
    store = tmp_path / "store"
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    compare_command(["n1", "n2", "--store", str(store)])
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["n1"], "two or more runs"),
        (["n1", "n1"], "each once"),
        (["n1", "n9"], "holds no run 'n9'"),
        (["n1", "n2", "--curves"], "unrecognized arguments"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, monkeypatch, capsys, words, says):
    two_runs(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *words]) == 2
    assert says in capsys.readouterr().err
