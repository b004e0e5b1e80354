"""TensorBoard event files from a run's history: the same history gives the same bytes."""

from collections.abc import Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

from yolov5_core.results import TENSORBOARD_TAGS, ResultsRow


def write_events(history: Sequence[tuple[ResultsRow, float]], path: Path) -> Path:
    """Writes the ten scalars of every epoch, step = epoch.

    A longer history begins with the bytes of a shorter one, so a TensorBoard that is watching
    sees a file that grows; after a resume no epoch is there twice.

    Args:
        history: (row, unix time) of each epoch.
        path: Its name must contain "tfevents" for TensorBoard to find it.

    Source: design, Run semantics.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    start = history[0][1] if history else 0.0
    with path.open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=start, file_version="brain.Event:2").SerializeToString())
        for row, time in history:
            values = [
                Summary.Value(tag=tag, simple_value=value)
                for tag, value in zip(TENSORBOARD_TAGS, row.scalars, strict=True)
            ]
            event = Event(wall_time=time, step=row.epoch, summary=Summary(value=values))
            writer.write(event.SerializeToString())
        writer.flush()
    return path
