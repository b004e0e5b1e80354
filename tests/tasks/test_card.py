import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import checkpoints
from tasks.card import write_card
from tasks.card_facts import browser_link
from tasks.errors import StoreError, TerminatedError, TransientError
from tasks.history import nights
from tasks.records import STAGES, RunInfo
from tasks.run import save_run
from tasks.settings import RetrainConfig
from tasks.stage import StageContext, run_stage
from tasks.store import Store, open_store
from tests.undone import undo
from tests.yolov5_core.small_index import index_of, picture
from tests.yolov5_core.test_data_report import CAT, report_of
from tests.yolov5_core.test_report_html import Page
from yolov5_core.dataset import DataError
from yolov5_core.pictures import encode
from yolov5_core.results import ResultsRow, format_row

Work = Callable[[StageContext], Mapping[str, Any]]


class Run:
    """A run whose stages leave what the real ones leave, without their work."""

    def __init__(self, root: Path, run: str = "n1", day: int = 1, **settings: Any) -> None:
        told = {"name": "street", "bucket": str(root / "bucket"), "store": str(root / "store")}
        config = RetrainConfig(**{**told, "run": run, "epochs": 3, **settings})
        self.info = RunInfo(
            run=run,
            created=f"2026-01-{day:02}T02:00:00+00:00",
            config=config,
            data_digest="",
            code="c1",
            packages={"torch": "2.0"},
        )
        self.store: Store = open_store(config.store)
        self.map50_95 = 0.5
        self.verdict = "pass"
        save_run(self.store, self.info)

    def do(self, *stages: str, work: Work | None = None) -> None:
        for stage in stages or STAGES:
            inputs = {"training": {"hyp": {"lr0": 0.01}}} if stage == "train" else {}
            run_stage(self.store, self.info.run, stage, inputs, work or getattr(self, stage))

    def fail(self, stage: str, error: BaseException) -> None:
        """An attempt of a stage that raises."""

        def work(_context: StageContext) -> Mapping[str, Any]:
            raise error

        with pytest.raises(type(error)):
            self.do(stage, work=work)

    def card(self, error: BaseException | None = None) -> str:
        return self.store.read_artifact(write_card(self.info, error).page).decode()

    def text(self, error: BaseException | None = None) -> str:
        return Page(self.card(error)).text

    def publish(self, context: StageContext, name: str, data: bytes) -> None:
        path = context.scratch / "file"
        path.write_bytes(data)
        context.publish(path, name)

    def prepare(self, context: StageContext) -> Mapping[str, Any]:
        index = index_of(picture("a", boxes=[CAT]), picture("b", "val", boxes=[CAT]))
        report = report_of(index, source="data.yaml") | {"verdict": self.verdict}
        if self.verdict == "stop":
            report["gates"][0] |= {"verdict": "stop", "value": 0.19333, "threshold": 0.05}
        path = context.scratch / "report.json"
        path.write_text(json.dumps(report), "utf-8")
        context.publish(path, "data/report.json")
        self.publish(context, "data/report.html", b"<p>data</p>")
        if self.verdict == "stop":
            raise DataError("max_rejected 0.193 > 0.05")
        counts = {"pictures": 1, "labels": 1, "background": 0, "left_out": 0, "boxes_left_out": 0}
        return {"digest": "d1", "counts": {"train": counts, "val": counts}}

    def train(self, context: StageContext) -> Mapping[str, Any]:
        self.epochs(context, 3)
        return {"best_epoch": 2, "stopped_early": False}

    def epochs(self, context: StageContext, count: int) -> None:
        """What is in the store after some epochs."""
        rows = [
            ResultsRow(
                epoch=epoch,
                epochs=3,
                memory="0G",
                losses=(0.1, 0.2, 0.3, 0.6),
                targets=5,
                image_size=64,
                results=(0.7, 0.6, 0.8, 0.1 * (epoch + 1), 0.1, 0.2, 0.3),
            )
            for epoch in range(count)
        ]
        text = "".join(map(format_row, rows))
        self.store.put_bytes(text.encode(), context.key("results.txt"))
        self.publish(context, "plots/train_batch0.jpg", noise(64))
        saved = checkpoints.Saved(epoch=count - 1, is_best=True, best_fitness=0.1)
        checkpoints.commit(self.store, self.info.run, b"weights", saved)

    def evaluate(self, _context: StageContext) -> Mapping[str, Any]:
        m = self.map50_95
        row = {"labels": 4, "P": 0.7, "R": 0.6, "mAP50": 0.8, "mAP50-95": m}
        return {
            "epoch": 2,
            "confidence": 0.4,
            "metrics": {"precision": 0.7, "recall": 0.6, "map50": 0.8, "map50_95": m},
            "classes": [{"class": name, **row} for name in ("all", "cat", "dog")],
            "sizes": [{"size": "small", "labels": 4, "R": None, "mAP50": 0.8, "mAP50-95": m}],
        }

    def finalize(self, context: StageContext) -> Mapping[str, Any]:
        self.publish(context, "weights/best_street.pt", b"stripped")
        return {"weights": ["weights/best_street.pt"], "results": "results_street.txt"}

    def upload(self, _context: StageContext) -> Mapping[str, Any]:
        where = {"key": "weights/best_street.pt", "url": "gs://models/weights/best_street.pt"}
        return {"published": [{**where, "size": 8, "sha256": "ab" * 32}]}

    def promote(self, _context: StageContext) -> Mapping[str, Any]:
        row = {"class": "cat", "labels": 4, "champion": 0.4, "challenger": 0.5, "gain": 0.1}
        numbers = {"champion": 0.41, "challenger": 0.52, "gain": 0.11, "low": 0.01, "high": 0.2}
        more = {"chance_of_better": 0.97, "images": 20, "draws": 1000}
        classes = [{**row, "low": 0.01, "high": 0.2, "lost": False}]
        return {
            "promoted": True,
            "reason": "fitness +0.1100 is better",
            "champion": self.info.run,
            "entry": 2,
            "address": "gs://models/weights/champion_street.pt",
            "numbers": {**numbers, **more, "classes": classes},
        }

    def plot(self, context: StageContext) -> Mapping[str, Any]:
        for name in ("worst.jpg", "val_batch0_pred.jpg"):
            self.publish(context, f"plots/{name}", noise(64))
        return {"plots": []}


