"""A prediction leaves pictures, label files, JSON, cut-outs and videos, below its folder alone."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from flows.cli import main
from flows.predict import predict_command
from tasks import champions
from tasks.champions import Champion
from tasks.errors import StoreRefusedError
from tasks.predict import PredictRequest, PredictSummary, predict
from tasks.prediction_files import Wanted
from tasks.store import open_store
from tests.tasks.trained import torch_as_before
from tests.tiny import tiny_description
from tests.yolov5_core.test_foreign import stripped_v7
from yolov5_core import checkpoint
from yolov5_core.config import ConfigError
from yolov5_core.dataset import DataError
from yolov5_core.start import new_detector

NAMES = ("disc", "a/b", "..", "rest")
SIZE = 64


@pytest.fixture(scope="module", autouse=True)
def _torch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with torch_as_before(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model that takes anything for a disc or `a/b`."""
    model = new_detector(tiny_description(len(NAMES)), 0)
    for level in model.detect.m:
        level.bias.data.view(3, -1)[:, 4:7] = 2
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    payload = {"description": model.description.to_mapping(), "model": model.state_dict()}
    checkpoint.save({**payload, "names": list(NAMES), "image_size": SIZE, "epoch": -1}, path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures of different shapes, and one below with the name of the first."""
    rng = np.random.default_rng(0)
    for name, shape in (("7.jpg", (48, 64)), ("b.png", (64, 40)), ("deep/7.jpg", (32, 32))):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 255, (*shape, 3), np.uint8))
    return tmp_path / "in"


def predicted(
    source: Path | str, weights: Path | str, out: Path | str, **told: Any
) -> PredictSummary:
    told.setdefault("max_detections", 4)
    return predict(
        PredictRequest(
            sources=[str(source)], weights=str(weights), out=str(out), device="cpu", **told
        )
    )


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {name: ((folder / name).read_bytes(), (folder / name).stat().st_mtime_ns)
            for name in files(folder)}  # fmt: skip


def test_pictures_labels_json_and_cut_outs_agree_and_the_source_is_untouched(
    folder, weights, tmp_path
):
    before = contents(folder)
    out = tmp_path / "out"
    done = predicted(folder, weights, out, wanted=Wanted(txt=True, scores=True, crops=True))
    assert contents(folder) == before
    assert (done.done, done.faults, done.folder) == (3, [], out)
    rows = json.loads((out / "predictions.json").read_text())
    assert len(rows) == sum(done.found.values()) == 12
    assert {row["image_id"] for row in rows} == {"7.jpg", "b", "deep/7.jpg"}
    labels = [line.split() for line in (out / "labels" / "b.txt").read_text().splitlines()]
    own = [row for row in rows if row["image_id"] == "b"]
    for label, row in zip(labels, own, strict=True):
        x, y, w, h = row["bbox"]
        written = [row["category_id"], (x + w / 2) / 40, (y + h / 2) / 64, w / 40, h / 64]
        assert [float(v) for v in label] == pytest.approx([*written, row["score"]], abs=1e-4)
    for name in ("7.jpg", "b.png", "deep/7.jpg"):
        before_picture, drawn = cv2.imread(str(folder / name)), cv2.imread(str(out / name))
        assert drawn.shape == before_picture.shape
        assert (drawn != before_picture).any()
    cut = [name for name in files(out) if name.startswith("crops/")]
    assert len(cut) == 12
    assert {name.split("/")[1] for name in cut} <= {"disc", "a_b", "_", "rest"}
    x, y, w, h = own[0]["bbox"]
    first = cv2.imread(str(out / "crops" / _class_folder(own[0]) / "b-1.jpg"))
    assert abs(first.shape[1] - w) <= 2
    assert abs(first.shape[0] - h) <= 2


def _class_folder(row: dict[str, Any]) -> str:
    return {"disc": "disc", "a/b": "a_b", "..": "_", "rest": "rest"}[NAMES[row["category_id"]]]


def test_without_wishes_there_are_drawn_pictures_and_json_and_without_pictures_json_alone(
    folder, weights, tmp_path
):
    predicted(folder, weights, tmp_path / "a")
    assert files(tmp_path / "a") == ["7.jpg", "b.png", "deep/7.jpg", "predictions.json"]
    predicted(folder, weights, tmp_path / "b", wanted=Wanted(pictures=False))
    assert files(tmp_path / "b") == ["predictions.json"]


def test_nothing_is_overwritten(folder, weights, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="nothing is ever overwritten"):
        predicted(folder, weights, tmp_path / "mine")
    for out in (folder, folder / "out"):
        with pytest.raises(ConfigError, match=r"something already|nothing is written there"):
            predicted(folder, weights, out)
    assert files(folder) == ["7.jpg", "b.png", "deep/7.jpg"]
    monkeypatch.chdir(tmp_path)
    folders = [predicted(folder / "b.png", weights, "").folder.name for _ in range(3)]
    assert folders == ["predictions", "predictions2", "predictions3"]


def test_classes_and_thresholds_choose_what_is_found(folder, weights, tmp_path):
    by_name = predicted(folder, weights, tmp_path / "a", classes=["a/b"])
    by_number = predicted(folder, weights, tmp_path / "b", classes=["1"])
    assert set(by_name.found) == {"a/b"}
    assert by_name.found == by_number.found
    assert not predicted(folder, weights, tmp_path / "c", confidence=0.99).found
    one = predicted(folder, weights, tmp_path / "d", iou=0.0, agnostic=True, max_detections=300)
    many = predicted(folder, weights, tmp_path / "e", max_detections=300)
    assert sum(one.found.values()) < sum(many.found.values())
    with pytest.raises(ConfigError, match=r"did you mean 'disc'.*the classes are disc"):
        predicted(folder, weights, tmp_path / "f", classes=["disk"])
    with pytest.raises(ConfigError, match="within"):
        predicted(folder, weights, tmp_path / "f", confidence=2)


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_done(folder, weights, tmp_path):
    (folder / "a.jpg").write_bytes(b"broken")
    done = predicted(folder, weights, tmp_path / "out")
    assert done.done == 3
    assert [fault.startswith(str(folder / "a.jpg")) for fault in done.faults] == [True]
    with pytest.raises(DataError, match=r"not one picture could be read:\n.*a\.jpg"):
        predicted(folder / "a.jpg", weights, tmp_path / "none")


def test_a_video_becomes_a_video_with_a_label_file_for_each_frame(weights, tmp_path):
    film = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 12, (64, 48))
    for colour in range(5):
        writer.write(np.full((48, 64, 3), 40 * colour, np.uint8))
    writer.release()
    done = predicted(film, weights, tmp_path / "out", wanted=Wanted(txt=True), batch_size=2)
    assert done.done == 5
    labels = [f"labels/film_{number:06d}.txt" for number in range(1, 6)]
    assert files(tmp_path / "out") == ["film.mp4", *labels, "predictions.json"]
    drawn = cv2.VideoCapture(str(tmp_path / "out" / "film.mp4"))
    assert drawn.get(cv2.CAP_PROP_FPS) == 12
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 5
    assert drawn.read()[1].shape == (48, 64, 3)
    drawn.release()
    limited = predicted(film, weights, tmp_path / "few", limit=3, batch_size=2)
    assert limited.done == 3


def test_the_champion_of_a_bucket_looks_at_the_bucket_s_pictures(folder, weights, tmp_path):
    url = f"memory://{uuid.uuid4().hex}"
    bucket = open_store(url)
    for name in files(folder):
        bucket.put_file(folder / name, f"today/{name}")
    with pytest.raises(ConfigError, match="no champion of street"):
        predicted(f"{url}/today", "champion", tmp_path / "none", bucket=url, name="street")
    champion = Champion(
        run="r",
        store="elsewhere",
        weights=bucket.put_file(weights, "champions/street/weights/w.pt"),
        data="d",
        metrics={},
        when="2026-01-01T00:00:00+00:00",
        kind="promoted",
        reason="test",
        verdict={},
    )
    assert champions.crown(bucket, "street", 0, champion)
    keys = bucket.keys("")
    best = predicted(f"{url}/today", "champion", tmp_path / "a", bucket=url, name="street")
    plain = predicted(f"{url}/today", f"{url}/champions/street/weights/w.pt", tmp_path / "b")
    local = predicted(folder, weights, tmp_path / "c")
    assert best.found == plain.found == local.found
    texts = {(tmp_path / out / "predictions.json").read_text() for out in "abc"}
    assert len(texts) == 1
    assert bucket.keys("") == keys
    with pytest.raises(ConfigError, match="give --bucket"):
        predicted(folder, "champion", tmp_path / "d")
    with pytest.raises(StoreRefusedError, match="password"):
        predicted(folder, "s3://me:secret@host/w.pt", tmp_path / "d")


def test_a_public_checkpoint_serves_too(folder, tmp_path):
    path, _ = stripped_v7(tmp_path / "public.pt")
    done = predicted(folder, path, tmp_path / "out", confidence=0.0, image_size=50)
    assert done.done == 3
    assert done.image_size == 64  # the next multiple of the stride
    assert set(done.found) <= {"cat", "dog", "bird"}


def test_the_command_says_counts_speeds_faults_and_where_all_is(
    folder, weights, tmp_path, monkeypatch
):
    (folder / "a.jpg").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    words = [str(folder), "--weights", str(weights), "--device", "cpu", "--max-det", "4"]
    text = predict_command([*words, "--save-txt", "--save-conf", "--classes", "disc", "rest"])
    assert text.startswith("3 pictures done\n  left out   1")
    assert f"{folder / 'a.jpg'}: the file is empty" in text
    assert "found      disc 12" in text
    for word in ("read", "pre-process", "network", "NMS", "write", "pictures/s", "64 pixels"):
        assert word in text
    assert f"out        {tmp_path / 'predictions'}" in text
    line = (tmp_path / "predictions" / "labels" / "b.txt").read_text().splitlines()[0]
    assert len(line.split()) == 6


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "the following arguments are required"),
        (["x.jpg", "--weights", "w.pt", "--speed"], "unrecognized arguments"),
        (["x.jpg", "--weights", "w.pt", "--batch-size", "0"], "are counts"),
        (["x.jpg", "--weights", "w.pt", "--save-conf"], "give both"),
        (["nowhere.jpg", "--weights", "w.pt"], "no such picture"),
    ],
)
def test_a_wrong_command_ends_with_code_2_and_says_what_to_change(words, says, capsys):
    assert main(["predict", *words]) == 2
    assert says in capsys.readouterr().err


def test_ctrl_c_ends_a_prediction_in_order(weights, tmp_path, monkeypatch):
    real = cv2.VideoCapture
    film = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 12, (64, 48))
    for _ in range(5):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()

    class Camera:
        """A film for a camera, in front of which somebody presses Ctrl-C."""

        def __init__(self, _number: int) -> None:
            self.film, self.frames = real(str(film)), 0

        def read(self) -> Any:
            self.frames += 1
            if self.frames == 3:
                raise KeyboardInterrupt
            return self.film.read()

        def get(self, what: int) -> float:
            return self.film.get(what)

        def release(self) -> None:
            self.film.release()

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    done = predicted("0", weights, tmp_path / "out")
    assert (done.done, done.interrupted) == (2, True)
    monkeypatch.undo()
    drawn = cv2.VideoCapture(str(tmp_path / "out" / "camera0.mp4"))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 2
    drawn.release()
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == 8
