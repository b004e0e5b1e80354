"""Objects in a folder of this machine: whole or not there at all, on the disk when they count."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from tasks.digests import file_sha256
from tasks.errors import NotWholeError

PART = ".part-"  # in the name of a file that is being written


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
            else:
                part.write_bytes(content)
            _sync(part)
            if file_sha256(part) != sha256:
                raise NotWholeError("read back something else than was written")
            part.replace(target)
        _sync(target.parent)

    def create(self, path: str, data: bytes) -> None:
        """Puts bytes there if nothing is.

        Raises:
            FileExistsError: Something is.
        """
        target = Path(path)
        with part_of(target) as part:
            part.write_bytes(data)
            _sync(part)
            os.link(part, target)  # fails if there is one; never half there
        _sync(target.parent)

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

    def below(self, folder: str) -> list[str]:
        """Paths of all files below a folder, but of those that are being written."""
        found = (path for path in Path(folder).rglob("*") if path.is_file())
        return [str(path) for path in found if PART not in path.name]

    def remove(self, path: str) -> None:
        """Removes a file."""
        Path(path).unlink()


@contextmanager
def part_of(path: Path) -> Iterator[Path]:
    """A temporary name beside a path; what is left under it afterwards is removed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # elsewhere this kind means that a claim is lost
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path.parent)) from error
    part = path.with_name(f"{path.name[:100]}{PART}{uuid4().hex}")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _require_size(size: int, expected: int) -> None:
    if size != expected:
        raise NotWholeError(f"{size} bytes came instead of {expected}")


def _sync(path: Path) -> None:
    """Waits until a file or a folder's entries are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
