import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.yolov5_core.small_index import PLAIN_HASH, index_of, picture
from yolov5_core.data_report import Gate, GateName, data_report, verdict
from yolov5_core.faults import KINDS, Fault
from yolov5_core.index import Index

CAT, DOG = (0, 0.5, 0.5, 0.2, 0.2), (1, 0.5, 0.5, 0.2, 0.2)
OPEN = {"max_rejected": 1.0, "max_leakage": 1.0, "max_drift": 1.0}


def report_of(index: Index, **changes: Any) -> dict[str, Any]:
    """The report of an index without faults, previous set and thresholds, unless told."""
    arguments: dict[str, Any] = {
        "class_names": ["cat", "dog"],
        "faults": [],
        "checked": len(index),
        "previous": None,
        "new_rows": np.zeros(0, np.int64),
        "removed": 0,
        "thresholds": OPEN,
        "source": "data",
        "understood": ["as it is"],
    }
    return data_report(index=index, **{**arguments, **changes})


def gate_of(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(gate for gate in report["gates"] if gate["name"] == name)


def two_pictures() -> Index:
    return index_of(picture("a", boxes=[CAT, DOG]), picture("b", "val", boxes=[CAT, DOG]))


def truncated(name: str) -> Fault:
    return Fault(kind="image-truncated", image=name, where=f"in/{name}", reason="12 bytes missing")


@pytest.mark.parametrize(
    ("name", "value", "threshold", "expected"),
    [
        ("max_rejected", 0.0, 0.0, "pass"),
        ("max_rejected", 0.01, 0.0, "stop"),
        ("max_rejected", 0.01, 0.02, "warn"),
        ("max_rejected", 0.02, 0.02, "warn"),
        ("max_rejected", 0.021, 0.02, "stop"),
        ("max_rejected", 1.0, 1.0, "warn"),
        ("max_leakage", 0.0, 0.1, "pass"),
        ("max_leakage", 0.1, 0.1, "warn"),
        ("max_leakage", 1.0, 0.1, "stop"),
        ("max_drift", 0.0, 0.2, "pass"),
        ("max_drift", 0.1, 0.2, "pass"),
        ("max_drift", 0.11, 0.2, "warn"),
        ("max_drift", 0.2, 0.2, "warn"),
        ("max_drift", 0.21, 0.2, "stop"),
        ("max_drift", 1.0, 1.0, "warn"),
        ("max_drift", 0.0, 0.0, "pass"),
    ],
)
def test_a_gate_stops_above_its_threshold_and_warns_before(
    name: GateName, value: float, threshold: float, expected: str
):
    gate = Gate(name=name, value=value, threshold=threshold, offenders=())
    assert gate.verdict == expected
    assert gate.exceeded == (expected == "stop")


def test_clean_data_passes_with_all_its_numbers():
    report = report_of(two_pictures(), new_rows=np.array([1]), removed=3)
    assert (report["verdict"], verdict(report)[0]) == ("pass", "pass")
    assert report["message"] == (
        "The data passes all gates: max_rejected 0, max_leakage 0, max_drift 0."
    )
    assert report["pictures"] == {"checked": 2, "left_out": 0, "used": 2, "new": 1, "removed": 3}
    assert report["drift"] is None
    assert report["profile"]["class_names"] == ["cat", "dog"]


def test_pictures_left_out_are_counted_against_those_looked_at():
    index = index_of(*(picture(f"{i}") for i in range(98)))
    faults = [truncated("x.jpg"), truncated("y.jpg")]
    at_limit = report_of(
        index, faults=faults, checked=100, thresholds={**OPEN, "max_rejected": 0.02}
    )
    assert gate_of(at_limit, "max_rejected")["value"] == 0.02
    assert at_limit["verdict"] == "warn"
    above = report_of(index, faults=faults, checked=100, thresholds={**OPEN, "max_rejected": 0.019})
    assert above["verdict"] == "stop"


def test_a_stop_names_gate_value_threshold_offenders_and_what_to_do():
    faults = [
        *(truncated(f"{i}.jpg") for i in range(2)),
        Fault(kind="label-outside", image="c.jpg", where="c.txt:7", reason="leaves [0, 1]"),
        Fault(kind="label-duplicate", image="a", where="a.txt", reason="twice"),
    ]
    thresholds = {**OPEN, "max_rejected": 0.25}
    report = report_of(two_pictures(), faults=faults, checked=5, thresholds=thresholds)
    assert report["message"] == (
        "stop: max_rejected 0.6 > 0.25, the share of the pictures looked at that is left out. "
        "Worst: image-truncated (2), in/0.jpg: 12 bytes missing; label-outside (1), c.txt:7: "
        "leaves [0, 1]. What to do: correct or remove them, see Faults for each and what to do; or "
        "raise max_rejected."
    )


def test_faults_that_cost_no_picture_are_no_rejection():
    faults = [
        Fault(kind=kind, image="a", where="a", reason="x")
        for kind in KINDS
        if KINDS[kind].effect != "picture left out"
    ]
    report = report_of(two_pictures(), faults=faults, thresholds=dict.fromkeys(OPEN, 0.0))
    assert report["verdict"] == "pass"
    assert report["faults"]["total"] == len(faults)


def test_a_copy_in_validation_can_stop_and_names_its_twin():
    index = index_of(
        picture("a", boxes=[CAT, DOG], content="x"),
        picture("b", "val", boxes=[CAT, DOG], content="x"),
        *(picture(f"c{i}", "val") for i in range(3)),
    )
    allowed = report_of(index, thresholds={**OPEN, "max_leakage": 0.25})
    assert (gate_of(allowed, "max_leakage")["value"], allowed["verdict"]) == (0.25, "warn")
    stopped = report_of(index, thresholds={**OPEN, "max_leakage": 0.2})
    assert stopped["verdict"] == "stop"
    assert "Worst: b is a." in stopped["message"]
    assert stopped["copies"]["groups"] == 1


def test_look_alikes_in_validation_are_told_but_stop_nothing():
    index = index_of(
        picture("a", boxes=[CAT, DOG], content="x"),
        picture("b", "val", boxes=[CAT, DOG], dhash=PLAIN_HASH ^ 1),
        picture("c", "val", content="x"),
    )
    report = report_of(index)
    assert report["leaked_copies"]["listed"] == [{"train": "a", "val": "c"}]
    assert report["leaked_look_alikes"]["listed"] == [{"train": "a", "val": "b"}]
    assert report["leaked_look_alikes"]["share"] == 0.5
    assert gate_of(report, "max_leakage")["value"] == 0.5


def test_drift_names_what_moved_and_the_new_pictures_behind_it():
    before = index_of(*(picture(f"{i}", brightness=200) for i in range(6)))
    now = index_of(
        *(picture(f"{i}", brightness=200) for i in range(6)),
        picture("dark", brightness=50),
        picture("darkest", brightness=10),
        picture("bright", brightness=203),
        picture("old dark", brightness=10),
    )
    rows = [i for i in range(len(now)) if now.name(i) in ("dark", "darkest", "bright")]
    report = report_of(
        now,
        previous=report_of(before)["profile"],
        new_rows=np.array(rows),
        thresholds={**OPEN, "max_drift": 0.29},
    )
    gate = gate_of(report, "max_drift")
    assert gate["value"] == pytest.approx(0.3)
    assert gate["offenders"] == [
        "brightness: pictures darker than 56 of 255: 0% before, 30% now",
        "new picture darkest",
        "new picture dark",
    ]
    assert (report["verdict"], report["drift"]["largest"][0]) == ("stop", "brightness")
    brightness = report["drift"]["aspects"][2]
    assert brightness["of_new_pictures"] == pytest.approx(2 / 3)
    assert (brightness["before"], brightness["now"]) == (6, 10)


def test_a_moved_class_mix_names_classes_and_the_new_pictures_with_most_of_them():
    before = report_of(index_of(picture("a", boxes=[CAT, CAT, DOG, DOG])))["profile"]
    now = index_of(
        picture("a", boxes=[CAT, CAT, DOG, DOG]),
        picture("b", boxes=[CAT]),
        picture("c", boxes=[DOG] * 2),
        picture("d", boxes=[DOG] * 3),
    )
    report = report_of(now, previous=before, new_rows=np.array([1, 2, 3]))
    assert gate_of(report, "max_drift")["offenders"] == [
        "class mix: boxes of cat: 50% before, 30% now; boxes of dog: 50% before, 70% now",
        "new picture d",
        "new picture c",
    ]


def test_the_same_set_again_has_not_drifted():
    index = two_pictures()
    again = report_of(index, previous=report_of(index)["profile"])
    assert {a["value"] for a in again["drift"]["aspects"]} == {0.0}
    assert again["drift"]["aspects"][0]["of_new_pictures"] is None  # there are none
    assert again["verdict"] == "pass"


def test_the_gravest_gate_speaks_first():
    index = index_of(picture("a", content="x"), picture("b", "val", content="x"))
    report = report_of(
        index,
        faults=[truncated("c.jpg")],
        checked=3,
        thresholds={**OPEN, "max_leakage": 0.5},
    )
    lines = report["message"].splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["stop:", "max_leakage"],
        ["warn:", "max_rejected"],
    ]


