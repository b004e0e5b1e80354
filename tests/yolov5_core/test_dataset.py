"""Images and labels of a data set on disk; cases of data.yaml are in test_data_yaml.py."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from yolov5_core.dataset import (
    DataError,
    Scan,
    read_image,
    require_images,
    require_labels,
    scan,
)

ROW = "0 0.5 0.5 0.5 0.5\n"


def write_jpeg(path: Path, size_wh: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (size_wh[1], size_wh[0], 3), np.uint8)
    Image.fromarray(noise).save(path, "JPEG")
    return path


def write_label(image_path: Path, text: str) -> Path:
    path = image_path.parent.parent / "labels" / f"{image_path.stem}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def scan_of(*paths: Path, classes: int = 2, single_class: bool = False, workers: int = 1) -> Scan:
    return scan(
        paths, classes, single_class=single_class, progress=lambda *_: None, workers=workers
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_jpeg(tmp_path / "images" / "a.jpg")


def rejection(result: Scan) -> str:
    assert result.records == ()
    assert result.corrupt == len(result.rejections) == 1
    only = result.rejections[0]
    assert only.action
    return f"{only.where}: {only.reason}"


def test_an_image_and_its_labels_become_a_record(image: Path) -> None:
    write_label(image, ROW)
    result = scan_of(image)
    record = result.records[0]
    assert (record.path, record.width, record.height) == (image, 40, 30)
    np.testing.assert_array_equal(record.labels, [[0, 0.5, 0.5, 0.5, 0.5]])
    assert (result.found, result.missing, result.empty, result.corrupt) == (1, 0, 0, 0)
    assert result.rejections == result.messages == ()


def test_missing_and_empty_label_files_are_background_counted_apart(tmp_path: Path) -> None:
    with_empty = write_jpeg(tmp_path / "images" / "a.jpg")
    without = write_jpeg(tmp_path / "images" / "b.jpg")
    write_label(with_empty, "")
    result = scan_of(with_empty, without)
    assert [len(record.labels) for record in result.records] == [0, 0]
    assert (result.found, result.missing, result.empty, result.corrupt) == (1, 1, 1, 0)


@pytest.mark.parametrize(
    "text",
    [
        "0 0.5 0.5 0.5 1.5",
        "0 0.5 -0.5 0.5 0.5",
        "0 nan 0.5 0.5 0.5",
        "zero 0.5 0.5 0.5 0.5",
        "0 0.5 0.5 0.5 0.5 0.",
        "0 0.5 0.5 0.5",
    ],
)
def test_an_image_with_a_bad_label_is_left_out_and_named(image: Path, text: str) -> None:
    label = write_label(image, ROW + text)
    result = scan_of(image)
    assert rejection(result).startswith(f"{label}:2: ")
    assert result.found == 1


def test_a_label_file_that_is_no_text_is_named(image: Path) -> None:
    label = write_label(image, "")
    label.write_bytes(b"\xff\xfe\x00\x80")
    assert rejection(scan_of(image)).startswith(f"{label}: cannot be read as text")


def test_duplicate_rows_are_removed_and_reported(image: Path) -> None:
    write_label(image, ROW + ROW)
    result = scan_of(image)
    assert len(result.records[0].labels) == 1
    assert result.duplicates == 1
    assert "1 duplicate rows removed" in result.messages[0]


def test_labels_of_unknown_classes_are_reported_all_at_once(tmp_path: Path) -> None:
    images = [write_jpeg(tmp_path / "images" / f"{i:02}.jpg") for i in range(12)]
    for path in images:
        write_label(path, "0 0.5 0.5 0.5 0.5\n7 0.2 0.2 0.1 0.1\n7 0.3 0.3 0.1 0.1\n")
    with pytest.raises(DataError) as caught:
        scan_of(*images, classes=3)
    message = str(caught.value)
    assert f"{tmp_path / 'labels' / '00.txt'}: class 7 (2 rows) of 3 classes" in message
    assert "nc=3" in message
    assert message.count("class 7") == 10
    assert "and 2 more" in message


def test_a_single_class_makes_every_class_zero(image: Path) -> None:
    write_label(image, "7 0.5 0.5 0.5 0.5\n")
    result = scan_of(image, classes=1, single_class=True)
    assert result.records[0].labels[0, 0] == 0


def test_a_zero_byte_image_is_left_out(image: Path) -> None:
    image.write_bytes(b"")
    assert "empty" in rejection(scan_of(image))


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.9])
def test_a_truncated_jpeg_is_left_out(image: Path, kept: float) -> None:
    data = image.read_bytes()
    image.write_bytes(data[: int(len(data) * kept)])
    assert str(image) in rejection(scan_of(image))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_a_truncated_image_of_any_kind_is_left_out(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    Image.open(write_jpeg(tmp_path / "b.jpg")).save(path, kind)
    data = path.read_bytes()
    assert len(scan_of(path).records) == 1
    path.write_bytes(data[: len(data) // 2])
    assert str(path) in rejection(scan_of(path))


def test_a_jpeg_with_stray_bytes_behind_it_is_used_as_it_is(image: Path) -> None:
    data = image.read_bytes() + b"stray"
    image.write_bytes(data)
    result = scan_of(image)
    assert len(result.records) == len(result.messages) == 1
    assert image.read_bytes() == data


def test_a_png_named_jpg_is_used(image: Path) -> None:
    Image.new("RGB", (20, 12), (1, 2, 3)).save(image, "PNG")
    record = scan_of(image).records[0]
    assert (record.width, record.height) == (20, 12)
    assert read_image(image)[0, 0].tolist() == [3, 2, 1]


def test_a_gif_named_jpg_is_left_out(image: Path) -> None:
    Image.new("RGB", (20, 12)).save(image, "GIF")
    assert "format gif" in rejection(scan_of(image))


@pytest.mark.parametrize("size_wh", [(1, 1), (9, 100), (100, 9)])
def test_an_image_with_a_side_under_ten_pixels_is_left_out(
    tmp_path: Path, size_wh: tuple[int, int]
) -> None:
    path = write_jpeg(tmp_path / "a.jpg", size_wh)
    assert f"{size_wh[0]}x{size_wh[1]} pixels" in rejection(scan_of(path))


def test_text_named_jpg_is_left_out(image: Path) -> None:
    image.write_text("not a picture")
    assert str(image) in rejection(scan_of(image))


def test_what_cannot_be_opened_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "a.jpg"
    folder.mkdir()
    broken_link = tmp_path / "b.jpg"
    broken_link.symlink_to(tmp_path / "nowhere.jpg")
    result = scan_of(folder, broken_link)
    assert [r.path for r in result.rejections] == [str(folder), str(broken_link)]


@pytest.mark.parametrize(("orientation", "size_wh"), [(1, (40, 30)), (3, (40, 30)), (6, (30, 40))])
def test_sizes_are_those_after_the_exif_orientation(
    image: Path, orientation: int, size_wh: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 30)).save(image, exif=exif)
    record = scan_of(image).records[0]
    assert (record.width, record.height) == size_wh
    assert read_image(image).shape == (size_wh[1], size_wh[0], 3)


def test_grey_and_transparent_images_decode_to_three_channels(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P"):
        path = tmp_path / f"{mode}.png"
        Image.new(mode, (12, 12)).save(path)
        assert len(scan_of(path).records) == 1
        assert read_image(path).shape == (12, 12, 3)


def test_reading_a_missing_or_damaged_image_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jpg"):
        read_image(tmp_path / "nowhere.jpg")
    damaged = tmp_path / "damaged.jpg"
    for content in (b"", b"not a picture"):
        damaged.write_bytes(content)
        with pytest.raises(DataError, match=r"damaged\.jpg"):
            read_image(damaged)


def test_results_come_in_the_order_of_the_paths_with_any_number_of_workers(tmp_path: Path) -> None:
    paths = [write_jpeg(tmp_path / "images" / f"{i}.jpg", (20 + i, 20)) for i in range(12)]
    paths[5].write_bytes(b"")
    steps: list[tuple[int, int]] = []
    results = [
        scan(paths, 1, single_class=False, progress=lambda *s: steps.append(s), workers=n)
        for n in (1, 4)
    ]
    for result in results:
        assert [record.path for record in result.records] == paths[:5] + paths[6:]
    assert results[0].rejections == results[1].rejections
    assert steps == [(i, 12) for i in range(1, 13)] * 2


def test_a_split_without_labels_is_refused_for_training(image: Path) -> None:
    with pytest.raises(DataError, match=r"train: no labels in 1 images \(1 without a label file"):
        require_labels(scan_of(image), "train")
    write_label(image, ROW)
    require_labels(scan_of(image), "train")


def test_a_split_without_a_usable_image_is_refused(image: Path) -> None:
    image.write_bytes(b"")
    with pytest.raises(DataError, match="val: none of 1 images can be used"):
        require_images(scan_of(image), "val")


def _state(root: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(root)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.stat().st_mtime_ns,
        )
        for path in sorted(root.rglob("*"))
    }


def test_a_scan_changes_nothing_on_disk(tmp_path: Path) -> None:
    good = write_jpeg(tmp_path / "images" / "a.jpg")
    stray = write_jpeg(tmp_path / "images" / "b.jpg")
    stray.write_bytes(stray.read_bytes() + b"stray")
    cut = write_jpeg(tmp_path / "images" / "c.jpg")
    cut.write_bytes(cut.read_bytes()[:-30])
    write_label(good, ROW + ROW)
    before = _state(tmp_path)
    result = scan_of(good, stray, cut)
    assert (len(result.records), result.corrupt, result.duplicates) == (2, 1, 1)
    assert _state(tmp_path) == before


def test_the_decoder_gives_blue_green_red(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.full((12, 12, 3), (10, 20, 30), np.uint8))
    assert read_image(path)[0, 0].tolist() == [10, 20, 30]
