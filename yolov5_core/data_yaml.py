"""The data set's description file (data.yaml) and the list of images it leads to."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from yolov5_core.dataset import DataError

log = logging.getLogger(__name__)

_SUFFIXES = frozenset(
    (".bmp", ".dng", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp", ".pfm")
)
_REQUIRED = ("train", "val", "names")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpec:
    """A data set's classes and where its splits are."""

    root: Path  # absolute folder the splits are relative to
    names: tuple[str, ...]  # of class 0, 1 ...
    train: tuple[Path, ...]  # absolute folders or list files
    val: tuple[Path, ...]
    test: tuple[Path, ...]  # empty without a test split


def read_data_yaml(path: Path) -> DataSpec:
    """Reads a data set description and finds its splits on disk.

    Unknown keys are ignored: exporters add their own. `download` is ignored too and never run.

    Raises:
        DataError: No such file, not a YAML mapping, missing keys, names that do not fit nc, splits
            that do not exist; all splits in one message.

    Source: spec C.1; relative paths are tried from the file's folder, then the current directory.
    """
    table = _read_mapping(path)
    missing = [key for key in _REQUIRED if not table.get(key)]
    if missing:
        raise DataError(
            f"{path}: missing {', '.join(missing)}; a data set needs train and val (folder, list "
            "file, or list of those) and names (list of class names)"
        )
    names = _names(table, path)
    if "download" in table:
        log.warning("%s: download is ignored; fetch the data set yourself", path)
    roots = _roots(table.get("path") or ".", path)
    problems: list[str] = []
    splits: dict[str, tuple[Path, ...]] = {}
    for key in ("train", "val", "test"):
        found, lost = _find_split(table.get(key), f"{path}: {key}", roots)
        splits[key] = found
        if lost and key == "test":  # exporters name a test folder they did not write
            log.warning("%s: no test split: %s", path, lost[0])
            splits[key] = ()
        else:
            problems += lost
    if problems:
        raise DataError("\n".join(problems))
    return DataSpec(root=roots[0], names=names, **splits)


def list_images(sources: Sequence[Path]) -> list[Path]:
    """Every image of a split, sorted as strings.

    Args:
        sources: Folders (searched through and through, hidden entries skipped) and list files (one
            image per line, "./" meaning the list file's folder).

    Returns:
        Absolute paths. That a listed file exists is not checked here.

    Raises:
        DataError: A source is missing, or there is no image at all.

    Source: spec C.2.
    """
    images: list[Path] = []
    for source in sources:
        if source.is_dir():
            images += _walk(source.absolute())
        elif source.is_file():
            images += _listed(source.absolute())
        else:
            raise DataError(f"{source}: no such folder or list file")
    images = [image for image in images if image.suffix.lower() in _SUFFIXES]
    if not images:
        raise DataError(
            f"{', '.join(map(str, sources))}: no images; looked for files ending in "
            f"{' '.join(sorted(_SUFFIXES))}"
        )
    return sorted(images, key=str)


def _read_mapping(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the path of the data set's data.yaml")
    try:
        table = yaml.safe_load(path.read_text("utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not YAML: {error}") from error
    if not isinstance(table, Mapping):
        raise DataError(f"{path}: must hold `key: value` lines, train, val and names")
    return table


def _names(table: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    names = table["names"]
    if isinstance(names, Mapping):
        expected = list(range(len(names)))
        if set(names) != set(expected):
            raise DataError(
                f"{path}: names: keys must be the classes 0 to {len(names) - 1}, each once; "
                f"got {', '.join(map(str, names))}"
            )
        names = [names[i] for i in expected]
    if not isinstance(names, list):
        raise DataError(f"{path}: names: must be a list, or class: name lines; got {names!r}")
    count = table.get("nc", len(names))
    if count != len(names):
        raise DataError(
            f"{path}: nc={count!r} but names has {len(names)} entries; make them agree or remove nc"
        )
    return tuple(str(name) for name in names)


def _roots(value: Any, path: Path) -> list[Path]:
    """Folders the splits may be relative to, the likeliest first."""
    if not isinstance(value, str):
        raise DataError(f"{path}: path: must be a folder, got {value!r}")
    candidates = [path.parent.absolute() / value, Path.cwd() / value]  # an absolute value wins
    roots = [root for root in dict.fromkeys(candidates) if root.is_dir()]
    if not roots:
        tried = ", ".join(map(str, dict.fromkeys(candidates)))
        raise DataError(f"{path}: path: {value!r} is not a folder; looked at {tried}")
    return roots


def _find_split(
    value: Any, where: str, roots: Sequence[Path]
) -> tuple[tuple[Path, ...], list[str]]:
    """The sources of one split, and a message for each that is not there."""
    entries = value if isinstance(value, list) else [value] if value else []
    found: list[Path] = []
    problems: list[str] = []
    for entry in entries:
        if not isinstance(entry, str):
            problems.append(f"{where}: must be a path or a list of paths, got {entry!r}")
            continue
        # exporters write "../train/images" for a folder beside data.yaml
        variants = dict.fromkeys((entry, entry.removeprefix("../")))
        tried = [root / variant for root in roots for variant in variants]
        existing = next((candidate for candidate in tried if candidate.exists()), None)
        if existing is None:
            looked_at = ", ".join(map(str, tried))
            problems.append(f"{where}: {entry!r} does not exist; looked at {looked_at}")
        else:
            found.append(existing)
    return tuple(found), problems


def _walk(folder: Path) -> Iterator[Path]:
    seen: set[Path] = set()  # links may lead in a circle
    for here, folders, files in os.walk(folder, followlinks=True):
        real = Path(here).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(here) / name for name in files if not name.startswith("."))


def _listed(list_file: Path) -> Iterator[Path]:
    try:
        lines = list_file.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{list_file}: not a text file with one image per line") from error
    for line in map(str.strip, lines):
        beside = list_file.parent / line.removeprefix("./")
        if line.startswith("./") or (line and beside.exists()):
            yield beside
        elif line:
            yield Path(line).absolute()
