from typing import Any

import pytest

from tests.yolov5_core.run_card_facts import attempt, facts, failed, night, stage
from yolov5_core.run_card_changes import (
    direction,
    duration,
    headline,
    kept,
    metrics,
    moment,
    notices,
    rank,
    settings,
    verdict,
)


def after(before: float, now: float, **changed: Any) -> dict[str, Any]:
    """A run with one mAP50-95 after a run with another."""
    told = facts(night=night(map50_95=now))
    told["previous"]["night"] = night("before", before)
    return told | changed


def texts(told: dict[str, Any]) -> list[str]:
    return [notice.text for notice in notices(told)]


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (0.40, 0.41, "better"),
        (0.41, 0.40, "worse"),
        (0.40, 0.409, "same"),
        (0.40, 0.391, "same"),
        (0.40, 0.40, "same"),
    ],
)
def test_a_difference_counts_from_one_hundredth_on(before: float, now: float, expected: str):
    assert verdict(after(before, now)) == expected


def test_the_headline_of_a_better_run_has_its_numbers():
    assert headline(after(0.389, 0.412)) == (
        "Better than the previous run: mAP50-95 0.412, up 0.023 from 0.389."
    )


def test_the_headline_of_a_worse_run_has_its_numbers():
    assert headline(after(0.412, 0.389)) == (
        "Worse than the previous run: mAP50-95 0.389, down 0.023 from 0.412."
    )


def test_a_small_difference_is_called_about_the_same():
    assert headline(after(0.400, 0.404)) == (
        "About the same as the previous run: mAP50-95 0.404, before 0.400."
    )


def test_a_first_run_is_called_so():
    assert headline(facts(previous=None)) == (
        "The first completed run of this name: mAP50-95 0.500."
    )


def test_a_change_is_that_of_the_shown_decimals():
    assert metrics(after(0.2014, 0.2516))[0].change == 0.051  # 0.252 - 0.201, not 0.0502


def test_a_failed_run_says_where_and_at_which_attempt():
    assert headline(failed()) == "Failed in train, attempt 2."


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("interruption", "Interrupted in train, attempt 2."),
        ("gate", "Stopped before training: the data did not pass its gates."),
    ],
)
def test_a_run_that_was_stopped_is_not_called_failed(by: str, said: str):
    told = failed(status="stopped")
    told["fault"]["by"] = by
    assert headline(told) == said


def test_a_fault_after_the_last_stage_is_placed_there():
    told = failed()
    told["fault"]["stage"] = ""
    assert headline(told).startswith("Failed after the last stage")


def test_a_run_without_an_end_is_not_finished():
    told = facts(status="unfinished", unfinished="evaluate")
    assert headline(told) == "Not finished: evaluate is not done."


def test_classes_that_fell_are_named_with_the_largest_fall_first():
    told = after(0.5, 0.5)
    told["night"]["classes"] = {"a": 0.47, "b": 0.40, "c": 0.49, "d": 0.53}
    told["previous"]["night"]["classes"] = dict.fromkeys("abcd", 0.5)
    assert "2 of 4 classes fell by 0.02 mAP50-95 or more: b -0.100, a -0.030." in texts(told)
    assert "1 of 4 classes rose by 0.02 mAP50-95 or more: d +0.030." in texts(told)


def test_a_class_that_is_new_neither_rose_nor_fell():
    told = after(0.5, 0.5)
    told["night"]["classes"]["bird"] = 0.9
    assert not [text for text in texts(told) if "classes" in text]


def test_other_data_is_said_to_make_the_comparison_doubtful():
    told = after(0.5, 0.5)
    told["previous"]["night"] |= {
        "data_digest": "d0",
        "counts": {"train": {"pictures": 8, "labels": 30}, "val": {"pictures": 4, "labels": 9}},
    }
    assert (
        "The data set changed (train pictures 8 → 10): the two runs may not be measured on the "
        "same validation pictures." in texts(told)
    )


def test_other_validation_pictures_are_a_warning():
    told = after(0.5, 0.5)
    told["previous"]["night"] |= {"data_digest": "d0", "counts": {"val": {"pictures": 3}}}
    told["night"]["counts"] = {"val": {"pictures": 4}}
    (notice,) = (n for n in notices(told) if n.text.startswith("The data"))
    assert notice.level == "warn"
    assert notice.text.endswith("measured on different validation pictures.")


def test_the_same_data_is_said_to_be_the_same():
    assert "The data set is the same as before." in texts(after(0.5, 0.5))


def test_settings_that_differ_are_told_with_both_values():
    assert "2 settings differ from the previous run: epochs 1 → 2, data old.yaml → data.yaml." in (
        texts(facts())
    )


def test_long_values_are_left_to_the_table():
    told = facts(settings={"epochs": 1, "data": "x" * 30, "hyp.lr0": 0.01})
    assert "1 setting differs from the previous run: data." in texts(told)


