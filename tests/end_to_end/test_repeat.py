"""Doing a run, or one stage of it, again."""

from dataclasses import replace

import pytest

from flows import stages
from flows.retrain import retrain
from tests.end_to_end.conftest import run_command, snapshot
from tests.undone import undo


def test_the_same_run_again_writes_nothing_but_its_card(copied):
    before = snapshot(copied.store.folder)
    again = retrain(replace(copied.config, run=copied.id))
    after = snapshot(copied.store.folder)
    run = f"runs/{copied.id}"
    # the write check touches the store's folder, the card that of the run
    for touched in (".", run, f"{run}/report.html"):
        after[touched] = before[touched] = ("", 0)
    assert after == before
    assert again.metrics == copied.summary.metrics
    assert again.published == copied.summary.published


def test_resuming_a_finished_run_trains_nothing_and_changes_nothing(copied):
    names = ("checkpoints", "weights", "stages", "plots", "tensorboard")
    before = [snapshot(copied.folder / name) for name in names]
    again = retrain(replace(copied.config, resume="latest"))
    assert [snapshot(copied.folder / name) for name in names] == before
    assert again.run == copied.id
    assert again.metrics == copied.summary.metrics


def test_a_run_id_that_is_taken_by_other_settings_is_refused(copied):
    with pytest.raises(ValueError, match=f"run={copied.id}: this run exists .* other settings"):
        retrain(replace(copied.config, run=copied.id, epochs=5))


def test_one_stage_alone_draws_the_same_bytes_again(copied):
    plots = copied.folder / "plots"
    before = {path.name: path.read_bytes() for path in plots.iterdir()}
    drawn = copied.record("plot").result["plots"]
    undo(copied.store, copied.id, "plot")
    for name in drawn:
        (plots / name).unlink()
    record = stages.plot(copied.config.store, copied.id)
    assert record.attempt == 2
    assert {path.name: path.read_bytes() for path in plots.iterdir()} == before


def test_a_stage_whose_output_is_lost_makes_it_again(copied):
    path = copied.folder / "weights" / "last_street.pt"
    before = path.read_bytes()
    path.unlink()
    assert stages.finalize(copied.config.store, copied.id).attempt == 2
    assert path.read_bytes() == before


def test_a_stage_works_where_its_store_was_moved_to(finished, copied):
    before = snapshot(finished.folder)
    undo(copied.store, copied.id, "finalize")
    stages.finalize(copied.config.store, copied.id)
    assert copied.record("finalize").attempt == 2
    assert snapshot(finished.folder) == before


def test_one_stage_runs_from_the_command_line(copied, prefect_api):
    undo(copied.store, copied.id, "upload")
    words = ("--only", "upload", "--store", copied.config.store, "--run", copied.id)
    done = run_command(prefect_api, *words)
    assert done.returncode == 0, done.stderr
    assert copied.record("upload").attempt == 2
    assert f"stage upload of run {copied.id} is done" in done.stdout


def test_a_stage_before_its_turn_names_the_stage_that_is_missing(copied):
    undo(copied.store, copied.id, "evaluate")
    with pytest.raises(ValueError, match="stage evaluate is not done yet; run it first"):
        stages.plot(copied.config.store, copied.id)
