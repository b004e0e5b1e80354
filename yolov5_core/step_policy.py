"""How a step is computed where memory or half precision do not suffice for the usual way."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from yolov5_core.config import Precision


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPolicy:
    """How a step is computed; it moves a result by rounding and batch norm only."""

    mixed: bool = False  # autocast
    bfloat16: bool = False  # in bfloat16, which needs no loss scale, wherever float16 is usual
    micro_batches: int = 1  # parts of a batch whose gradients are added up, so that each fits


def usual_policy(device: torch.device, precision: Precision) -> StepPolicy:
    """What a run asks for on a GPU; float32 on a CPU."""
    on_gpu = device.type == "cuda"
    return StepPolicy(
        mixed=on_gpu and precision != "full", bfloat16=on_gpu and precision == "bfloat16"
    )


def autocast(policy: StepPolicy, device: torch.device) -> torch.autocast:
    """The precision of a policy, for a block of computations."""
    dtype = torch.bfloat16 if policy.bfloat16 else None
    return torch.autocast(device.type, dtype, enabled=policy.mixed)


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
