"""Threads of a process share their heaps, or each keeps what it ever needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from workers.process import HEAPS

PROGRAM = """
import ctypes, threading
from workers.process import share_heaps

if {is_shared}:
    share_heaps()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
go_on = threading.Barrier(13)


def take():
    libc.malloc(5000)
    go_on.wait()
    go_on.wait()


threads = [threading.Thread(target=take) for _ in range(12)]
for thread in threads:
    thread.start()
go_on.wait()
heaps = set()
for line in open("/proc/self/maps"):
    first, last = (int(end, 16) for end in line.split()[0].split("-"))
    if first % (64 << 20) == 0 and len(line.split()) == 5 and last - first < (64 << 20) and " rw-p " in line:
        heaps.add(first)
print(len(heaps))
go_on.wait()
"""
"""glibc reserves a heap of a thread at a multiple of 64 MiB; that of the first thread is elsewhere."""


@pytest.mark.skipif(sys.platform != "linux" or not list(Path("/lib").glob("*/libc.so.6")), reason="needs Linux with glibc")
def test_threads_share_a_few_heaps() -> None:
    """Twelve threads have twelve heaps (or eight for each core) by default, and one beside the first with us."""
    heaps = {}
    for is_shared in (False, True):
        done = subprocess.run([sys.executable, "-c", PROGRAM.format(is_shared=is_shared)], capture_output=True, text=True, check=True)
        heaps[is_shared] = int(done.stdout)
    assert heaps[True] <= HEAPS < heaps[False]
