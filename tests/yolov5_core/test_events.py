from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from yolov5_core.events import write_events
from yolov5_core.results import TENSORBOARD_TAGS, ResultsRow


def history(epochs: int) -> list[tuple[ResultsRow, float]]:
    return [
        (
            ResultsRow(
                epoch=epoch,
                epochs=epochs,
                memory="0G",
                losses=(epoch + 0.1, epoch + 0.2, epoch + 0.3, 3 * epoch + 0.6),
                targets=5,
                image_size=64,
                results=(0.4, 0.5, 0.6, 0.7, epoch + 0.8, epoch + 0.9, epoch + 1.0),
            ),
            1000.0 + epoch,
        )
        for epoch in range(epochs)
    ]


def test_tensorboard_reads_ten_scalars_of_every_epoch(tmp_path: Path):
    path = write_events(history(3), tmp_path / "deep" / "events.out.tfevents.run")
    reader = EventAccumulator(str(path.parent))
    reader.Reload()
    assert sorted(reader.Tags()["scalars"]) == sorted(TENSORBOARD_TAGS)
    assert len(TENSORBOARD_TAGS) == 10
    for tag, value in zip(TENSORBOARD_TAGS, history(3)[2][0].scalars, strict=True):
        events = reader.Scalars(tag)
        assert [event.step for event in events] == [0, 1, 2]
        assert [event.wall_time for event in events] == [1000, 1001, 1002]
        assert events[2].value == pytest.approx(value)


@given(shorter=st.integers(1, 5), longer=st.integers(1, 5))
def test_a_longer_history_begins_with_the_bytes_of_a_shorter_one(
    shorter: int, longer: int, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.getbasetemp()
    rows = history(5)
    short = write_events(rows[: min(shorter, longer)], folder / "short.tfevents").read_bytes()
    long = write_events(rows[: max(shorter, longer)], folder / "long.tfevents").read_bytes()
    assert long.startswith(short)
    assert (
        write_events(rows[: max(shorter, longer)], folder / "again.tfevents").read_bytes() == long
    )


def test_no_epoch_at_all_is_a_file_tensorboard_accepts(tmp_path: Path):
    write_events([], tmp_path / "events.out.tfevents.run")
    reader = EventAccumulator(str(tmp_path))
    reader.Reload()
    assert reader.Tags()["scalars"] == []
