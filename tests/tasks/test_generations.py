"""The log of generations: planned once, recorded once, by however many workers."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest

from tasks.generations import Generation, Generations, Plan, json_lines
from tasks.store import open_store
from yolov5_core.config import Hyperparameters

GIVEN = asdict(Hyperparameters())


@pytest.fixture(params=["folder", "memory"])
def generations(request, tmp_path) -> Generations:
    place = str(tmp_path / "b") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"
    return Generations(bucket=open_store(place), name="street")


def again(known: Generations) -> Generations:
    """As another worker reads it."""
    other = Generations(bucket=known.bucket, name=known.name)
    other.read()
    return other


def planned(known: Generations) -> Plan:
    known.read()
    plan = known.plan_next("evolve", GIVEN, 7, "digest")
    assert known.claim(plan)
    known.read()
    return plan


def done(plan: Plan, map50_95: float = 0.1, fault: str = "") -> Generation:
    return Generation(
        plan=plan,
        results=(0.1, 0.2, 0.3, map50_95, 0.01, 0.02, 0.0),
        fault=fault,
        seconds=1.5,
        done="2026-01-01T00:00:00+00:00",
        host="here",
        code="0 source 0",
    )


def test_the_first_generation_is_the_table_as_given_and_the_next_a_child_of_the_best(generations):
    first = planned(generations)
    assert (first.generation, first.hyp, first.parent, first.finished) == (1, GIVEN, 0, ())
    assert first.run == "evolve_g0001"
    generations.record(done(first))
    second = planned(generations)
    assert (second.generation, second.parent, second.finished) == (2, 1, (1,))
    assert second.hyp != GIVEN
    assert list(second.hyp) == list(GIVEN)


def test_a_worker_that_comes_before_the_first_is_measured_changes_the_table_as_given(generations):
    planned(generations)
    second = planned(generations)
    assert (second.generation, second.parent, second.finished) == (2, 0, ())
    assert second.hyp != GIVEN


def test_a_plan_is_a_function_of_the_seed_and_of_what_is_known(generations):
    generations.record(done(planned(generations)))
    plans = [again(generations).plan_next("evolve", GIVEN, seed, "d") for seed in (7, 7, 8)]
    first, same, other = (plan.hyp for plan in plans)
    assert first == same != other


def test_everything_comes_back_as_it_was_written_to_the_last_digit(generations):
    plan = planned(generations)
    record = replace(done(plan, 1 / 3), results=(0.1 + 0.2, 0, 0, 1 / 3, 1e-17, 0, 0))
    assert generations.record(record)
    assert again(generations).records == {1: record}
    assert again(generations).plans == {1: plan}


def test_of_many_that_plan_at_once_each_number_has_one_plan_and_none_is_missing(generations):
    def work(_: int) -> None:
        own = again(generations)
        for _ in range(5):
            own.claim(own.plan_next("evolve", GIVEN, 7, "d"))
            own.read()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    plans = again(generations).plans
    assert sorted(plans) == list(range(1, len(plans) + 1))
    assert len(plans) >= 5


def test_a_generation_done_twice_has_the_first_record(generations):
    plan = planned(generations)
    assert generations.record(done(plan, 0.1))
    assert not again(generations).record(done(plan, 0.2))
    assert again(generations).records[1].results[3] == 0.1


def test_what_is_planned_and_not_recorded_is_left_to_do(generations):
    plans = [planned(generations) for _ in range(3)]
    generations.record(done(plans[1]))
    known = again(generations)
    assert [plan.generation for plan in known.undone(3)] == [1, 3]
    assert [plan.generation for plan in known.undone(2)] == [1]
    assert not known.is_over(3)
    for plan in (plans[0], plans[2]):
        known.record(done(plan))
    known.read()
    assert known.is_over(3)
    assert not known.is_over(4)


def test_a_record_that_cannot_be_read_is_left_out_and_not_done_again(generations):
    plan = planned(generations)
    generations.bucket.put_bytes(b"{", "evolve/street/00000001.json")
    known = again(generations)
    assert (known.individuals, list(known.undone(1)), known.is_over(1)) == ([], [], True)
    assert known.plan_next("evolve", GIVEN, 7, "d").generation == plan.generation + 1


def test_a_plan_that_is_gone_is_planned_again(generations):
    planned(generations)
    planned(generations)
    generations.bucket.delete("evolve/street/plans/00000001.json")
    assert again(generations).plan_next("evolve", GIVEN, 7, "d").generation == 1


def test_the_lines_say_everything_the_fittest_first(generations):
    plans = [planned(generations) for _ in range(2)]
    worse, better = done(plans[0], 0.1, "diverged"), done(plans[1], 1 / 3)
    lines = [json.loads(line) for line in json_lines([worse, better]).splitlines()]
    assert [line["generation"] for line in lines] == [2, 1]
    assert lines[0]["fitness"] == 0.1 * 0.3 + 0.9 / 3
    assert lines[0]["hyp"] == plans[1].hyp
    assert lines[1]["fault"] == "diverged"
    assert lines[0].keys() >= {"results", "parent", "finished", "seed", "data", "seconds", "code"}