def noise(side: int) -> bytes:
    """A JPEG that compresses badly."""
    rng = np.random.default_rng(side)
    return encode(rng.integers(0, 256, (side, side, 3), np.uint8), ".jpg")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_completed_run_has_a_card_with_everything(run: Run):
    run.do()
    html = run.card()
    text = Page(html).text
    for part in (
        *("The first completed run of this name: mAP50-95 0.500.", "weights/best_street.pt"),
        *("cat40.7000.6000.8000.500", "torch2.0", "No completed run of this name came before"),
        *("hyp.lr00.01", "gs://models/weights/best_street.pt", "data report", "3 of 3 epochs"),
    ):
        assert part in text
    assert html.count('<img src="data:image/jpeg') == 2
    assert "New champion: fitness +0.1100 is better." in text
    assert "Against the champion" in text
    assert "cat40.4000.500+0.100+0.010 to +0.200" in text


def test_a_second_night_is_compared_with_the_first(run: Run, tmp_path: Path):
    run.do()
    run.card()
    second = Run(tmp_path, "n2", day=2, seed=7)
    second.map50_95 = 0.45
    second.do()
    text = second.text()
    assert "Worse than the previous run: mAP50-95 0.450, down 0.050 from 0.500." in text
    assert "1 setting differs from the previous run: seed 0 → 7." in text
    assert "2 of 2 classes fell by 0.02 mAP50-95 or more" in text
    assert "The data set is the same as before." in text


def test_a_card_written_again_is_the_same_even_after_later_nights(run: Run, tmp_path: Path):
    run.do()
    first = run.card()
    second = Run(tmp_path, "n2", day=2)
    second.do()
    second.card()
    assert run.card() == first
    assert [night.run for night in nights(run.store, "street")] == ["n1", "n2"]
    assert len(run.store.keys("history")) == 2


def test_another_name_is_no_previous_run(run: Run, tmp_path: Path):
    run.do()
    run.card()
    other = Run(tmp_path, "n2", day=2, name="harbour")
    other.do()
    assert "The first completed run of this name" in other.text()


