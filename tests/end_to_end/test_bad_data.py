"""Data sets as people have them: refused with a sentence, or used with what is wrong reported."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from flows.cli import main
from tasks.store import open_store
from tests.end_to_end.conftest import draw_tiny, run_command, snapshot, tiny_arguments
from tests.undone import undo


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_tiny(tmp_path_factory.mktemp("small"), train=8, val=4)


@pytest.fixture
def own(small: Path, tmp_path: Path) -> Path:
    """The folder of a data set to spoil."""
    shutil.copytree(small.parent, tmp_path / "data")
    return tmp_path / "data"


def label(folder: Path, number: int) -> Path:
    return folder / "labels" / "train" / f"synthetic_{number:05d}.txt"


def picture(folder: Path, number: int) -> Path:
    return folder / "images" / "train" / f"synthetic_{number:05d}.jpg"


def write_yaml(folder: Path, text: str) -> None:
    (folder / "data.yaml").write_text(text)


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def every_label(folder: Path, text: str) -> None:
    for path in (folder / "labels").glob("*/*.txt"):
        path.write_text(text)


Spoil = Callable[[Path], object]
FATAL: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "no data.yaml": (
        lambda d: (d / "data.yaml").unlink(),
        ("data.yaml: no such file; give the path",),
    ),
    "not YAML": (lambda d: write_yaml(d, "train: [\n"), ("data.yaml: not YAML",)),
    "no train": (
        lambda d: write_yaml(d, "val: images/val\nnames: [a]\n"),
        ("data.yaml: missing train;",),
    ),
    "no val and names": (
        lambda d: write_yaml(d, "train: images/train\n"),
        ("data.yaml: missing val, names;",),
    ),
    "names that do not fit nc": (
        lambda d: write_yaml(d, "train: images/train\nval: images/val\nnc: 3\nnames: [a]\n"),
        ("nc=3 but names has 1 entries",),
    ),
    "missing folders": (
        lambda d: write_yaml(d, "train: nowhere\nval: lost\nnames: [a]\n"),
        ("train: 'nowhere' does not exist; looked at", "val: 'lost' does not exist"),
    ),
    "no images": (
        lambda d: empty(d / "images" / "train"),
        ("images/train: no images; looked for files ending in",),
    ),
    "an empty validation set": (
        lambda d: empty(d / "images" / "val"),
        ("images/val: no images; looked for files ending in",),
    ),
    "no labels": (
        lambda d: shutil.rmtree(d / "labels"),
        ("train: no labels in 8 images", "are looked for at", "labels/train/synthetic_0"),
    ),
    "only empty labels": (
        lambda d: every_label(d, "\n"),
        ("train: no labels in 8 images", "8 with an empty one"),
    ),
    "a class beyond nc": (
        lambda d: label(d, 0).write_text("9 .5 .5 .1 .1\n"),
        ("max_rejected", "synthetic_00000.txt:1: class 9 of 4 classes", "report.html"),
    ),
    "only bad labels": (
        lambda d: every_label(d, "0 .5 .5 .1\n"),
        ("train: none of 8 images can be used", "synthetic_00000.txt:1: 4 fields"),
    ),
}


@pytest.mark.parametrize("case", FATAL)
def test_data_that_cannot_be_used_is_refused_in_words(own, tmp_path, capsys, case):
    spoil, fragments = FATAL[case]
    spoil(own)
    before = snapshot(own)
    assert main(tiny_arguments(own / "data.yaml", tmp_path)) == 2
    stderr = capsys.readouterr().err
    for fragment in fragments:
        assert fragment in stderr
    assert "Traceback" not in stderr
    assert snapshot(own) == before
    assert not list((tmp_path / "store").rglob("checkpoints"))


def test_the_process_says_it_in_one_sentence_without_a_traceback(own, tmp_path, prefect_api):
    label(own, 0).write_text("9 .5 .5 .1 .1\n")
    done = run_command(prefect_api, *tiny_arguments(own / "data.yaml", tmp_path))
    assert done.returncode == 2
    assert "synthetic_00000.txt:1: class 9 of 4 classes" in done.stderr
    assert "yolov5-retrain: error: stop: max_rejected" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def spoil_in_every_way_that_leaves_a_picture_out(folder: Path) -> dict[str, str]:
    """Adds one bad picture of each kind; returns what the report must say of each."""
    good = picture(folder, 0).read_bytes()
    rows = {
        "outside": ("0 .5 .5 .1 .1\n1 1.5 .5 .1 .1\n", ":2: box 1.5 0.5 0.1 0.1"),
        "nan": ("0 nan .5 .1 .1\n", ":1: '0 nan .5 .1 .1' holds NaN"),
        "text": ("cat .5 .5 .1 .1\n", ":1: 'cat .5 .5 .1 .1' is not numbers only"),
        "five_and_a_half": ("0 .5 .5 .1 .1 .\n", ":1: '0 .5 .5 .1 .1 .' is not numbers"),
        "six": ("0 .5 .5 .1 .1 .9\n", ":1: 6 fields"),
        "half_a_class": ("0.5 .5 .5 .1 .1\n", ":1: class 0.5; must be a whole number"),
    }
    expected = {}
    for name, (text, message) in rows.items():
        (folder / "images" / "train" / f"{name}.jpg").write_bytes(good)
        (folder / "labels" / "train" / f"{name}.txt").write_text(text)
        expected[name] = f"labels/train/{name}.txt{message}"
    one_pixel = cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes()
    pictures = {
        "zero_bytes": (b"", "the file is empty"),
        "truncated": (good[: len(good) // 2], "image file is truncated"),
        "no_picture": (b"hello", "cannot identify"),
        "one_pixel": (one_pixel, "1x1 pixels; both sides must be at least 10"),
    }
    for name, (content, message) in pictures.items():
        (folder / "images" / "train" / f"{name}.jpg").write_bytes(content)
        expected[name] = f"images/train/{name}.jpg: {message}"
    (folder / "images" / "train" / "unreadable.jpg").symlink_to("nowhere.jpg")
    expected["unreadable"] = "images/train/unreadable.jpg: [Errno 2] No such file"
    return expected


LENIENT = ("--run", "r", "--max-rejected", "0.9")


def test_bad_pictures_and_labels_are_left_out_counted_and_reported(own, tmp_path, capsys):
    expected = spoil_in_every_way_that_leaves_a_picture_out(own)
    before = snapshot(own)
    assert main(tiny_arguments(own / "data.yaml", tmp_path, *LENIENT)) == 0
    assert "Traceback" not in capsys.readouterr().err
    assert snapshot(own) == before
    record = json.loads((tmp_path / "store/runs/r/stages/prepare.json").read_text())
    counts = record["result"]["counts"]["train"]
    assert (counts["pictures"], counts["left_out"]) == (8, len(expected))
    found = {
        Path(row["image"]).stem: f"{row['where']}: {row['reason']}"
        for row in record["result"]["rejected"]
    }
    assert found.keys() == expected.keys()
    for name, message in expected.items():
        assert message in found[name].replace(".txt:1: ", ".txt:1: "), name
    assert all(row["action"] for row in record["result"]["rejected"])


def test_a_png_named_jpg_and_doubled_rows_are_used(own, tmp_path):
    image = cv2.imread(str(picture(own, 0)))
    picture(own, 0).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    label(own, 1).write_text("0 .5 .5 .2 .2\n0 .5 .5 .2 .2\n1 .3 .3 .2 .2\n")
    before = snapshot(own)
    assert main(tiny_arguments(own / "data.yaml", tmp_path, "--run", "r")) == 0
    assert snapshot(own) == before
    record = json.loads((tmp_path / "store/runs/r/stages/prepare.json").read_text())
    counts = record["result"]["counts"]["train"]
    assert (counts["pictures"], counts["left_out"]) == (8, 0)
    assert counts["boxes_left_out"] == 1


def test_pictures_may_vanish_once_they_are_prepared_and_a_damaged_shard_is_named(
    own, tmp_path, capsys
):
    assert main(tiny_arguments(own / "data.yaml", tmp_path, "--run", "r")) == 0
    shutil.rmtree(own)
    undo(open_store(str(tmp_path / "store")), "r", "plot")
    again = ["--only", "plot", "--store", str(tmp_path / "store"), "--run", "r"]
    assert main(again) == 0
    undo(open_store(str(tmp_path / "store")), "r", "plot")
    shard = sorted((tmp_path / "store/datasets").glob("*/shard-000001.tar"))[0]
    shard.write_bytes(shard.read_bytes()[:-9])
    assert main(again) == 1
    assert "shard-000001.tar: not what was prepared" in capsys.readouterr().err
