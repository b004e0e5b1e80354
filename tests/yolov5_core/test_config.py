from dataclasses import FrozenInstanceError, asdict, fields
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

# Specification D.10. v3: what its program fixed stands in parentheses there, and here as its value;
# a dash is our value for "as if it were not there".
PUBLISHED = """
                  v3       scratch-low  scratch-med  scratch-high  voc      objects365
lr0               0.01     0.01         0.01         0.01          0.00334  0.00258
lrf               0.2      0.01         0.1          0.1           0.15135  0.17
momentum          0.937    0.937        0.937        0.937         0.74832  0.779
weight_decay      0.0005   0.0005       0.0005       0.0005        0.00025  0.00058
warmup_epochs     3.0      3.0          3.0          3.0           3.3835   1.33
warmup_momentum   0.9      0.8          0.8          0.8           0.59462  0.86
warmup_bias_lr    0.1      0.1          0.1          0.1           0.18657  0.0711
box               0.05     0.05         0.05         0.05          0.02     0.0539
cls               0.5      0.5          0.3          0.3           0.21638  0.299
cls_pw            1.0      1.0          1.0          1.0           0.5      0.825
obj               1.0      1.0          0.7          0.7           0.51728  0.632
obj_pw            1.0      1.0          1.0          1.0           0.67198  1.0
anchor_t          4.0      4.0          4.0          4.0           3.3744   3.44
anchors           0        0            0            0             3.412    3.2
fl_gamma          0        0            0            0             0        0
label_smoothing   0        0            0            0             0        0
hsv_h             0.015    0.015        0.015        0.015         0.01041  0.0188
hsv_s             0.7      0.7          0.7          0.7           0.54703  0.704
hsv_v             0.4      0.4          0.4          0.4           0.27739  0.36
degrees           0        0            0            0             0        0
translate         0.5      0.1          0.1          0.1           0.04591  0.0902
scale             0.5      0.5          0.9          0.9           0.75544  0.491
shear             0        0            0            0             0        0
perspective       0        0            0            0             0        0
flipud            0        0            0            0             0        0
fliplr            0.5      0.5          0.5          0.5           0.5      0.5
mosaic            1        1            1            1             0.85834  1
mosaic9           0        0            0            0             0        0
mixup             0        0            0.1          0.1           0.04266  0
copy_paste        0        0            0            0.1           0        0
"""


def published() -> dict[str, dict[str, float]]:
    """The values of each shipped table by its name."""
    names, *rows = (line.split() for line in PUBLISHED.strip().splitlines())
    columns = {
        name: {key: float(values[column]) for key, *values in rows}
        for column, name in enumerate(names)
    }
    v3 = columns.pop("v3")
    return {**columns, "v3-scratch": v3, "v3-finetune": v3}


@pytest.mark.parametrize("name", published())
def test_every_value_of_a_shipped_table_is_the_published_one(name: str):
    assert asdict(load_hyperparameters(name)) == published()[name]


def test_only_the_table_for_a_quick_look_is_our_own():
    assert set(shipped_tables()) - set(published()) == {"quick"}
    assert load_hyperparameters("quick").lr0 == 0.05


def test_the_scratch_low_table_is_the_default():
    assert load_hyperparameters("scratch-low") == Hyperparameters()


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
        ("mosaic9", 1.5),
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
    table = Hyperparameters(degrees=5.0, mosaic9=0.5, mixup=0.25)
    assert table.augment == AugmentConfig(degrees=5.0, mosaic9=0.5, mixup=0.25)
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
