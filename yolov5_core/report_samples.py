"""A few pictures of a data set with their boxes, for its report."""

import base64
from collections.abc import Iterator, Sequence

import numpy as np

from yolov5_core.boxes import denormalise
from yolov5_core.dataset import Record
from yolov5_core.decode import PictureError, decode
from yolov5_core.pictures import Boxes, draw_picture, encode

_SIDE = 480  # pixels, the longer one of a sample
_CANDIDATES = 2000  # pictures whose labels are looked at
_MAX_TRIES = 3  # pictures read for each one wanted, where some cannot be read


def sample_pictures(
    records: Sequence[Record], class_names: Sequence[str], seed: int, count: int = 12
) -> list[tuple[str, str]]:
    """Draws some pictures with their boxes.

    Half of them show the classes in turn, the rarest first, the others are any. Of more than 2000
    pictures it looks at 2000. A picture that cannot be read gives its place to the next.

    Args:
        records: Pictures to choose from; the choice depends on them and the seed alone.
        class_names: By class number.
        seed: Of the choice.
        count: Pictures wanted.

    Returns:
        Name and data URI of a JPEG, 480 pixels, for each.
    """
    rng = np.random.default_rng(seed)
    candidates = rng.permutation(len(records))[:_CANDIDATES].tolist()
    drawn: list[tuple[str, str]] = []
    for tries, row in enumerate(_chosen(records, candidates, count)):
        if len(drawn) == count or tries == _MAX_TRIES * count:
            break
        try:
            drawn.append((records[row].name, _drawn(records[row], class_names)))
        except (OSError, PictureError):
            continue
    return drawn


def _chosen(records: Sequence[Record], candidates: Sequence[int], count: int) -> Iterator[int]:
    """Rows without repetition: count / 2 by class, then the others in the candidates' order."""
    with_class: dict[int, list[int]] = {}
    for row in candidates:
        for number in sorted(set(records[row].labels[:, 0].astype(int).tolist())):
            with_class.setdefault(number, []).append(row)
    rarest_first = sorted(with_class.values(), key=len)
    seen: set[int] = set()
    depth = 0
    while rarest_first and len(seen) < count // 2:
        rarest_first = [rows for rows in rarest_first if len(rows) > depth]
        for rows in rarest_first:
            if rows[depth] not in seen and len(seen) < count // 2:
                seen.add(rows[depth])
                yield rows[depth]
        depth += 1
    yield from (row for row in candidates if row not in seen)


def _drawn(record: Record, class_names: Sequence[str]) -> str:
    """A data URI of the picture with its boxes."""
    longer = max(record.width, record.height)
    reduce = next((r for r in (8, 4, 2) if longer >= r * _SIDE), 1)
    image = decode(record.place.read(), reduce)
    height, width = image.shape[:2]
    boxes = Boxes(
        xyxy=denormalise(record.labels[:, 1:], width, height), classes=record.labels[:, 0]
    )
    rgb = np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1))
    picture = draw_picture(rgb, boxes, class_names, _SIDE / max(width, height))
    return "data:image/jpeg;base64," + base64.b64encode(encode(picture, ".jpg")).decode()
