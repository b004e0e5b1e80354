import cv2
import numpy as np
import pytest

from yolov5_core.features import features
from yolov5_core.synthetic import draw_image


def bits_apart(a: int, b: int) -> int:
    return (a ^ b).bit_count()


def test_brightness_is_the_mean_grey_level():
    assert features(np.full((50, 70, 3), 90, np.uint8))[0] == pytest.approx(90)
    half = np.zeros((64, 128, 3), np.uint8)
    half[:, 64:] = 255
    assert features(half)[0] == pytest.approx(127.5, abs=1)


def test_a_ramp_to_the_right_sets_every_bit_and_its_mirror_none():
    ramp = np.tile(np.linspace(0, 255, 200).astype(np.uint8)[None, :, None], (90, 1, 3))
    assert features(ramp)[1] == 2**64 - 1
    assert features(ramp[:, ::-1])[1] == 0


@pytest.mark.parametrize("index", range(5))
def test_a_smaller_or_recompressed_copy_keeps_almost_all_bits(index: int):
    image, _ = draw_image(0, index, 320)
    _, own = features(image)
    half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    worse = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1)
    assert bits_apart(own, features(half)[1]) <= 3
    assert bits_apart(own, features(worse)[1]) <= 3


def test_other_pictures_have_other_hashes():
    hashes = [features(draw_image(0, index, 160)[0])[1] for index in range(12)]
    apart = [bits_apart(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(apart) > 3
