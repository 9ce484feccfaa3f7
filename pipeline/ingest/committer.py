"""Group commit: single events that arrive together are written together, and each caller gets its own answer after the write.

One thread writes. A lone event is written at once; whatever arrives during a write forms the next group. Where several callers are
active, the thread waits a moment (`group_commit_wait_seconds` at most) until those just answered are back, because a client that has its answer sends its next event within
microseconds, and small groups would otherwise stay small.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import InvalidInput, KeyReused, LedgerMismatch, LedgerUnavailable
from pipeline.ingest.ports import Acceptor, Answer, IngestLimits, Item
from pipeline.ingest.problems import failure_of, overloaded, unavailable

logger = logging.getLogger(__name__)

Outcome = Answer | Exception
"""The answer to one item, or the exception that took its place; a value either way."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    item: Item
    answer: asyncio.Future[Outcome]


class GroupCommitter:
    """Collects events from one event loop and writes them in groups from its own thread.

    `submit` raises a 429 problem when `max_pending` events wait already and a 503 problem once `close` has begun; `close` writes what was taken before.
    """

    def __init__(self, acceptor: Acceptor, limits: IngestLimits) -> None:
        self._acceptor = acceptor
        self._limits = limits
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._in_progress = 0
        self._wanted = 1
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to take events; may be called again after `close`."""
        with self._changed:
            self._closing = False
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Refuse new events, write those already taken, and stop the thread. Blocks until that is done."""
        with self._changed:
            self._closing = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()
            self._thread = None

    async def submit(self, items: Sequence[Item]) -> list[Outcome]:
        """Write a few events with whatever else is waiting; returns their outcomes, in order, after the write."""
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(item, loop.create_future()) for item in items]
        with self._changed:
            if self._closing or self._thread is None:
                raise unavailable("shutting down")
            if len(self._waiting) + self._in_progress + len(items) > self._limits.max_pending:
                raise overloaded("too many events are waiting to be written")
            self._waiting.extend(waiting)
            if len(self._waiting) >= self._wanted:
                self._changed.notify()
        return [await one.answer for one in waiting]

    def _run(self) -> None:
        active = 1
        while group := self._next_group(active):
            outcomes = commit(self._acceptor, [waiting.item for waiting in group])
            with self._changed:
                self._in_progress = 0
                # Counted before anybody is answered: a caller who comes back at once must not count twice.
                active = len(group) + len(self._waiting)
            _resolve(group, outcomes)

    def _next_group(self, active: int) -> list[_Waiting]:
        """The next group; empty once closing and all is written."""
        size = self._limits.group_commit_events
        with self._changed:
            if active > 1:
                self._wait_for(min(active, size), self._limits.group_commit_wait_seconds)
            self._wait_for(1)
            group = [self._waiting.popleft() for _ in range(min(size, len(self._waiting)))]
            self._in_progress = len(group)
            return group

    def _wait_for(self, count: int, seconds: float = math.inf) -> None:
        """Wait until so many events are there, closing begins, or the time is up."""
        self._wanted = count
        until = time.monotonic() + seconds
        while len(self._waiting) < count and not self._closing and (left := until - time.monotonic()) > 0:
            self._changed.wait(None if left == math.inf else left)


def commit(acceptor: Acceptor, items: Sequence[Item]) -> list[Outcome]:
    """Write items together; one outcome for each, in order.

    An unexpected exception is pinned down by halving, so that one poisoned item does not fail its neighbours: writing an event
    twice is harmless, it is a duplicate. An unavailable ledger fails them all at once.
    """
    try:
        answers = list(acceptor.accept_many(items))
        if len(answers) != len(items):
            raise RuntimeError("the acceptor gave another number of answers than it was given items")
        return [*answers]
    except (LedgerUnavailable, LedgerMismatch) as error:
        return [error] * len(items)
    except Exception as error:  # noqa: BLE001 - each caller gets its own 500, and the thread lives on
        if len(items) > 1:
            half = len(items) // 2
            return [*commit(acceptor, items[:half]), *commit(acceptor, items[half:])]
        if not isinstance(error, KeyReused | InvalidInput):
            logger.error("event_poisoned", extra={"source": items[0][0].name, **failure_of(error)})  # noqa: TRY400 - a traceback's text may quote a person
        return [error]


def _resolve(group: Sequence[_Waiting], outcomes: Sequence[Outcome]) -> None:
    """Hand out the outcomes on the callers' event loop, with one wake-up for the whole group."""

    def deliver() -> None:
        for waiting, outcome in zip(group, outcomes, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(outcome)

    try:
        group[0].answer.get_loop().call_soon_threadsafe(deliver)
    except RuntimeError:
        logger.warning("callers_gone", extra={"count": len(group)})
