"""Opening a zip file: its directory, sizes and overlaps are checked before it is unpacked."""

import os
import struct
import zipfile
import zlib
from operator import attrgetter
from typing import BinaryIO, NamedTuple

from yolov5_core.limits import MAX_ZIP_DIRECTORY, MAX_ZIP_ENTRIES

# What a damaged or forged zip file makes Python raise, at opening or reading.
ZIP_FAULTS = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(EOFError, RuntimeError, OSError, ValueError),
)
_END = struct.Struct("<4s4H2LH")  # end of central directory
_LOCATOR = struct.Struct("<4sLQL")  # of the same in zip64
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCAL_HEADER = 30  # bytes, before name and extra field
_ANEW = "load it with the program that wrote it and save it anew under a newer PyTorch"
_BEGINNINGS = (
    (b"{", 8, "a safetensors file, which does not describe its model", "give a .pt file"),
    (b"ustar", 257, "a tar file, older than PyTorch 0.4", _ANEW),
    (b"\x80", 0, "a bare pickle, older than PyTorch 1.6 or of another program", _ANEW),
    (b"\x1f\x8b", 0, "a gzip file", "unpack it first"),
    (b"\x89HDF", 0, "an HDF5 file, as Keras writes", "give a .pt file"),
    (b"<", 0, "a web page", "the download went wrong: fetch the file again"),
)


class ZipError(ValueError):
    """A zip file that is refused; the message says why, the caller which file."""


class _Directory(NamedTuple):
    start: int
    size: int
    entries: int
    end: int  # where the record of its end begins


def looks_like(file: BinaryIO) -> tuple[str, str] | None:
    """What a file is that is certainly no zip file, and the fix."""
    file.seek(0)
    data = file.read(512)
    if data.startswith(b"PK"):
        return None
    found = ((what, fix) for text, at, what, fix in _BEGINNINGS if data[at:].startswith(text))
    return next(found, None)


def open_zip(file: BinaryIO, max_bytes: int) -> zipfile.ZipFile:
    """Opens a zip file as torch and numpy write it: nothing before, behind or between its parts.

    Args:
        file: The file, or its bytes.
        max_bytes: Of all entries, unpacked.

    Raises:
        ZipError: No zip file, damaged, too large, or forged.
    """
    directory = _directory(file)
    if directory.entries > MAX_ZIP_ENTRIES or directory.size > MAX_ZIP_DIRECTORY:
        raise ZipError(
            f"{directory.entries} entries in a directory of {directory.size} bytes, over the "
            f"limit of {MAX_ZIP_ENTRIES} and {MAX_ZIP_DIRECTORY}"
        )
    try:
        archive = zipfile.ZipFile(file)
    except ZIP_FAULTS as error:
        raise ZipError(f"not a whole zip file ({error})") from error
    try:
        _require_honest(archive.infolist(), directory, max_bytes)
    except ZipError:
        archive.close()
        raise
    return archive


def _directory(file: BinaryIO) -> _Directory:
    """The directory as the end of the file describes it; must be found before zipfile reads it."""
    try:
        return _described(file)
    except struct.error as error:
        raise ZipError(f"not a whole zip file ({error})") from error


def _described(file: BinaryIO) -> _Directory:
    size = file.seek(0, os.SEEK_END)
    at = size - _END.size
    if at < 0:
        raise ZipError("not a whole zip file (it is too short)")
    mark, *_, entries, length, start, comment = _END.unpack(_bytes_at(file, at, _END.size))
    if mark != b"PK\5\6" or comment:
        raise ZipError("not a whole zip file (it is cut, or has bytes behind its end)")
    if at >= _LOCATOR.size:  # torch always writes the large kind of end record, too
        mark, _, at64, _ = _LOCATOR.unpack(_bytes_at(file, at - _LOCATOR.size, _LOCATOR.size))
        if mark == b"PK\6\7" and at64 == at - _LOCATOR.size - _END64.size:
            at = at64
            mark, *_, entries, length, start = _END64.unpack(_bytes_at(file, at, _END64.size))
            if mark != b"PK\6\6":
                raise ZipError("not a whole zip file (its end record is damaged)")
    if start + length != at:
        raise ZipError("not a whole zip file (it has bytes before or between its parts)")
    return _Directory(start, length, entries, at)


def _bytes_at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _require_honest(entries: list[zipfile.ZipInfo], directory: _Directory, max_bytes: int) -> None:
    if sum(entry.file_size for entry in entries) > max_bytes:
        total = sum(entry.file_size for entry in entries)
        raise ZipError(f"{total} bytes unpacked, over the limit of {max_bytes}")
    if any(entry.flag_bits & 1 for entry in entries):
        raise ZipError("an entry is encrypted")
    if len({entry.filename for entry in entries}) < len(entries):
        raise ZipError("an entry occurs twice")
    ordered = sorted(entries, key=attrgetter("header_offset"))
    ends = [entry.header_offset for entry in ordered[1:]] + [directory.start]
    if ordered and ordered[0].header_offset:
        raise ZipError("it has bytes before its first entry")
    for entry, end in zip(ordered, ends, strict=True):
        if entry.header_offset + _LOCAL_HEADER + entry.compress_size > end:
            raise ZipError(f"its entries overlap: {entry.filename[:100]!r} reaches into the next")
