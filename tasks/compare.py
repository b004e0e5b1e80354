"""Runs of a store beside each other: a table, and their curves in one picture."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.card_facts import gather, open_run
from tasks.errors import MissingObjectError
from tasks.out_folder import new_folder
from tasks.run import load_run
from tasks.stage import run_key
from tasks.store import Store, open_store
from yolov5_core.config import ConfigError
from yolov5_core.plots import plot_results
from yolov5_core.results import ResultsRow, parse_results
from yolov5_core.run_comparison import comparison_text

TABLE, CURVES = "comparison.txt", "comparison.png"


def compare(store_url: str, runs: Sequence[str], out: str) -> str:
    """The table; with a folder, also the table and the curves as files there.

    Args:
        store_url: Where the runs live; nothing else is asked, and nothing is written there.
        runs: Two ids or more; changes are told against the first.
        out: A new or empty folder, "" for none.

    Raises:
        ConfigError: No such run, too few, or a folder with something in it.
        ResultsError: A results.txt is damaged.
        StoreError: The store failed.
    """
    if len(set(runs)) < 2 or len(set(runs)) < len(runs):
        raise ConfigError(f"compare: {' '.join(runs)}: give two or more runs, each once")
    store = open_store(store_url)
    text = comparison_text([_facts(store, store_url, run) for run in runs])
    if out:
        folder = new_folder(Path(out), [], numbered=False)
        (folder / TABLE).write_text(f"{text}\n", "utf-8")
        plot_results({run: _rows(store, run) for run in runs}, folder / CURVES)
        text += f"\n{folder / TABLE}\n{folder / CURVES}"
    return text


def _facts(store: Store, store_url: str, run: str) -> dict[str, Any]:
    info = load_run(store, run)
    if info is None:
        raise ConfigError(f"compare: {store.shown} holds no run {run!r}")
    return gather(open_run(replace(info, config=replace(info.config, store=store_url))), None)


def _rows(store: Store, run: str) -> list[ResultsRow]:
    """What was trained so far; nothing of a run that was stopped before."""
    try:
        return parse_results(store.read_bytes(run_key(run, "results.txt")).decode("ascii"))
    except MissingObjectError:
        return []
