import json
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import DamagedObjectError, MissingObjectError
from tasks.stage import (
    StageContext,
    code_version,
    inputs_digest,
    read_stage,
    run_stage,
    source_digest,
)
from tasks.store import Store, open_store
from tests.undone import begun_and_done


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path) -> Store:
    return open_store(
        str(tmp_path / "s") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"
    )


class Work:
    """A stage's work that counts how often it ran."""

    def __init__(self) -> None:
        self.contexts: list[StageContext] = []

    def __call__(self, context: StageContext) -> dict[str, object]:
        self.contexts.append(context)
        local = context.scratch / "model.pt"
        local.write_bytes(b"weights")
        context.publish(local, "weights/model.pt")
        return {"epochs": 3, "names": ("a", "b")}


def test_a_stage_runs_once_for_the_same_inputs(store):
    work = Work()
    first = run_stage(store, "r", "train", {"epochs": 3}, work)
    second = run_stage(store, "r", "train", {"epochs": 3}, work)
    assert len(work.contexts) == 1
    assert second == first
    assert first.result == {"epochs": 3, "names": ["a", "b"]}
    assert [(output.key, output.size) for output in first.outputs] == [
        ("runs/r/weights/model.pt", 7)
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"run": "q", "stage": "train", "inputs": {"epochs": 3}},
        {"run": "r", "stage": "plot", "inputs": {"epochs": 3}},
        {"run": "r", "stage": "train", "inputs": {"epochs": 4}},
    ],
)
def test_another_run_stage_or_input_is_other_work(store, other):
    work = Work()
    run_stage(store, "r", "train", {"epochs": 3}, work)
    run_stage(store, other["run"], other["stage"], other["inputs"], work)
    assert len(work.contexts) == 2


@pytest.mark.parametrize("damage", ["gone", "short", "written over"])
def test_a_stage_whose_outputs_are_damaged_runs_again(store, caplog, damage):
    work = Work()
    run_stage(store, "r", "train", {}, work)
    match damage:
        case "gone":
            store.delete("runs/r/weights/model.pt")
        case "short":
            store.put_bytes(b"w", "runs/r/weights/model.pt")
        case _:  # by a late attempt
            store.put_bytes(b"WEIGHTS", "runs/r/weights/model.pt")
    again = run_stage(store, "r", "train", {}, work)
    assert len(work.contexts) == 2
    assert again.attempt == 2
    assert store.read_bytes("runs/r/weights/model.pt") == b"weights"
    assert "stage train is done again: " in caplog.text
    assert "runs/r/weights/model.pt is gone or changed" in caplog.text


@pytest.mark.parametrize("copy", [None, b'{"run": ', b'{"outputs": [{"size": 1}]}', "older"])
def test_a_copy_of_the_record_that_is_not_what_was_committed_is_written_anew(store, copy):
    work, key = Work(), "runs/r/stages/train.json"
    run_stage(store, "r", "train", {"epochs": 2}, work)
    older = store.read_bytes(key)
    record = run_stage(store, "r", "train", {"epochs": 3}, work)
    newer = store.read_bytes(key)
    if copy is None:
        store.delete(key)
    else:
        store.put_bytes(older if copy == "older" else copy, key)
    assert read_stage(store, "r", "train") == record
    assert run_stage(store, "r", "train", {"epochs": 3}, work) == record
    assert len(work.contexts) == 2
    assert store.read_bytes(key) == newer != older


def test_a_stage_that_an_earlier_version_did_is_done(store):
    work = Work()
    record = run_stage(store, "r", "train", {}, work)
    for key in begun_and_done(store, "r", "train")[1]:
        store.delete(key)
    assert read_stage(store, "r", "train") == record
    assert run_stage(store, "r", "train", {}, work) == record
    assert len(work.contexts) == 1


def test_a_commit_that_cannot_be_read_leaves_its_copy(store):
    work = Work()
    record = run_stage(store, "r", "train", {}, work)
    store.put_bytes(b'{"rec', begun_and_done(store, "r", "train")[1][0])
    assert run_stage(store, "r", "train", {}, work) == record
    assert run_stage(store, "r", "train", {"other": 1}, work).attempt == 3
    assert read_stage(store, "r", "train").attempt == 3


def test_a_stage_with_outputs_elsewhere_can_say_that_they_are_gone(store):
    work = Work()
    run_stage(store, "r", "upload", {}, work)
    run_stage(store, "r", "upload", {}, work, lambda record: record.result["epochs"] == 3)
    assert len(work.contexts) == 1
    run_stage(store, "r", "upload", {}, work, lambda _: False)
    assert len(work.contexts) == 2


def test_a_stage_that_fails_leaves_no_record_but_its_attempt_counts(store):
    def fails(context: StageContext) -> dict[str, object]:
        Work()(context)
        raise OSError("power cut")

    with pytest.raises(OSError, match="power cut"):
        run_stage(store, "r", "train", {}, fails)
    assert read_stage(store, "r", "train") is None
    assert run_stage(store, "r", "train", {}, Work()).attempt == 2
    assert [len(keys) for keys in begun_and_done(store, "r", "train")] == [2, 1]


def test_a_result_that_json_cannot_hold_fails_before_the_record_is_written(store):
    with pytest.raises(TypeError):
        run_stage(store, "r", "train", {}, lambda _: {"path": Path("x")})
    assert read_stage(store, "r", "train") is None


def test_the_scratch_folder_is_gone_afterwards(store):
    work = Work()
    run_stage(store, "r", "train", {}, work)
    assert not work.contexts[0].scratch.exists()


def test_the_record_is_plain_json_with_times_host_and_code(store):
    record = run_stage(store, "r", "train", {"epochs": 3}, Work())
    doc = store.read_json("runs/r/stages/train.json")
    assert doc["inputs"] == {"epochs": 3}
    assert doc["started"].endswith("+00:00")
    assert doc["started"] <= doc["finished"]
    assert doc["code"] == code_version() == record.code
    assert read_stage(store, "r", "train") == record


def test_a_later_stage_fetches_what_an_earlier_one_published(store):
    trained = run_stage(store, "r", "train", {}, Work())

    def finalize(context: StageContext) -> dict[str, object]:
        by_record = context.fetch(trained.outputs[0])
        by_name = context.fetch("weights/model.pt")
        return {"same": by_record.read_bytes() == by_name.read_bytes() == b"weights"}

    assert run_stage(store, "r", "finalize", {}, finalize).result == {"same": True}


def test_a_fetched_object_must_be_the_recorded_one(store):
    trained = run_stage(store, "r", "train", {}, Work())
    store.put_bytes(b"WEIGHTS", "runs/r/weights/model.pt")
    with pytest.raises(DamagedObjectError):
        run_stage(store, "r", "finalize", {}, lambda c: {"x": str(c.fetch(trained.outputs[0]))})
    with pytest.raises(MissingObjectError):
        run_stage(store, "r", "finalize", {}, lambda c: {"x": str(c.fetch("gone"))})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_the_inputs_digest_does_not_depend_on_the_order_of_keys(inputs):
    backwards = dict(reversed(inputs.items()))
    through_json = json.loads(json.dumps(inputs))
    assert inputs_digest("s", inputs) == inputs_digest("s", backwards)
    assert inputs_digest("s", inputs) == inputs_digest("s", through_json)


def test_the_code_version_names_the_source_it_ran():
    assert source_digest()[:12] in code_version()
    assert len(source_digest()) == 64
