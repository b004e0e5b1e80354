"""The data set's description file (data.yaml) and the list of images it leads to."""

import logging
import posixpath
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolov5_core.dataset import DataError
from yolov5_core.files import Files, LocalFiles, join, read_file
from yolov5_core.limits import MAX_LIST_BYTES, MAX_YAML_BYTES
from yolov5_core.strict_yaml import YamlError, load_yaml

log = logging.getLogger(__name__)

LOCAL = LocalFiles()
_SUFFIXES = frozenset(
    (".bmp", ".dng", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp", ".pfm")
)
_REQUIRED = ("train", "val")
_LARGEST_NAME = 1e15  # of classes named by numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpec:
    """A data set's classes and where its splits are."""

    root: str  # absolute folder or URL the splits are relative to
    names: tuple[str, ...]  # of class 0, 1 ...; empty if the annotation files know them
    train: tuple[str, ...]  # absolute folders, list files or annotation files
    val: tuple[str, ...]
    test: tuple[str, ...]  # empty without a test split


def read_data_yaml(path: str | Path, files: Files = LOCAL) -> DataSpec:
    """Reads a data set description and finds its splits.

    Unknown keys are ignored: exporters add their own. `download` is ignored too and never run.

    Raises:
        DataError: No such file, not a YAML mapping, missing keys, names that do not fit nc, splits
            that do not exist; all splits in one message.

    Source: spec C.1; relative paths are tried from the file's folder, then the current directory.
    """
    where = whole_path(str(path))
    table = _read_mapping(where, files)
    missing = [key for key in _REQUIRED if not table.get(key)]
    if missing:
        missing += [] if table.get("names") else ["names"]
        raise DataError(
            f"{where}: missing {', '.join(missing)}; a data set needs train and val (folder, list "
            "file, annotation file, or list of those) and names (list of class names)"
        )
    if "download" in table:
        log.warning("%s: download is ignored; fetch the data set yourself", where)
    roots = _root(table.get("path") or ".", where, files)
    problems: list[str] = []
    splits: dict[str, tuple[str, ...]] = {}
    for key in ("train", "val", "test"):
        found, lost = _find_split(table.get(key), f"{where}: {key}", roots, files)
        splits[key] = found
        if lost and key == "test":  # exporters name a test folder they did not write
            log.warning("%s: no test split: %s", where, lost[0])
            splits[key] = ()
        else:
            problems += lost
    if problems:
        raise DataError("\n".join(problems))
    names = _names(table, where) if table.get("names") else ()
    if not names and not all(_knows_names(s) for s in (*splits["train"], *splits["val"])):
        raise DataError(f"{where}: missing names; the classes of the labels, in their order")
    return DataSpec(root=roots[0], names=names, **splits)


def whole_path(path: str) -> str:
    """A path from the root of the file system; a URL as it is."""
    if "://" in path:
        return path
    try:
        return Path(path).expanduser().absolute().as_posix()
    except RuntimeError as error:  # "~" of a user this machine does not have
        raise DataError(f"{path}: {error}; write the whole path") from error


def list_images(sources: Sequence[str], files: Files = LOCAL) -> list[str]:
    """Every image of a split, sorted.

    Args:
        sources: Folders (searched through and through, hidden entries skipped) and list files (one
            image per line, "./" meaning the list file's folder).
        files: Where they are.

    Returns:
        Whole paths; one that a list names twice comes twice. That a listed file exists is not
        checked here.

    Raises:
        DataError: A source is missing, or there is no image at all.

    Source: spec C.2.
    """
    images: list[str] = []
    for source in sources:
        if files.is_folder(source):
            images += filter(is_image, files.tree(source))
        elif files.is_file(source):
            images += filter(is_image, read_list(source, files))
        else:
            raise DataError(f"{source}: no such folder or list file")
    if not images:
        raise no_images(sources)
    return sorted(images)


def no_images(sources: Sequence[str]) -> DataError:
    """The error of sources without a picture."""
    suffixes = " ".join(sorted(_SUFFIXES))
    return DataError(f"{', '.join(sources)}: no images; looked for files ending in {suffixes}")


def is_image(path: str) -> bool:
    """Whether the name ends as an image's does."""
    return f".{path.rpartition('.')[2].lower()}" in _SUFFIXES


def read_list(path: str, files: Files) -> list[str]:
    """The whole paths that a list file names, in its order.

    Raises:
        DataError: It cannot be read as text.
    """
    folder = posixpath.dirname(path)
    here = {folder: files.folder(folder)}
    found = []
    for line in read_lines(path, files):
        beside = join(folder, line)
        parent, name = posixpath.split(beside)
        if parent not in here:
            here[parent] = files.folder(parent)
        if name not in here[parent] and "://" not in path and not line.startswith("./"):
            from_current = join(Path.cwd().as_posix(), line)
            beside = from_current if files.is_file(from_current) else beside
        found.append(beside)
    return found


def read_lines(path: str, files: Files) -> list[str]:
    """The lines of a list file, blanks around them and empty ones left out.

    Raises:
        DataError: It cannot be read as text.
    """
    try:
        lines = read_file(files, path, MAX_LIST_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a text file with one image per line") from error
    return [line.strip() for line in lines if line.strip()]


def _knows_names(source: str) -> bool:
    return source.endswith(".json")


def _read_mapping(where: str, files: Files) -> Mapping[str, Any]:
    if not files.is_file(where):
        raise DataError(f"{where}: no such file; give the path of the data set's data.yaml")
    try:
        table = load_yaml(read_file(files, where, MAX_YAML_BYTES))
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error}") from error
    except YamlError as error:
        raise DataError(f"{where}: {error}") from error
    if not isinstance(table, Mapping):
        raise DataError(f"{where}: must hold `key: value` lines, train, val and names")
    return table


def _names(table: Mapping[str, Any], path: str) -> tuple[str, ...]:
    names = table["names"]
    if isinstance(names, Mapping):
        expected = list(range(len(names)))
        if set(names) != set(expected):
            raise DataError(
                f"{path}: names: keys must be the classes 0 to {len(names) - 1}, each once; "
                f"got {_shown(list(names))}"
            )
        names = [names[i] for i in expected]
    if not isinstance(names, list):
        got = _shown(names)
        raise DataError(f"{path}: names: must be a list, or class: name lines; got {got}")
    wrong = [name for name in names if not _is_name(name)]
    if wrong:
        got = _shown(wrong[0])
        raise DataError(f"{path}: names: each must be a word or number; got {got}")
    count = table.get("nc", len(names))
    if count != len(names):
        got = f"nc={_shown(count)} but names has {len(names)} entries"
        raise DataError(f"{path}: {got}; make them agree or remove nc")
    return tuple(str(name) for name in names)


def _is_name(value: Any) -> bool:
    """Whether a value can stand for a class in reports, also in UTF-8."""
    if isinstance(value, int | float):
        return abs(value) < _LARGEST_NAME
    return _is_text(value) and bool(value.strip())


def _shown(value: Any) -> str:
    """A short text of any value; lists of lists of aliases may have no end."""
    try:
        return reprlib.repr(value)
    except ValueError:  # hexadecimal: Python writes no decimal number of so many digits
        return "a number of thousands of digits"


def _is_text(value: Any) -> bool:
    """Whether this is a text that can be written down: YAML may hold halves of characters."""
    return isinstance(value, str) and value == value.encode("utf-8", "replace").decode()


def _root(value: Any, where: str, files: Files) -> list[str]:
    """Folders the splits may be relative to, the likeliest first."""
    if not _is_text(value):
        raise DataError(f"{where}: path: must be a folder, got {_shown(value)}")
    candidates = [join(posixpath.dirname(where), value)]
    if "://" not in where:
        candidates.append(join(Path.cwd().as_posix(), value))
    roots = [root for root in dict.fromkeys(candidates) if files.is_folder(root)]
    if not roots:
        tried = ", ".join(dict.fromkeys(candidates))
        raise DataError(f"{where}: path: {value!r} is not a folder; looked at {tried}")
    return roots


def _find_split(
    value: Any, where: str, roots: Sequence[str], files: Files
) -> tuple[tuple[str, ...], list[str]]:
    """The sources of one split, and a message for each that is not there."""
    entries = value if isinstance(value, list) else [value] if value else []
    found: list[str] = []
    problems: list[str] = []
    for entry in entries:
        if not _is_text(entry):
            got = _shown(entry)
            problems.append(f"{where}: must be a path or a list of paths, got {got}")
            continue
        # exporters write "../train/images" for a folder beside data.yaml
        variants = dict.fromkeys((entry, entry.removeprefix("../")))
        tried = [join(root, variant) for root in roots for variant in variants]
        existing = next((c for c in tried if files.is_folder(c) or files.is_file(c)), None)
        if existing is None:
            looked_at = ", ".join(tried)
            problems.append(f"{where}: {entry!r} does not exist; looked at {looked_at}")
        else:
            found.append(existing)
    return tuple(found), problems
