"""How much memory there is: of this machine, and below the limits of the containers around us."""

import sys
from collections.abc import Iterator
from pathlib import Path

# files of a control group: limit, use, and what of it files take that are given back at once
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this machine, and a container's limit, can still give without swapping.

    Args:
        root: Of the file system.
    """
    return min(_of_machine(root, "MemAvailable"), *(limit - used for limit, used in _limits(root)))


def total_memory(root: Path = Path("/")) -> int:
    """Bytes that this machine has, or a container's limit, whichever is less."""
    return min(_of_machine(root, "MemTotal"), *(limit for limit, _ in _limits(root)))


def _of_machine(root: Path, name: str) -> int:
    for line in (root / "proc/meminfo").read_text("ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/meminfo has no {name} line: Linux 3.14 or newer is needed")


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use of each control group around this process; a very high limit first."""
    yield sys.maxsize, 0
    for folder in _groups(root):
        for limit, used, given_back in (_VERSION_2, _VERSION_1):
            try:
                most = int((folder / limit).read_text("ascii"))
                now = int((folder / used).read_text("ascii"))
                stat = (folder / "memory.stat").read_text("ascii").split()
                yield most, now - int(stat[stat.index(given_back) + 1])
            except (OSError, ValueError):  # no such limit: no file, or the word "max"
                continue


def _groups(root: Path) -> Iterator[Path]:
    """Folders of our own groups and those above them; in a container only the top one is there."""
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    own = {kinds: path.strip("/") for _, kinds, path in (line.split(":", 2) for line in lines)}
    for top, kind in (("sys/fs/cgroup", ""), ("sys/fs/cgroup/memory", "memory")):
        yield root / top
        folder = Path(own.get(kind, ""))
        yield from (root / top / each for each in (folder, *folder.parents) if each.name)
