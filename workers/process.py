"""What every process of the relay does at its start and what the supervisor needs to start one: no orphan is ever left."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from config.settings import CHECKOUT

_PR_SET_PDEATHSIG: Final = 1
COLLECT_AFTER: Final = 25_000
"""New objects, less those that are gone; Python's own number is 700."""
HEAPS: Final = 2
"""Heaps that the threads of a process share, where the C library is glibc."""
_M_ARENA_MAX: Final = -8
_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None


def python(*arguments: str) -> list[str]:
    """The command that runs one of our modules from any working directory; `-P` keeps that directory off the import path."""
    return [sys.executable, "-P", "-m", *arguments]


def process_name(name: str) -> str:
    """A process as operators know it; workers are called so in Flower."""
    return f"{name}@{socket.gethostname()} process {os.getpid()}"


def spare_collections() -> None:
    """Have Python look for cycles seldom, and never among what was imported: a chunk in hand is thousands of objects without any, and looking cost a tenth of a worker."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 10, 10)


def share_heaps() -> None:
    """Have all threads share a few heaps, to be said before there are any: glibc gives them up to eight for each core, each kept whatever a chunk ever needed, and a worker grew for hours."""
    if _LIBC is not None and hasattr(_LIBC, "mallopt") and "MALLOC_ARENA_MAX" not in os.environ:
        _LIBC.mallopt(_M_ARENA_MAX, HEAPS)


def with_checkout(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` with the checkout first on the import path: `config` and `workers` are names other packages install too."""
    others = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part and part != str(CHECKOUT)]
    return {**environment, "PYTHONPATH": os.pathsep.join([str(CHECKOUT), *others]), "PYTHONUNBUFFERED": "1"}


def die_with_parent(parent: int) -> Callable[[], None]:
    """To be run in the child between fork and exec: the kernel ends it when its parent is gone, however that happened (Linux only)."""

    def prepare() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)

    return prepare


@contextlib.contextmanager
def ending_in_order() -> Iterator[None]:
    """Have SIGTERM and SIGHUP leave the block as Ctrl-C does, by an exception, so that what has to be tidied up is. Main thread only.

    As with Ctrl-C one that comes just while a child is forked is lost: Python drops what its own hooks raise.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    # One that is ignored stays so: that is what nohup asks for.
    before = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in before:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in before:
            signal.signal(number, signal.SIG_DFL)


def start(command: Sequence[str], environment: Mapping[str, str], log: Path | None) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, its output appended to `log`. Call it from the main thread only: the kernel
    takes the end of the thread that started a child for the end of its parent.
    """
    with log.open("ab") if log else contextlib.nullcontext() as output:
        return subprocess.Popen(  # noqa: S603 - our own commands
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if log else None,
            env=with_checkout(environment),
            start_new_session=True,
            preexec_fn=die_with_parent(os.getpid()),  # noqa: PLW1509 - no lock is taken in there
        )


def reap(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for the end of a process, kill it after `seconds`, and with it whatever it started. True if it ended by itself."""
    ended = True
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        ended = False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return ended
