"""Hyperparameter evolution: each generation is a flow run that trains with another table.

A worker takes the first generation that nobody works on, or plans the next one, until there are
enough. Several workers do the same beside each other; what they share is in the bucket.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prefect import flow, runtime, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows import stages
from flows.heartbeats import beating, our_heartbeats
from tasks.evolution import (
    Evolution,
    begin_evolution,
    begin_generation,
    file_key,
    require_evolvable,
    require_same_data,
    write_files,
    write_plot,
)
from tasks.generations import Generation, Plan, now
from tasks.lease import LeaseLostError, StageBusyError, Watch, leased
from tasks.records import Prepared, prepared_from
from tasks.run import load_run, preflight
from tasks.settings import GENERATIONS, RetrainConfig
from tasks.stage import code_version, read_stage
from tasks.store import open_store
from tasks.task_options import RETRIED
from tasks.worker import this_worker
from yolov5_core.config import ConfigError
from yolov5_core.evolve import best_first, measured
from yolov5_core.evolve_text import describe_individual

log = logging.getLogger(__name__)

_LOOK = 2.0  # seconds between two looks at generations that others work on
_SHOWN = 50  # generations in the table of the UI
_ZEROS = ("0.0",) * 7


@dataclass(frozen=True, kw_only=True, slots=True)
class EvolutionSummary:
    """What the flow returns and the command line prints."""

    evolution: str
    generations: int  # that are done
    best: int  # generation, 0 if none could be read
    fitness: float  # of the best one
    first: float | None  # fitness of the table as given, None if it could not be read
    files: Mapping[str, str]  # what it is: path or URL


def _run_name() -> str:
    return " ".join(filter(None, ("evolve", runtime.flow_run.parameters["config"].name)))


@flow(name="evolve", flow_run_name=_run_name, persist_result=False)
@beating
def evolve(
    config: RetrainConfig = RetrainConfig(),  # noqa: B008  it is frozen
    generations: int = GENERATIONS,
) -> EvolutionSummary:
    """Looks for better hyperparameters until there are so many generations, old ones included."""
    stages.show_our_logs()
    require_evolvable(config, generations)
    preflight(config)
    started = runtime.flow_run.scheduled_start_time or datetime.now(UTC)
    evolution = begin_evolution(config, started)
    from tasks.prepare import prepare_data  # noqa: PLC0415  as the stage flows do

    prepared = prepare_data(evolution.info.run, evolution.info.config)
    evolution.log.read()
    require_same_data(evolution, prepared)
    watch = Watch()
    while not evolution.log.is_over(generations):
        if not _work(evolution, prepared, generations, watch):
            time.sleep(_LOOK)  # others do the last ones; should they die, those are done here
        evolution.log.read()
    publish(evolution)
    return _summary(evolution)


def _work(evolution: Evolution, prepared: Prepared, generations: int, watch: Watch) -> bool:
    """Does a generation that nobody works on, or plans one; False if there is neither."""
    for plan in evolution.log.undone(generations):
        try:
            with leased(
                evolution.bucket, evolution.log.folder, f"{plan.generation:08d}", {}, watch
            ):
                _train(evolution, plan)
        except (StageBusyError, LeaseLostError) as error:
            log.debug("generation %d: %s", plan.generation, error)
        else:
            return True
    info = evolution.info
    plan = evolution.log.plan_next(info.run, evolution.given, info.config.seed, prepared.digest)
    if plan.generation > generations:
        return False
    evolution.log.claim(plan)  # or another one has; either way there is one to do now
    return True


def _train(evolution: Evolution, plan: Plan) -> None:
    evolution.log.read()
    if plan.generation in evolution.log.records:  # by whoever held the lease before
        return
    log.info("generation %d of %s begins, from generation %d",
             plan.generation, evolution.info.run, plan.parent)  # fmt: skip
    begun = time.monotonic()
    info = begin_generation(evolution, plan)
    with our_heartbeats():
        results, fault = generation(info.config.store, info.run)
    record_generation.with_options(task_run_name=f"record {plan.generation}")(
        evolution,
        Generation(
            plan=plan,
            results=measured(float(value) for value in results),
            fault=fault,
            seconds=round(time.monotonic() - begun, 3),
            done=now(),
            host=this_worker().host,
            code=code_version(),
        ),
    )


@flow(name="generation", flow_run_name="{run}", persist_result=False)
@beating
def generation(store: str, run: str) -> tuple[list[str], str]:
    """Trains with a generation's table and evaluates once; keeps no weights and draws nothing.

    Returns:
        Seven results as text, which JSON has for every number, and why they are zeros, else "".
    """
    from tasks.train import train_stage  # noqa: PLC0415  torch
    from yolov5_core.loss_watch import TrainingDivergedError  # noqa: PLC0415  torch

    stages.show_our_logs()
    info = load_run(open_store(store), run)
    if info is None or not info.evolution:
        raise ConfigError(f"run={run}: {open_store(store).shown} holds no such generation")
    prepared = read_stage(open_store(store), info.evolution, "prepare")
    if prepared is None:
        raise ConfigError(f"run={run}: its data is not prepared; run the evolution again")
    try:
        record = train_stage(info, prepared_from(prepared.result))
    except TrainingDivergedError as error:  # a table can be that bad; the next one need not be
        log.warning("%s counts as fitness 0: %s", run, error)
        return list(_ZEROS), str(error)
    return record.result["results"], ""


@task(name="record", **RETRIED)
def record_generation(evolution: Evolution, done: Generation) -> None:
    """Enters what came of a generation, and writes the evolution's files anew."""
    evolution.log.record(done)
    evolution.log.read()
    log.info("%s", describe_individual(done.individual))
    write_files(evolution)
    create_table_artifact(
        table(evolution), key="evolution", description=f"Generations of {evolution.info.run}"
    )


@task(name="publish", **RETRIED)
def publish(evolution: Evolution) -> None:
    """Writes the files and the plot, and shows the plot in the UI."""
    from tasks.plot import data_uri  # noqa: PLC0415  OpenCV

    if not evolution.log.records:
        return
    write_files(evolution)
    picture = data_uri(write_plot(evolution))
    run = evolution.info.run
    create_markdown_artifact(
        f"## {run}\n\n![evolve.png]({picture})", key="evolve", description=f"Genes of {run}"
    )


def table(evolution: Evolution) -> list[dict[str, Any]]:
    """The fittest generations, the best one first."""
    return [
        {
            "generation": each.generation,
            "fitness": f"{each.fitness:.4f}",
            "mAP50": f"{each.results[2]:.3f}",
            "mAP50-95": f"{each.results[3]:.3f}",
            "parent": evolution.log.records[each.generation].plan.parent or "",
            "fault": evolution.log.records[each.generation].fault[:80],
        }
        for each in best_first(evolution.log.individuals)[:_SHOWN]
    ]


def _summary(evolution: Evolution) -> EvolutionSummary:
    individuals = best_first(evolution.log.individuals)
    first = evolution.log.records.get(1)
    names = {"hyp": ("hyp_evolved", "yaml"), "table": ("evolve", "txt")}
    names |= {"lines": ("evolve", "jsonl"), "plot": ("evolve", "png")}
    return EvolutionSummary(
        evolution=evolution.info.run,
        generations=len(individuals),
        best=individuals[0].generation if individuals else 0,
        fitness=individuals[0].fitness if individuals else 0.0,
        first=first.individual.fitness if first else None,
        files={
            what: evolution.bucket.url(file_key(evolution, *name)) for what, name in names.items()
        },
    )
