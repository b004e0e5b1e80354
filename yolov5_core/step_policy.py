"""How a step is computed where memory or half precision do not suffice for the usual way."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPolicy:
    """How a step is computed; it moves a result by rounding and batch norm only."""

    mixed: bool = False  # autocast, with a loss scale on CUDA
    micro_batches: int = 1  # parts of a batch whose gradients are added up, so that each fits


def parts(images: Tensor, targets: Tensor, sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """A batch in parts of these sizes, each with its own targets."""
    if len(sizes) == 1:
        yield images, targets
        return
    first = 0
    for part in images.split_with_sizes(list(sizes)):
        own = targets[(targets[:, 0] >= first) & (targets[:, 0] < first + len(part))].clone()
        own[:, 0] -= first
        first += len(part)
        yield part, own
