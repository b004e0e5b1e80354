"""The generations of an evolution in its bucket: what each one is to try, and what came of it.

A generation's plan, `evolve/<model>/plans/00000012.json`, is claimed by exclusive creation before
it is trained, its record, `evolve/<model>/00000012.json`, after; neither is ever written again. In
between, whoever holds the generation's lease trains it. So workers do different generations, one
that died is found by its silence, and the same generation done twice leaves one record.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

from tasks.champions import model_name
from tasks.errors import DamagedObjectError, MissingObjectError
from tasks.store import Store
from yolov5_core.evolve import Individual, Table, choose_parent, measured, mutate

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a generation is to try."""

    generation: int  # from 1, the table as given
    run: str  # that trains it
    hyp: Table
    parent: int  # generation whose table was changed; 0: the given one, before it was measured
    finished: tuple[int, ...]  # the generations that had a record then: the parent is one of them
    seed: int  # of the evolution and of every training
    data: str  # digest
    planned: str  # ISO 8601, UTC


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """What came of a plan."""

    plan: Plan
    results: tuple[float, ...]  # P, R, mAP50, mAP50-95, val box, obj, cls of the last epoch
    fault: str  # why there are none, then they are zeros; else ""
    seconds: float  # of training and measuring
    done: str  # ISO 8601, UTC
    host: str
    code: str

    @property
    def individual(self) -> Individual:
        """What selection needs of it."""
        return Individual(
            generation=self.plan.generation, hyp=self.plan.hyp, results=measured(self.results)
        )


@dataclass(kw_only=True, slots=True)
class Generations:
    """The log of an evolution, as far as it was read: what is there never changes."""

    bucket: Store
    name: str  # of the model
    plans: dict[int, Plan] = field(default_factory=dict)
    records: dict[int, Generation] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)  # whose plan or record cannot be read any more

    @property
    def folder(self) -> str:
        """Below which all of it is."""
        return f"evolve/{model_name(self.name)}"

    @property
    def individuals(self) -> list[Individual]:
        """Those that are done, in their order."""
        return [self.records[number].individual for number in sorted(self.records)]

    def read(self) -> None:
        """Reads what is new.

        Raises:
            StoreError: The bucket failed.
        """
        for number in range(1, self.bucket.highest_pointer(f"{self.folder}/plans") + 1):
            if number in self.records or number in self.lost:
                continue
            try:
                if number not in self.plans:
                    self.plans[number] = _plan(self.bucket.read_json(self._key("plans/", number)))
                self.records[number] = _generation(self.bucket.read_json(self._key("", number)))
            except MissingObjectError:
                continue  # not done yet
            except (DamagedObjectError, KeyError, TypeError, ValueError) as error:
                log.warning("generation %d is left out: %s", number, error)
                self.lost.add(number)

    def undone(self, generations: int) -> Iterator[Plan]:
        """Plans among the first so many generations that have no record, the first one first."""
        for number in range(1, generations + 1):
            if number in self.plans and number not in self.records and number not in self.lost:
                yield self.plans[number]

    def is_over(self, generations: int) -> bool:
        """Whether none of the first so many generations is left to do."""
        return all(
            number in self.records or number in self.lost for number in range(1, generations + 1)
        )

    def plan_next(self, evolution: str, given: Table, seed: int, data: str) -> Plan:
        """The plan of the first generation that has none, which another may claim first.

        Args:
            evolution: Id of the evolution; its generations' runs are named after it.
            given: The first generation's table.
            seed: Of the evolution.
            data: Digest of the data.
        """
        number = next(n for n in count(1) if n not in self.plans and n not in self.lost)
        finished = self.individuals
        hyp, parent = dict(given), 0
        if number > 1:
            if finished:
                chosen = choose_parent(finished, seed, number)
                hyp, parent = dict(chosen.hyp), chosen.generation
            tried = [plan.hyp for plan in self.plans.values()]
            hyp = mutate(hyp, given, tried, seed, number)
        return Plan(
            generation=number,
            run=f"{evolution}_g{number:04d}",
            hyp=hyp,
            parent=parent,
            finished=tuple(each.generation for each in finished),
            seed=seed,
            data=data,
            planned=now(),
        )

    def claim(self, plan: Plan) -> bool:
        """Makes a plan the plan of its generation; False if another one has it.

        Raises:
            StoreError: It cannot be told who has it.
        """
        return self.bucket.claim_pointer(f"{self.folder}/plans", plan.generation, asdict(plan))

    def record(self, generation: Generation) -> bool:
        """Says what came of a generation; False if that has been said.

        Raises:
            StoreError: It cannot be told.
        """
        number = generation.plan.generation
        return self.bucket.claim_pointer(self.folder, number, asdict(generation))

    def _key(self, kind: str, number: int) -> str:
        return f"{self.folder}/{kind}{number:08d}.json"


def json_lines(records: Sequence[Generation]) -> str:
    """evolve.jsonl: a line a generation, the fittest first, in full precision."""
    order = sorted(records, key=lambda each: (-each.individual.fitness, each.plan.generation))
    lines = (
        json.dumps({"fitness": each.individual.fitness, **_flat(each)}, allow_nan=False)
        for each in order
    )
    return "".join(f"{line}\n" for line in lines)


def now() -> str:
    """The time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _flat(record: Generation) -> dict[str, Any]:
    doc = asdict(record)
    return {**doc.pop("plan"), **doc}


def _plan(doc: Mapping[str, Any]) -> Plan:
    values = {key: value for key, value in doc.items() if key != "claim"}
    hyp = {str(key): float(value) for key, value in doc["hyp"].items()}
    return Plan(**{**values, "hyp": hyp, "finished": tuple(doc["finished"])})


def _generation(doc: Mapping[str, Any]) -> Generation:
    values = {key: value for key, value in doc.items() if key != "claim"}
    results = measured(float(value) for value in doc["results"])
    return Generation(**{**values, "plan": _plan(doc["plan"]), "results": results})
