from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from yolov5_core.architecture import VARIANTS, describe, from_mapping
from yolov5_core.config import ConfigError


def tiny_mapping(**changes: Any) -> dict[str, Any]:
    """Two layers and a head of one level."""
    return {
        "nc": 2,
        "depth_multiple": 1.0,
        "width_multiple": 1.0,
        "anchors": [[10, 13, 16, 30]],
        "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]],
        "head": [[[-1], 1, "Detect", []]],
        **changes,
    }


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_has_three_names(name: str):
    assert describe(name) == describe(f"yolov5{name}") == describe(f"yolov5{name}.yaml")


def test_variants_with_a_six_have_a_fourth_level():
    assert (describe("s").num_levels, describe("s6").num_levels) == (3, 4)


def test_the_class_count_given_wins():
    assert describe("n").num_classes == 80
    assert describe("n", 3) == replace(describe("n"), num_classes=3)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_description_survives_its_mapping_and_yaml(name: str):
    description = describe(name, 7)
    text = yaml.safe_dump(description.to_mapping())
    assert from_mapping(yaml.safe_load(text), "text") == description


def test_a_description_is_read_from_a_file(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tiny_mapping(activation="nn.ReLU()", ch=1)))
    description = describe(str(path), 5)
    assert (description.num_classes, description.channels) == (5, 1)
    assert (description.activation, description.anchors_per_level) == ("nn.ReLU()", 2)
    assert [row.block for row in description.head] == ["Detect"]


def test_rows_in_the_public_spelling_are_understood():
    mapping = tiny_mapping(
        backbone=[
            [-1, 1, "Conv", [8, 3, 2]],
            [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
            [[-1], 1, "Concat", [1]],
        ],
        head=[[[2], 1, "Detect", ["nc", "anchors"]]],
        inplace=True,
        yaml_file="yolov5n.yaml",
    )
    blocks = [(row.block, row.args) for row in (from_mapping(mapping, "x")).backbone[1:]]
    assert blocks == [("Upsample", (2,)), ("Concat", ())]
    assert from_mapping(mapping, "x").head[-1].args == ()


def test_anchors_may_be_a_number_to_be_found_later():
    description = from_mapping(tiny_mapping(anchors=4), "x")
    assert (description.anchors, description.anchors_per_level) == (4, 4)
    assert from_mapping(description.to_mapping(), "x") == description


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nc": 0}, "nc=0: must be a whole number above 0"),
        ({"nc": "two"}, "nc='two'"),
        ({"width_multiple": 0}, "width_multiple=0: must be a number above 0"),
        ({"width_multiple": float("inf")}, "width_multiple=inf"),
        ({"depth_multiple": float("nan")}, "depth_multiple=nan"),
        ({"ch": 0}, "ch=0"),
        ({"anchors": [[10, 13]] * 2}, "anchors must be 1 lists"),
        ({"anchors": [[10, 13, 16]]}, "same number of w,h pairs"),
        ({"anchors": [[]]}, "same number of w,h pairs"),
        ({"anchors": [[10, -13]]}, "anchors level 0=-13"),
        ({"anchors": [[10, 0]]}, "anchors level 0=0"),
        ({"head": []}, "must be Detect"),
        ({"head": [[-1, 1, "Conv", [8]]]}, "must be Detect"),
        ({"head": [[-1, 1, "Detect", []]] * 2}, "and no other, must be Detect"),
        ({"backbone": "Conv"}, "must be a list"),
        ({"backbone": [[-1, 1, "Conv"]]}, r"backbone row 0: must be \[from, number, module, args"),
        ({"backbone": [["a", 1, "Conv", [8]]]}, "from must be a layer index"),
        ({"backbone": [[[], 1, "Conv", [8]]]}, "from must be a layer index"),
        ({"backbone": [[-1, 0, "Conv", [8]]]}, "number=0"),
        ({"backbone": [[-1, 1, "Upsample", [None, 3, "nearest"]]]}, "only nearest upsampling by 2"),
        ({"wdith_multiple": 1.0}, "did you mean 'width_multiple'"),
    ],
)
def test_a_description_that_cannot_work_is_refused_with_its_place(
    changes: dict[str, Any], message: str
):
    with pytest.raises(ConfigError, match=f"mine.yaml.*{message}"):
        from_mapping(tiny_mapping(**changes), "mine.yaml")


def test_missing_keys_are_named():
    mapping = tiny_mapping()
    del mapping["depth_multiple"], mapping["backbone"]
    with pytest.raises(ConfigError, match="mine: missing depth_multiple, backbone"):
        from_mapping(mapping, "mine")


@pytest.mark.parametrize("content", [b"nc: [", b"\xff\xff"])
def test_a_file_that_is_not_yaml_is_refused_by_name(tmp_path: Path, content: bytes):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"mine\.yaml: not YAML"):
        describe(str(path))


def test_a_list_is_no_description():
    with pytest.raises(ConfigError, match="must be a YAML mapping, got list"):
        from_mapping([1, 2], "x")


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match="cfg=t: no such file, and not one of n, s, m"):
        describe("t")
