import base64
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from yolov5_core.dataset import NO_BOXES, Place, Record
from yolov5_core.pictures import colour
from yolov5_core.report_samples import sample_pictures

Split = tuple[tuple[Record, ...], tuple[Record, ...]]
RARE = np.array([[7, 0.5, 0.5, 0.5, 0.5]], np.float32)
COMMON = np.array([[0, 0.5, 0.5, 0.1, 0.1]], np.float32)
NAMES = [f"class {i}" for i in range(8)]


def many(records: Sequence[Record], count: int) -> list[Record]:
    """Records of other names, without boxes."""
    return [
        replace(records[i % len(records)], name=f"{i}.jpg", labels=NO_BOXES, segments=())
        for i in range(count)
    ]


def decoded(uri: str) -> np.ndarray:
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)


def test_samples_are_small_pictures_with_their_names(tiny_data: Split):
    samples = sample_pictures(tiny_data[0], NAMES, seed=0, count=3)
    names = [name for name, _ in samples]
    assert len(set(names)) == 3
    assert set(names) <= {record.name for record in tiny_data[0]}
    assert [max(decoded(uri).shape) for _, uri in samples] == [480] * 3


def test_the_seed_decides_and_nothing_else(tiny_data: Split):
    records = many(tiny_data[0], 50)
    first = sample_pictures(records, NAMES, seed=1, count=5)
    assert sample_pictures(records, NAMES, seed=1, count=5) == first
    assert sample_pictures(records, NAMES, seed=2, count=5) != first


def test_the_rarest_class_comes_first(tiny_data: Split):
    records = [replace(record, labels=COMMON) for record in many(tiny_data[0], 200)]
    records[123] = replace(records[123], labels=np.concatenate((COMMON, RARE)))
    for seed in range(3):
        samples = sample_pictures(records, NAMES, seed, count=4)
        assert samples[0][0] == "123.jpg"
        assert len({name for name, _ in samples}) == 4


def test_half_of_them_are_chosen_by_class_and_the_others_at_random(tiny_data: Split):
    records = many(tiny_data[0], 200)
    for i in range(20):
        records[i] = replace(records[i], labels=RARE)
    names = [name for name, _ in sample_pictures(records, NAMES, seed=0, count=10)]
    assert sum(int(Path(name).stem) < 20 for name in names[:5]) == 5
    assert sum(int(Path(name).stem) < 20 for name in names[5:]) < 5


def test_boxes_are_drawn_in_the_colour_of_their_class(tiny_data: Split):
    record = replace(tiny_data[0][0], labels=RARE)
    ((_, uri),) = sample_pictures([record], NAMES, seed=0)
    picture = decoded(uri)[..., ::-1].astype(int)
    height, width = picture.shape[:2]
    left_edge = picture[height // 2, width // 4 - 1 : width // 4 + 2]
    assert (abs(left_edge - colour(7)).max(1) < 40).any()


def test_a_picture_that_cannot_be_read_gives_its_place_to_another(tiny_data: Split, tmp_path: Path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    bad = [
        replace(tiny_data[0][0], name="gone", place=Place(tmp_path / "gone.jpg", 0, 10)),
        replace(tiny_data[0][0], name="broken", place=Place(broken, 0, 10)),
    ]
    samples = sample_pictures([*bad, tiny_data[0][1]], NAMES, seed=0, count=2)
    assert [name for name, _ in samples] == [tiny_data[0][1].name]


def test_nothing_to_choose_from_gives_no_samples(tiny_data: Split):
    assert sample_pictures([], NAMES, seed=0) == []
    assert sample_pictures(tiny_data[0], NAMES, seed=0, count=0) == []
