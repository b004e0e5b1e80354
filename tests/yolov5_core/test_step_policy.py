from collections.abc import Sequence

import pytest
import torch

from tests.tiny import tiny_trainer
from yolov5_core.dataset import Record
from yolov5_core.step_policy import StepPolicy, autocast, usual_policy

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("mixed", StepPolicy(mixed=True)),
        ("bfloat16", StepPolicy(mixed=True, bfloat16=True)),
        ("full", StepPolicy()),
    ],
)
def test_a_gpu_computes_as_asked_for_and_a_cpu_in_full(precision, expected):
    assert usual_policy(GPU, precision) == expected
    assert usual_policy(CPU, precision) == StepPolicy()


@pytest.mark.parametrize(
    ("policy", "dtype"),
    [
        (StepPolicy(), torch.float32),
        (StepPolicy(mixed=True, bfloat16=True), torch.bfloat16),
    ],
)
def test_products_within_have_the_type_of_the_policy(policy: StepPolicy, dtype: torch.dtype):
    one = torch.ones(2, 2)
    with autocast(policy, CPU):
        assert (one @ one).dtype == dtype


def test_a_step_in_bfloat16_is_nearly_one_in_full(tiny_data: tuple[Sequence[Record], ...]):
    full, short = (tiny_trainer(*tiny_data) for _ in range(2))
    short.use(StepPolicy(mixed=True, bfloat16=True))
    losses = [trainer.train_epoch().losses for trainer in (full, short)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    resumed = tiny_trainer(*tiny_data)
    resumed.restore(short.state())
    assert resumed.policy == short.policy
