"""The device that a process computes on."""

import torch

from yolov5_core.config import ConfigError, Precision, TrainConfig


def pick_device(device: str, local_rank: int = 0) -> torch.device:
    """The device of a run, ready for reproducible work.

    Args:
        device: "" for the first GPU or else the CPU, "cpu", or a GPU's number.
        local_rank: With several GPUs, which of them from that one on.

    Raises:
        ConfigError: No such GPU.
    """
    found = torch.cuda.device_count()
    if device == "cpu" or (device == "" and found == 0):
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid, slow
        return torch.device("cpu")
    number = int(device or 0) + local_rank
    if number >= found:
        raise ConfigError(f"device={device}: this machine has {found} GPUs; use device=cpu")
    return torch.device("cuda", number)


def require_precision(device: torch.device, precision: Precision) -> None:
    """Makes sure that a GPU computes in what a run asks for.

    Raises:
        ConfigError: It does not.
    """
    if device.type == "cuda" and precision == "bfloat16" and not torch.cuda.is_bf16_supported():
        raise ConfigError("precision=bfloat16: this GPU does not compute in it; use mixed")


def require_gpus(device: str, gpus: int) -> None:
    """Makes sure that several processes find a GPU each.

    Raises:
        ConfigError: There are fewer, or none and nobody asked for the CPU.
    """
    found = torch.cuda.device_count()
    if gpus == 1 or device == "cpu":
        return
    if found == 0:
        raise ConfigError(
            f"gpus={gpus}: this machine has no GPU; leave gpus out, or train with {gpus} processes "
            "on its CPU by device=cpu"
        )
    if int(device or 0) + gpus > found:
        first = f" and device={device} is the first to use" if int(device or 0) else ""
        raise ConfigError(f"gpus={gpus}: this machine has {found} GPUs{first}; ask for fewer")


def tune_convolutions(training: TrainConfig) -> None:
    """Lets cuDNN try which kernel is fastest, once a shape: where shapes stay the same.

    On a GPU that may change the last bits from one attempt to the next, as atomic additions do
    anyway; on a CPU it has no meaning.
    """
    torch.backends.cudnn.benchmark = not (training.multi_scale or training.rect)
