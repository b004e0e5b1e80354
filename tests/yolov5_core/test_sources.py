import json
import os
from pathlib import Path

import pytest

from tests.data_sets import (
    BOXES,
    WRITERS,
    coco_doc,
    picture,
    put,
    voc_xml,
    write_coco,
    write_voc,
    write_yolo,
)
from yolov5_core.dataset import DataError
from yolov5_core.files import LocalFiles
from yolov5_core.label_places import yolo_label_path
from yolov5_core.labels import label_path
from yolov5_core.sources import Sources, understand

FILES = LocalFiles()


def told(sources: Sources) -> str:
    return "\n".join(sources.understood)


@pytest.mark.parametrize("layout", WRITERS)
def test_every_usual_layout_is_understood(tmp_path: Path, layout: str):
    sources = understand(str(WRITERS[layout](tmp_path)), FILES)
    assert sources.names == ("cat", "dog")
    assert [item.split for item in sources.items] == [0, 0, 0, 1, 1]
    assert [Path(item.image).stem for item in sources.items] == [key[-1] for key in BOXES]
    assert all(Path(item.image).is_file() and item.size for item in sources.items)
    assert sources.faults == ()
    assert "classes: 0 cat, 1 dog" in told(sources)
    assert "train: 3 pictures" in told(sources)
    assert layout.rsplit(maxsplit=1)[-1] in told(sources)


def test_sparse_category_ids_are_mapped_by_name_and_the_map_is_told(tmp_path: Path):
    sources = understand(str(write_coco(tmp_path)), FILES)
    assert set(sources.categories) == {
        str(tmp_path / f"annotations/instances_{split}2017.json") for split in ("train", "val")
    }
    assert all(mapping == {17: 0, 18: 1} for mapping in sources.categories.values())
    assert "category id -> class: 17 -> 0, 18 -> 1" in told(sources)


def test_a_data_yaml_may_name_coco_files_and_fix_the_order_of_classes(tmp_path: Path):
    write_coco(tmp_path)
    lines = [f"{s}: annotations/instances_{s}2017.json" for s in ("train", "val")]
    put(tmp_path / "data.yaml", "\n".join([*lines, "names: [dog, cat]"]))
    sources = understand(str(tmp_path / "data.yaml"), FILES)
    assert sources.names == ("dog", "cat")
    assert all(mapping == {17: 1, 18: 0} for mapping in sources.categories.values())


def test_categories_that_names_does_not_have_are_refused(tmp_path: Path):
    write_coco(tmp_path)
    lines = [f"{s}: annotations/instances_{s}2017.json" for s in ("train", "val")]
    put(tmp_path / "data.yaml", "\n".join([*lines, "names: [dog]"]))
    with pytest.raises(DataError, match="categories that names does not have: cat"):
        understand(str(tmp_path), FILES)


def test_classes_keep_their_numbers_when_a_new_one_appears(tmp_path: Path):
    write_voc(tmp_path)
    first = understand(str(tmp_path), FILES)
    put(tmp_path / "JPEGImages/0.jpg", picture("train/0"))
    put(tmp_path / "Annotations/0.xml", voc_xml("train/0").replace("cat", "bird"))
    assert understand(str(tmp_path), FILES).names == ("bird", "cat", "dog")
    assert understand(str(tmp_path), FILES, first.names).names == ("cat", "dog", "bird")


def test_xml_files_of_known_pictures_are_not_read_again_for_their_names(tmp_path: Path):
    write_voc(tmp_path)
    put(tmp_path / "Annotations/0.xml", voc_xml("train/0").replace("cat", "bird"))
    known = understand(str(tmp_path), FILES, ("cat", "dog"), lambda item: item.name[-5] == "0")
    assert known.names == ("cat", "dog")


def test_label_files_without_a_picture_and_unlisted_pictures_are_remarked(tmp_path: Path):
    write_yolo(tmp_path / "yolo")
    put(tmp_path / "yolo/labels/train/9.txt", "0 .5 .5 .1 .1\n")
    put(tmp_path / "yolo/labels/train/classes.txt", "cat\n")
    (fault,) = understand(str(tmp_path / "yolo"), FILES).faults
    assert (fault.kind, Path(fault.where).name) == ("label-orphan", "9.txt")
    write_coco(tmp_path / "coco")
    put(tmp_path / "coco/train2017/9.jpg", picture("train/0"))
    (fault,) = understand(str(tmp_path / "coco"), FILES).faults
    assert (fault.kind, Path(fault.where).name) == ("coco-unlisted", "9.jpg")


