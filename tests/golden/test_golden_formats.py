import json
from typing import Any

import pytest

from tests.golden_data import golden_files
from yolov5_core.results import ResultsRow, format_row, header, parse_results

FILES = [json.loads(path.read_text()) for path in golden_files("formats*.json")]
ROWS = [case for file in FILES for case in file.get("results_rows", [])]
UNTESTED = [case for file in FILES if (case := file.get("results_row_when_untested"))]
HEADERS = [text for file in FILES if (text := file.get("header"))]


@pytest.mark.parametrize("case", ROWS)
def test_golden_results_row_is_the_same_text(case: dict[str, Any]) -> None:
    row = ResultsRow(
        epoch=case["epoch"],
        epochs=case["epochs"],
        memory=case["mem"],
        losses=tuple(case["mean_losses_box_obj_cls_total"]),
        targets=case["last_batch_targets"],
        image_size=case["last_batch_size"],
        results=tuple(case["results_p_r_map50_map_valbox_valobj_valcls"]),
    )
    assert format_row(row) == case["row"]


@pytest.mark.parametrize("case", UNTESTED)
def test_golden_untested_row_has_zeros_for_results(case: dict[str, str]) -> None:
    (row,) = parse_results(case["row"])
    assert row.results == (0,) * 7
    assert format_row(row) == case["row"]


@pytest.mark.parametrize("case", ROWS + UNTESTED)
def test_golden_row_survives_reading_and_writing(case: dict[str, str]) -> None:
    assert "".join(map(format_row, parse_results(case["row"]))) == case["row"]


@pytest.mark.parametrize("text", HEADERS)
def test_golden_header_is_the_same_text(text: str) -> None:
    assert header() == text
