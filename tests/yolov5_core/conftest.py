"""What the tests of the core share: a tiny data set, and torch as training on a CPU sets it."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings
from torch.utils import deterministic

from tests.tiny import draw_records
from yolov5_core.dataset import Record

# A busy machine is no fault of the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def _reproducible_torch() -> Iterator[None]:
    # One thread: these tensors are too small to share, and waiting threads hold up a busy machine.
    threads = torch.get_num_threads()
    filling = deterministic.fill_uninitialized_memory
    was_strict = torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = False
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(was_strict)
    deterministic.fill_uninitialized_memory = filling


@pytest.fixture(scope="session")
def tiny_data(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """12 training and 4 validation pictures of about 64 pixels, four classes."""
    train, val = draw_records(tmp_path_factory.mktemp("tiny"), train=12, val=4)
    return train, val
