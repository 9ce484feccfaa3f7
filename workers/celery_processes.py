"""Runs Celery's processes: a worker, with a watchdog for the case that it lives and hears nothing, and beat."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, Final

import celery.apps.worker
from celery import signals
from celery.worker import state

from config.celery import CONTROL_QUEUE
from config.settings import Settings
from workers import watching
from workers.alerting import take_notes
from workers.app import create_app
from workers.attending import attendant
from workers.process import process_name, share_heaps, spare_collections
from workers.reconciling import reconcile
from workers.wiring import Parts

logger = logging.getLogger(__name__)

WAITING_FOR_DEAF: Final = 5
"""Control messages that wait, at one a second from beat, before a silent worker is taken for deaf."""
WATCH_SECONDS: Final = 5.0
EXIT_SECONDS: Final = 15.0


def run_worker(parts: Parts, name: str) -> int:
    """Run one worker process until SIGTERM; returns its exit code."""
    share_heaps()
    parts.refuse_orphans(parts.routing)
    parts.deliver, parts.listen, parts.release  # noqa: B018 - a part that cannot be built must stop the start
    attendant(parts)
    reconcile(parts)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # Celery would start itself again without asking whether the routing file is good
    watchdog = Watchdog(parts.settings.worker.deaf_seconds, lambda: parts.publisher.queue_depth(CONTROL_QUEUE))
    _silence_celery()
    parts.ledger.upkeep.live_as(process_name(name))
    notes = take_notes()
    watching.look_on([parts.ledger.look, lambda: notes.flush_to(parts.ledger)])
    signals.task_received.connect(watchdog.heard, weak=False)
    signals.worker_ready.connect(watchdog.start, weak=False)
    worker = parts.app.Worker(
        hostname=f"{name}@{socket.gethostname()}", loglevel=parts.settings.log.level.upper(), quiet=True, without_gossip=True, without_mingle=True
    )
    spare_collections()
    worker.start()
    logger.info("worker_stopped")
    parts.close()
    return int(worker.exitcode or 0)


def _silence_celery() -> None:
    """Drop what Celery says beside the log: plain lines at a stop, and its warning of root, which concerns workers that unpickle (ours read JSON only)."""
    celery.apps.worker.safe_say = lambda *_: None
    warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")


def run_beat(settings: Settings) -> None:
    """Run beat until SIGTERM. Its schedule lives in memory: both tasks may run twice and need no history."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    create_app(settings, ()).Beat(quiet=True, loglevel=settings.log.level.upper()).run()


class Watchdog:
    """Ends a worker that has been idle for long although control messages wait, so that its supervisor starts a fresh one.

    Celery workers have been known to stay connected and consume nothing after a broker outage.
    """

    def __init__(
        self, deaf_seconds: float, depth: Callable[[], int], *, clock: Callable[[], float] = time.monotonic, end: Callable[[], None] | None = None
    ) -> None:
        self._deaf_seconds = deaf_seconds
        self._depth = depth
        self._clock = clock
        self._end = end or _end_process
        self._heard_at = clock()

    def heard(self, **_: Any) -> None:
        """A message came in."""
        self._heard_at = self._clock()

    def start(self, **_: Any) -> None:
        """Begin to watch, in a thread that ends with the process."""
        self.heard()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def check(self) -> bool:
        """Whether the worker was found deaf, and was told to end."""
        if state.reserved_requests or self._clock() - self._heard_at < self._deaf_seconds or self._depth() < WAITING_FOR_DEAF:
            return False
        logger.error("worker_deaf", extra={"silent_seconds": round(self._clock() - self._heard_at)})
        self._end()
        return True

    def _watch(self) -> None:
        while not self.check():
            time.sleep(WATCH_SECONDS)


def _end_process() -> None:
    """Ask for a warm stop, and leave without one if it does not come."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(EXIT_SECONDS)
    os._exit(1)
