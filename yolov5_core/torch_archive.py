"""The zip PyTorch writes, with every size and every tensor view checked before it is used."""

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from yolov5_core.inert_pickle import (
    InertObject,
    PickleRefusedError,
    Storage,
    StoredTensor,
    are_counts,
    plain_tensors,
    read_inert,
)
from yolov5_core.limits import MAX_PICKLE_BYTES
from yolov5_core.zips import ZIP_FAULTS, ZipError, looks_like, open_zip

_Read = TypeVar("_Read")
_BLOCK = 2**20  # bytes read at once where only the checksum is wanted


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
        self._file = path.open("rb")
        try:
            if what := looks_like(self._file):
                raise self.error(*what)
            self._zip = open_zip(self._file, size)
            self._members = self._checked_members()
        except ZipError as error:
            self._file.close()
            raise self.error(str(error), "copy it again") from error
        except ArchiveError:
            self._file.close()
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
        self._file.close()

    def error(self, what: str, fix: str) -> ArchiveError:
        """The error to raise for this file."""
        return ArchiveError(f"{self.path}: {what}; {fix}")

    def damaged(self, what: str) -> ArchiveError:
        """The error to raise for what no intact file would contain."""
        return self.error(what, "the file is damaged or was tampered with: fetch it again")

    def _checked_members(self) -> dict[str, zipfile.ZipInfo]:
        """Entries by their name below the archive's one folder."""
        entries = self._zip.infolist()
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise self.damaged(
                    f"entry {entry.filename[:100]!r} is compressed; PyTorch stores plainly"
                )
        pickles = [e.filename for e in entries if e.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise self.error(
                "not a PyTorch archive: it needs one data.pkl", "give a .pt file of a trainer"
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
        except ZIP_FAULTS as error:
            raise self.damaged(f"entry {name!r} cannot be read ({error})") from error

    def _require_whole(self, name: str) -> None:
        """Reads an entry for its checksum, block by block: torch does not compare checksums."""
        try:
            with self._zip.open(self._members[name]) as member:
                while member.read(_BLOCK):
                    pass
        except ZIP_FAULTS as error:
            raise self.damaged(f"entry {name!r} cannot be read ({error})") from error

    def require_plain(self) -> None:
        """Makes sure that it is unchanged and holds plain values and tensors only.

        The tensors lie inside their storages then, and these inside their entries.

        Raises:
            ArchiveError: It is not so.
        """
        storages, tensors = self._read_pickle(plain_tensors)
        for storage in storages:
            self._require_storage(storage, f"storage {storage.key!r}")
        for tensor in tensors:
            self._require_inside(tensor, f"a tensor of storage {tensor.storage.key!r}")
        for name in self._members:
            self._require_whole(name)

    def _read_pickle(self, reader: Callable[[bytes], _Read]) -> _Read:
        if "byteorder" in self._members:
            order = self.read("byteorder")
            if order != b"little":
                raise self.error(
                    f"byte order {order[:16]!r}", "save it anew on a little-endian machine"
                )
        if self._members["data.pkl"].file_size > MAX_PICKLE_BYTES:
            raise self.damaged(f"data.pkl is over {MAX_PICKLE_BYTES} bytes")
        try:
            return reader(self.read("data.pkl"))
        except PickleRefusedError as error:
            raise self.error(
                f"refused: {error}",
                "if you trust the file, load it with the program that wrote it and save a model "
                "made of YOLOv5's standard layers only",
            ) from error

    def content(self) -> dict[Any, Any]:
        """The dictionary at the top of the pickle, as inert data.

        Raises:
            ArchiveError: A global or instruction that is refused, or no dictionary.
        """
        content = self._read_pickle(read_inert)
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
        self._require_storage(storage, where)
        self._require_inside(tensor, where)
        dtype = np.dtype(storage.dtype)
        if math.prod(size) == 0:
            return np.zeros(size, dtype)
        flat = np.frombuffer(self.read(f"data/{storage.key}"), dtype)[tensor.offset :]
        steps = [s * dtype.itemsize for s in stride]
        return np.lib.stride_tricks.as_strided(flat, size, steps).copy()

    def _require_storage(self, storage: Storage, where: str) -> None:
        member = self._members.get(f"data/{storage.key}")
        if member is None:
            raise self.damaged(f"entry 'data/{storage.key[:100]}' is missing")
        if member.file_size != storage.count * np.dtype(storage.dtype).itemsize:
            size = member.file_size
            raise self.damaged(f"{where}: its storage has {size} bytes for {storage.count}")

    def _require_inside(self, tensor: StoredTensor, where: str) -> None:
        """That a tensor's elements lie in its storage, and are no more than it has."""
        storage, size, stride = tensor.storage, tensor.size, tensor.stride
        if not are_counts((tensor.offset,)) or not are_counts(size) or not are_counts(stride):
            raise self.damaged(f"{where}: its size, stride or offset are not whole numbers")
        last = tensor.offset + sum((n - 1) * s for n, s in zip(size, stride, strict=False))
        count = math.prod(size)
        if len(size) != len(stride) or count > storage.count or (count and last >= storage.count):
            raise self.damaged(f"{where}: size {size} and stride {stride} leave its storage")


def kind_of(value: Any) -> str:
    """What a value of the file is, for messages."""
    return value.name if isinstance(value, InertObject) else type(value).__name__
