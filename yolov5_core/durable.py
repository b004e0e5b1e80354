"""Local files that outlive the process: whole or not there, and on the disk when they count.

What lies in a stage's scratch folder goes away with it and needs none of this.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

PART = ".part-"  # in the name of a file that is being written
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an OSError: there is no room


@contextmanager
def part_of(path: Path) -> Iterator[Path]:
    """A temporary name beside a path; what is left under it afterwards is removed."""
    try:
        _make_folder(path.parent)
    except FileExistsError as error:  # elsewhere this kind means that a claim is lost
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path.parent)) from error
    part = path.with_name(f"{path.name[:100]}{PART}{uuid4().hex}")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """Makes a folder and those above it; what was made is on the disk."""
    made, above = [], folder
    while not above.exists():
        made.append(above)
        above = above.parent
    folder.mkdir(parents=True, exist_ok=True)
    for each in made:
        sync(each.parent)


def settle(part: Path, path: Path) -> None:
    """Gives a written file its name: after a power cut there is the old file or the new one."""
    sync(part)
    part.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file or a folder's entries are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
