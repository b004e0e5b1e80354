"""The check of one picture with its labels, and of a list of them on disk."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from yolov5_core.check import Scan, check, scan, yolo_truth
from yolov5_core.dataset import NO_TRUTH, Truth
from yolov5_core.faults import KINDS, Fault, FaultError

ROW = "0 0.5 0.5 0.5 0.5\n"


def jpeg(size_wh: tuple[int, int] = (40, 30)) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (size_wh[1], size_wh[0], 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "JPEG")
    return out.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_label(image_path: Path, text: str) -> Path:
    return write(image_path.parent.parent / "labels" / f"{image_path.stem}.txt", text.encode())


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write(tmp_path / "images" / "a.jpg", jpeg())


def only_fault(result: Scan) -> Fault:
    (fault,) = result.faults
    return fault


def test_a_good_picture_and_its_labels_are_kept_as_they_are() -> None:
    labels = np.array([[0, 0.5, 0.5, 0.5, 0.5]], np.float32)
    truth = Truth(labels=labels, segments=(np.zeros((0, 2), np.float32),))
    sizes = []

    def read(size_wh: tuple[int, int]) -> Truth:
        sizes.append(size_wh)
        return truth

    checked = check("a.jpg", "d/a.jpg", jpeg(), read)
    assert checked.image is not None
    assert checked.image.shape == (30, 40, 3)
    assert checked.truth is truth
    assert (checked.faults, sizes) == ((), [(40, 30)])


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (FileNotFoundError("gone"), "image-missing"),
        (PermissionError("no"), "image-unreadable"),
        (b"", "image-empty"),
        (b"text", "image-undecodable"),
    ],
)
def test_a_picture_that_cannot_be_used_is_left_out_and_its_labels_are_not_read(
    data: bytes | OSError, kind: str
) -> None:
    checked = check("a.jpg", "d/a.jpg", data, lambda _: pytest.fail("read the labels"))
    assert checked.image is None
    assert checked.truth is NO_TRUTH
    (fault,) = checked.faults
    assert (fault.kind, fault.image, fault.where) == (kind, "a.jpg", "d/a.jpg")
    assert fault.effect == "picture left out"


def test_a_picture_whose_labels_are_refused_is_left_out() -> None:
    def read(_size_wh: tuple[int, int]) -> Truth:
        raise FaultError("label-class", "a.txt:3", "class -1")

    checked = check("a.jpg", "d/a.jpg", jpeg() + b"stray", read)
    assert checked.image is None
    assert [(f.kind, f.image, f.where) for f in checked.faults] == [
        ("image-trailing-bytes", "a.jpg", "d/a.jpg"),
        ("label-class", "a.jpg", "a.txt:3"),
    ]


def test_remarks_on_picture_and_boxes_are_all_kept_and_name_the_picture() -> None:
    remark = Fault(kind="label-duplicate", image="", where="a.txt:2", reason="twice")
    truth = Truth(labels=NO_TRUTH.labels, segments=(), faults=(remark,))
    checked = check("a.jpg", "d/a.jpg", jpeg() + b"stray", lambda _: truth)
    assert checked.image is not None
    assert [(f.kind, f.image, f.effect) for f in checked.faults] == [
        ("image-trailing-bytes", "a.jpg", "used"),
        ("label-duplicate", "a.jpg", "box left out"),
    ]


def test_every_kind_of_fault_says_what_the_owner_can_do() -> None:
    for kind, (effect, action) in KINDS.items():
        assert kind.split("-")[0] in ("image", "label", "coco", "voc")
        assert effect in ("picture left out", "box left out", "used")
        assert len(action) > 5


def test_an_image_and_its_labels_become_a_record(image: Path) -> None:
    write_label(image, ROW)
    result = scan([image], 2)
    record = result.records[0]
    assert (record.name, record.place.file) == ("a.jpg", image)
    assert record.place.read() == image.read_bytes()
    assert (record.width, record.height) == (40, 30)
    np.testing.assert_array_equal(record.labels, [[0, 0.5, 0.5, 0.5, 0.5]])
    assert record.crowd.shape == (0, 5)
    assert (result.found, result.missing, result.empty, result.left_out) == (1, 0, 0, 0)
    assert result.faults == ()


def test_missing_and_empty_label_files_are_background_counted_apart(tmp_path: Path) -> None:
    with_empty = write(tmp_path / "images" / "a.jpg", jpeg())
    without = write(tmp_path / "images" / "b.jpg", jpeg())
    write_label(with_empty, "")
    result = scan([with_empty, without], 1)
    assert [len(record.labels) for record in result.records] == [0, 0]
    assert (result.found, result.missing, result.empty, result.left_out) == (1, 1, 1, 0)


def test_an_image_with_a_bad_label_is_left_out_and_named(image: Path) -> None:
    label = write_label(image, ROW + "0 0.5 0.5 0.5 1.5")
    result = scan([image], 1)
    assert result.records == ()
    assert (result.found, result.left_out) == (1, 1)
    fault = only_fault(result)
    assert (fault.kind, fault.image, fault.where) == ("label-outside", "a.jpg", f"{label}:2")


def test_a_label_of_an_unknown_class_names_the_classes_there_are(image: Path) -> None:
    write_label(image, "3 0.5 0.5 0.5 0.5")
    fault = only_fault(scan([image], 3))
    assert (fault.kind, fault.reason) == ("label-class-unknown", "class 3 of 3 classes (0 to 2)")
    assert fault.action == "correct the label file, or add the class to names"


def test_a_box_left_out_leaves_the_picture_and_its_other_boxes(image: Path) -> None:
    write_label(image, ROW + ROW + "0 .5 .5 0 .1\n")
    result = scan([image], 1)
    assert len(result.records[0].labels) == 1
    assert [fault.kind for fault in result.faults] == ["label-no-area", "label-duplicate"]
    assert result.left_out == 0


def test_a_folder_in_place_of_a_label_file_is_named(image: Path) -> None:
    path = image.parent.parent / "labels" / "a.txt"
    path.mkdir(parents=True)
    fault = only_fault(scan([image], 1))
    assert (fault.kind, fault.where) == ("label-unreadable", str(path))


def test_the_labels_of_a_picture_without_a_file_are_none(tmp_path: Path) -> None:
    assert yolo_truth(tmp_path / "a.txt", 1) is NO_TRUTH


def test_what_cannot_be_opened_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "a.jpg"
    folder.mkdir()
    broken, loop = tmp_path / "b.jpg", tmp_path / "c.jpg"
    broken.symlink_to(tmp_path / "nowhere.jpg")
    loop.symlink_to(loop)
    result = scan([folder, broken, loop], 1)
    assert [(fault.kind, fault.image) for fault in result.faults] == [
        ("image-unreadable", "a.jpg"),
        ("image-missing", "b.jpg"),
        ("image-unreadable", "c.jpg"),
    ]


def test_a_png_named_jpg_is_used(image: Path) -> None:
    Image.new("RGB", (20, 12), (1, 2, 3)).save(image, "PNG")
    result = scan([image], 1)
    assert (result.records[0].width, result.records[0].height) == (20, 12)
    assert result.faults == ()


def test_results_come_in_the_order_of_the_paths_with_any_number_of_workers(tmp_path: Path) -> None:
    paths = [write(tmp_path / "images" / f"{i}.jpg", jpeg((20 + i, 20))) for i in range(12)]
    paths[5].write_bytes(b"")
    results = [scan(paths, 1, workers=n) for n in (1, 4)]
    for result in results:
        assert [record.place.file for record in result.records] == paths[:5] + paths[6:]
    assert results[0].faults == results[1].faults


def _state(root: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(root)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.stat().st_mtime_ns,
        )
        for path in sorted(root.rglob("*"))
    }


def test_a_scan_changes_nothing_on_disk(tmp_path: Path) -> None:
    good = write(tmp_path / "images" / "a.jpg", jpeg())
    stray = write(tmp_path / "images" / "b.jpg", jpeg() + b"stray")
    cut = write(tmp_path / "images" / "c.jpg", jpeg()[:-30])
    write_label(good, ROW + ROW)
    before = _state(tmp_path)
    result = scan([good, stray, cut], 1)
    assert (len(result.records), result.left_out, len(result.faults)) == (2, 1, 3)
    assert _state(tmp_path) == before
