from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import tiny_description
from yolov5_core.anchors import anchor_quality, label_sizes
from yolov5_core.architecture import describe
from yolov5_core.config import ConfigError
from yolov5_core.dataset import Place, Record
from yolov5_core.start import (
    ParentWeights,
    fit_anchors,
    new_detector,
    transferred,
    with_anchor_count,
)


def records(*sizes_wh: tuple[float, float]) -> list[Record]:
    """One 640 x 640 picture for each box of that many pixels."""
    return [
        Record(
            name=f"{i}.jpg",
            place=Place(Path(f"{i}.jpg"), 0, 0),  # never read
            width=640,
            height=640,
            labels=np.array([[0, 0.5, 0.5, w / 640, h / 640]], np.float32),
            segments=(np.zeros((0, 2), np.float32),),
        )
        for i, (w, h) in enumerate(sizes_wh)
    ]


def parent(num_classes: int) -> ParentWeights:
    model = new_detector(tiny_description(num_classes), seed=1)
    return ParentWeights(
        description=model.description, state_dict=model.state_dict(), where="parent.pt"
    )


def test_a_seed_decides_the_first_weights_and_nothing_else():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (new_detector(tiny_description(), seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    same = zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert not torch.equal(first.model[0].conv.weight, other.model[0].conv.weight)


@pytest.mark.parametrize(("wanted", "count"), [(3.412, 3), (3.6, 4), (0.0, 3), (0.3, 3)])
def test_the_anchor_count_of_a_table_is_rounded_and_zero_keeps_the_models(
    wanted: float, count: int
):
    description = with_anchor_count(tiny_description(), wanted)
    assert description.anchors_per_level == count
    assert isinstance(description.anchors, int) == (wanted > 1)


def test_weights_of_another_class_count_are_taken_but_for_the_last_layers():
    source = parent(num_classes=7)
    model, done, entries = transferred(tiny_description(4), source, 0, skip_anchors=False)
    assert 0 < entries - done <= 6  # three weights and three biases of the head
    fresh = new_detector(tiny_description(4), 0)
    for key, value in model.state_dict().items():
        expected = fresh.state_dict() if "model.24.m." in key else source.state_dict
        assert torch.equal(value, expected[key])


def test_weights_of_another_architecture_are_refused():
    with pytest.raises(ConfigError, match=r"weights=parent\.pt: no layer fits this model"):
        transferred(describe("n", 4), parent(4), 0, skip_anchors=False)


def test_anchors_that_fit_stay_as_they_are():
    model = new_detector(tiny_description(), 0)
    before = model.detect.anchors.clone()
    check = fit_anchors(model, records((20, 30), (60, 45), (150, 200), (30, 20)), 640, 4.0, 0)
    assert not check.replaced
    assert torch.equal(model.detect.anchors, before)


def tiny_objects() -> list[Record]:
    rng = np.random.default_rng(0)
    return records(*map(tuple, rng.uniform(2.2, 5, (60, 2))))


def test_anchors_that_fit_badly_are_replaced_and_kept_in_stride_units_and_order():
    model = new_detector(tiny_description(), 0)
    found = tiny_objects()
    check = fit_anchors(model, found, 640, 4.0, 0)
    assert check.replaced
    detect = model.detect
    pixels = (detect.anchors * detect.stride.view(-1, 1, 1)).view(-1, 2).numpy()
    np.testing.assert_allclose(pixels, check.anchors, rtol=1e-6)
    areas = pixels.prod(1).reshape(3, 3).mean(1)
    assert (np.diff(areas) >= 0).all()
    sizes = label_sizes([(640, 640)] * len(found), [r.labels for r in found], 640)
    assert anchor_quality(sizes, pixels, 4.0).bpr == 1.0


def test_new_anchors_depend_on_the_seed_alone():
    first, again = (new_detector(tiny_description(), 0) for _ in range(2))
    for model in (first, again):
        fit_anchors(model, tiny_objects(), 640, 4.0, seed=3)
    assert torch.equal(first.detect.anchors, again.detect.anchors)


def test_anchors_given_as_a_number_are_found_from_the_data():
    model = new_detector(with_anchor_count(tiny_description(), 2.0), 0)
    assert model.detect.anchors.shape == (3, 2, 2)
    check = fit_anchors(model, tiny_objects(), 640, 4.0, 0)
    assert check.replaced
    assert (model.detect.anchors > 0).all()
