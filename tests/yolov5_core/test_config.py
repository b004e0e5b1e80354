from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from yolov5_core.config import (
    AugmentConfig,
    ConfigError,
    Hyperparameters,
    hyperparameters_from,
    load_hyperparameters,
    shipped_tables,
)


def test_every_shipped_table_loads():
    published = {"objects365", "scratch-high", "scratch-low", "scratch-med", "voc"}
    assert set(shipped_tables()) == {*published, "quick"}
    for name in shipped_tables():
        load_hyperparameters(name)


def test_the_scratch_low_table_is_the_default():
    assert load_hyperparameters("scratch-low") == Hyperparameters()


def test_values_of_a_shipped_table_are_the_published_ones():
    voc = load_hyperparameters("voc")
    assert (voc.lr0, voc.anchor_t, voc.anchors, voc.mixup) == (0.00334, 3.3744, 3.412, 0.04266)


def test_a_table_is_read_from_a_file(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("lr0: 0.02\nmosaic: 0\n")
    assert load_hyperparameters(str(path)) == Hyperparameters(lr0=0.02, mosaic=0)


def test_the_old_name_of_the_box_gain_is_understood():
    assert hyperparameters_from({"giou": 0.07}, "old.yaml").box == 0.07


def test_the_key_nobody_reads_is_skipped():
    assert hyperparameters_from({"iou_t": 0.2}, "old.yaml") == Hyperparameters()


def test_an_unknown_key_is_refused_with_the_nearest_known_one():
    with pytest.raises(ConfigError, match=r"mine: unknown key 'mosiac'; did you mean 'mosaic'\?"):
        hyperparameters_from({"mosiac": 1.0}, "mine")


def test_a_key_like_no_other_is_answered_with_all_known_ones():
    with pytest.raises(ConfigError, match=r"unknown key 'optimizer'.*known:.*weight_decay"):
        hyperparameters_from({"optimizer": "SGD"}, "mine")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr0", 0),
        ("momentum", 1.1),
        ("mosaic", -0.1),
        ("anchor_t", 0.5),
        ("weight_decay", float("nan")),
        ("weight_decay", float("inf")),
        ("perspective", 0.1),
        ("fliplr", True),
        ("degrees", "ten"),
        ("box", None),
    ],
)
def test_an_impossible_value_is_refused_naming_its_key(key: str, value: object):
    with pytest.raises(ConfigError, match=f"mine: hyp {key}="):
        hyperparameters_from({key: value}, "mine")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"lr0: [", "not YAML"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"- 1\n- 2\n", "must be `key: number` lines, got list"),
        (b"", "must be `key: number` lines, got NoneType"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "hyp.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_hyperparameters(str(path))
    assert str(path) in str(caught.value)


def test_a_missing_table_is_answered_with_the_shipped_ones():
    with pytest.raises(ConfigError, match=r"no such file.*scratch-low"):
        load_hyperparameters("no-such-table")


def test_the_augmentation_part_has_the_values_of_the_table():
    table = Hyperparameters(degrees=5.0, mixup=0.25)
    assert table.augment == AugmentConfig(degrees=5.0, mixup=0.25)
    assert {f.name for f in fields(AugmentConfig)} <= {f.name for f in fields(Hyperparameters)}


def test_gains_are_scaled_to_levels_classes_and_image_size():
    # 4 levels: 3/4 on each; 40 of 80 classes: half the class gain; 320 of 640: a quarter of obj
    gains = Hyperparameters().loss_config(num_levels=4, num_classes=40, image_size=320)
    assert gains.box == pytest.approx(0.05 * 3 / 4)
    assert gains.cls == pytest.approx(0.5 / 2 * 3 / 4)
    assert gains.obj == pytest.approx(1.0 / 4 * 3 / 4)


def test_a_table_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Hyperparameters().lr0 = 1.0  # type: ignore[misc]
