"""Box formats, overlap, and the geometry of letterboxes and rectangular batches; numpy only.

Boxes are xyxy (corners, pixels) unless the name says cxcywh (centre and size). Functions marked
"numpy or torch" use operators both understand, so the formula exists once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

Array = TypeVar("Array", bound=Any)  # np.ndarray or torch.Tensor; torch is not imported here

_EPS = 1e-7  # spec B.3, C.8: keeps 0/0 of boxes without area at 0


def cxcywh_to_xyxy(boxes_cxcywh: Array) -> Array:
    """Corners of boxes given by centre and size (numpy or torch).

    Args:
        boxes_cxcywh: (..., 4) centre x, centre y, width, height, any unit, float.

    Returns:
        (..., 4) x1, y1, x2, y2 in the same unit and dtype, a new array.
    """
    out = boxes_cxcywh * 1.0  # a copy in both libraries
    half = boxes_cxcywh[..., 2:] / 2
    out[..., :2] = boxes_cxcywh[..., :2] - half
    out[..., 2:] = boxes_cxcywh[..., :2] + half
    return out


def xyxy_to_cxcywh(boxes_xyxy: Array) -> Array:
    """Centre and size of boxes given by corners (numpy or torch).

    Args:
        boxes_xyxy: (..., 4) x1, y1, x2, y2, any unit, float.

    Returns:
        (..., 4) centre x, centre y, width, height in the same unit and dtype, a new array.
    """
    out = boxes_xyxy * 1.0
    out[..., :2] = (boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) / 2
    out[..., 2:] = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    return out


def denormalise(
    boxes_cxcywh: Array, width: float, height: float, pad_x: float = 0, pad_y: float = 0
) -> Array:
    """Pixel corners of normalised boxes (numpy or torch).

    Args:
        boxes_cxcywh: (..., 4) fractions of the image.
        width: Image width, pixels.
        height: Image height, pixels.
        pad_x: Offset of the image on its canvas, pixels.
        pad_y: The same, downwards.

    Returns:
        (..., 4) xyxy pixels of the canvas, a new array.

    Source: spec C.7.
    """
    out = cxcywh_to_xyxy(boxes_cxcywh)
    out[..., 0::2] = out[..., 0::2] * width + pad_x
    out[..., 1::2] = out[..., 1::2] * height + pad_y
    return out


def normalise(
    boxes_xyxy: Array, width: float, height: float, clip_margin: float | None = None
) -> Array:
    """Normalised centre and size of pixel boxes (numpy or torch).

    Args:
        boxes_xyxy: (..., 4) pixels.
        width: Image width, pixels.
        height: Image height, pixels.
        clip_margin: If given, corners are first clipped to [0, side - clip_margin] (training: 1e-3,
            which keeps every centre inside the last grid cell).

    Returns:
        (..., 4) cxcywh fractions, a new array.

    Source: spec C.10.
    """
    if clip_margin is not None:
        boxes_xyxy = clip_boxes(boxes_xyxy, width - clip_margin, height - clip_margin)
    out = xyxy_to_cxcywh(boxes_xyxy)
    out[..., 0::2] = out[..., 0::2] / width
    out[..., 1::2] = out[..., 1::2] / height
    return out


def clip_boxes(boxes_xyxy: Array, width: float, height: float) -> Array:
    """Boxes cut to [0, width] x [0, height]; (..., 4), a new array (numpy or torch)."""
    out = boxes_xyxy * 1.0
    out[..., 0::2] = out[..., 0::2].clip(0, width)
    out[..., 1::2] = out[..., 1::2].clip(0, height)
    return out


def pairwise_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair.

    Args:
        a: (N, 4) xyxy.
        b: (M, 4) xyxy, same unit.

    Returns:
        (N, M) in [0, 1]; 0 where a box has no area.

    Source: spec B.3, eps 1e-7.
    """
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = (bottom_right - top_left).clip(0).prod(2)
    area_a = (a[:, 2:] - a[:, :2]).prod(1)
    area_b = (b[:, 2:] - b[:, :2]).prod(1)
    return overlap / (area_a[:, None] + area_b[None, :] - overlap + _EPS)