def test_a_hostile_name_cannot_write_a_line_of_the_message():
    fault = Fault(kind="image-empty", image="x", where="x\nstop: all is well", reason="empty")
    report = report_of(two_pictures(), faults=[fault], checked=3)
    assert len(report["message"].splitlines()) == 1
    assert "x\\nstop: all is well" in report["message"]


def test_no_picture_at_all_makes_a_report():
    report = report_of(index_of(), faults=[truncated("a.jpg")], checked=1)
    assert gate_of(report, "max_rejected")["value"] == 1
    assert report["splits"]["val"]["pictures"] == 0
    assert report["verdict"] == "warn"  # a threshold of 1 never stops


boxes = st.tuples(st.integers(0, 1), *(st.floats(0.001953125, 1, width=32) for _ in range(4)))
pictures = st.lists(
    st.tuples(
        st.sampled_from(["train", "val"]),
        st.lists(boxes, max_size=3),
        st.tuples(st.integers(10, 5000), st.integers(10, 5000)),
        st.floats(0, 255, width=32),
        st.integers(0, 2**64 - 1) | st.just(PLAIN_HASH),
        st.sampled_from([None, "x", "y"]),
    ),
    max_size=6,
)


@given(pictures, pictures, st.lists(st.sampled_from(sorted(KINDS)), max_size=5))
def test_every_report_is_finite_json_and_comes_back_from_it(before, now, kinds: list[str]):
    old, new = (
        index_of(
            *(
                picture(f"{i}", split, boxes=b, size_wh=s, brightness=level, dhash=h, content=c)
                for i, (split, b, s, level, h, c) in enumerate(some)
            )
        )
        for some in (before, now)
    )
    faults = [Fault(kind=kind, image=f"{i}", where="", reason="") for i, kind in enumerate(kinds)]
    report = report_of(
        new,
        faults=faults,
        checked=len(new) + 5,
        previous=json.loads(json.dumps(report_of(old)["profile"])),
        new_rows=np.arange(len(new) // 2),
    )
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert all(0 <= gate["value"] <= 1 for gate in report["gates"])
    assert report["verdict"] != "stop"
