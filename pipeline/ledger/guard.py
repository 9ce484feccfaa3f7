"""Looks again, once a second, whether the ledger is still what it was when the process began."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

LOOK_SECONDS: Final = 1.0
"""How long an emptied ledger, or a server that was set up to evict or not to sync, may go unnoticed by a process that works with it."""


class Guard:
    """Calls `check` once in `LOOK_SECONDS`, and before each call while it fails: what it raises stops whoever was about to use the ledger.

    Safe to share between threads: one of them looks, the others go on meanwhile unless the last look failed.
    """

    def __init__(self, check: Callable[[], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._check, self._clock = check, clock
        self._lock = threading.Lock()
        self._next_at = float("-inf")
        self._was_good = False

    def look(self, *, now: bool = False) -> None:
        """Check if it is time to, or `now`. Raises what the check raises."""
        if not now and not self._is_due():
            return
        try:
            self._check()
        except Exception:
            self._was_good, self._next_at = False, float("-inf")
            raise
        self._was_good, self._next_at = True, self._clock() + LOOK_SECONDS

    def _is_due(self) -> bool:
        at = self._clock()
        if at < self._next_at:
            return False
        with self._lock:
            if at < self._next_at:
                return False
            if self._was_good:
                self._next_at = at + LOOK_SECONDS
            return True
