"""The files of a data set that lies in a bucket, read only; local ones are in yolov5_core.files."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.errors import explained
from tasks.store import open_store
from yolov5_core.files import FileInfo, Files, LocalFiles, too_large
from yolov5_core.limits import MAX_PICTURE_BYTES

# what tells versions of an object apart, the surest first
_VERSIONS = ("generation", "md5Hash", "etag", "ETag", "mtime", "last_modified", "created")


def open_files(url: str) -> Files:
    """The files around a path or URL.

    Raises:
        StoreRefusedError: An unknown kind of URL, or its package is not installed.
    """
    if "://" not in url:
        return LocalFiles()
    store = open_store(url)
    return LocalFiles() if store.folder else RemoteFiles(store.fs)


class RemoteFiles:
    """Files of any fsspec file system; paths are whole URLs.

    A file that cannot be read for the moment is no fault of the data: such errors are raised, as
    StoreError, while a file that is not there is an answer.
    """

    def __init__(self, fs: Any) -> None:  # fsspec has no types
        self._fs = fs

    def folder(self, path: str) -> dict[str, FileInfo]:
        """See Files."""
        with explained(f"cannot list {path}"):
            try:
                found = self._fs.ls(path, detail=True)
            except FileNotFoundError:
                return {}
        names = {info["name"].rstrip("/").rsplit("/", 1)[-1]: info for info in found}
        return {
            name: _info(info)
            for name, info in names.items()
            if info["type"] == "file" and name and not name.startswith(".")
        }

    def tree(self, path: str) -> dict[str, FileInfo]:
        """See Files."""
        with explained(f"cannot list {path}"):
            found = self._fs.find(path, detail=True)
        start = len(self._fs._strip_protocol(path).rstrip("/"))
        below = {name[start:]: info for name, info in found.items()}
        return {
            path.rstrip("/") + name: _info(info)
            for name, info in below.items()
            if not any(part.startswith(".") for part in name.split("/"))
        }

    def is_folder(self, path: str) -> bool:
        """See Files."""
        with explained(f"cannot look up {path}"):
            return bool(self._fs.isdir(path))

    def is_file(self, path: str) -> bool:
        """See Files."""
        with explained(f"cannot look up {path}"):
            return bool(self._fs.isfile(path))

    def glob(self, root: str, pattern: str) -> list[str]:
        """Whole URLs of the files that a pattern names.

        Args:
            root: URL of the folder.
            pattern: Below it, with `*`, `**`, `?` or `[...]`.
        """
        with explained(f"cannot list {root}/{pattern}"):
            found = self._fs.glob(f"{root}/{pattern}", detail=True)
        start = len(self._fs._strip_protocol(root))
        return [root + name[start:] for name, info in found.items() if info["type"] == "file"]

    def read_many(
        self, paths: Sequence[str], most: int = MAX_PICTURE_BYTES
    ) -> list[bytes | OSError]:
        """See Files; read side by side where the file system can."""
        if not paths:
            return []
        with explained(f"cannot read {paths[0]} and others"):
            found = self._fs.cat(list(paths), on_error="return")
        return [_answer(path, found[self._fs._strip_protocol(path)], most) for path in paths]


def _answer(path: str, found: object, most: int) -> bytes | OSError:
    if isinstance(found, FileNotFoundError | IsADirectoryError | PermissionError):
        return found
    if isinstance(found, Exception):
        with explained(f"cannot read {path}"):
            raise found
    data = bytes(found)  # type: ignore[call-overload]
    return data if len(data) <= most else too_large(path, len(data), most)


def _info(info: Mapping[str, Any]) -> FileInfo:
    stamp = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
    return FileInfo(int(info["size"]), stamp)