def test_a_run_that_has_nothing_but_its_settings_gets_a_card(run: Run):
    error = TransientError("the store is full")
    text = run.text(error)
    body = text[text.index("Failed in prepare.") :]
    order = ("the store is full", "TransientError, exit code 75", "What to do", "What is kept",
             "The settings in run.json")  # fmt: skip
    assert [body.index(part) for part in order] == sorted(body.index(part) for part in order)
    assert f"yolov5-retrain --store {run.info.config.store} --resume n1" in text


def test_a_stop_by_the_gates_says_so_and_how_to_accept_the_data(run: Run):
    run.verdict = "stop"
    with pytest.raises(DataError):
        run.do("prepare")
    text = run.text(DataError("max_rejected 0.193 > 0.05"))
    assert "Stopped before training: the data did not pass its gates." in text
    assert "exit code 2. A setting or the data is wrong" in text
    assert "--resume n1 --max-rejected 0.194" in text
    assert [night.status for night in nights(run.store, "street")] == ["stopped"]


def test_a_training_that_failed_half_way_says_what_is_kept(run: Run):
    run.do("prepare")
    error = RuntimeError("CUDA error")

    def half(context: StageContext) -> Mapping[str, Any]:
        run.epochs(context, 2)
        raise error

    with pytest.raises(RuntimeError):
        run.do("train", work=half)
    html = run.card(error)
    text = Page(html).text
    assert "Failed in train." in text
    assert "Training up to epoch 1 (0-2), in checkpoints/step-00000000-000001-0000.pt" in text
    assert "Stages that are done and will not be repeated: prepare." in text
    assert "2 of 3 epochs" in text
    assert "--only train --run n1" in text
    assert "RuntimeError: CUDA error" in text  # the traceback, for nobody foresaw it
    assert "Training pictures, as the model is given them" in text


def test_a_refused_upload_keeps_the_figures_but_is_no_night_to_compare_with(
    run: Run, tmp_path: Path
):
    run.do("prepare", "train", "evaluate", "finalize")
    error = StoreError("gs://models: refused")
    run.fail("upload", error)
    text = run.text(error)
    assert "Failed in upload." in text
    assert "gs://models: refused" in text
    assert "cat40.7000.6000.8000.500" in text
    second = Run(tmp_path, "n2", day=2)
    second.do()
    text = second.text()
    assert "The first completed run of this name" in text
    assert "1 did not complete" in text


def test_an_interruption_is_not_called_a_failure(run: Run):
    run.do("prepare")
    error = TerminatedError("stopped by SIGTERM")
    run.fail("train", error)
    assert "Interrupted in train." in run.text(error)


def test_a_run_that_succeeds_after_all_supersedes_its_failure(run: Run):
    run.do("prepare")
    error = RuntimeError("once")
    run.fail("train", error)
    run.card(error)
    run.do("train", *STAGES[2:])
    text = run.text()
    assert "The first completed run" in text
    assert "train was done at attempt 2; before it 1 did not finish: once" in text
    assert [night.status for night in nights(run.store, "street")] == ["completed"]


def test_figures_of_an_earlier_state_are_not_shown_for_a_failed_one(run: Run):
    run.do()
    error = RuntimeError("second training")

    def work(_context: StageContext) -> Mapping[str, Any]:
        raise error

    with pytest.raises(RuntimeError):
        run_stage(run.store, "n1", "train", {"other": "inputs"}, work)
    text = run.text(error)
    assert "Failed in train, attempt 2." in text
    assert "mAP50-950.500" not in text


def test_an_attempt_that_found_the_work_done_changes_nothing(run: Run):
    run.do()
    key = "runs/n1/stages/{}/plot/00000003.json"
    run.store.put_json({"started": "2026-01-01T04:00:00+00:00"}, key.format("attempts"))
    ended = {"ended": "2026-01-01T04:00:01+00:00", "exit_code": 0, "error": ""}
    run.store.put_json(ended, key.format("leases"))
    assert "The first completed run" in run.text()


def test_a_run_under_way_is_not_entered_in_the_history(run: Run):
    run.do("prepare")
    assert "Not finished: train is not done." in run.text()
    assert nights(run.store, "street") == []


def test_a_run_without_a_bucket_completes_without_an_upload(tmp_path: Path):
    run = Run(tmp_path, bucket="")
    run.do(*(stage for stage in STAGES if stage != "upload"))
    assert "The first completed run" in run.text()


