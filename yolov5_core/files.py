"""The files of a data set, read only, and the local ones; paths are texts with "/"."""

import errno
import os
import posixpath
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from yolov5_core.dataset import DataError
from yolov5_core.limits import MAX_PICTURE_BYTES


class FileInfo(NamedTuple):
    """What tells that a file has changed."""

    size: int  # bytes
    stamp: str | int  # version of the content, or its time in nanoseconds


class Files(Protocol):
    """Where a data set is read from: this machine, or tasks.remote_files."""

    def folder(self, path: str) -> dict[str, FileInfo]:
        """What is directly in a folder by name, hidden ones left out; {} if there is no folder.

        Folders in it may be among them.
        """

    def tree(self, path: str) -> dict[str, FileInfo]:
        """Files in a folder and all below it by whole path, hidden ones left out."""

    def is_folder(self, path: str) -> bool:
        """Whether this is a folder."""

    def is_file(self, path: str) -> bool:
        """Whether this is a file."""

    def read_many(
        self, paths: Sequence[str], most: int = MAX_PICTURE_BYTES
    ) -> list[bytes | OSError]:
        """Contents, or why a file cannot be read; EFBIG above so many bytes."""


class LocalFiles:
    """Files of this machine."""

    def folder(self, path: str) -> dict[str, FileInfo]:
        """See Files; a link that leads nowhere counts as a file of no size."""
        try:
            with os.scandir(path) as entries:
                return {e.name: _info(e) for e in entries if not e.name.startswith(".")}
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a 0 byte
            return {}
        except OSError as error:
            raise _unlisted(path, error) from error

    def tree(self, path: str) -> dict[str, FileInfo]:
        """See Files; links to folders are followed, once."""
        found: dict[str, FileInfo] = {}
        waiting, seen = [path], set[str]()
        while waiting:
            here = waiting.pop()
            real = os.path.realpath(here)  # links may lead in a circle
            if real in seen:
                continue
            seen.add(real)
            folders = []
            try:
                with os.scandir(here) as entries:
                    for entry in entries:
                        if entry.name.startswith("."):
                            continue
                        if _is_folder(entry):
                            folders.append(entry.path)
                        else:
                            found[entry.path] = _info(entry)
            except OSError as error:
                raise _unlisted(here, error) from error
            waiting += sorted(folders, reverse=True)  # of two ways to a folder the same one wins
        return found

    def is_folder(self, path: str) -> bool:
        """See Files."""
        return Path(path).is_dir()

    def is_file(self, path: str) -> bool:
        """See Files."""
        return Path(path).is_file()

    def read_many(
        self, paths: Sequence[str], most: int = MAX_PICTURE_BYTES
    ) -> list[bytes | OSError]:
        """See Files."""
        return [_read(path, most) for path in paths]


def _unlisted(folder: str, error: OSError) -> DataError:
    return DataError(f"{folder}: cannot be listed: {error.strerror}; make the folder readable")


def read_file(files: Files, path: str, most: int) -> bytes:
    """One file of so many bytes at most.

    Raises:
        OSError: It cannot be read, or is larger.
    """
    (data,) = files.read_many([path], most)
    if isinstance(data, OSError):
        raise data
    return data


def join(folder: str, path: str) -> str:
    """A path seen from a folder, without `.` and `..`; the path itself if it is absolute or a URL.

    >>> join("gs://bucket/set", "../other/images")
    'gs://bucket/other/images'
    """
    scheme, colon, rest = folder.rpartition("://")
    if "://" in path:
        return path
    return scheme + colon + posixpath.normpath(posixpath.join(rest, path))


def relative(root: str, path: str) -> str:
    """The path below the root, or as it is."""
    prefix = root.rstrip("/") + "/"
    return path.removeprefix(prefix)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: a file that cannot be read
        return False


def _info(entry: "os.DirEntry[str]") -> FileInfo:
    try:
        status = entry.stat()
    except OSError:
        return FileInfo(0, 0)
    return FileInfo(status.st_size, status.st_mtime_ns)


def too_large(path: str, size: int, most: int) -> OSError:
    """What is said of a file above a limit."""
    return OSError(errno.EFBIG, f"{size} bytes, over the limit of {most}", path)


def _read(path: str, most: int) -> bytes | OSError:
    try:
        status = Path(path).stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            return OSError(errno.EINVAL, "a pipe or device, no file", path)  # it may never end
        if status.st_size > most:
            return too_large(path, status.st_size, most)
        return Path(path).read_bytes()
    except OSError as error:
        return error
    except ValueError as error:  # a 0 byte in the name
        return OSError(errno.EINVAL, str(error), path)