def covered_share(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Share of each other box's area that lies under one box.

    Args:
        box: (4,) xyxy.
        others: (N, 4) xyxy.

    Returns:
        (N,) intersection over the other's area, in [0, 1].

    Source: spec C.8, copy-paste.
    """
    top_left = np.maximum(box[:2], others[:, :2])
    bottom_right = np.minimum(box[2:], others[:, 2:])
    overlap = (bottom_right - top_left).clip(0).prod(1)
    return overlap / ((others[:, 2:] - others[:, :2]).prod(1) + _EPS)


def segments_to_boxes(segments: Sequence[np.ndarray]) -> np.ndarray:
    """Boxes around polygons.

    Args:
        segments: n polygons, each (k, 2) with k >= 1.

    Returns:
        (n, 4) cxcywh in the polygons' unit and dtype (float32 if there are none).

    Source: spec C.3.
    """
    if not segments:
        return np.zeros((0, 4), np.float32)
    return xyxy_to_cxcywh(np.stack([np.concatenate((s.min(0), s.max(0))) for s in segments]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Letterbox:
    """How an image of one shape lies on a canvas of another."""

    ratio: tuple[float, float]  # (x, y), canvas pixels per image pixel
    pad: tuple[float, float]  # (x, y), half of the total padding, may end in .5
    unpadded_wh: tuple[int, int]  # size of the resized image
    top: int  # border, pixels
    bottom: int
    left: int
    right: int

    @property
    def canvas_hw(self) -> tuple[int, int]:
        """Height and width of the padded result."""
        width, height = self.unpadded_wh
        return height + self.top + self.bottom, width + self.left + self.right


def letterbox_geometry(
    shape_hw: tuple[int, int],
    new_shape_hw: tuple[int, int],
    *,
    auto: bool = False,
    scale_fill: bool = False,
    scaleup: bool = True,
    stride: int = 32,
) -> Letterbox:
    """Ratio, size and borders that fit an image into a canvas.

    Args:
        shape_hw: Image height and width.
        new_shape_hw: Canvas height and width.
        auto: Pad only up to the next multiple of the stride.
        scale_fill: Stretch to the canvas instead of padding.
        scaleup: Also enlarge small images.
        stride: Used by auto, pixels.

    Source: spec C.6.
    """
    (height, width), (new_height, new_width) = shape_hw, new_shape_hw
    ratio = min(new_height / height, new_width / width)
    if not scaleup:
        ratio = min(ratio, 1.0)
    ratio_xy = (ratio, ratio)
    unpadded_wh = (round(width * ratio), round(height * ratio))
    pad_x: float = new_width - unpadded_wh[0]
    pad_y: float = new_height - unpadded_wh[1]
    if auto:
        pad_x, pad_y = pad_x % stride, pad_y % stride
    elif scale_fill:
        pad_x, pad_y = 0, 0
        unpadded_wh = (new_width, new_height)
        ratio_xy = (new_width / width, new_height / height)
    pad_x, pad_y = pad_x / 2, pad_y / 2
    return Letterbox(
        ratio=ratio_xy,
        pad=(pad_x, pad_y),
        unpadded_wh=unpadded_wh,
        top=round(pad_y - 0.1),  # an odd pixel goes to the bottom or right
        bottom=round(pad_y + 0.1),
        left=round(pad_x - 0.1),
        right=round(pad_x + 0.1),
    )


def unletterbox(
    boxes_xyxy: Array,
    canvas_hw: tuple[int, int],
    native_hw: tuple[int, int],
    ratio_pad: tuple[tuple[float, float], tuple[float, float]] | None = None,
) -> Array:
    """Boxes of a letterboxed canvas in the native image's pixels, clipped to it (numpy or torch).

    Args:
        boxes_xyxy: (..., 4) pixels of the canvas.
        canvas_hw: Canvas height and width.
        native_hw: Native image height and width.
        ratio_pad: ((h / h0, w / w0), (pad_x, pad_y)) as stored when the image was loaded; None
            derives them from the two shapes. Only the first ratio is read, for both axes.

    Returns:
        (..., 4) xyxy native pixels, a new array.

    Source: spec E.6.
    """
    if ratio_pad is None:
        gain = min(canvas_hw[0] / native_hw[0], canvas_hw[1] / native_hw[1])
        pad_x = (canvas_hw[1] - native_hw[1] * gain) / 2
        pad_y = (canvas_hw[0] - native_hw[0] * gain) / 2
    else:
        (gain, _), (pad_x, pad_y) = ratio_pad
    out = boxes_xyxy * 1.0
    out[..., 0::2] = (out[..., 0::2] - pad_x) / gain
    out[..., 1::2] = (out[..., 1::2] - pad_y) / gain
    return clip_boxes(out, native_hw[1], native_hw[0])


def resized_hw(shape_hw: tuple[int, int], image_size: int) -> tuple[int, int]:
    """Height and width after scaling the longer side to image_size, rounded up.

    In binary arithmetic 147 * (640 / 147) is just above 640, so such a side becomes 641. Kept,
    because the public program's pixels depend on it.

    Source: spec C.5 (v7 main).
    """
    ratio = image_size / max(shape_hw)
    if ratio == 1:
        return shape_hw
    return math.ceil(shape_hw[0] * ratio), math.ceil(shape_hw[1] * ratio)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RectBatches:
    """Images grouped by aspect ratio, one canvas shape per batch."""

    order: np.ndarray  # (n,) int64, index of the image at each sorted place
    batch_of_image: np.ndarray  # (n,) int64, batch of each sorted place
    shapes_hw: np.ndarray  # (batches, 2) int64, pixels, multiples of the stride


def rectangular_batches(
    shapes_wh: np.ndarray, batch_size: int, image_size: int, stride: int, pad: float
) -> RectBatches:
    """Sorts images by height / width and gives each batch the smallest canvas that holds it.

    Args:
        shapes_wh: (n, 2) native sizes, pixels.
        batch_size: Images per batch; the last batch may be smaller.
        image_size: Longer side, pixels.
        stride: Canvas sides are multiples of it, pixels.
        pad: Extra strides before rounding up (validation: 0.5).

    Source: spec C.7.
    """
    aspect = shapes_wh[:, 1] / shapes_wh[:, 0]
    order = np.argsort(aspect, kind="stable")  # ties must not depend on the processor
    aspect = aspect[order]
    batch_of_image = np.arange(len(aspect)) // batch_size
    shapes = np.ones((-(-len(aspect) // batch_size), 2))
    for batch in range(len(shapes)):
        group = aspect[batch * batch_size : (batch + 1) * batch_size]
        if group.max() < 1:
            shapes[batch, 0] = group.max()
        elif group.min() > 1:
            shapes[batch, 1] = 1 / group.min()
    shapes_hw = np.ceil(shapes * image_size / stride + pad).astype(np.int64) * stride
    return RectBatches(order=order, batch_of_image=batch_of_image, shapes_hw=shapes_hw)


def round_up_image_size(size: int, stride: int, floor: int = 0) -> int:
    """The smallest multiple of the stride that is at least size, and at least floor; pixels."""
    return max(math.ceil(size / stride) * stride, floor)