def test_a_damaged_part_is_missing_on_the_card_and_said_to_be(run: Run):
    run.do()
    run.store.put_bytes(b"{}", "runs/n1/data/report.json")
    run.store.put_bytes(b"0/2 nonsense", "runs/n1/results.txt")
    run.store.delete("runs/n1/plots/worst.jpg")
    text = run.text()
    assert "The first completed run of this name: mAP50-95 0.500." in text
    for part in ("data report", "results", "picture worst.jpg"):
        assert f"Not on this card: {part}: " in text


def test_a_damaged_record_leaves_its_stage_undone(run: Run):
    run.do()
    undo(run.store, "n1", "evaluate")
    run.store.put_bytes(b"{", "runs/n1/stages/evaluate.json")  # all that earlier versions had
    assert "Not finished: evaluate is not done." in run.text()


def test_a_previous_run_whose_settings_are_gone_is_still_compared(run: Run, tmp_path: Path):
    run.do()
    run.card()
    for key in run.store.keys("runs/n1"):
        run.store.delete(key)
    second = Run(tmp_path, "n2", day=2)
    second.do()
    text = second.text()
    assert "About the same as the previous run" in text
    assert "Not on this card: settings of the previous run n1" in text


def test_no_password_of_a_message_reaches_the_card(run: Run):
    error = TransientError("s3://user:hunter2@host/?token=hunter2 does not answer")
    assert "hunter2" not in run.card(error)
    assert "hunter2" not in write_card(run.info, error).markdown


def test_names_of_strangers_do_not_become_markup(run: Run):
    run.do("prepare")
    error = RuntimeError("<script>alert(1)</script>")
    run.fail("train", error)
    page = Page(run.card(error))
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script>alert(1)</script>" in page.text


def test_the_card_stays_below_three_megabytes_with_large_pictures(run: Run):
    big = noise(1600)
    assert len(big) > 1_000_000

    def plot(context: StageContext) -> Mapping[str, Any]:
        names = ("worst.jpg", "val_batch0_pred.jpg", "val_batch0_labels.jpg",
                 "confusion_matrix.png", "PR_curve.png")  # fmt: skip
        for name in names:
            run.publish(context, f"plots/{name}", big)
        return {"plots": list(names)}

    run.do(*STAGES[:-1])
    run.do("plot", work=plot)
    html = run.card()
    assert html.count("<img") == 5
    assert len(html) < 3_000_000


def test_a_store_that_fails_is_told_to_the_caller(tmp_path: Path):
    run = Run(tmp_path)
    (tmp_path / "file").write_text("")
    config = replace(run.info.config, store=str(tmp_path / "file"))
    with pytest.raises(StoreError):
        write_card(replace(run.info, config=config), RuntimeError("x"))


def test_the_markdown_has_the_verdict_and_every_object(run: Run):
    run.do()
    text = write_card(run.info).markdown
    assert text.startswith("# The first completed run of this name: mAP50-95 0.500.")
    assert f"`{run.store.url('runs/n1/weights/best_street.pt')}`" in text
    assert "`gs://models/weights/best_street.pt` | [open](<" in text


def test_a_deployment_is_told_a_run_of_digits_as_text(tmp_path: Path):
    run = Run(tmp_path, "7")
    text = run.text(RuntimeError("x"))
    assert f"prefect deployment run prepare/here -p store={run.info.config.store}" in text
    assert "-p 'run=\"7\"'" in text


def test_an_object_in_a_bucket_has_a_link_for_browsers():
    link = browser_link("gs://models/a b/last.pt")
    assert link.endswith("/models/a%20b/last.pt")
    assert browser_link("/store/last.pt") == ""
    assert browser_link("memory://last.pt") == ""


def test_the_history_entry_tells_what_the_records_tell(run: Run):
    run.do()
    run.card()
    (night,) = nights(run.store, "street")
    assert night.metrics["map50_95"] == 0.5
    assert night.classes == {"cat": 0.5, "dog": 0.5}
    assert night.epochs == 3
    assert night.counts["train"]["pictures"] == 1
    assert set(night.seconds) == set(STAGES)
    assert math.isfinite(asdict(night)["hours"])


def test_a_card_needs_no_torch():
    code = "import sys, tasks.card; print('torch' in sys.modules)"
    done = subprocess.run(  # noqa: S603  our own script
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
