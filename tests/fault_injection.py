"""Puts known faults into a copy of a YOLO data set, so that a search for them can be judged.

A way is one manner to go wrong; several ways may be faults of one kind. Each spoils one picture, or
adds a file of its own, and says what must be reported.
"""

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from yolov5_core.data_yaml import is_image

_LIST = "more-{}.txt"  # of a split: pictures beside those of its folder
_ROW = "0 0.5 0.5 0.25 0.25"


@dataclass(frozen=True)
class Injected:
    """One fault that is there now."""

    way: str
    kind: str  # one of faults.KINDS
    image: str  # name of the picture; empty if none is spoilt
    where: str  # how the place that is reported must end: file, with row or id


@dataclass(frozen=True)
class Target:
    """One picture to spoil."""

    root: Path  # of the data set
    image: Path
    classes: int
    rng: np.random.Generator
    number: int  # of the fault, for names of added files

    @property
    def label(self) -> Path:
        """Its label file, which may be missing."""
        text = self.image.with_suffix(".txt").as_posix()
        return Path("/labels/".join(text.rsplit("/images/", 1)))

    def rows(self) -> list[str]:
        """The box rows of its label file."""
        text = self.label.read_text() if self.label.is_file() else ""
        return [line for line in text.splitlines() if len(line.split()) == 5]

    def as_image(self, file_format: str) -> bytes:
        """The picture in one of PIL's formats."""
        out = io.BytesIO()
        with Image.open(self.image) as image:
            image.convert("RGB").save(out, file_format)
        return out.getvalue()

    def add_to_list(self, path: Path) -> None:
        """Lists a picture of its split."""
        inside = path.relative_to(self.root)
        split = "val" if inside.parts[1].startswith("val") else "train"
        with (self.root / _LIST.format(split)).open("a") as file:
            file.write(f"./{inside.as_posix()}\n")


Way = Callable[[Target], tuple[Path | None, Path | str]]  # returns the picture, and the place


def inject(folder: Path, count: int, seed: int, avoid: Iterable[str] = ()) -> list[Injected]:
    """Spoils a data set with images/<split>, labels/<split> and data.yaml.

    Args:
        folder: A copy; it is changed.
        count: Faults, at least len(WAYS), so that each way occurs.
        seed: Another seed takes other pictures, rows and places.
        avoid: Pictures that are left alone: those with faults of their own.

    Raises:
        ValueError: Too few pictures.
    """
    rng = np.random.default_rng(seed)
    names = set(avoid)
    images = [p for p in sorted((folder / "images").rglob("*")) if is_image(str(p))]
    images = [path for path in images if path.relative_to(folder).as_posix() not in names]
    if not len(WAYS) <= count <= len(images):
        raise ValueError(f"{len(WAYS)} to {len(images)} faults are possible here, not {count}")
    document = yaml.safe_load((folder / "data.yaml").read_text())
    injected = []
    order = rng.permutation(len(images))[:count]
    for number, place in enumerate(order.tolist()):
        way, (kind, spoil) = list(WAYS.items())[number % len(WAYS)]
        target = Target(folder, images[place], len(document["names"]), rng, number)
        image, where = spoil(target)
        name = _below(folder, image) if image else ""
        injected.append(Injected(way, kind, name, _below(folder, where)))
    lists = {split: _with_list(folder, split, document[split]) for split in ("train", "val")}
    (folder / "data.yaml").write_text(yaml.safe_dump({**document, **lists}))
    return injected


def _with_list(folder: Path, split: str, sources: str | list[str]) -> list[str]:
    extra = [_LIST.format(split)] if (folder / _LIST.format(split)).exists() else []
    return [*(sources if isinstance(sources, list) else [sources]), *extra]


def _below(folder: Path, where: Path | str) -> str:
    """A place as it is reported, from the data set's folder on."""
    text = str(where).removeprefix(f"{folder}/")
    return text.encode("utf-8", "backslashreplace").decode()


def _replaced(data: Callable[[Target], bytes]) -> Way:
    """Other bytes in the picture's file."""

    def spoil(t: Target) -> tuple[Path | None, Path]:
        content = data(t)
        t.image.unlink()
        t.image.write_bytes(content)
        return t.image, t.image

    return spoil


