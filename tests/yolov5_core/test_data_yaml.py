import logging
from pathlib import Path

import pytest

from yolov5_core.data_yaml import list_images, read_data_yaml
from yolov5_core.dataset import DataError

GOOD = "train: train/images\nval: val/images\nnames: [cat, dog]\n"


def write_yaml(folder: Path, text: str) -> Path:
    for split in ("train", "val"):
        (folder / split / "images").mkdir(parents=True, exist_ok=True)
    path = folder / "data.yaml"
    path.write_text(text)
    return path


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_splits_are_found_beside_the_file(tmp_path: Path) -> None:
    spec = read_data_yaml(write_yaml(tmp_path, GOOD))
    assert spec.root == str(tmp_path)
    assert spec.names == ("cat", "dog")
    assert spec.train == (str(tmp_path / "train" / "images"),)
    assert spec.val == (str(tmp_path / "val" / "images"),)
    assert spec.test == ()


def test_names_may_be_a_mapping_in_any_order(tmp_path: Path) -> None:
    text = GOOD.replace("[cat, dog]", "{1: dog, 0: cat}") + "nc: 2\n"
    assert read_data_yaml(write_yaml(tmp_path, text)).names == ("cat", "dog")


def test_the_layout_roboflow_exports_is_found(tmp_path: Path) -> None:
    path = write_yaml(
        tmp_path / "set",
        "train: ../train/images\nval: ../val/images\ntest: ../test/images\nnc: 1\n"
        "names: ['cat']\nroboflow:\n  workspace: w\n",
    )
    spec = read_data_yaml(path)
    assert spec.train == (str(tmp_path / "set" / "train" / "images"),)
    assert spec.test == ()  # named by the export, not in it


def test_path_is_tried_from_the_file_and_then_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    path = write_yaml(elsewhere, "path: sets/a\n" + GOOD)
    (work / "sets" / "a" / "train" / "images").mkdir(parents=True)
    (work / "sets" / "a" / "val" / "images").mkdir(parents=True)
    monkeypatch.chdir(work)
    assert read_data_yaml(path).root == str(work / "sets" / "a")
    (elsewhere / "sets" / "a" / "train" / "images").mkdir(parents=True)
    (elsewhere / "sets" / "a" / "val" / "images").mkdir(parents=True)
    assert read_data_yaml(path).root == str(elsewhere / "sets" / "a")


def test_splits_may_be_absolute_lists_of_folders_and_files(tmp_path: Path) -> None:
    list_file = tmp_path / "val.txt"
    list_file.touch()
    text = f"train: [train/images, {tmp_path / 'val' / 'images'}]\nval: val.txt\nnames: [a]\n"
    spec = read_data_yaml(write_yaml(tmp_path, text))
    assert spec.train == (str(tmp_path / "train" / "images"), str(tmp_path / "val" / "images"))
    assert spec.val == (str(list_file),)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("train", "missing train; a data set needs"),
        ("val", "missing val; a data set needs"),
        ("names", "missing names; the classes of the labels"),
    ],
)
def test_a_missing_key_is_named(tmp_path: Path, key: str, message: str) -> None:
    lines = [line for line in GOOD.splitlines() if not line.startswith(key)]
    path = write_yaml(tmp_path, "\n".join(lines))
    with pytest.raises(DataError, match=f"data.yaml: {message}"):
        read_data_yaml(path)


def test_missing_folders_are_named_all_at_once_with_where_they_were_sought(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(GOOD)
    with pytest.raises(DataError) as caught:
        read_data_yaml(path)
    message = str(caught.value)
    assert f"{path}: train: 'train/images' does not exist" in message
    assert f"{path}: val: 'val/images' does not exist" in message
    assert str(tmp_path / "train" / "images") in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nc: 3\n", "nc=3 but names has 2 entries"),
        ("names: {0: cat, 2: dog}\n", "keys must be the classes 0 to 1"),
        ("names: {a: cat, b: dog}\n", "keys must be the classes 0 to 1"),
        ("names: cat\n", "names: must be a list"),
        ("path: nowhere\n", "path: 'nowhere' is not a folder"),
        ("path: 3\n", "path: must be a folder"),
        ("train: 3\n", "train: must be a path"),
    ],
)
def test_a_value_that_cannot_work_is_named(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_data_yaml(write_yaml(tmp_path, GOOD + change))


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a\n", "key: value"), ("", "key: value"), ("a: [1", "not YAML"), ("a\tb: {", "YAML|value")],
)
def test_a_file_that_is_no_description_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_data_yaml(write_yaml(tmp_path, text))


def test_a_missing_description_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.yaml: no such file"):
        read_data_yaml(tmp_path / "data.yaml")


def test_a_download_script_is_never_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trace = tmp_path / "trace"
    path = write_yaml(tmp_path, GOOD + f"download: bash touch {trace}\n")
    with caplog.at_level(logging.WARNING):
        read_data_yaml(path)
    assert "download is ignored" in caplog.text
    assert not trace.exists()


def test_images_are_listed_through_and_through_sorted_and_by_suffix(tmp_path: Path) -> None:
    names = ["b.JPG", "a/z.png", "a/b/c.webp", "c.tif"]
    touch(*(tmp_path / name for name in names))
    touch(tmp_path / "readme.md", tmp_path / "a" / "z.txt", tmp_path / "x.gif")
    touch(tmp_path / ".hidden" / "h.jpg", tmp_path / "._b.jpg")
    assert list_images([str(tmp_path)]) == sorted(str(tmp_path / name) for name in names)


def test_folders_linked_in_a_circle_are_walked_once(tmp_path: Path) -> None:
    touch(tmp_path / "set" / "a.jpg", tmp_path / "outside" / "b.jpg")
    (tmp_path / "set" / "circle").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "outside")
    found = list_images([str(tmp_path / "set")])
    assert found == [str(tmp_path / "set" / name) for name in ("a.jpg", "linked/b.jpg")]


def test_lines_of_a_list_file_are_relative_to_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "set" / "images" / "a.jpg", tmp_path / "images" / "c.jpg")
    list_file = tmp_path / "set" / "train.txt"
    absolute = tmp_path / "elsewhere" / "b.png"
    list_file.write_text(f"./images/a.jpg\n\n  {absolute}  \nimages/c.jpg\n./gone.jpg\n")
    monkeypatch.chdir(tmp_path)
    expected = [
        tmp_path / "set" / "images" / "a.jpg",
        absolute,
        tmp_path / "images" / "c.jpg",  # not beside the list, so from the current folder
        tmp_path / "set" / "gone.jpg",  # a scan reports it
    ]
    assert list_images([str(list_file)]) == sorted(map(str, expected))


def test_a_split_without_images_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a.txt")
    with pytest.raises(DataError, match=r"no images; looked for files ending in"):
        list_images([str(tmp_path)])
    with pytest.raises(DataError, match="no such folder"):
        list_images([str(tmp_path / "nowhere")])


def test_the_home_of_a_user_nobody_knows_is_refused_in_words() -> None:
    with pytest.raises(DataError, match="write the whole path"):
        read_data_yaml("~nobody-of-this-name/data.yaml")
