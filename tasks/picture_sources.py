"""Pictures to look at: from files, folders, globs, lists, videos and cameras, here or in a bucket.

They are only read, a batch at a time, so a source may be larger than memory.
"""

import glob
import logging
import os
import re
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import cv2
import numpy as np

from tasks.remote_files import RemoteFiles, open_files
from tasks.store import open_store
from yolov5_core.config import ConfigError
from yolov5_core.data_yaml import is_image, read_list
from yolov5_core.decode import PictureError, verify
from yolov5_core.files import Files, relative

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
_WILD = re.compile(r"[*?\[]")
_FPS = 25.0  # of a camera or video that does not say
_AHEAD = 2  # batches read while another is looked at

Kind = Literal["picture", "video", "camera"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file or camera."""

    kind: Kind
    place: str  # path, URL, or a camera's number
    file: str  # below the source that was given, with "/"
    name: str  # the same without suffix; no two are the same


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Picture:
    """One picture or frame, or why there is none."""

    source: Source
    name: str  # the source's, of a frame with its number behind
    image: np.ndarray | None  # (H, W, 3) uint8 BGR, as it is
    fault: str = ""
    fps: float = 0.0  # of a video or camera


def find_sources(given: Sequence[str]) -> list[Source]:
    """What some words name; a folder, list or glob in the order of its names.

    Args:
        given: Pictures, videos, folders (with all below), globs, .txt lists of pictures, each a
            path or URL; or the numbers of cameras.

    Raises:
        ConfigError: One names nothing, or nothing to look at.
        DataError: A list or folder cannot be read.
        StoreError: A bucket failed.
    """
    taken: set[str] = set()
    return [
        Source(kind=_kind(place), place=place, file=file, name=_unique(file, taken))
        for word in given
        for place, file in _places(word)
    ]


def _places(word: str) -> list[tuple[str, str]]:
    """Place, and name with its suffix, of all that one word names."""
    if word.isascii() and word.isdigit():
        return [(word, f"camera{word}")]
    files, path = _files_of(word)
    name = path.rstrip("/").rpartition("/")[2]
    if files.is_folder(path):
        found = [p for p in sorted(files.tree(path)) if _is_seen(p)]
        root = path
    elif files.is_file(path):
        if not name.lower().endswith(".txt"):
            if not _is_seen(path):
                raise ConfigError(f"{word}: neither a picture nor a video, by its suffix")
            return [(path, name)]
        found = [line for line in read_list(path, files) if _is_seen(line)]
        root = path.rpartition("/")[0]
    elif wild := _WILD.search(path):
        root = path[: wild.start()].rpartition("/")[0]
        found = [p for p in sorted(_matching(files, root, path)) if _is_seen(p)]
    else:
        raise ConfigError(f"{word}: no such picture, video, folder, list, glob or camera number")
    if not found:
        raise ConfigError(f"{word}: no pictures or videos there")
    return [(place, relative(root, place) if root else place) for place in found]


def _files_of(word: str) -> tuple[Files, str]:
    """How to read what a word names, and its whole path or URL."""
    files = open_files(word)
    if isinstance(files, RemoteFiles):
        return files, word
    if "://" in word:  # file://
        return files, open_store(word).root
    return files, os.path.normpath(Path(word).expanduser().absolute())


def _matching(files: Files, root: str, pattern: str) -> list[str]:
    if isinstance(files, RemoteFiles):
        return files.glob(root, pattern[len(root) + 1 :])
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207  patterns of whole paths
    return [path for path in found if Path(path).is_file()]


def _is_seen(path: str) -> bool:
    return is_image(path) or path.lower().endswith(VIDEO_SUFFIXES)


def _kind(place: str) -> Kind:
    if place.isdigit():
        return "camera"
    return "picture" if is_image(place) else "video"


def _unique(name: str, taken: set[str]) -> str:
    """A path of plain parts without suffix that no other source has."""
    path = PurePosixPath(name.partition("://")[2] or name)
    parts = [part for part in path.with_suffix("").parts if part not in ("/", ".", "..")]
    stem = "/".join(parts) or "picture"
    wanted, number = stem, 1
    while wanted in taken:
        number += 1
        wanted = f"{stem}-{number}"
    taken.add(wanted)
    return wanted


def read_pictures(
    sources: Sequence[Source], batch_size: int, scratch: Path
) -> Generator[list[Picture], None, None]:
    """All pictures and frames in their order, in batches; what cannot be read comes with its fault.

    Pictures are read and decoded ahead, by other threads. A camera gives one frame at a time and
    has no end.

    Args:
        sources: Where they are.
        batch_size: Pictures a batch, at most; those of a video are by themselves.
        scratch: Folder for copies of a bucket's videos.

    Raises:
        StoreError: A bucket failed.
    """
    stills: list[Source] = []
    for source in sources:
        if source.kind == "picture":
            stills.append(source)
            continue
        yield from _stills(stills, batch_size)
        stills = []
        yield from _frames(source, 1 if source.kind == "camera" else batch_size, scratch)
    yield from _stills(stills, batch_size)


def _stills(sources: Sequence[Source], batch_size: int) -> Iterator[list[Picture]]:
    if not sources:
        return
    with ThreadPoolExecutor(_AHEAD, thread_name_prefix="read") as pool:
        waiting: list[Future[list[Picture]]] = []
        try:
            for start in range(0, len(sources), batch_size):
                waiting.append(pool.submit(_read, sources[start : start + batch_size]))
                if len(waiting) > _AHEAD:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def _read(batch: Sequence[Source]) -> list[Picture]:
    places: dict[str, list[str]] = {}  # a list may name pictures in several kinds of places
    for source in batch:
        places.setdefault(source.place.rpartition("://")[0], []).append(source.place)
    contents: dict[str, bytes | OSError] = {}
    for own in places.values():
        contents.update(zip(own, open_files(own[0]).read_many(own), strict=True))
    return [_decoded(source, contents[source.place]) for source in batch]


def _decoded(source: Source, data: bytes | OSError) -> Picture:
    if isinstance(data, OSError):
        fault = data.strerror or str(data)
        return Picture(source=source, name=source.name, image=None, fault=fault)
    try:
        image, _ = verify(data)
    except PictureError as error:
        return Picture(source=source, name=source.name, image=None, fault=str(error))
    return Picture(source=source, name=source.name, image=image)


def _frames(source: Source, batch_size: int, scratch: Path) -> Iterator[list[Picture]]:
    if source.kind == "camera":
        capture = cv2.VideoCapture(int(source.place))
    else:
        capture = cv2.VideoCapture(str(_local_video(source.place, scratch)))
    try:
        fps = capture.get(cv2.CAP_PROP_FPS)
        fps = fps if 0 < fps < 1000 else _FPS  # NaN fails too
        batch: list[Picture] = []
        number = 0
        while True:
            is_there, image = capture.read()
            if not is_there:
                break
            number += 1
            name = f"{source.name}_{number:06d}"
            batch.append(Picture(source=source, name=name, image=image, fps=fps))
            if len(batch) == batch_size:
                yield batch
                batch = []
        if number == 0:
            fault = "cannot be opened, or has no frames that can be decoded"
            batch.append(Picture(source=source, name=source.name, image=None, fault=fault))
        if batch:
            yield batch
    finally:
        capture.release()


def _local_video(place: str, scratch: Path) -> Path:
    if "://" not in place:
        return Path(place)
    folder, _, name = place.rpartition("/")
    return open_store(folder).get_file(name, scratch / "video" / PurePosixPath(name).name)
