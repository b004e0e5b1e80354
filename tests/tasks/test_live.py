import math

import httpx
import pytest

from tasks.live import LiveView, epoch_rows
from yolov5_core.results import ResultsRow


def row(epoch: int, *results: float, box: float = 0.5) -> ResultsRow:
    return ResultsRow(
        epoch=epoch,
        epochs=3,
        memory="0G",
        losses=(box, 0.2, 0.1, 0.8),
        targets=4,
        image_size=64,
        results=(*results, *(0.0,) * (7 - len(results))),  # type: ignore[arg-type]
    )


def test_the_newest_epoch_is_first_and_the_best_is_marked():
    history = [
        (row(0, 0.1, 0.2, 0.30001, 0.1), 100.0),
        (row(1, 0.3, 0.4, 0.5, 0.3), 107.25),
        (row(2, 0.2, 0.3, 0.4, 0.2), 113.0),
    ]
    table = epoch_rows(history)
    assert [each["epoch"] for each in table] == ["3/3", "2/3", "1/3"]
    assert [each["best"] for each in table] == ["", "best", ""]
    assert [each["seconds"] for each in table] == [5.8, 7.2, ""]
    assert table[2]["mAP50"] == 0.3


def test_an_epoch_that_was_not_evaluated_has_no_metrics_and_is_not_the_best():
    (only,) = epoch_rows([(row(0), 1.0)])
    assert (only["mAP50"], only["best"], only["box"]) == ("", "", 0.5)


def test_what_is_not_finite_is_text():
    (only,) = epoch_rows([(row(0, 0.1, box=math.nan), 1.0)])
    assert only["box"] == "nan"


def test_without_epochs_there_are_no_rows():
    assert epoch_rows([]) == []


def test_a_server_that_is_away_is_left_alone_for_a_while(caplog):
    view, asked = LiveView(), []

    def show() -> None:
        asked.append(1)
        raise httpx.ConnectError("refused")

    view._try(show)
    view._try(show)
    assert len(asked) == 1
    assert "training goes on: refused" in caplog.text


def test_a_bug_of_ours_is_not_taken_for_an_absent_server():
    def show() -> None:
        raise TypeError("bug")

    with pytest.raises(TypeError):
        LiveView()._try(show)