def _linked(target_of: Callable[[Target], Path]) -> Way:
    """A link in place of the picture's file."""

    def spoil(t: Target) -> tuple[Path | None, Path]:
        t.image.unlink()
        t.image.symlink_to(target_of(t))
        return t.image, t.image

    return spoil


def _row(text: str | Callable[[Target], str]) -> Way:
    """A row among the others."""

    def spoil(t: Target) -> tuple[Path | None, str]:
        rows = t.rows()
        at = int(t.rng.integers(len(rows) + 1))
        rows.insert(at, text if isinstance(text, str) else text(t))
        _write(t.label, rows)
        return t.image, f"{t.label}:{at + 1}"

    return spoil


def _polygon_row(bad: str) -> Way:
    def spoil(t: Target) -> tuple[Path | None, str]:
        _write(t.label, ["0 0.1 0.1 0.5 0.1 0.5 0.5", _ROW, bad])
        return t.image, f"{t.label}:3"

    return spoil


def _label_bytes(data: Callable[[str], bytes]) -> Way:
    def spoil(t: Target) -> tuple[Path | None, Path]:
        content = data("\n".join([_ROW, *t.rows()]))
        t.label.parent.mkdir(parents=True, exist_ok=True)
        t.label.write_bytes(content)
        return t.image, t.label

    return spoil


def _write(label: Path, rows: Iterable[str]) -> None:
    label.parent.mkdir(parents=True, exist_ok=True)
    label.write_text("".join(f"{row}\n" for row in rows))


def _listed_but_gone(t: Target) -> tuple[Path | None, Path]:
    gone = t.image.with_name(f"gone-{t.number}.jpg")
    t.add_to_list(gone)
    return gone, gone


def _listed_folder(t: Target) -> tuple[Path | None, Path]:
    folder = t.image.with_name(f"folder-{t.number}.jpg")
    folder.mkdir()
    t.add_to_list(folder)
    return folder, folder


def _listed_again(t: Target) -> tuple[Path | None, Path]:
    t.add_to_list(t.image)
    return t.image, t.image


def _pipe(t: Target) -> tuple[Path | None, Path]:
    t.image.unlink()
    os.mkfifo(t.image)
    return t.image, t.image


def _nameless(t: Target) -> tuple[Path | None, Path]:
    named = t.image.with_name(os.fsdecode(b"\xff%d.jpg" % t.number))
    named.write_bytes(t.image.read_bytes())
    return None, named


def _cut(t: Target, file_format: str, least: float) -> bytes:
    data = t.as_image(file_format)
    return data[: int(len(data) * t.rng.uniform(least, 0.98))]


def _flipped_png(t: Target) -> bytes:
    data = bytearray(t.as_image("PNG"))
    data[int(t.rng.integers(60, len(data) - 20))] ^= 1 << int(t.rng.integers(8))
    return bytes(data)


def _bomb(_: Target) -> bytes:
    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [b"IHDR" + size, b"IDAT" + zlib.compress(bytes(99)), b"IEND"]
    body = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def _pixel(_: Target) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (1, 1)).save(out, "PNG")
    return out.getvalue()


def _label_folder(t: Target) -> tuple[Path | None, Path]:
    t.label.unlink(missing_ok=True)
    t.label.mkdir(parents=True)
    return t.image, t.label


def _doubled_row(t: Target) -> tuple[Path | None, str]:
    rows = t.rows() or [_ROW]
    rows.append(rows[int(t.rng.integers(len(rows)))])
    _write(t.label, rows)
    return t.image, f"{t.label}:{len(rows)}"


def _orphan(t: Target) -> tuple[Path | None, Path]:
    orphan = t.label.with_name(f"orphan-{t.number}.txt")
    _write(orphan, [_ROW])
    return None, orphan


def _shared(t: Target) -> tuple[Path | None, Path]:
    if not t.label.is_file():
        _write(t.label, [_ROW])
    t.image.with_suffix(".webp").write_bytes(t.as_image("WEBP"))
    return None, t.label


def _pixels(t: Target) -> str:
    with Image.open(t.image) as image:
        width, height = image.size
    return f"0 {width // 2} {height // 2} {width // 4} {height // 4}"


