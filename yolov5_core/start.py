"""Where a training run starts from: fresh or transferred weights, anchors that fit the data."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from yolov5_core.anchors import AnchorCheck, check_anchors
from yolov5_core.architecture import ModelDescription
from yolov5_core.config import ConfigError
from yolov5_core.dataset import Record
from yolov5_core.model import Detector, in_stride_order, transfer
from yolov5_core.randomness import generator

log = logging.getLogger(__name__)

_FITS_NOTHING = 1e-6  # pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class ParentWeights:
    """Weights another run left, to start from."""

    description: ModelDescription
    state_dict: Mapping[str, Tensor]
    where: str  # for messages


class FirstModel(NamedTuple):
    """The model a run starts with, and how much of it other weights gave."""

    model: Detector
    transferred: int  # entries of its state_dict
    entries: int  # it has


def new_detector(description: ModelDescription, seed: int) -> Detector:
    """A detector with the seed's initial weights; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Detector(description)


def with_anchor_count(description: ModelDescription, anchors: float) -> ModelDescription:
    """The description with the hyperparameter `anchors` (rounded) a level; 0 changes nothing."""
    count = round(anchors)
    return replace(description, anchors=count) if count else description


def transferred(
    description: ModelDescription, parent: ParentWeights, seed: int, *, skip_anchors: bool
) -> FirstModel:
    """A new detector with every fitting entry of the parent's weights.

    Returns:
        The detector, how many of its entries were transferred, and how many it has.

    Raises:
        ConfigError: Nothing fits: the weights belong to another architecture.
    """
    model = new_detector(description, seed)
    done, total = transfer(model, parent.state_dict, skip_anchors=skip_anchors)
    log.info("transferred %d/%d entries from %s", done, total, parent.where)
    if not any(key.endswith("conv.weight") for key in _fitting(model, parent.state_dict)):
        raise ConfigError(
            f"weights={parent.where}: no layer fits this model; leave cfg empty to train the "
            "architecture of the weights, or choose weights of the same variant"
        )
    return FirstModel(model, done, total)


def _fitting(model: Detector, state_dict: Mapping[str, Tensor]) -> list[str]:
    own = model.state_dict()
    return [k for k, v in state_dict.items() if k in own and own[k].shape == v.shape]


def fit_anchors(
    model: Detector, records: Sequence[Record], image_size: int, anchor_t: float, seed: int
) -> AnchorCheck:
    """Checks the model's anchors against the labels and sets better ones if there are any.

    Source: spec D.6.
    """
    detect = model.detect
    stride = detect.stride.view(-1, 1, 1)
    given = (detect.anchors.cpu() * stride).view(-1, 2).double().numpy()
    if isinstance(model.description.anchors, int):  # placeholders, to be replaced whatever the data
        given = np.full_like(given, _FITS_NOTHING)
    check = check_anchors(
        [(r.width, r.height) for r in records],
        [r.labels for r in records],
        given,
        image_size,
        anchor_t,
        rng=generator(seed, "anchors"),
    )
    log.info("%s", check.message)
    if check.replaced:
        levels = check.anchors.reshape(detect.nl, detect.na * 2)
        ordered = in_stride_order([tuple(row) for row in levels], detect.stride.tolist())
        pixels = torch.from_numpy(np.array(ordered)).view(detect.nl, detect.na, 2)
        detect.anchors.copy_(pixels / stride)
    return check