def test_hyperparameters_are_compared_only_if_both_runs_recorded_them():
    told = facts(settings={"epochs": 1, "data": "old.yaml"})
    assert settings(told) == []
    told["settings"]["hyp.lr0"] = 0.02
    assert [d.name for d in settings(told)] == ["hyp.lr0"]


def test_an_attempt_that_failed_before_the_good_one_is_told():
    lost = attempt(1, kind="OSError", error="disk full")
    told = facts(stages=[stage("train", lost, attempt(2))])
    assert "train was done at attempt 2; before it 1 did not finish: disk full" in texts(told)


def test_an_attempt_that_found_the_work_done_is_no_failure():
    done = stage("train", attempt(1))
    done["attempts"].append(attempt(2))
    assert not [t for t in texts(facts(stages=[done])) if "attempt" in t]


def test_a_stage_that_ran_with_other_code_is_told():
    done = stage("train")
    done["done"]["code"] = "c9"
    assert "train ran with other code than the run: c9." in texts(facts(stages=[done]))


def test_the_same_source_with_and_without_its_commit_is_the_same_code():
    told, done = facts(), stage("train")
    told["versions"]["code"] = "0.1.0 commit 0123456789ab source fedcba987654"
    done["done"]["code"] = "0.1.0 source fedcba987654"
    assert not [text for text in texts({**told, "stages": [done]}) if "other code" in text]


def test_a_much_longer_run_is_told():
    told = after(0.5, 0.5)
    told["night"]["hours"] = 3.0
    assert "It took 3 h 00 min, the previous run 1 h 00 min." in texts(told)


def test_what_stops_is_told_before_what_warns_and_the_rest():
    told = after(0.5, 0.3)
    told["data"] = {"verdict": "stop", "gates": [
        {"name": "max_drift", "value": 0.6, "threshold": 0.5, "verdict": "stop"}]}  # fmt: skip
    levels = [notice.level for notice in notices(told)]
    assert levels == sorted(levels, key=("stop", "warn", "info").index)
    assert texts(told)[0] == "The data report says stop: max_drift 0.6 of at most 0.5."


def test_the_rank_counts_completed_runs_alone():
    nights = [night(str(i), m) for i, m in enumerate((0.6, 0.4, 0.5))]
    lost = night("lost", 0.9, status="failed")
    told = facts(night=night(map50_95=0.5), nights=[*nights, lost])
    assert rank(told) == "Number 2 by mAP50-95 of the last 3 completed runs."
    told["night"] = night(map50_95=0.6)
    assert rank(told) == "The highest mAP50-95 of the last 3 completed runs."


def test_two_runs_make_no_rank():
    assert rank(facts()) == ""


def test_what_is_kept_names_stages_and_the_checkpoint():
    assert kept(failed()) == [
        "Stages that are done and will not be repeated: prepare.",
        "Training up to epoch 4 (0-8), in checkpoints/epoch-0004.pt; it goes on from there.",
    ]


def test_what_is_kept_counts_the_batches_of_an_unfinished_epoch():
    inside = {**failed()["checkpoint"], "batch": 7}
    assert "epoch 4 (0-8) and 7 batches of the next, in" in kept(failed(checkpoint=inside))[1]
    first = {**inside, "epoch": -1}
    assert kept(failed(checkpoint=first))[1].startswith("Training up to batch 7 of epoch 0, in")


def test_a_run_that_helped_itself_says_how_and_one_cut_short_says_by_what():
    entry = {
        "epoch": 1,
        "step": 5,
        "change": "full instead of mixed precision",
        "why": "No number.",
    }
    told = facts(recovered=[entry], stopped_early=True, stopped_by="max_hours=3")
    assert (
        "Step 5, in epoch 1, failed: No number. Training went on from the last saved state, with "
        "full instead of mixed precision." in texts(told)
    )
    assert any("epochs (max_hours=3); the best is epoch" in text for text in texts(told))


def test_what_other_weights_gave_is_told():
    said = "Other weights gave 343 of 349 entries of the first model."
    assert said in texts(facts(transferred=[343, 349]))
    assert not any("Other weights" in text for text in texts(facts()))


def test_a_run_that_never_began_keeps_its_settings():
    told = failed(stages=[], unfinished="prepare", checkpoint=None, data=None, data_page="")
    assert kept(told) == ["The settings in run.json; no stage was done yet."]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10.0 s"), (59, "59 s"), (61, "1 min 01 s"), (3599, "1 h 00 min"),
     (8000, "2 h 13 min")],
)  # fmt: skip
def test_a_time_span_reads_like_one(seconds: float, text: str):
    assert duration(seconds) == text


def test_a_moment_is_said_in_utc_to_the_minute():
    assert moment("2026-01-02T03:04:05+00:00") == "2026-01-02 03:04 UTC"
    assert moment("") == ""


def test_a_difference_of_exactly_the_threshold_counts():
    assert direction(0.01, 0.01) == "better"
    assert direction(-0.01, 0.01) == "worse"
