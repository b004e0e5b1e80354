"""The losses of an epoch under way: their mean, and the first step at which they were no numbers.

A look at them waits for the device, so on a GPU it is rare; the step is told exactly all the same.
"""

import math

import torch
from torch import Tensor

_LOOK_EVERY = 50  # steps, on a GPU


class TrainingDivergedError(ValueError):
    """The loss is no longer a number: settings or labels to correct; what was saved is intact."""


class NotFiniteError(Exception):
    """A loss or gradient is no number.

    Attributes:
        batch: Number of the first such batch in the epoch.
        losses: Mean losses (box, obj, cls) of the epoch up to the look.
    """

    def __init__(self, batch: int, losses: tuple[float, float, float]) -> None:
        super().__init__(f"batch {batch}: losses {losses}")
        self.batch = batch
        self.losses = losses


class LossWatch:
    """Adds up an epoch.

    Attributes:
        mean: (3,) float32, mean losses box, obj, cls of the batches so far.
        count: How many batches that are.
        seen: The mean as last copied to the host.
    """

    def __init__(self, device: torch.device) -> None:
        self.mean = torch.zeros(3, device=device)
        self.count = 0
        self.seen = (0.0, 0.0, 0.0)
        self._first_bad = torch.full((), torch.iinfo(torch.int64).max, device=device)
        self._every = 1 if device.type == "cpu" else _LOOK_EVERY

    def add(self, items: Tensor) -> None:
        """Adds the (3,) losses of the next batch.

        Raises:
            NotFiniteError: They, or earlier ones nobody has looked at, are no numbers.
        """
        self._note(items, self.count)
        self.mean += (items - self.mean) / (self.count + 1)
        self.count += 1
        if self.count % self._every == 0:
            self.look()

    def note(self, values: Tensor) -> None:
        """Remembers the batch added last if any of the values, such as its gradients', is bad."""
        self._note(values, self.count - 1)

    def _note(self, values: Tensor, batch: int) -> None:
        bad = torch.where(torch.isfinite(values).all(), self._first_bad, batch)
        self._first_bad = torch.minimum(self._first_bad, bad)

    def look(self) -> tuple[float, float, float]:
        """The mean, on the host.

        Raises:
            NotFiniteError: A batch so far was bad.
        """
        box, obj, cls = self.mean.tolist()
        self.seen = (box, obj, cls)
        first_bad = int(self._first_bad)
        if first_bad <= self.count or not math.isfinite(box + obj + cls):
            raise NotFiniteError(min(first_bad, self.count - 1), self.seen)
        return self.seen

    def state(self) -> dict[str, Tensor | int]:
        """All of it."""
        return {"mean": self.mean.clone(), "count": self.count}

    def restore(self, state: dict[str, Tensor | int]) -> None:
        """Goes on from a state(), which was looked at."""
        self.mean.copy_(torch.as_tensor(state["mean"]))
        self.count = int(state["count"])
