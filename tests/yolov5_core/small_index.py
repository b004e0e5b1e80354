"""Indices of a few pictures, every number given by the test."""

import hashlib
from collections.abc import Sequence

import numpy as np

from yolov5_core.dataset import NO_SEGMENT, Truth
from yolov5_core.index import SPLITS, Entry, Index, build_index, sorted_order

PLAIN_HASH = 0x0F0F_0F0F_0F0F_0F0F  # 32 bits set
Box = tuple[float, float, float, float, float]  # class, normalised cx, cy, w, h


def picture(
    name: str,
    split: str = "train",
    *,
    boxes: Sequence[Box] = (),
    crowd: Sequence[Box] = (),
    size_wh: tuple[int, int] = (640, 480),
    brightness: float = 100,
    dhash: int = PLAIN_HASH,
    content: str | None = None,
) -> Entry:
    """A picture whose bytes are its own unless another has the same content."""
    return Entry(
        name=name,
        split=SPLITS.index(split),
        shard=0,
        place=(0, 1),
        sha256=hashlib.sha256((content or f"{split}/{name}").encode()).digest(),
        size_wh=size_wh,
        brightness=brightness,
        dhash=dhash,
        truth=Truth(
            labels=np.array(boxes, np.float32).reshape(-1, 5),
            segments=(NO_SEGMENT,) * len(boxes),
            crowd=np.array(crowd, np.float32).reshape(-1, 5),
        ),
    )


def index_of(*pictures: Entry) -> Index:
    """An index, sorted as a prepared one is."""
    if not pictures:
        return build_index(())
    index = build_index(pictures)
    return index.take(sorted_order(index))