def test_a_picture_listed_twice_is_used_once(tmp_path: Path):
    write_yolo(tmp_path)
    put(tmp_path / "list.txt", "images/train/0.jpg\n./images/train/1.jpg\nimages/train/0.jpg\n")
    put(tmp_path / "data.yaml", "train: list.txt\nval: [images/val, images/val]\nnames: [a, b]\n")
    sources = understand(str(tmp_path), FILES)
    assert [item.name for item in sources.items if item.split == 0] == [
        "images/train/0.jpg",
        "images/train/1.jpg",
    ]
    assert {fault.kind for fault in sources.faults} == {"image-listed-twice"}
    assert len(sources.items) == 4


def test_a_listed_picture_that_is_not_there_stays_an_item(tmp_path: Path):
    write_yolo(tmp_path)
    put(tmp_path / "list.txt", "images/train/0.jpg\nimages/train/gone.jpg\n")
    put(tmp_path / "data.yaml", "train: list.txt\nval: images/val\nnames: [a, b]\n")
    items = understand(str(tmp_path), FILES).items
    assert [(item.name, item.size > 0) for item in items[:2]] == [
        ("images/train/0.jpg", True),
        ("images/train/gone.jpg", False),
    ]


@pytest.mark.parametrize("change", ["picture", "label", "new label", "time"])
def test_a_changed_picture_or_label_has_another_stamp(tmp_path: Path, change: str):
    write_yolo(tmp_path)
    before = {item.name: item.stamp for item in understand(str(tmp_path), FILES).items}
    match change:
        case "picture":
            put(tmp_path / "images/train/0.jpg", picture("train/1"))
        case "label":
            put(tmp_path / "labels/train/0.txt", "1 .5 .5 .5 .5\n")
        case "new label":
            put(tmp_path / "labels/train/2.txt", "1 .5 .5 .5 .5\n")
        case "time":
            os.utime(tmp_path / "images/train/0.jpg", ns=(1, 1))
    after = {item.name: item.stamp for item in understand(str(tmp_path), FILES).items}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"images/train/{2 if change == 'new label' else 0}.jpg"}


def test_an_edited_coco_annotation_changes_only_the_stamp_of_its_picture(tmp_path: Path):
    write_coco(tmp_path)
    before = {item.name: item.stamp for item in understand(str(tmp_path), FILES).items}
    doc = coco_doc("train")
    doc["annotations"][0]["bbox"] = [1, 1, 5, 5]  # type: ignore[index]
    put(tmp_path / "annotations/instances_train2017.json", json.dumps(doc))
    after = {item.name: item.stamp for item in understand(str(tmp_path), FILES).items}
    assert [name for name in before if before[name] != after[name]] == ["train2017/0.jpg"]


def test_a_folder_of_no_known_layout_is_refused_with_the_known_ones(tmp_path: Path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataError, match=r"no data.yaml, and none of the layouts.*Pascal VOC"):
        understand(str(tmp_path), FILES)


def test_a_split_without_pictures_is_refused(tmp_path: Path):
    write_yolo(tmp_path)
    for path in (tmp_path / "images/val").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"images/val: no images"):
        understand(str(tmp_path), FILES)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/images/b/c.jpg", "/a/labels/b/c.txt"),
        ("/a/images/images/c.jpg", "/a/images/labels/c.txt"),
        ("/a/b/c.d.png", "/a/b/c.d.txt"),
        ("/images/c.jpg", "/labels/c.txt"),
        ("/a/myimages/c.jpg", "/a/myimages/c.txt"),
        ("/a/images.d/c.jpg", "/a/images.d/c.txt"),
        ("/a/images/c", "/a/labels/c.txt"),
        ("/a/images/train.v1/c.x.jpg", "/a/labels/train.v1/c.x.txt"),
        ("/c.jpg", "/c.txt"),
        ("c.jpg", "c.txt"),
    ],
)
def test_the_two_label_rules_agree(path: str, expected: str):
    assert yolo_label_path(path) == str(label_path(Path(path))) == expected


def test_blank_lines_of_a_pascal_list_are_passed_over(tmp_path: Path):
    write_voc(tmp_path)
    path = tmp_path / "ImageSets/Main/train.txt"
    put(path, path.read_text() + "   \n\n")
    assert len(understand(str(tmp_path), FILES).items) == 5
