"""What a run may change by itself when a step fails, once each: half precision and the memory."""

from dataclasses import replace

from yolov5_core.loss_watch import TrainingDivergedError
from yolov5_core.step_policy import StepPolicy


def remedy(error: Exception, policy: StepPolicy, batch_size: int) -> tuple[StepPolicy, str] | None:
    """Another way to compute the steps, after which the last saved state may be continued.

    Args:
        error: What a step raised.
        policy: How it was computed.
        batch_size: Pictures a step.

    Returns:
        The policy and what it changes, in words; None if nothing is left to try.
    """
    if isinstance(error, TrainingDivergedError) and policy.mixed:
        return replace(policy, mixed=False), "full instead of mixed precision"
    if is_out_of_memory(error) and policy.micro_batches == 1 and batch_size > 1:
        change = f"every batch of {batch_size} in 2 parts, gradients added up"
        return replace(policy, micro_batches=2), change
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the device or of the machine did not suffice."""
    refused = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    named = type(error).__name__ == "OutOfMemoryError"  # torch's own, on a GPU
    return refused or named or isinstance(error, MemoryError)
