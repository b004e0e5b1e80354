"""Two processes train as one does, and go on from a state as if never interrupted.

How equal two trainings can be is limited: one process whose weights are off by a rounding error
drifts away from itself, in 12 steps with batches of 4 pictures by 4e-6, with batches of 5, 5 and 2
by 1e-2, for batch norm sees only 8 values a channel there. Hence many steps with the former, few
with the latter.
"""

import copy
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.ranks import Ranks, alone, ranks
from tests.tiny import tiny_trainer
from tests.yolov5_core.test_trainer import Data, differences, flat
from yolov5_core import checkpoint
from yolov5_core.distributed import ALONE, Group
from yolov5_core.epochs import EpochReport
from yolov5_core.step_policy import StepPolicy
from yolov5_core.sync_batch_norm import SyncBatchNorm2d, synchronise
from yolov5_core.trainer import Trainer

Trace = list[tuple[float, ...]]
Weights = dict[str, np.ndarray]
STEPS = 12  # from step 5 on, gradients of two steps are summed
CUT = 7  # with a sum under way


class CutOffError(Exception):
    """What takes a machine away."""


@pytest.fixture(scope="module")
def two_ranks() -> Iterator[Ranks]:
    with ranks(2) as run:
        yield run


def go_on(trainer: Trainer, until: int) -> Trace:
    """Trains until so many steps are done; the losses and targets after each."""
    trace: Trace = []

    def note(report: EpochReport) -> None:
        trace.append((*report.losses[:3], report.targets))
        if trainer.step == until:
            raise CutOffError

    with suppress(CutOffError):
        while True:
            trainer.record(trainer.train_epoch(note), None, 0.0)
    return trace


def begun(group: Group, data: Data, settings: dict[str, Any]) -> Trainer:
    trainer = tiny_trainer(*data, epochs=9, **settings)
    if not group.alone:
        trainer.join(group)
    return trainer


def weights_of(trainer: Trainer) -> Weights:
    return {key: value.numpy() for key, value in trainer.model.state_dict().items()}


def trained(
    group: Group, data: Data, steps: int, settings: dict[str, Any], parts: int
) -> tuple[Trace, Weights, dict[str, Any]]:
    """Trace, final weights and whole state of a training."""
    trainer = begun(group, data, settings)
    trainer.use(StepPolicy(micro_batches=parts))
    return go_on(trainer, steps), weights_of(trainer), dict(flat(trainer.state()))


def trained_and_resumed(
    group: Group, data: Data, folder: Path
) -> tuple[Trace, Weights, bool, list[str]]:
    """Trace, final weights, whether a sum of gradients was cut off, and what resuming changed."""
    whole = begun(group, data, {})
    trace = go_on(whole, CUT)
    amid = any(p.grad is not None for p in whole.model.parameters())
    path = folder / "of-rank-0.pt"  # which all ranks get
    if group.rank == 0:
        checkpoint.save(whole.state(), path)
    group.total(1)  # it is there now
    resumed = begun(group, data, {})
    resumed.restore(checkpoint.load(path))
    trace += go_on(whole, STEPS)
    go_on(resumed, STEPS)
    return trace, weights_of(whole), amid, differences(resumed, whole)


def largest_difference(ours: Weights, theirs: Weights) -> float:
    """Of two sets of weights, most of which are between 0.01 and 1."""
    assert ours.keys() == theirs.keys()
    return max(float(np.abs(ours[key] - value).max()) for key, value in theirs.items())


Long = tuple[Trace, Weights, bool, list[str]]


@pytest.fixture(scope="module")
def long(
    tiny_data: Data, two_ranks: Ranks, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Long, list[Long]]:
    """Twelve steps, in one process and in two."""
    folder = tmp_path_factory.mktemp("states")
    return (
        alone(trained_and_resumed, tiny_data, folder),
        two_ranks(trained_and_resumed, tiny_data, folder),
    )


@pytest.mark.slow
def test_two_ranks_take_the_steps_of_one_process(long: tuple[Long, list[Long]]):
    (whole, weights, *_), ((trace, ours, *_), (others, theirs, *_)) = long
    assert len(trace) == STEPS
    assert trace == others
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    np.testing.assert_allclose(trace[:8], whole[:8], rtol=2e-5)
    np.testing.assert_allclose(trace, whole, rtol=1e-3)  # reached: 8e-5
    assert largest_difference(ours, weights) < 1e-3


@pytest.mark.slow
def test_two_ranks_go_on_bit_for_bit_from_the_state_of_rank_0(long: tuple[Long, list[Long]]):
    for _, _, amid, changed in long[1]:
        assert amid
        assert changed == []


def same(state: dict[str, Any], other: dict[str, Any]) -> bool:
    """Of two ranks; one without pictures does not know their size, which rank 0 reports."""
    size = {".resume.report.image_size": 0}
    return state | size == other | size


# 12 pictures: in batches of 5 they are 5, 5 and 2, in batches of 11 they are 11 and 1, of which
# rank 1 has none.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"batch_size": 5, "rect": True}, 3),
        ({"batch_size": 11, "multi_scale": True, "freeze": (2,)}, 2),
        ({"batch_size": 8, "quad": True, "autobalance": True}, 1),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else str(value),
)
def test_so_they_do_with_other_settings_and_batches_that_do_not_divide(
    tiny_data: Data, two_ranks: Ranks, settings: dict[str, Any], steps: int
):
    whole, weights, _ = alone(trained, tiny_data, steps, settings, 1)
    (trace, ours, state), (_, _, their_state) = two_ranks(trained, tiny_data, steps, settings, 1)
    np.testing.assert_allclose(trace, whole, rtol=1e-5)
    assert largest_difference(ours, weights) < 1e-4
    assert same(state, their_state)


