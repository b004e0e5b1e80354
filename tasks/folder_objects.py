"""Objects in a folder of this machine: whole or not there at all, on the disk when they count."""

import os
import shutil
from pathlib import Path

from tasks.digests import file_sha256
from tasks.errors import NotWholeError
from yolov5_core.durable import PART, part_of, settle, sync


class FolderObjects:
    """What a store does with files; paths are absolute."""

    def write(self, path: str, content: bytes | Path, sha256: str) -> None:
        """Puts bytes or a copy of a file there, read back before it counts.

        Raises:
            NotWholeError: What was written is something else.
        """
        target = Path(path)
        with part_of(target) as part:
            if isinstance(content, Path):
                shutil.copyfile(content, part)
                same = file_sha256(part) == sha256
            else:
                part.write_bytes(content)
                same = part.read_bytes() == content
            if not same:
                raise NotWholeError("read back something else than was written")
            settle(part, target)

    def create(self, path: str, data: bytes) -> None:
        """Puts bytes there if nothing is.

        Raises:
            FileExistsError: Something is.
        """
        target = Path(path)
        with part_of(target) as part:
            part.write_bytes(data)
            sync(part)
            os.link(part, target)  # fails if there is one; never half there
        sync(target.parent)

    def read(self, path: str) -> bytes:
        """All bytes of a file."""
        with Path(path).open("rb") as file:
            data = file.read()
            _require_size(len(data), os.fstat(file.fileno()).st_size)
        return data

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes start to end (exclusive), fewer at the end of the file."""
        with Path(path).open("rb") as file:
            file.seek(start)
            data = file.read(end - start)
            size = os.fstat(file.fileno()).st_size
        _require_size(len(data), max(min(end, size) - start, 0))
        return data

    def fetch(self, path: str, local: Path) -> None:
        """Copies a file."""
        size = Path(path).stat().st_size
        shutil.copyfile(path, local)
        _require_size(local.stat().st_size, size)

    def size(self, path: str) -> int | None:
        """Bytes of a file, None if it is none."""
        target = Path(path)
        status = target.stat()
        return status.st_size if target.is_file() else None

    def sha256(self, path: str) -> str:
        """Sha256 of a file, hexadecimal."""
        return file_sha256(Path(path))

    def below(self, folder: str) -> list[str]:
        """Paths of all files below a folder, but of those that are being written."""
        found = (path for path in Path(folder).rglob("*") if path.is_file())
        return [str(path) for path in found if PART not in path.name]

    def remove(self, path: str) -> None:
        """Removes a file."""
        Path(path).unlink()


def _require_size(size: int, expected: int) -> None:
    if size != expected:
        raise NotWholeError(f"{size} bytes came instead of {expected}")
