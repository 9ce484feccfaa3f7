"""Fans out what a message names, and stays for a while to plan what is accepted meanwhile, which then needs no message."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from pipeline.errors import LedgerUnavailable
from pipeline.fanout import FanOut
from pipeline.ledger import Ledger

STAY_SECONDS = 5.0
"""How long one task stays; then the next message makes another one, so that none runs for ever."""
WAIT_SECONDS = 0.5
"""How long it waits for the ledger to give it something before it looks whether it is to end."""
SAY_SECONDS = 0.5
"""How often it says that it is there."""


class Attendant:
    """Runs fan-out tasks; safe to share between threads. One task of this process attends the tray of a lane, others only do what their message says.

    `may_stay`: whether there are threads to spare for it. `is_stopping`: whether this process is to end. Raises LedgerUnavailable if the ledger is away while it
    plans; while it only waits, it ends, and the next message makes another.
    """

    def __init__(self, ledger: Ledger, fan_out: FanOut, *, may_stay: bool, is_stopping: Callable[[], bool] = lambda: False) -> None:
        self._ledger, self._fan_out, self._may_stay, self._is_stopping = ledger, fan_out, may_stay, is_stopping
        self._process, self._tasks = secrets.token_hex(4), itertools.count()
        self._lock = threading.Lock()
        self._attended: set[str] = set()

    def run(self, lane: str, event_ids: Sequence[str]) -> None:
        """Plan these events, and then those that are laid on the tray of their lane."""
        self._fan_out.run(event_ids)
        if not self._may_stay or not self._ledger.trays.are_used(self._ledger.durability) or not self._begins(lane):
            return
        try:
            self._attend(lane, f"{self._process}.{next(self._tasks)}")
        finally:
            with self._lock:
                self._attended.remove(lane)

    def _begins(self, lane: str) -> bool:
        with self._lock:
            is_free = lane not in self._attended
            self._attended.add(lane)
            return is_free

    def _attend(self, lane: str, token: str) -> None:
        try:
            for event_ids in self._laid(lane, token):
                self._fan_out.run(event_ids)
        finally:
            self._leave(lane, token)

    def _laid(self, lane: str, token: str) -> Iterator[Sequence[str]]:
        """What is laid on the tray, until it is time to go."""
        until, say_at = time.monotonic() + STAY_SECONDS, 0.0
        while (now := time.monotonic()) < until and not self._is_stopping():
            if says_so := now >= say_at:
                say_at = now + SAY_SECONDS
            try:
                event_ids = self._ledger.trays.take(lane, token, wait_seconds=WAIT_SECONDS, says_so=says_so)
            except LedgerUnavailable:
                return
            if event_ids:
                yield event_ids

    def _leave(self, lane: str, token: str) -> None:
        """Take along what nobody else attends; for a ledger that is away this task is there for two seconds more, and beat announces what is laid meanwhile."""
        with suppress(LedgerUnavailable):
            while left := self._ledger.trays.leave(lane, token):
                self._fan_out.run(left)
