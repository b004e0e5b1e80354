"""Objects of any fsspec file system that has no module of its own: memory, S3, Azure, ..."""

import hashlib
from pathlib import Path
from typing import Any

from tasks.errors import NotWholeError


class RemoteObjects:
    """What a store does with objects; retries are those of the file system."""

    def __init__(self, fs: Any) -> None:  # fsspec has no types
        self._fs = fs

    def write(self, path: str, content: bytes | Path, sha256: str) -> None:
        """Puts bytes or a copy of a file there and reads them back.

        Raises:
            NotWholeError: What was written is something else.
        """
        if isinstance(content, Path):
            self._fs.put_file(str(content), path)
        else:
            self._fs.pipe_file(path, content)
        try:
            same = self.sha256(path) == sha256
        except FileNotFoundError:  # acknowledged and yet not there
            same = False
        if not same:
            raise NotWholeError("read back something else than was written")

    def create(self, path: str, data: bytes) -> None:
        """Puts bytes there if nothing is.

        Raises:
            FileExistsError: Something is.
        """
        self._fs.pipe_file(path, data, mode="create")

    def read(self, path: str) -> bytes:
        """All bytes of an object."""
        data = bytes(self._fs.cat_file(path))
        self._require_size(path, len(data))
        return data

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes start to end (exclusive), fewer at the end of the object."""
        data = bytes(self._fs.cat_file(path, start=start, end=end))
        if len(data) != end - start:
            self._require_size(path, start + len(data), at_least=start)
        return data

    def fetch(self, path: str, local: Path) -> None:
        """Copies an object to a local file."""
        self._fs.get_file(path, str(local))
        self._require_size(path, local.stat().st_size)

    def size(self, path: str) -> int | None:
        """Bytes of an object, None if it is a folder."""
        info = self._fs.info(path)
        return int(info["size"]) if info["type"] == "file" else None

    def sha256(self, path: str) -> str:
        """Sha256 of an object, hexadecimal; all of it is read."""
        with self._fs.open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def below(self, folder: str) -> list[str]:
        """Paths of all objects below a folder."""
        return list(self._fs.find(folder))

    def remove(self, path: str) -> None:
        """Removes an object."""
        self._fs.rm_file(path)

    def _require_size(self, path: str, size: int, at_least: int = 0) -> None:
        expected = max(self.size(path) or 0, at_least)
        if size != expected:
            raise NotWholeError(f"{size} bytes came instead of {expected}")
