"""Where a run is killed: around every kind of write, and between any two steps of training."""

import os
import random
import re
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import yolov5_core.checkpoint
from tasks.folder_objects import FolderObjects
from yolov5_core.trainer import Trainer

When = Literal["before", "during", "after"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One place and how the process ends there."""

    name: str
    what: str  # regular expression on the path of a write, or "step N"
    when: When = "during"
    how: Literal["KILL", "TERM"] = "KILL"
    nth: int = 1  # of the writes that match
    workers: int = 0

    def __str__(self) -> str:
        workers = f" with {self.workers} workers" if self.workers else ""
        return f"{self.how} {self.when} {self.name}{workers}"

    def to_mapping(self) -> dict[str, Any]:
        return asdict(self)


# Kinds of writes, in the order of a run; paths are absolute.
WRITES = {
    "run.json": r"/runs/night/run\.json$",
    "a shard": r"/datasets/.*\.tar$",
    "the manifest": r"/datasets/.*manifest\.json$",
    "the data report": r"/runs/night/data/report\.json$",
    "what is known of the source": r"/datasets/sources/",
    "a sign of life": r"/leases/train/",
    "an attempt": r"/attempts/train/00000001\.json$",
    "labels.png": r"/plots/labels\.png$",
    "the second results.txt": r"/runs/night/results\.txt$",
    "the second events file": r"/tensorboard/",
    "results in the bucket": r"/bucket/results/",
    "a local checkpoint": r"/checkpoint\.pt$",
    "a state": r"/checkpoints/step-",
    "a pointer": r"/checkpoints/log/",
    "the commit of train": r"/attempts/train/00000002\.json$",
    "the record of train": r"/stages/train\.json$",
    "an evaluation": r"/evaluation/",
    "the commit of evaluate": r"/attempts/evaluate/00000002\.json$",
    "final weights": r"/runs/night/weights/",
    "the record of finalize": r"/stages/finalize\.json$",
    "published weights": r"/bucket/weights/best",
    "the champion's copy": r"/bucket/champions/.*/weights/",
    "the champion's entry": r"/bucket/champions/.*/00000001\.json$",
    "the champion's address": r"/bucket/weights/champion",
    "a plot": r"/plots/results\.png$",
    "the run card": r"/runs/night/report\.html$",
}
_LATER = {"the second results.txt": 2, "the second events file": 2, "a state": 5, "a pointer": 4}


def all_points() -> list[Point]:
    """Every kind of write before, during and after, with -9; some with TERM; and steps."""
    whens: tuple[When, ...] = ("before", "during", "after")
    writes = [
        Point(name=name, what=what, when=when, nth=_LATER.get(name, 1))
        for name, what in WRITES.items()
        for when in whens
    ]
    gentle = [
        Point(name=name, what=what, how="TERM", nth=_LATER.get(name, 1))
        for name, what in WRITES.items()
    ]
    chance = random.Random(0)  # noqa: S311  no secret
    steps = [
        Point(name=f"step {step}", what=f"step {step}", how=how, when=when, workers=workers)
        for workers in (0, 1, 4)
        for how in ("KILL", "TERM")
        for when in whens
        for step in [chance.randrange(2, 17)]
    ]
    return [*writes, *gentle, *steps]


def arm(point: Point) -> None:
    """Makes this process end at the point."""
    end = _Ending(point)
    if point.what.startswith("step "):
        _around_step(end, int(point.what.removeprefix("step ")))
        return
    for owner, name in (
        (FolderObjects, "write"),
        (FolderObjects, "create"),
        (yolov5_core.checkpoint, "save"),
    ):
        setattr(owner, name, end.around(getattr(owner, name)))


class _Ending:
    def __init__(self, point: Point) -> None:
        self.point = point
        self.seen = 0

    def now(self) -> None:
        """The end, or, with TERM, its beginning."""
        number = signal.SIGKILL if self.point.how == "KILL" else signal.SIGTERM
        os.kill(os.getpid(), number)

    def around(self, write: Callable[..., Any]) -> Callable[..., Any]:
        """A write that ends before, during or after its n-th time on a matching path."""

        def wrapped(*args: Any) -> Any:
            if not re.search(self.point.what, str(args[1])):  # (store, path, ...), (payload, path)
                return write(*args)
            self.seen += 1
            if self.seen != self.point.nth:
                return write(*args)
            if self.point.when == "before":
                self.now()
            if self.point.when == "during":  # written, but not yet in its place
                with _first_call(os, "fsync", self.now):
                    return write(*args)
            done = write(*args)
            if self.point.when == "after":
                self.now()
            return done

        return wrapped


class _first_call:  # noqa: N801  reads as a function
    """While it lasts, the first call of a function does something before."""

    def __init__(self, owner: Any, name: str, act: Callable[[], None]) -> None:
        self.owner, self.name, self.act = owner, name, act
        self.real = getattr(owner, name)

    def __enter__(self) -> None:
        def once(*args: Any) -> Any:
            setattr(self.owner, self.name, self.real)
            self.act()
            return self.real(*args)

        setattr(self.owner, self.name, once)

    def __exit__(self, *_: object) -> None:
        setattr(self.owner, self.name, self.real)


def _around_step(end: _Ending, number: int) -> None:
    real, backward = Trainer._step, Trainer._backward

    def step(self: Trainer, batch: Any) -> None:
        at_it = self.step == number
        if at_it and end.point.when == "before":
            end.now()
        real(self, batch)
        if at_it and end.point.when == "after":
            end.now()

    def amid(self: Trainer, *args: Any) -> Any:
        items = backward(self, *args)
        if self.step == number and end.point.when == "during":
            end.now()
        return items

    Trainer._step = step  # type: ignore[method-assign]
    Trainer._backward = amid  # type: ignore[method-assign]
