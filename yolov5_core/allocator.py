"""The C library's memory allocator, told to keep what a training step frees.

A step takes and frees the same hundreds of large blocks each time. glibc gives them back to the
system and gets them as new pages, each of which the kernel clears at its first touch: measured,
tens of thousands of page faults a step.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
_NEVER = 2**31 - 1  # bytes that would have to be free at the top of the heap
_LARGEST = 2**30  # bytes; larger blocks still come and go by themselves
_PAD = 2**26  # bytes more than needed, each time the heap grows


def keep_freed_memory() -> bool:
    """From here on this process, and what it forks, uses freed memory again.

    Returns:
        False where the C library is not glibc; nothing has changed then.
    """
    library = _glibc()
    if library is None:
        return False
    options = ((_M_MMAP_THRESHOLD, _LARGEST), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _PAD))
    return all(library.mallopt(option, value) for option, value in options)


def give_back_memory() -> bool:
    """Returns what is free to the system, once.

    Returns:
        False if there was nothing to return, or the C library is not glibc.
    """
    library = _glibc()
    return library is not None and bool(library.malloc_trim(0))


def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)  # what is already loaded
    except (OSError, TypeError):  # TypeError on Windows
        return None
    return library if hasattr(library, "gnu_get_libc_version") else None
