"""How well anchors fit a data set, better ones where they do not, and class weights.

Axes: N labels, K anchors. Sizes and anchors are width, height in pixels of the network's input.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.floating]

_GOOD_RECALL = 0.98  # anchors whose best possible recall is larger stay
_MIN_SIDE = 2.0  # pixels; smaller boxes teach the anchors nothing, smaller anchors fit nothing
_MAX_SIZES = 5_000  # drawn from larger data sets: seconds, and the mean fitness known to 0.4 %
_RESTARTS = 30
_ITERATIONS = 50  # of one k-means start; what moves after that moves little


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorQuality:
    """Fit of anchors to label sizes."""

    bpr: float  # best possible recall: share of labels that at least one anchor can predict
    anchors_per_target: float  # mean number of anchors that can


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AnchorCheck:
    """What check_anchors decided."""

    anchors: FloatArray  # (K, 2) pixels, to be used
    replaced: bool  # then sorted by area; else the given ones, untouched
    bpr_before: float  # of the given anchors
    bpr_after: float  # of those to be used
    message: str  # one sentence for the log


def label_sizes(
    shapes_wh: npt.ArrayLike, labels: Sequence[npt.NDArray[np.float32]], image_size: int
) -> npt.NDArray[np.float64]:
    """Returns the size of every label when its image is resized for the network.

    Args:
        shapes_wh: (images, 2) width, height in pixels.
        labels: per image (m, 5) class, normalised cxcywh.
        image_size: pixels, the length of the longer side after resizing.

    Returns:
        (N, 2) pixels, all images concatenated.

    Source: spec D.6.
    """
    shapes = np.asarray(shapes_wh, dtype=np.float64).reshape(-1, 2)
    resized = shapes * image_size / shapes.max(1, keepdims=True)
    sizes = [rows[:, 3:5] * wh for rows, wh in zip(labels, resized, strict=True)]
    return np.concatenate([np.empty((0, 2)), *sizes])


def anchor_quality(sizes: FloatArray, anchors: FloatArray, threshold: float) -> AnchorQuality:
    """Measures how many labels the anchors can predict.

    Args:
        sizes: (N, 2) pixels.
        anchors: (K, 2) pixels.
        threshold: largest ratio of a side to the anchor's (hyperparameter anchor_t).

    Returns:
        The quality; without labels nothing is missed: recall 1, no anchor per target.

    Source: spec D.6.
    """
    if not len(sizes):
        return AnchorQuality(bpr=1.0, anchors_per_target=0.0)
    usable = _fit(sizes, anchors) > 1 / threshold
    return AnchorQuality(
        bpr=float(usable.any(1).mean()), anchors_per_target=float(usable.sum(1).mean())
    )


def anchor_fitness(sizes: FloatArray, anchors: FloatArray, threshold: float) -> float:
    """Mean fit of the best anchor, counting labels that no anchor can predict as 0.

    Args:
        sizes: (N, 2) pixels, N > 0.
        anchors: (K, 2) pixels.
        threshold: as in anchor_quality.

    Returns:
        In [0, 1].

    Source: spec D.6.
    """
    best = _fit(sizes, anchors).max(1)
    return float((best * (best > 1 / threshold)).mean())


def kmeans_anchors(
    sizes: FloatArray,
    count: int,
    image_size: int,
    threshold: float,
    generations: int = 1000,
    *,
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """Finds anchors for a data set: k-means, then evolution. A pure function of its arguments.

    Args:
        sizes: (N, 2) pixels. With fewer distinct sizes than anchors, evolution starts at random.
        count: K, number of anchors.
        image_size: pixels, largest side of a random anchor.
        threshold: as in anchor_quality.
        generations: mutations tried.
        rng: source of all choices.

    Returns:
        (K, 2) pixels, sorted by area.

    Raises:
        ValueError: no label has a side of 2 pixels, so nothing can be fitted.

    Source: spec D.6.
    """
    sizes = np.asarray(sizes, dtype=np.float64)
    sizes = sizes[(sizes >= _MIN_SIDE).any(1)]
    if not len(sizes):
        raise ValueError("no label has a side of 2 pixels or more: check labels and image size")
    if len(sizes) > _MAX_SIZES:
        sizes = sizes[rng.choice(len(sizes), _MAX_SIZES, replace=False)]
    if len(np.unique(sizes, axis=0)) >= count:
        # Fit is a matter of ratios, so centres are sought among the logarithms. On both golden
        # sets that starts fitter than evolution ends from k-means over sizes.
        points = np.log(np.maximum(sizes, _MIN_SIDE))
        starts = [np.exp(_kmeans(points, count, rng)) for _ in range(_RESTARTS)]
        anchors = max(starts, key=lambda start: anchor_fitness(sizes, start, threshold))
    else:
        log.warning("%d label sizes for %d anchors: starting at random", len(sizes), count)
        anchors = np.sort(rng.random(count * 2)).reshape(count, 2) * image_size
    anchors = _evolve(np.maximum(anchors, _MIN_SIDE), sizes, threshold, generations, rng)
    return anchors[anchors.prod(1).argsort(kind="stable")]


def check_anchors(
    shapes_wh: npt.ArrayLike,
    labels: Sequence[npt.NDArray[np.float32]],
    anchors: FloatArray,
    image_size: int,
    threshold: float,
    *,
    rng: np.random.Generator,
) -> AnchorCheck:
    """Decides whether a data set needs other anchors, and finds them.

    Anchors stay if their best possible recall is above 0.98, or if new ones do not reach more.

    Args:
        shapes_wh: (images, 2) width, height in pixels.
        labels: per image (m, 5) class, normalised cxcywh.
        anchors: (K, 2) pixels.
        image_size: pixels.
        threshold: as in anchor_quality.
        rng: source of all choices.

    Returns:
        The decision; never raises for few or no labels, but says so in its message.

    Source: spec D.6, v7.
    """
    sizes = label_sizes(shapes_wh, labels, image_size)
    scale = rng.uniform(0.9, 1.1, len(labels))  # per image, as augmentation will resize them
    scaled = sizes * np.repeat(scale, [len(rows) for rows in labels])[:, None]
    before = anchor_quality(scaled, anchors, threshold).bpr

    def keep(reason: str) -> AnchorCheck:
        return AnchorCheck(
            anchors=anchors, replaced=False, bpr_before=before, bpr_after=before, message=reason
        )

    if not (sizes >= _MIN_SIDE).any():
        return keep("anchors kept: no labels of 2 pixels or more to fit them to")
    if before > _GOOD_RECALL:
        return keep(f"anchors kept: best possible recall {before:.4f}")
    found = kmeans_anchors(sizes, len(anchors), image_size, threshold, rng=rng)
    after = anchor_quality(scaled, found, threshold).bpr
    if after <= before:
        return keep(f"anchors kept: new ones reach a recall of {after:.4f}, these {before:.4f}")
    return AnchorCheck(
        anchors=found,
        replaced=True,
        bpr_before=before,
        bpr_after=after,
        message=f"anchors replaced: best possible recall {before:.4f} -> {after:.4f}",
    )


def class_weights(
    labels: Sequence[npt.NDArray[np.float32]], num_classes: int
) -> npt.NDArray[np.float64]:
    """(num_classes,) inverse frequency of each class, sum 1; an unseen class counts as seen once.

    Source: spec C.11.
    """
    classes = np.concatenate([np.empty(0), *(rows[:, 0] for rows in labels)]).astype(np.int64)
    weights = 1 / np.maximum(np.bincount(classes, minlength=num_classes), 1)
    return weights / weights.sum()


def image_weights(
    labels: Sequence[npt.NDArray[np.float32]], weights: FloatArray
) -> npt.NDArray[np.float64]:
    """(images,) sum of the class weights of each image's labels, to draw images by.

    Args:
        labels: per image (m, 5), class first.
        weights: (num_classes,) for an epoch: class_weights x (1 - AP50-95 of the class)^2.

    Source: spec C.11.
    """
    return np.array([weights[rows[:, 0].astype(np.int64)].sum() for rows in labels], np.float64)


def _fit(sizes: FloatArray, anchors: FloatArray) -> FloatArray:
    """(N, K) in (0, 1]: how alike a label and an anchor are, by their less alike side."""
    # Per side, so that all temporaries are (N, K) and not (N, K, 2): half the time.
    width = sizes[:, :1] / anchors[:, 0]
    height = sizes[:, 1:] / anchors[:, 1]
    larger = np.maximum(np.maximum(width, height), np.finfo(np.float64).tiny)  # a label of size 0
    fit: FloatArray = np.minimum(np.minimum(width, height), 1 / larger)
    return fit


def _kmeans(points: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    """(count, 2) centres of the points, from one random start (Lloyd)."""
    centres = points[rng.choice(len(points), count, replace=False)]
    before = np.full(len(points), -1)
    for _ in range(_ITERATIONS):
        distances = ((points[:, :1] - centres[:, 0]) ** 2) + ((points[:, 1:] - centres[:, 1]) ** 2)
        nearest = distances.argmin(1)
        if (nearest == before).all():
            break
        before = nearest
        members = np.bincount(nearest, minlength=count)
        sums = np.stack([np.bincount(nearest, axis, minlength=count) for axis in points.T], 1)
        occupied = members > 0  # an empty centre stays where it is
        centres[occupied] = sums[occupied] / members[occupied, None]
    return centres


def _evolve(
    anchors: FloatArray,
    sizes: FloatArray,
    threshold: float,
    generations: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Keeps each random change of the anchors that makes them fitter."""
    best = anchor_fitness(sizes, anchors, threshold)
    for _ in range(generations):
        candidate = np.maximum(anchors * _mutation(anchors.shape, rng), _MIN_SIDE)
        fitness = anchor_fitness(sizes, candidate, threshold)
        if fitness > best:
            anchors, best = candidate, fitness
    return anchors


def _mutation(shape: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    """Factors in [0.3, 3], never all 1."""
    while True:
        chosen = rng.random(shape) < 0.9
        factors = (chosen * rng.random() * rng.standard_normal(shape) * 0.1 + 1).clip(0.3, 3)
        if (factors != 1).any():
            return factors