WAYS: dict[str, tuple[str, Way]] = {
    "listed, not there": ("image-missing", _listed_but_gone),
    "link to nowhere": ("image-missing", _linked(lambda t: t.root / "nowhere.jpg")),
    "link to itself": ("image-unreadable", _linked(lambda t: t.image)),
    "pipe": ("image-unreadable", _pipe),
    "folder on a list": ("image-unreadable", _listed_folder),
    "no bytes": ("image-empty", _replaced(lambda _: b"")),
    "GIF named as it was": ("image-format", _replaced(lambda t: t.as_image("GIF"))),
    "web page": ("image-format", _replaced(lambda _: b"<html>404</html>")),
    "HEIC": ("image-format", _replaced(lambda _: b"\0\0\0\x18ftypheic" + bytes(99))),
    "text": ("image-undecodable", _replaced(lambda _: b"not a picture\n")),
    "noise": ("image-undecodable", _replaced(lambda t: b"\1" + t.rng.bytes(5000))),
    "PNG, one bit flipped": ("image-undecodable", _replaced(_flipped_png)),
    "JPEG, cut": ("image-truncated", _replaced(lambda t: _cut(t, "JPEG", 0.3))),
    "JPEG, cut in its header": ("image-truncated", _replaced(lambda t: t.as_image("JPEG")[:100])),
    "PNG, cut": ("image-truncated", _replaced(lambda t: _cut(t, "PNG", 0.1))),
    "BMP, cut": ("image-truncated", _replaced(lambda t: _cut(t, "BMP", 0.1))),
    "one pixel": ("image-too-small", _replaced(_pixel)),
    "bomb": ("image-too-large", _replaced(_bomb)),
    "JPEG, bytes behind it": (
        "image-trailing-bytes",
        _replaced(lambda t: t.as_image("JPEG") + t.rng.bytes(9) + b"\0"),
    ),
    "name in no UTF-8": ("image-name", _nameless),
    "listed again": ("image-listed-twice", _listed_again),
    "label is a folder": ("label-unreadable", _label_folder),
    "label of 10 MB": ("label-too-large", _label_bytes(lambda _: b"0 .5 .5 .1 .1\n" * 720_000)),
    "label in UTF-16": ("label-not-text", _label_bytes(lambda text: text.encode("utf-16"))),
    "label is a picture": ("label-not-text", _label_bytes(lambda _: b"\x89PNG\r\n\x1a\n" * 9)),
    "four fields": ("label-fields", _row("0 0.5 0.5 0.2")),
    "six fields": ("label-fields", _row("0 0.5 0.5 0.2 0.2 0.9")),
    "class by name": ("label-not-a-number", _row("cat 0.5 0.5 0.2 0.2")),
    "decimal commas": ("label-not-a-number", _row("0 0,5 0,5 0,2 0,2")),
    "underscore": ("label-not-a-number", _row("0 0.5 0.5 0.2 0_2")),
    "NaN": ("label-not-finite", _row("0 0.5 nan 0.2 0.2")),
    "infinity": ("label-not-finite", _row("0 0.5 0.5 inf 0.2")),
    "1e400": ("label-not-finite", _row("0 0.5 0.5 0.2 1e400")),
    "fractional class": ("label-class", _row("0.5 0.5 0.5 0.2 0.2")),
    "negative class": ("label-class", _row("-1 0.5 0.5 0.2 0.2")),
    "unknown class": ("label-class-unknown", _row(lambda t: f"{t.classes} 0.5 0.5 0.2 0.2")),
    "huge class": ("label-class-unknown", _row("1e30 0.5 0.5 0.2 0.2")),
    "box over 1": ("label-outside", _row("0 1.5 0.5 0.2 0.2")),
    "box under 0": ("label-outside", _row("0 0.5 -0.1 0.2 0.2")),
    "pixels": ("label-outside", _row(_pixels)),
    "polygon, odd": ("label-polygon", _polygon_row("0 0.1 0.1 0.5 0.1 0.5 0.5 0.3")),
    "polygon, two points": ("label-polygon", _polygon_row("0 0.1 0.1 0.5 0.1 0.5")),
    "row twice": ("label-duplicate", _doubled_row),
    "no width": ("label-no-area", _row("0 0.5 0.5 0 0.2")),
    "flat polygon": ("label-no-area", _polygon_row("0 0.1 0.2 0.5 0.2 0.3 0.2")),
    "label without picture": ("label-orphan", _orphan),
    "label of two pictures": ("label-shared", _shared),
}