@pytest.mark.slow
def test_ranks_take_the_same_parts_of_a_batch_that_does_not_fit(tiny_data: Data, two_ranks: Ranks):
    """Each part is one of all ranks, so it has other pictures than in one process."""
    one, other = two_ranks(trained, tiny_data, 2, {"batch_size": 11}, 2)
    assert same(one[2], other[2])
    whole, _, _ = alone(trained, tiny_data, 2, {"batch_size": 11}, 1)
    np.testing.assert_allclose(one[0], whole, rtol=0.2)  # means of parts, not of the batch


# ---- without processes -------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 40))
def test_every_picture_of_a_batch_has_one_rank(world_size: int, pictures: int):
    batch = list(range(pictures))
    shares = [Group(rank, world_size).own(batch) for rank in range(world_size)]
    assert sorted(chain.from_iterable(shares)) == batch
    assert len(shares[0]) - len(shares[-1]) in (0, 1)
    assert shares[0]


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 4))
def test_every_rank_has_the_same_parts_and_no_part_is_empty(
    world_size: int, pictures: int, count: int
):
    found = []
    for rank in range(world_size):
        group = _Counted(rank, world_size, pictures)
        found.append(group.split(len(group.own(list(range(pictures)))), count))
    sizes, shares = zip(*found, strict=True)
    assert len({tuple(each) for each in shares}) == 1
    assert sum(shares[0]) == pytest.approx(1)
    by_part = [sum(part) for part in zip(*sizes, strict=True)]
    assert sum(by_part) == pictures
    assert [part / pictures for part in by_part] == (shares[0] if count > 1 else [1.0])
    assert min(sizes[0]) > 0


class _Counted(Group):
    """A rank that is told how many pictures the whole batch has."""

    __slots__ = ("whole",)

    def __init__(self, rank: int, world_size: int, whole: int) -> None:
        super().__init__(rank, world_size)
        object.__setattr__(self, "whole", whole)

    def total(self, count: int) -> int:
        assert count <= self.whole
        return self.whole


def test_one_process_alone_adds_nothing():
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    items = torch.ones(3)
    ALONE.begin_gradients([weight])
    assert ALONE.add_gradients([weight], items) is items
    assert weight.grad.tolist() == [1, 1]
    assert ALONE.total(7) == 7
    assert ALONE.shares([3, 0], items.device) == (1.0, 1.0)


# ---- batch norm --------------------------------------------------------------------------------


def normed(
    group: Group, x: torch.Tensor, weigh: torch.Tensor, eps: float
) -> tuple[np.ndarray, ...]:
    """Output, gradients and statistics of a batch norm for this rank's pictures."""
    norm = nn.BatchNorm2d(x.shape[1], eps=eps, momentum=0.1).double()
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 1 + x.shape[1]))
    model = nn.Sequential(norm)
    if not group.alone:
        synchronise(model, group)
    first = 0 if group.rank == 0 else 1  # rank 0 has one picture, the last rank all others
    own = slice(first, None if group.alone or group.rank else 1)
    mine = x[own].clone().requires_grad_()
    y = model(mine)
    (y * weigh[own]).sum().backward()
    assert mine.grad is not None
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    gradients = group.sum(torch.cat((norm.weight.grad, norm.bias.grad)))
    state = torch.cat([v.double().view(-1) for v in model.state_dict().values()])
    return tuple(t.detach().numpy() for t in (y, mine.grad, gradients, state))


@pytest.mark.parametrize("pictures", [3, 1], ids=["unequal", "none on rank 1"])
def test_batch_norm_over_ranks_is_that_over_the_whole_batch(two_ranks: Ranks, pictures: int):
    generator = torch.Generator().manual_seed(0)
    x, weigh = torch.randn(2, pictures, 4, 3, 2, generator=generator, dtype=torch.float64)
    whole = alone(normed, x, weigh, 1e-3)
    found = two_ranks(normed, x, weigh, 1e-3)
    for each in range(2):  # output, gradient of the input
        together = np.concatenate([rank[each] for rank in found])
        np.testing.assert_allclose(together, whole[each], rtol=1e-9, atol=1e-12)
    for rank in found:
        for each in (2, 3):
            np.testing.assert_allclose(rank[each], whole[each], rtol=1e-9, atol=1e-12)


def test_a_batch_norm_over_ranks_has_the_parameters_keys_and_inference_of_the_plain_one():
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=1e-3, momentum=0.03)).eval()
    before, x = copy.deepcopy(plain), torch.rand(2, 3, 5, 5)
    weight = plain[1].weight
    synchronise(plain, Group(0, 2))
    assert isinstance(plain[1], SyncBatchNorm2d)
    assert plain[1].weight is weight  # as the optimizer knows it
    assert list(plain.state_dict()) == list(before.state_dict())
    before.load_state_dict(plain.state_dict())
    assert torch.equal(plain(x), before(x))
