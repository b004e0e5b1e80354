"""Archives whose sizes, entries or tensor views are not what they claim."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.public_lookalike import (
    Call,
    archive,
    claim,
    content_of,
    pickled,
    public_program,
    refusal,
    written,
)
from yolov5_core.foreign import (
    ForeignCheckpointError,
    is_public_checkpoint,
    read_public_checkpoint,
)


def test_the_minimal_file_the_attacks_start_from_is_read(tmp_path: Path) -> None:
    checkpoint = read_public_checkpoint(written(tmp_path / "a.pt"))

    assert checkpoint.state_dict["0.weight"].tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert checkpoint.names == ("item",)


@pytest.mark.parametrize(
    "weight",
    [
        claim((3, 2), (2, 1)),  # six elements of four
        claim((2, 2), (3, 1)),  # strides out
        claim((2,), (1,), offset=3),
        claim((2,), (1,), offset=-1),
        claim((2,), (-1,), offset=3),
        claim((-1, 2), (1, 1)),
        claim((2, 2), (1,)),
        claim((1 << 40,), (0,)),  # a view of one element that would fill the memory
        claim((2, 2), (2, 1), count=400),  # a record of another size
        claim((2, 2), (2, 1), key="7"),  # no such record
        claim((2, 2), (2, 1), key="../data.pkl"),
        claim((1,) * 9, (1,) * 9),
    ],
)
def test_a_tensor_that_leaves_its_storage_is_refused(weight: Call, tmp_path: Path) -> None:
    assert "damaged" in refusal(written(tmp_path / "a.pt", weight=weight))


def test_a_compressed_member_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = archive(
        tmp_path / "bomb.pt",
        pickled({}),
        compression=zipfile.ZIP_DEFLATED,
        records={"data/0": bytes(50_000_000)},
    )

    assert bomb.stat().st_size < 100_000
    assert "compressed" in refusal(bomb)


def test_a_file_or_weights_over_the_limit_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pt", weight=claim((2, 2), (2, 1)))
    size = path.stat().st_size

    assert "over the limit" in refusal(path, max_bytes=size - 1)
    with public_program() as classes:
        weight = claim((1 << 18,), (1,), count=1 << 18)
        content = content_of(classes, weight=weight)
        content["model"]._modules["0"]._parameters["twice"] = weight
        data = pickled(content)
    raw = {"data/0": bytes(4 << 18)}
    big = archive(tmp_path / "twice.pt", data, records=raw)
    assert "weights need over" in refusal(big, max_bytes=big.stat().st_size)


def test_a_file_that_is_no_whole_pytorch_archive_is_refused(tmp_path: Path) -> None:
    good = written(tmp_path / "good.pt").read_bytes()
    short, text, twice = (tmp_path / name for name in ("short.pt", "text.pt", "twice.pt"))
    short.write_bytes(good[: len(good) // 2])
    text.write_bytes(b"\x80\x02}q\x00.")  # how PyTorch wrote before 1.6: a bare pickle
    with zipfile.ZipFile(twice, "w") as file:
        file.writestr("a/data.pkl", pickled({}))
        file.writestr("b/data.pkl", pickled({}))

    assert "not a whole zip" in refusal(short)
    assert "older than PyTorch 1.6" in refusal(text)
    assert "one data.pkl" in refusal(twice)
    big_endian = archive(tmp_path / "big.pt", pickled({}), byteorder=b"big")
    assert "byte order" in refusal(big_endian)


def test_a_changed_weight_fails_its_checksum(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pt")
    content = bytearray(path.read_bytes())
    content[content.index(np.arange(4, dtype="<f4").tobytes()) + 4] ^= 1
    path.write_bytes(content)

    assert "'data/0' cannot be read" in refusal(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4))
def test_whatever_bytes_change_the_reader_reads_or_refuses(
    changes: list[tuple[int, int]], tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    if not path.exists():
        written(path)
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    changed = tmp_path / "changed.pt"
    changed.write_bytes(content)

    is_public_checkpoint(changed)
    try:
        read_public_checkpoint(changed)
    except ForeignCheckpointError as error:
        assert str(changed) in str(error)  # noqa: PT017  both outcomes are right, others are not
