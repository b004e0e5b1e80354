"""Label files and image checks against the outcomes of the public program."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.golden_data import golden_files
from yolov5_core.check import Scan, scan
from yolov5_core.labels import label_path


def _cases(kind: str) -> list[Any]:
    return [
        pytest.param(case, id=f"{path.stem}-{case['case'] if isinstance(case, dict) else i}")
        for path in golden_files("labels*.json")
        for i, case in enumerate(json.loads(path.read_text())[kind])
    ]


def _scan(image_path: Path) -> Scan:
    return scan([image_path], 10**6)


def _mixes_boxes_and_polygons(text: str | None) -> bool:
    lengths = {len(line.split()) for line in (text or "").splitlines() if line.strip()}
    return 5 in lengths and max(lengths, default=0) > 6


@pytest.mark.parametrize("case", _cases("labels"))
def test_label_files_are_read_as_golden_says(case: dict[str, Any], tmp_path: Path) -> None:
    image_path = tmp_path / "images" / "a.png"
    image_path.parent.mkdir()
    Image.new("RGB", tuple(case["image_wh"]), (9, 99, 199)).save(image_path)
    if case["text"] is not None:
        (tmp_path / "labels").mkdir()
        (tmp_path / "labels" / "a.txt").write_text(case["text"])

    result = _scan(image_path)

    assert bool(result.records) == case["accepted"]
    assert result.found == case["found"]
    assert result.missing == case["missing"]
    assert result.empty == case["empty"]
    assert result.left_out == case["corrupt"]
    assert bool(result.faults) == case["has_message"]
    if not case["accepted"]:
        return
    record = result.records[0]
    labels = np.array(case["labels"], np.float32).reshape(-1, 5)
    n_segments = case["n_segments"]
    if _mixes_boxes_and_polygons(case["text"]):
        # spec C.3: the public program reads a box row of such a file as two points; ours is a box
        rows = [line.split() for line in case["text"].splitlines() if line.strip()]
        is_box = [len(row) == 5 for row in rows]
        labels[is_box] = [[np.float32(v) for v in row] for row in rows if len(row) == 5]
        n_segments -= sum(is_box)
    np.testing.assert_array_equal(record.labels, labels)
    assert [record.width, record.height] == case["shape"]
    assert len(record.segments) == len(labels)
    assert sum(len(segment) > 0 for segment in record.segments) == n_segments


def _image_bytes(case: str, size_wh: tuple[int, int]) -> bytes:
    """Builds the file a case's name describes; a JPEG unless it names another format."""
    if "not_an_image" in case:
        return b"this is no picture\n"
    noise = np.random.default_rng(0).integers(0, 255, (size_wh[1], size_wh[0], 3), np.uint8)
    image = Image.fromarray(noise)
    named = re.search(r"bmp|gif|png|tiff|webp", case)
    exif = Image.Exif()
    if orientation := re.search(r"exif(\d)", case):
        exif[0x0112] = int(orientation[1])
    out = io.BytesIO()
    image.save(out, (named[0] if named else "jpeg").upper(), exif=exif)
    data = out.getvalue()
    if "truncated" in case or "cut" in case:
        return data[: len(data) * 2 // 3]
    return data + (b"stray bytes" if "extra" in case else b"")


@pytest.mark.parametrize("case", _cases("images"))
def test_images_are_judged_as_golden_says_but_never_rewritten(
    case: dict[str, Any], tmp_path: Path
) -> None:
    data = _image_bytes(case["case"], tuple(case["wh"]))
    image_path = tmp_path / f"a.{'png' if 'png' in case['case'] else 'jpg'}"
    image_path.write_bytes(data)

    result = _scan(image_path)

    assert bool(result.records) == case["accepted"]
    assert result.left_out == case["corrupt"]
    assert bool(result.faults) == case["has_message"]
    if case["accepted"]:
        assert [result.records[0].width, result.records[0].height] == case["shape"]
    # spec H 11: where `file_rewritten` is true the public program changed the user's file
    assert image_path.read_bytes() == data


@pytest.mark.parametrize("pair", _cases("label_paths"))
def test_label_paths_equal_golden(pair: list[str]) -> None:
    assert label_path(Path(pair[0])) == Path(pair[1])
