"""Which process does a stage's work: its machine, container and process, and whether it lives."""

import os
import platform
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_DOCKER = re.compile(r"/containers/([0-9a-f]{64})/")


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A process, named so that others can tell whether it still runs."""

    host: str
    container: str  # "" outside of one
    boot: str  # id of the machine's last start, "" where there is none
    pid: int
    started: str  # of the process, in ticks since boot: a pid is used again

    @property
    def where(self) -> str:
        """For people."""
        inside = f", container {self.container[:12]}" if self.container else ""
        return f"{self.host}{inside}, process {self.pid}"

    def is_gone(self) -> bool:
        """Whether it has certainly ended; False if that cannot be known from here."""
        here = this_worker()
        same = (self.host, self.container, self.boot) == (here.host, here.container, here.boot)
        return same and bool(self.boot) and _start_time(self.pid) != self.started


def this_worker() -> Worker:
    """This process; asked anew each time, for a fork is another one."""
    pid = os.getpid()
    return Worker(
        host=platform.node(),
        container=container_id(),
        boot=_read("/proc/sys/kernel/random/boot_id").strip(),
        pid=pid,
        started=_start_time(pid),
    )


@cache
def container_id() -> str:
    """Id of the Docker container this process is in, name of its pod, or ""."""
    # Docker mounts files of its own from a folder named after the container. Neither the cgroup
    # (hidden by its namespace) nor the host name (the machine's, on its network) tells the id.
    if found := _DOCKER.search(_read("/proc/self/mountinfo")):
        return found[1]
    return platform.node() if "KUBERNETES_SERVICE_HOST" in os.environ else ""


def _start_time(pid: int) -> str:
    """When a process started, "" if there is none or it has ended."""
    status = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()  # the name may hold anything
    return "" if not status or status[0] in "ZX" else status[19]


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""
