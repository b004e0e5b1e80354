"""Every picture and box of an index in fixed bins: what data sets are counted and compared by."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from yolov5_core.index import Index

# Values beyond the outer edges belong to the outer bins. The square and the usual picture sizes lie
# inside a bin, not on an edge, where one pixel would move them.
EDGES: Mapping[str, np.ndarray] = MappingProxyType(
    {
        "box_size": 2.0 ** (np.arange(-40, 1) / 4),  # root of the share of the picture's area
        "box_aspect": 2.0 ** ((np.arange(-16, 18) - 0.5) / 4),  # width / height in pixels
        "brightness": np.arange(0.0, 257, 8),  # mean grey level
        "image_size": 2.0 ** ((np.arange(13, 61) - 0.5) / 4),  # longer side, pixels
        "boxes_per_picture": np.array([0.0, 1, 2, 3, 5, 9, 17, 33, 65, 129, 257, 513]),
    }
)


class Binned(NamedTuple):
    """Numbers of bins of many values, and the pictures they belong to."""

    picture: np.ndarray  # (k,) rows of the index
    bin: np.ndarray  # (k,)
    num_bins: int

    def counts(self, chosen: np.ndarray) -> np.ndarray:
        """(num_bins,) int64, how many values of chosen pictures fall into each bin.

        Args:
            chosen: (n,) bool, by row of the index.
        """
        return np.bincount(self.bin[chosen[self.picture]], minlength=self.num_bins)


def binned(index: Index, num_classes: int) -> dict[str, Binned]:
    """The pictures and boxes of an index by the names of EDGES, boxes also by "class".

    As in training, a region of many objects is no box; "crowd" has them all in one bin.
    """
    images, is_crowd = index.images, index.labels["crowd"]
    pictures = np.arange(len(index))
    picture_of_row = np.repeat(pictures, np.diff(images["label_end"], prepend=0))
    picture = picture_of_row[~is_crowd]
    box = index.labels["box"][~is_crowd].T.astype(np.float64)  # class, cx, cy, w, h
    width, height = (images[side].astype(np.float64) for side in ("width", "height"))
    values = {
        "box_size": np.sqrt(box[3] * box[4]),
        "box_aspect": box[3] * width[picture] / np.maximum(box[4] * height[picture], 1e-9),
        "brightness": images["brightness"],
        "image_size": np.maximum(width, height),
        "boxes_per_picture": np.bincount(picture, minlength=len(index)),
    }
    crowd = picture_of_row[is_crowd]
    result = {
        "class": Binned(picture, box[0].astype(np.int64), num_classes),
        "crowd": Binned(crowd, np.zeros(len(crowd), np.int64), 1),
    }
    for name, edges in EDGES.items():
        bins = np.clip(np.searchsorted(edges, values[name], "right") - 1, 0, len(edges) - 2)
        result[name] = Binned(
            picture if name.startswith("box_") else pictures, bins, len(edges) - 1
        )
    return result
