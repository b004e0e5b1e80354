"""Processes that must not outlive the one that started them."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of prctl(2)


def end_with_parent(parent: int = 0) -> None:
    """Asks Linux to kill this process when its parent ends, however that comes about.

    Args:
        parent: Its process id, in case it ended before this was called; 0: whoever is it now.
    """
    parent = parent or os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
