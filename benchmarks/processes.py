"""Starts processes on loopback and stops them by their id; every environment is built here, so that no secret stands in an argument."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from workers.process import die_with_parent, with_checkout

ROOT: Final = Path(__file__).resolve().parent.parent
STOP_SECONDS: Final = 30.0


class Failed(Exception):
    """Something that was measured did not start or ended early; the text says what and shows its last words."""


class Process:
    """A child in a session of its own; what it prints goes to `log`, or is read line by line with `talks`."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path, *, talks: bool = False) -> None:
        self.name, self.log = name, log
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("CONSENT_", "BENCH_"))}
        with log.open("ab") as errors:
            self.child = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else errors,
                stderr=errors,
                text=True,
                env=with_checkout({**inherited, **environment}),
                start_new_session=True,
                preexec_fn=die_with_parent(os.getpid()),  # noqa: PLW1509 - no lock is taken in there
            )

    @property
    def pid(self) -> int:
        return self.child.pid

    def say(self, line: str) -> None:
        """Write a line to a process that talks."""
        assert self.child.stdin is not None
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()

    def hear(self) -> str:
        """The next line it prints. Raises Failed if there is none."""
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        if not line:
            raise Failed(f"{self.name} ended early; it said last: {self.last_words()}")
        return line.strip()

    def check(self) -> None:
        """Raise Failed if it has ended."""
        if self.child.poll() is not None:
            raise Failed(f"{self.name} ended with code {self.child.returncode}; it said last: {self.last_words()}")

    def last_words(self) -> str:
        return self.log.read_text(errors="replace").strip()[-600:]

    def stop(self, patience_seconds: float = STOP_SECONDS) -> None:
        """Ask it to end, wait, and in the end kill what is left of its session."""
        with contextlib.suppress(ProcessLookupError):
            self.child.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(patience_seconds)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.child.wait()
        for pipe in (self.child.stdin, self.child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


@contextlib.contextmanager
def running(process: Process) -> Iterator[Process]:
    """A process that is stopped on leaving."""
    try:
        yield process
    finally:
        process.stop()


class Producer:
    """A process that makes events: it takes an order, gets ready, and begins at the word."""

    def __init__(self, start: Callable[[], Process], order: Mapping[str, Any]) -> None:
        self.process = start()
        self.process.say(json.dumps(order))
        if self.process.hear() != "ready":
            self.process.stop()
            raise Failed(f"{self.process.name} did not get ready: {self.process.last_words()}")

    def begin(self) -> None:
        self.process.say("")

    def report(self, used: Callable[[], Mapping[str, float]] = dict) -> dict[str, Any]:
        """What it did: begun_at, ended_at, accepted, statuses, posted_at, and as `used` what this says once it has ended and can still be asked for its CPU time. Waits for its end."""
        try:
            return {**json.loads(self.process.hear()), "used": used()}
        finally:
            self.process.stop()


def python_of(environment_folder: str) -> str:
    """The interpreter of a virtual environment in the checkout. Raises Failed where it was not made."""
    path = ROOT / environment_folder / "bin" / "python"
    if not path.exists():
        raise Failed(f"{environment_folder} is missing: run `make bench` or `make bench-quick`, which makes it")
    return str(path)
