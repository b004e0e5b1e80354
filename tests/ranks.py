"""Functions run by several ranks at once, each in a process of its own, over gloo."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from tests.tiny import CPU
from yolov5_core.distributed import Group, joined

Work = Callable[..., Any]
Ranks = Callable[..., list[Any]]
_PATIENCE_S = 120.0  # a busy machine is no fault


@contextmanager
def ranks(count: int) -> Iterator[Ranks]:
    """Runs work(group, *arguments) on every rank and returns what each of them returned."""
    context = multiprocessing.get_context("spawn")  # a fork would have autograd's threads, or not
    with ProcessPoolExecutor(count, mp_context=context, initializer=_prepare) as pool:

        def run(work: Work, *arguments: Any) -> list[Any]:
            store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            waiting = [
                pool.submit(_run, rank, count, store.port, work, arguments) for rank in range(count)
            ]
            return [each.result() for each in waiting]

        yield run


def _prepare() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False


def _run(rank: int, count: int, port: int, work: Work, arguments: tuple[Any, ...]) -> Any:
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    with joined(store, rank, count, CPU, _PATIENCE_S) as group:
        return work(group, *arguments)


def alone(work: Work, *arguments: Any) -> Any:
    """The same in this process."""
    return work(Group(), *arguments)
