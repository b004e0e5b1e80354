"""The zip PyTorch writes, with every size and every tensor view checked before it is used."""

import math
import zipfile
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from yolov5_core.inert_pickle import (
    InertObject,
    PickleRefusedError,
    StoredTensor,
    are_counts,
    read_inert,
)

MAX_PICKLE = 16 * 2**20  # bytes; the largest public model needs below 1 MiB
_MAX_MEMBERS = 20_000  # archive entries; the largest public model needs below 5 000


class ArchiveError(ValueError):
    """A file that is refused; says what, which file and the fix."""


class TorchArchive:
    """An open archive; a context manager.

    Args:
        path: The file.
        max_bytes: Largest file to accept.

    Raises:
        ArchiveError: Missing, too large, not a zip, or entries PyTorch would not write.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        size = path.stat().st_size if path.is_file() else -1
        if size < 0:
            raise self.error("no such file", "give the path of a .pt file")
        if size > max_bytes:
            raise self.error(f"{size} bytes, over the limit of {max_bytes}", "raise max_bytes")
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise self.error(
                f"not a whole zip file ({error})",
                "copy it again; a file older than PyTorch 1.6 must be saved anew by the "
                "public program under a newer PyTorch",
            ) from error
        try:
            self._members = self._checked_members(size)
        except ArchiveError:
            self._zip.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._zip.close()

    def error(self, what: str, fix: str) -> ArchiveError:
        """The error to raise for this file."""
        return ArchiveError(f"{self.path}: {what}; {fix}")

    def damaged(self, what: str) -> ArchiveError:
        """The error to raise for what no intact file would contain."""
        return self.error(what, "the file is damaged or was tampered with: fetch it again")

    def _checked_members(self, file_size: int) -> dict[str, zipfile.ZipInfo]:
        """Entries by their name below the archive's one folder."""
        entries = self._zip.infolist()
        if len(entries) > _MAX_MEMBERS:
            raise self.damaged(f"{len(entries)} entries, over the limit of {_MAX_MEMBERS}")
        for entry in entries:
            stored = entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1
            if not stored or entry.file_size != entry.compress_size:
                raise self.damaged(
                    f"entry {entry.filename!r} is compressed or encrypted; PyTorch stores plainly"
                )
        if sum(entry.file_size for entry in entries) > file_size:
            raise self.damaged("its entries overlap: together they are larger than the file")
        names = Counter(entry.filename for entry in entries)
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1 or max(names.values()) > 1:
            raise self.error(
                "not a PyTorch archive: it needs one data.pkl and no entry twice",
                "give a .pt file of the public YOLOv5 trainer",
            )
        folder = pickles[0].removesuffix("data.pkl")
        return {
            entry.filename.removeprefix(folder): entry
            for entry in entries
            if entry.filename.startswith(folder)
        }

    def read(self, name: str) -> bytes:
        """The bytes of an entry, their checksum verified.

        Raises:
            ArchiveError: No such entry, or cut short, or changed.
        """
        if name not in self._members:
            raise self.damaged(f"entry {name!r} is missing")
        try:
            return self._zip.read(self._members[name])
        except (zipfile.BadZipFile, EOFError, RuntimeError, OSError, ValueError) as error:
            raise self.damaged(f"entry {name!r} cannot be read ({error})") from error

    def content(self) -> dict[Any, Any]:
        """The dictionary at the top of the pickle, as inert data.

        Raises:
            ArchiveError: A global or instruction that is refused, or no dictionary.
        """
        if "byteorder" in self._members:
            order = self.read("byteorder")
            if order != b"little":
                raise self.error(
                    f"byte order {order[:16]!r}", "save it anew on a little-endian machine"
                )
        if self._members["data.pkl"].file_size > MAX_PICKLE:
            raise self.damaged(f"data.pkl is over {MAX_PICKLE} bytes")
        try:
            content = read_inert(self.read("data.pkl"))
        except PickleRefusedError as error:
            raise self.error(
                f"refused: {error}",
                "if you trust the file, load it with the program that wrote it and save a model "
                "made of YOLOv5's standard layers only",
            ) from error
        if not isinstance(content, dict):
            raise self.error(f"it holds {kind_of(content)}, not a checkpoint", "give a .pt file")
        return content

    def array(self, tensor: StoredTensor, where: str) -> np.ndarray:
        """A copy of a tensor, once its view is known to lie inside its storage.

        Args:
            tensor: As the pickle claims it.
            where: Its key, for the message.

        Raises:
            ArchiveError: The view leaves its storage or repeats it, or the storage is missing.
        """
        storage, size, stride = tensor.storage, tensor.size, tensor.stride
        dtype = np.dtype(storage.dtype)
        raw = self.read(f"data/{storage.key}")
        if len(raw) != storage.count * dtype.itemsize:
            raise self.damaged(f"{where}: its storage has {len(raw)} bytes for {storage.count}")
        if not are_counts((tensor.offset,)) or not are_counts(size) or not are_counts(stride):
            raise self.damaged(f"{where}: its size, stride or offset are not whole numbers")
        last = tensor.offset + sum((n - 1) * s for n, s in zip(size, stride, strict=False))
        count = math.prod(size)
        if len(size) != len(stride) or count > storage.count or (count and last >= storage.count):
            raise self.damaged(f"{where}: size {size} and stride {stride} leave its storage")
        if count == 0:
            return np.zeros(size, dtype)
        flat = np.frombuffer(raw, dtype)[tensor.offset :]
        steps = [s * dtype.itemsize for s in stride]
        return np.lib.stride_tricks.as_strided(flat, size, steps).copy()


def kind_of(value: Any) -> str:
    """What a value of the file is, for messages."""
    return value.name if isinstance(value, InertObject) else type(value).__name__
