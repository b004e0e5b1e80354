from copy import deepcopy
from typing import Any

from tests.yolov5_core.run_card_facts import facts, night
from yolov5_core.run_comparison import comparison, comparison_text


def run(name: str, map50_95: float | None = 0.5, **changed: Any) -> dict[str, Any]:
    """A run whose settings and versions are those of the facts, unless they are told."""
    told: dict[str, Any] = {"run": name, "night": night(name, map50_95), "remarks": []}
    return deepcopy(facts(**(told | changed)))


def parts(*runs: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    return {title: {row.name: list(row.cells) for row in rows} for title, rows in comparison(runs)}


def test_metrics_stand_beside_each_other_with_their_change_against_the_first():
    found = parts(run("a", 0.4), run("b", 0.5), run("c", 0.4))
    assert found["metrics"]["mAP50-95"] == ["0.400", "0.500 (+0.100)", "0.400"]
    assert found["metrics"]["precision"] == ["0.700", "0.700", "0.700"]
    assert found["mAP50-95 by class"]["dog"] == ["0.400", "0.500 (+0.100)", "0.400"]


def test_a_class_that_one_run_does_not_have_has_no_number_there():
    other = run("b")
    other["night"]["classes"] = {"cat": 0.25, "cow": 1.0}
    classes = parts(run("a"), other)["mAP50-95 by class"]
    assert classes == {"cat": ["0.500", "0.250 (-0.250)"], "cow": ["-", "1.000"],
                       "dog": ["0.500", "-"]}  # fmt: skip


def test_only_what_differs_of_settings_and_versions_is_told():
    second = run("b", settings={"epochs": 5, "data": "data.yaml", "hyp.lr0": 0.02})
    third = run("c", versions={"code": "c2", "torch": "2.0"})
    found = parts(run("a"), second, third)
    assert found["settings that differ"] == {"epochs": ["2", "5", "2"],
                                             "hyp.lr0": ["0.01", "0.02", "0.01"]}  # fmt: skip
    assert found["versions that differ"] == {"code": ["c1", "c1", "c2"]}
    same = parts(run("a"), run("b"))
    assert "settings that differ" not in same
    assert "versions that differ" not in same


def test_data_times_and_outcome_are_told_of_every_run():
    other = run("b", best_epoch=None, status="failed")
    other["night"] |= {"seconds": {"train": 90.0, "plot": 2.0}, "hours": 0.5, "epochs": 7}
    other["night"]["counts"]["train"]["pictures"] = 1234
    found = parts(run("a"), other)
    assert found["run"]["status"] == ["completed", "failed"]
    assert found["run"]["epochs"] == ["2", "7"]
    assert found["run"]["best epoch"] == ["1", "-"]
    assert found["run"]["time in all"] == ["1 h 00 min", "30 min 00 s"]
    assert found["run"]["data digest"] == ["d1", "d1 (the same)"]
    assert found["data"]["train pictures"] == ["10", "1,234 (+1,224)"]
    assert found["time of the stages"] == {"train": ["30 min 00 s", "1 min 30 s"],
                                           "plot": ["-", "2.0 s"]}  # fmt: skip


def test_a_run_without_an_evaluation_has_no_metrics():
    found = parts(run("a", None), run("b", None))
    assert "metrics" not in found
    assert parts(run("a", None), run("b"))["metrics"]["mAP50"] == ["-", "0.800"]


def test_the_text_is_a_table_that_warns_of_other_data_and_shows_no_control_characters():
    other = run("b\x1b[2J", 0.75)
    other["night"]["data_digest"] = "d2"
    other["remarks"] = ["results: damaged"]
    text = comparison_text([run("a"), other])
    lines = text.splitlines()
    (row,) = [line for line in lines if line.startswith("  mAP50-95")]
    assert row.split() == ["mAP50-95", "0.500", "0.750", "(+0.250)"]
    assert lines[0].index("b?[2J") == row.index("0.750")
    assert "not measured on the same ground" in text
    assert "not shown: results: damaged" in text
    assert "\x1b" not in text
    assert "same ground" not in comparison_text([run("a"), run("b")])
