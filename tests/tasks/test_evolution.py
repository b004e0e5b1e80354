"""What the workers of an evolution share, and the files that are made of its records."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.evolution import (
    Evolution,
    begin_evolution,
    begin_generation,
    require_evolvable,
    require_same_data,
    write_files,
    write_plot,
)
from tasks.generations import Generation, now
from tasks.inputs import input_file
from tasks.records import Prepared
from tasks.run import begin_run, load_run, newest_run
from tasks.settings import RetrainConfig
from tasks.store import open_store
from yolov5_core.config import ConfigError, load_hyperparameters

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PREPARED = Prepared(digest="d", names=("a",), counts={}, rejected=(), report="", verdict="pass")


@pytest.fixture
def config(tmp_path) -> RetrainConfig:
    return RetrainConfig(
        store=str(tmp_path / "store"), bucket=str(tmp_path / "bucket"), epochs=3, seed=4
    )


def add(evolution: Evolution, map50_95: float) -> Generation:
    """Plans a generation and says what came of it."""
    evolution.log.read()
    plan = evolution.log.plan_next(evolution.info.run, evolution.given, 4, "d")
    evolution.log.claim(plan)
    record = Generation(
        plan=plan,
        results=(0.0, 0.0, 0.0, map50_95, 0.0, 0.0, 0.0),
        fault="",
        seconds=1,
        done=now(),
        host="here",
        code="0",
    )
    evolution.log.record(record)
    evolution.log.read()
    return record


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resume", "latest"),
        ("max_hours", 2.0),
        ("deadline", "06:30"),
        ("save_period", 5),
        ("run_on", "docker"),
    ],
)
def test_settings_that_make_no_sense_here_are_refused_with_the_fix(config, key, value):
    with pytest.raises(ConfigError, match=rf"{key}=.*leave it out"):
        require_evolvable(replace(config, **{key: value}), 3)


def test_there_must_be_a_generation_and_nothing_else_is_refused(config):
    with pytest.raises(ConfigError, match="generations=0"):
        require_evolvable(config, 0)
    require_evolvable(config, 1)


def test_another_worker_joins_with_the_settings_it_began_with(config):
    first = begin_evolution(config, NOW)
    here = replace(config, device="1", workers=7)
    joined = begin_evolution(here, datetime.now(UTC))
    assert joined.info.run == first.info.run == "evolve"
    assert joined.info.config == replace(first.info.config, device="1", workers=7)
    assert joined.given == first.given
    bare = RetrainConfig(store=config.store, bucket=config.bucket)  # only where it is
    assert begin_evolution(bare, NOW).info.config == first.info.config


def test_other_settings_or_another_id_do_not_join(config):
    begin_evolution(config, NOW)
    with pytest.raises(ConfigError, match=r"another name.*epochs cannot change from 3 to 4"):
        begin_evolution(replace(config, epochs=4), NOW)
    with pytest.raises(ConfigError, match="this evolution is evolve"):
        begin_evolution(replace(config, run="mine"), NOW)


def test_evolutions_of_different_names_are_different_and_without_a_bucket_in_the_store(config):
    begin_evolution(config, NOW)
    street = begin_evolution(replace(config, name="street", epochs=9), NOW)
    assert street.info.run == "evolve_street"
    add(street, 0.5)
    write_files(street)
    assert {path.name for path in Path(config.bucket).iterdir()} == {
        *("evolve", "evolve_street.txt", "evolve_street.jsonl", "hyp_evolved_street.yaml")
    }
    assert begin_evolution(replace(config, bucket=""), NOW).bucket.shown == config.store


def test_changed_pictures_end_an_evolution(config):
    evolution = begin_evolution(config, NOW)
    require_same_data(evolution, PREPARED)
    add(evolution, 0.1)
    require_same_data(evolution, PREPARED)
    with pytest.raises(ConfigError, match="pictures changed"):
        require_same_data(evolution, replace(PREPARED, digest="other"))


def test_a_generation_is_a_run_of_its_own_table_that_saves_and_publishes_nothing(config, tmp_path):
    table = tmp_path / "mine.yaml"
    table.write_text("lr0: 0.0234567\n", "utf-8")
    evolution = begin_evolution(replace(config, name="street", hyp=str(table)), NOW)
    assert evolution.given["lr0"] == 0.0234567
    add(evolution, 0.1)
    plan = add(evolution, 0.2).plan
    info = begin_generation(evolution, plan)
    assert load_run(open_store(config.store), "evolve_street_g0002") == info
    c = info.config
    assert (c.nosave, c.notest, c.name, c.epochs, c.seed) == (True, True, "", 3, 4)
    assert info.evolution == "evolve_street"
    found = load_hyperparameters(input_file(info, "hyp"))
    assert {key: getattr(found, key) for key in plan.hyp} == plan.hyp
    table.write_text("lr0: 0.5\n", "utf-8")  # what it began with counts
    joined = begin_evolution(replace(config, name="street", hyp=str(table)), NOW)
    assert joined.given["lr0"] == 0.0234567


def test_a_generation_is_no_run_to_resume(config):
    evolution = begin_evolution(config, NOW)
    begin_generation(evolution, add(evolution, 0.1).plan)
    store = open_store(config.store)
    assert newest_run(store) == ""
    with pytest.raises(ConfigError, match="a generation of the evolution evolve"):
        begin_run(replace(config, resume="evolve_g0001"), NOW)
    with pytest.raises(ConfigError, match="a generation of the evolution evolve"):
        begin_run(replace(config, run="evolve_g0001"), NOW)


def test_the_files_say_what_the_records_say_the_best_first(config):
    evolution, bucket = begin_evolution(config, NOW), Path(config.bucket)
    for quality in (0.2, 0.4, 0.3):
        add(evolution, quality)
    write_files(evolution)
    rows = (bucket / "evolve.txt").read_text("ascii").splitlines()
    assert [row.split()[3] for row in rows] == ["0.4", "0.3", "0.2"]
    lines = (bucket / "evolve.jsonl").read_text("ascii").splitlines()
    assert [json.loads(line)["generation"] for line in lines] == [2, 3, 1]
    best = load_hyperparameters(str(bucket / "hyp_evolved.yaml"))
    assert best.lr0 == evolution.log.plans[2].hyp["lr0"]
    assert write_plot(evolution) == (bucket / "evolve.png").read_bytes()


def test_files_written_by_a_worker_that_has_seen_less_have_every_row_in_the_end(config):
    late = begin_evolution(config, NOW)
    add(late, 0.2)
    other = begin_evolution(config, NOW)
    add(other, 0.4)
    write_files(other)
    assert len(late.log.records) == 1  # and writes now, over what the other one wrote
    write_files(late)
    assert len((Path(config.bucket) / "evolve.txt").read_text("ascii").splitlines()) == 2
