"""Checkpoints of ours from public ones, and weights of ours for the public model class."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolov5_core.architecture import from_mapping
from yolov5_core.checkpoint import build_detector, halved
from yolov5_core.foreign import read_public_checkpoint


def from_public(path: Path, sha256: str) -> dict[str, Any]:
    """The payload of a checkpoint of ours (checkpoint.py) with a public file's weights.

    The weights are exactly the file's: fp16 where that loses nothing, as in most public files, else
    fp32. There is nothing to resume in it, only to start from, evaluate and export.

    Args:
        path: The public file; nothing in it is executed.
        sha256: Its digest, for the lineage.

    Raises:
        ForeignCheckpointError: No readable public file.
        ConfigError: A network with blocks we do not have.
        CheckpointError: Its weights do not fit its own description.

    Source: spec A.8.
    """
    public = read_public_checkpoint(path)
    description = from_mapping(public.description, str(path)).to_mapping()
    build_detector({"description": description, "model": public.state_dict}, str(path))
    half = halved(public.state_dict)
    is_exact = all(torch.equal(half[key].to(v.dtype), v) for key, v in public.state_dict.items())
    return {
        "epoch": -1,
        "best_fitness": public.best_fitness or 0.0,
        "training_results": public.training_results or "",
        "model": half if is_exact else public.state_dict,
        "optimizer": None,
        "resume": None,
        "description": description,
        "names": list(public.names),
        "nc": public.num_classes,
        "stride": list(public.strides),
        "hyp": public.hyp,
        "metrics": {},
        "lineage": {"parent": path.name, "parent_sha256": sha256},
    }


def to_public(payload: dict[str, Any], where: str) -> dict[str, Tensor]:
    """Weights of a checkpoint of ours as the public model class has them.

    Returns:
        Keys, their order, shapes and dtypes (float32, counters int64) are those of a public model
        of the same description, so that its `load_state_dict` takes all of them.

    Raises:
        ConfigError, CheckpointError: The weights do not fit the description they came with.

    Source: spec A.8.
    """
    return dict(build_detector(payload, where).state_dict())
