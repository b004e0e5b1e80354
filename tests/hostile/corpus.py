"""Files that nobody should give a program, made where they are needed: none is kept.

Every one is small on the disk (large ones have holes), and what would run, were it executed, makes
the canary file.
"""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

GIGABYTE = 10**9
_DEEP = 100_000


class _Payload:
    """What a malicious pickle does when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.system, (f"touch {self.canary}",)


def checkpoints(folder: Path, canary: Path) -> Iterator[Path]:
    """As weights: archives and pickles with code, bombs, tails, claims."""
    good = folder / "good.pt"
    torch.save({"a": torch.zeros(4), "format": "x"}, good)
    whole = good.read_bytes()

    def zipped(name: str, members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> Path:
        with zipfile.ZipFile(folder / name, "w", how) as archive:
            for member, data in members.items():
                archive.writestr(f"archive/{member}", data)
        return folder / name

    def plain(name: str, data: bytes) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    code = pickle.dumps(_Payload(canary), protocol=2)
    yield plain("code.pkl.pt", code)
    yield zipped("code.zip.pt", {"data.pkl": code, "version": b"3"})
    yield zipped("models-code.pt", {"data.pkl": b"models.yolo" + code, "version": b"3"})
    torch.save(_Payload(canary), folder / "torch-code.pt")
    yield folder / "torch-code.pt"
    torch.save({"x": _Payload(canary)}, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    yield folder / "legacy.pt"
    yield zipped("bomb.pt", {"data.pkl": bytes(300_000_000)}, zipfile.ZIP_DEFLATED)
    yield zipped("many.pt", {f"data/{n}": b"" for n in range(30_000)})
    doubled = b"\x80\x02](" + b"X\x01\x00\x00\x00a" + b"q\x00" + b"h\x00" * 3_000_000 + b"e."
    yield zipped("steps.pt", {"data.pkl": doubled, "version": b"3"})
    tuples = b"\x80\x02)" + b"2\x86" * 1_000_000 + b"."
    yield zipped("tuples.pt", {"data.pkl": tuples, "version": b"3"})
    yield plain("tail.pt", whole + b"#!/bin/sh\n")
    yield plain("head.pt", b"MZ" * 64 + whole)
    yield plain("cut.pt", whole[: len(whole) // 2])
    yield plain("garbage.pt", np.random.default_rng(0).bytes(100_000))
    table = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    safe = struct.pack("<Q", len(table)) + table + bytes(4)
    yield plain("model.safetensors", safe)
    yield plain("tail.safetensors", safe + code)
    yield plain("endless.safetensors", struct.pack("<Q", 2**62) + b"{")
    with tarfile.open(folder / "tar.pt", "w") as tar:
        tar.add(good, "../../escape")
    yield folder / "tar.pt"
    with (folder / "huge.pt").open("wb") as file:
        file.truncate(20 * GIGABYTE)
    yield folder / "huge.pt"


def _png(width: int, height: int, rows: bytes = b"", extra: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    compressed = zlib.compress(rows)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"zTXt", b"x\0\0" + extra) if extra else b"")
        + chunk(b"IDAT", compressed)
        + chunk(b"IEND", b"")
    )


def pictures(folder: Path, _canary: Path) -> Iterator[Path]:
    """Decompression bombs and things that are no pictures."""
    bomb = zlib.compress(bytes(500_000_000), 9)
    found = {
        "60000x60000.png": _png(60_000, 60_000, bytes(1000)),
        "line.png": _png(2**31 - 1, 1, bytes(1000)),
        "text.png": _png(16, 16, bytes(16 * 49), bomb),
        "cut.png": _png(640, 640, bytes(640 * 1921))[:200],
        "zero.png": _png(0, 0),
        "html.jpg": b"<html><script>alert(1)</script></html>",
        "60000x60000.bmp": b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "huge.jpg": b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + bytes(20) + b"\xff\xd9",
    }  # fmt: skip
    for name, data in found.items():
        (folder / name).write_bytes(data)
        yield folder / name
    with (folder / "hole.png").open("wb") as file:
        file.write(_png(16, 16, bytes(16 * 49)))
        file.truncate(5 * GIGABYTE)
    yield folder / "hole.png"


def label_files(folder: Path, _canary: Path) -> Iterator[Path]:
    """YOLO labels."""
    row = b"0 0.5 0.5 0.1 0.1"
    found = {
        "line.txt": b"0 " + b"0.5 " * 3_000_000,
        "columns.txt": b"0 " + b"0.5 " * 1_000_000,
        "rows.txt": b"\n".join([row] * 500_000),
        "zero.txt": row + b"\0" * 1000,
        "large.txt": b"0 1e999 0.5 0.1 0.1",
        "nan.txt": b"0 nan 0.5 0.1 0.1",
        "hex.txt": b"0 0x1p-3 0.5 0.1 0.1",
        "class.txt": b"9" * 400 + b" 0.5 0.5 0.1 0.1",
        "binary.txt": bytes(range(256)) * 10,
    }
    for name, data in found.items():
        (folder / name).write_bytes(data)
        yield folder / name
    with (folder / "gigabyte.txt").open("wb") as file:
        file.write(row)
        file.truncate(GIGABYTE)
    yield folder / "gigabyte.txt"
    os.mkfifo(folder / "pipe.txt")
    yield folder / "pipe.txt"


def coco_files(folder: Path, _canary: Path) -> Iterator[Path]:
    """JSON of annotations."""
    found = {
        "deep.json": b"[" * _DEEP,
        "deep-objects.json": b'{"a":' * _DEEP,
        "lists.json": b'{"images":[' + b"[]," * 21_000_000 + b"[]]}",
        "digits.json": b'{"images":' + b"1" * 100_000 + b"}",
        "twice.json": b'{"images":[],"images":[],"annotations":[],"categories":[]}',
        "text.json": b"not json",
        "other.json": b'{"a": 1}',
        "latin.json": b'{"images": "\xff"}',
    }
    for name, data in found.items():
        (folder / name).write_bytes(data)
        yield folder / name
        (folder / name).unlink()
    with (folder / "hole.json").open("wb") as file:
        file.truncate(3 * GIGABYTE)
    yield folder / "hole.json"


def xml_files(folder: Path, canary: Path) -> Iterator[Path]:
    """XML of annotations."""
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    found = {
        "laughs.xml": f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY l0 "lol">{laughs}]>'
        "<annotation><folder>&l9;</folder></annotation>",
        "external.xml": f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{canary.parent}/secret">]>'
        "<annotation><folder>&x;</folder></annotation>",
        "dtd.xml": '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/x.dtd"><annotation/>',
        "deep.xml": "<annotation>" + "<a>" * _DEEP,
        "encoding.xml": '<?xml version="1.0" encoding="rot13"?><annotation/>',
        "other.xml": "<svg/>",
    }
    for name, text in found.items():
        (folder / name).write_text(text)
        yield folder / name
    with (folder / "hole.xml").open("wb") as file:
        file.truncate(GIGABYTE)
    yield folder / "hole.xml"


def yaml_files(folder: Path, canary: Path) -> Iterator[Path]:
    """Settings, tables and descriptions of data sets."""
    laughs = "a0: &a0 [x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
    )
    found = {
        "laughs.yaml": laughs,
        "circle.yaml": "a: &a [*a]\n",
        "code.yaml": f"train: !!python/object/apply:os.system ['touch {canary}']\n",
        "tag.yaml": "train: !evil x\n",
        "deep.yaml": "[" * _DEEP,
        "deep-lines.yaml": "".join(f"{' ' * n}a:\n" for n in range(500)),
        "many.yaml": "a: [" + "1, " * 200_000 + "1]\n",
        "sixty.yaml": "epochs: " + "1:" * 100_000 + "1\n",
        "digits.yaml": f"epochs: {'9' * 100_000}\n",
        "binary.yaml": "epochs: \x00\n",
        "date.yaml": "epochs: 2026-13-45\n",
        "list.yaml": "- a\n- b\n",
    }
    for name, text in found.items():
        (folder / name).write_text(text)
        yield folder / name
    with (folder / "hole.yaml").open("wb") as file:
        file.truncate(GIGABYTE)
    yield folder / "hole.yaml"
    os.mkfifo(folder / "pipe.yaml")
    yield folder / "pipe.yaml"


def arrays(folder: Path, canary: Path) -> Iterator[Path]:
    """Evaluations, as a store may hold them."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([_Payload(canary)], object), allow_pickle=True)
    with zipfile.ZipFile(folder / "code.npz", "w") as archive:
        for name in ("classes", "losses", "confusion"):
            archive.writestr(f"{name}.npy", buffer.getvalue())
    yield folder / "code.npz"
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (800000000,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
        with archive.open("classes.npy", "w", force_zip64=True) as member:
            member.write(data)
            for _ in range(64):
                member.write(bytes(100_000_000))
    yield folder / "bomb.npz"
    (folder / "text.npz").write_text("no arrays")
    yield folder / "text.npz"


CORPUS: dict[str, Callable[[Path, Path], Iterator[Path]]] = {
    "checkpoint": checkpoints,
    "picture": pictures,
    "label": label_files,
    "coco": coco_files,
    "voc": xml_files,
    "yaml": yaml_files,
    "arrays": arrays,
}
