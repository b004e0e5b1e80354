"""Pickles that want more than to be read, and damaged ones."""

import builtins
import os
import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tests.public_lookalike import (
    Call,
    archive,
    content_of,
    pickled,
    public_program,
    refusal,
    written,
)
from yolov5_core.foreign import is_public_checkpoint
from yolov5_core.inert_pickle import read_inert


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "system"),
        (builtins.eval, "eval"),
        (builtins.exec, "exec"),
        (builtins.getattr, "getattr"),
        (shutil.rmtree, "shutil.rmtree"),
        (nn.Linear, "torch.nn.modules.linear.Linear"),
    ],
)
def test_a_call_of_anything_else_is_refused_by_name_and_not_made(
    function: Any, name: str, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    order = f"open({str(canary)!r}, 'w')" if function in (eval, exec) else f"touch '{canary}'"
    path = written(tmp_path / "evil.pt", hyp=Call(function, order))

    message = refusal(path)

    assert name in message
    assert not canary.exists()
    assert is_public_checkpoint(path)  # looking does not run it either
    assert not canary.exists()


def test_the_canary_would_have_sung(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(pickled(Call(os.system, f"touch '{canary}'")))  # noqa: S301  ours, to compare

    assert canary.exists()


def test_an_unknown_layer_of_the_public_program_is_refused_by_name(tmp_path: Path) -> None:
    with public_program() as classes:
        content = content_of(classes)
        content["model"]._modules["1"] = classes["Unknown"]()
        path = archive(tmp_path / "a.pt", pickled(content))

    assert "models.common.Unknown" in refusal(path)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00lstR.", "'os.system'"),
        (b"\x80\x02(ios\nsystem\n.", "INST"),
        (b"\x80\x02]q\x00\x8c\x02os\x8c\x06system\x93.", "SHORT_BINUNICODE"),
        (b"\x80\x04}.", "protocol 4"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "memo entry 2147483647"),
        (b"\x80\x02h\x05.", "memo entry 5"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "not a complete pickle"),
        (b"\x80\x02ctorch\nSize\n]R.", "cannot call"),
        (b"\x80\x02}U.", "not a complete pickle"),
        (b"\x80\x02R.", "nothing to work on"),
        (b"\x80\x02t.", "no mark"),
        (b"\x80\x02X\x01\x00\x00\x00aQ.", "persistent"),
        (b"", "not a complete pickle"),
        (b"\x80\x02].", "holds list"),
    ],
)
def test_a_damaged_or_foreign_pickle_is_refused(data: bytes, part: str, tmp_path: Path) -> None:
    assert part in refusal(archive(tmp_path / "a.pt", data))


def test_a_key_that_would_cost_hours_to_hash_is_refused_at_once(tmp_path: Path) -> None:
    # sixty tuples, each the one before twice: hashing the last visits 2**60 of them
    doubled = b"".join(b"h%c" % i * 2 + b"\x86q%c" % (i + 1) for i in range(60))
    data = b"\x80\x02)q\x00" + doubled + b"}h%cNs." % 60

    started = time.monotonic()

    assert "dict key" in refusal(archive(tmp_path / "a.pt", data))
    assert time.monotonic() - started < 5


def test_endless_nesting_is_refused(tmp_path: Path) -> None:
    with public_program() as classes:
        content = content_of(classes)
        cycle = content["model"]
        cycle._modules["0"]._modules["again"] = cycle
        looped = archive(tmp_path / "looped.pt", pickled(content))
        content = content_of(classes)
        level = content["model"]
        for _ in range(30):  # every level holds the next one twice: 2**30 paths
            below = classes["Conv"]()
            level._modules["a"] = level._modules["b"] = below
            level = below
        shared = archive(tmp_path / "shared.pt", pickled(content))
    read_inert(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")  # without recursion
    nested: list[Any] = []
    for _ in range(60):
        nested = [nested, nested]

    assert "nested too deeply" in refusal(looped)
    assert "modules" in refusal(shared)
    assert "nested without end" in refusal(written(tmp_path / "deep.pt", yaml=nested))
