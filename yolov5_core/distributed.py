"""Processes that train one model together: who takes which pictures, and sums over all of them.

Every rank takes its part of the same batches and adds up with the others what depends on the whole
batch: gradients, losses, their denominators, and, in sync_batch_norm.py, the statistics. So all
ranks hold the same state after every step, and it is the one that a single process would have, up
to rounding.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Group:
    """The ranks of a training, or one process alone.

    Tensors must be on the device of training; all ranks must call the same methods in the same
    order.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def alone(self) -> bool:
        """True if there is nobody to add up with."""
        return self.world_size == 1

    def own(self, items: list[_Item]) -> list[_Item]:
        """This rank's part of a batch; rank 0 always has one, the last ones may have none."""
        return items[self.rank :: self.world_size]

    def split(self, own: int, count: int) -> tuple[list[int], list[float]]:
        """A batch in parts that are computed one after the other, the same number on all ranks.

        Args:
            own: This rank's pictures of the batch.
            count: Parts, at most; no part is without pictures on rank 0.

        Returns:
            This rank's pictures of each part, and what share of the whole batch each part is.
        """
        if count == 1:
            return [own], [1.0]
        whole = self.total(own)
        by_rank = [_sizes(_share(whole, rank, self.world_size), count, whole, self.world_size)
                   for rank in range(self.world_size)]  # fmt: skip
        shares = [sum(part) / whole for part in zip(*by_rank, strict=True)]
        return by_rank[self.rank], shares

    def total(self, count: int) -> int:
        """The sum of a number over all ranks."""
        if self.alone:
            return count
        summed = torch.tensor(count)
        dist.all_reduce(summed)
        return int(summed)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, without a gradient."""
        if self.alone:
            return tensor
        summed = tensor.detach().clone()
        dist.all_reduce(summed)
        return summed

    def gather(self, tensor: Tensor) -> Tensor:
        """The ranks' tensors (...), stacked: (world_size, ...)."""
        found = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(found, tensor)
        return torch.stack(found)

    def begin_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Before a backward pass: gradients of steps before it are left to rank 0.

        They are the sums over all ranks, so they may be added in only once.
        """
        if self.rank:
            for parameter in parameters:
                parameter.grad = None

    @torch.no_grad()
    def add_gradients(self, parameters: Iterable[nn.Parameter], items: Tensor) -> Tensor:
        """After a backward pass: every gradient becomes the sum over all ranks.

        Args:
            parameters: The same on all ranks; a gradient that is None counts as 0.
            items: (K,) to be summed too.

        Returns:
            The summed items. All of it is one message, and one order of additions.
        """
        if self.alone:
            return items
        gradients = []
        for parameter in parameters:
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        flat = torch.cat([*(g.reshape(-1) for g in gradients), items])
        dist.all_reduce(flat)
        *pieces, summed = flat.split_with_sizes([*(g.numel() for g in gradients), len(items)])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view(gradient.shape))
        return summed.clone()

    def shares(self, counts: Sequence[int], device: torch.device) -> Sequence[float] | Tensor:
        """What share of the sum over all ranks each of this rank's counts is; 0 of 0 is 0."""
        if self.alone:
            return (1.0,) * len(counts)
        own = torch.tensor(counts, dtype=torch.float32, device=device)
        return own / self.sum(own).clamp(min=1)

    def send(self, content: bytes | None) -> bytes:
        """What rank 0 has to say to all.

        Args:
            content: Given by rank 0 alone.
        """
        size = self.total(len(content) if content is not None else 0)
        data = torch.empty(size, dtype=torch.uint8)
        if content is not None:
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        dist.broadcast(data, src=0)
        return data.numpy().tobytes()


ALONE = Group()


def _share(whole: int, rank: int, world_size: int) -> int:
    """How many of so many items Group.own gives a rank."""
    return len(range(rank, whole, world_size))


def _sizes(own: int, count: int, whole: int, world_size: int) -> list[int]:
    """Sizes of equal parts, the larger first; as many as rank 0 can fill."""
    count = min(count, _share(whole, 0, world_size))
    return [_share(own, part, count) for part in range(count)]


@contextmanager
def joined(
    store: Store, rank: int, world_size: int, device: torch.device, timeout_s: float
) -> Iterator[Group]:
    """A group while the block lasts; what is left of it then goes on no rank.

    Args:
        store: Where the ranks meet, shared by all.
        rank: From 0.
        world_size: Ranks.
        device: Of this rank; numbers on the host are always summed by gloo.
        timeout_s: After so long without an answer a rank counts as lost.
    """
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_s),
    )
    try:
        yield Group(rank, world_size)
    finally:
        dist.destroy_process_group()
