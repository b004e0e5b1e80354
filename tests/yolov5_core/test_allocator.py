import subprocess
import sys

import pytest

from yolov5_core import allocator
from yolov5_core.allocator import give_back_memory, keep_freed_memory

# takes and frees the same 64 MB again and again, as a training step does, and says what it cost
_COUNT = """
import resource
import numpy as np
from yolov5_core.allocator import give_back_memory, keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        for each in [np.empty(16_000_000, np.uint8) for _ in range(4)]:
            each[::4096] = 1
        del each
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def held():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) // 1024
usual = faults()
kept = keep_freed_memory()
faults()
later, before = faults(), held()
given = give_back_memory()
print(usual, int(kept), later, before, int(given), held())
"""


@pytest.mark.skipif(allocator._glibc() is None, reason="the C library is not glibc")
def test_kept_memory_is_used_again_until_it_is_given_back():
    done = subprocess.run(  # noqa: S603  our own script
        [sys.executable, "-c", _COUNT], capture_output=True, text=True, check=True
    )
    usual, kept, later, before, given, after = map(int, done.stdout.split())
    assert kept
    assert later < usual / 20
    assert given
    assert after < before - 40  # megabytes


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    assert not keep_freed_memory()
    assert not give_back_memory()
