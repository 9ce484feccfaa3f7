"""Starts the processes of `consent up` in order, restarts what dies, stops all in order."""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from workers import process

logger = logging.getLogger(__name__)

FIRST_WAIT_SECONDS: Final = 0.5
LONGEST_WAIT_SECONDS: Final = 30.0
STEADY_SECONDS: Final = 10.0
"""A child that lived this long starts with the first wait again."""


class StartFailed(Exception):
    """A process ended while it was being started; the text names it, its log and the log's last line."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """One process: how it is run and known to be ready, how long it may take to stop, and its place when all stop."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    stop_place: int
    stop_seconds: float = 10.0
    is_ready: Callable[[], bool] = lambda: True
    ready_seconds: float = 30.0


class Child:
    """A service's process, over all its restarts."""

    def __init__(self, service: Service, log: Path | None, clock: Callable[[], float]) -> None:
        self.service = service
        self.log = log
        self.restarts = 0
        self._clock = clock
        self._wait = FIRST_WAIT_SECONDS
        self._started = 0.0
        self._start_at: float | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._started, self._start_at = self._clock(), None
        self.process = process.start(self.service.command, self.service.environment, self.log)
        logger.info("child_started", extra={"child": self.service.name, "pid": self.process.pid})

    def watch(self) -> None:
        """Note a death and, when its wait is over, start again."""
        now = self._clock()
        if self._start_at is not None:
            if now >= self._start_at:
                self.restarts += 1
                self.start()
        elif self.process is not None and self.process.poll() is not None:
            self._wait = FIRST_WAIT_SECONDS if now - self._started >= STEADY_SECONDS else min(LONGEST_WAIT_SECONDS, self._wait)
            process.reap(self.process, 0)
            logger.error("child_died", extra={"child": self.service.name, "exit_code": self.process.returncode, "restart_in_seconds": self._wait})
            self._start_at, self._wait = now + self._wait, self._wait * 2

    def reap(self) -> None:
        """Wait for the end that was asked for."""
        if self.process is None:
            return
        by_itself = process.reap(self.process, self.service.stop_seconds)
        self.process, self._start_at = None, None
        logger.info("child_stopped", extra={"child": self.service.name, "by_itself": by_itself})

    def signal(self, number: int) -> None:
        """Hand a signal on, if the child runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def last_words(self) -> str:
        """The last line of the log and where to find the others."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if self.log and self.log.exists() else []
        return f"{self.log} says last: {lines[-1] if lines else 'nothing'}"


class Supervisor:
    """Looks after the children; everything here runs in the main thread. Without `logs` they write where this process does."""

    def __init__(self, logs: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._logs = logs
        self._clock = clock
        self.children: list[Child] = []

    def start(self, service: Service) -> Child:
        """Start a service; `wait_ready` waits for it."""
        child = Child(service, self._logs and self._logs / f"{service.name}.log", self._clock)
        self.children.append(child)
        child.start()
        return child

    def wait_ready(self, child: Child, stopping: Callable[[], bool] = lambda: False) -> None:
        """Return when a fresh child is ready, or `stopping`.

        Raises StartFailed if it takes too long or any child dies meanwhile: a start that fails is shown, not repeated.
        """
        service, until = child.service, self._clock() + child.service.ready_seconds
        while not stopping():
            for other in self.children:
                if other.process is not None and other.process.poll() is not None:
                    raise StartFailed(f"{other.service.name} ended with code {other.process.returncode} while starting; {other.last_words()}")
            if service.is_ready():
                return
            if self._clock() > until:
                raise StartFailed(f"{service.name} was not ready within {service.ready_seconds:g} seconds; {child.last_words()}")
            time.sleep(0.05)

    def watch(self) -> None:
        """Look at every child once."""
        for child in self.children:
            child.watch()

    def stop(self) -> None:
        """Stop all by their places: those of one place at once, each place after the one before."""
        for place in sorted({child.service.stop_place for child in self.children}):
            group = [child for child in self.children if child.service.stop_place == place]
            for child in group:
                child.signal(signal.SIGTERM)
            for child in group:
                child.reap()

    def restart(self, child: Child) -> None:
        """Stop one child and start it again at once, as after a change of the routing file."""
        child.signal(signal.SIGTERM)
        child.reap()
        child.start()
