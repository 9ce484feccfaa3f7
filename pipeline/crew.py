"""Who works at which destination in this process: one task runs for each lane, and takes along what other tasks bring meanwhile.

Ten chunks of one destination side by side would only wait for each other's connections, each with round trips of its own; one after the other, and
many at once, the same work takes a fraction of them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

MOST_HANDED = 2000
"""Deliveries that wait in memory for a running task at the most: few enough to be told long before the ledger would bring them back."""
STAY_SECONDS = 5.0
"""How long a running task takes more along; then the next one takes over, so that none runs for ever."""


class Inbox:
    """What one running task is to claim next; others put in, it alone takes out."""

    def __init__(self, event_ids: Sequence[str], closes_at: float) -> None:
        self.event_ids = deque(event_ids)
        self.closes_at = closes_at


class Crew:
    """The running tasks of a process, by destination and lane; safe to share between threads."""

    def __init__(self, *, most_handed: int = MOST_HANDED, stay_seconds: float = STAY_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_handed, self._stay_seconds, self._clock = most_handed, stay_seconds, clock
        self._lock = threading.Lock()
        self._running: dict[tuple[str, str], list[Inbox]] = {}

    def join(self, destination: str, lane: str, event_ids: Sequence[str]) -> Inbox | None:
        """An inbox with these deliveries for a task that must run itself; None if one that runs takes them along."""
        now = self._clock()
        with self._lock:
            running = self._running.setdefault((destination, lane), [])
            for inbox in running:
                if now < inbox.closes_at and len(inbox.event_ids) + len(event_ids) <= self._most_handed:
                    inbox.event_ids.extend(event_ids)
                    return None
            running.append(mine := Inbox(event_ids, now + self._stay_seconds))
            return mine

    def take(self, inbox: Inbox, most: int) -> list[str]:
        """The next deliveries to claim, up to `most`."""
        with self._lock:
            return [inbox.event_ids.popleft() for _ in range(min(most, len(inbox.event_ids)))]

    def leave_empty(self, destination: str, lane: str, inbox: Inbox) -> bool:
        """Take no more along, unless somebody has just brought more: then False, and nothing has changed."""
        with self._lock:
            if inbox.event_ids:
                return False
            self._running[destination, lane].remove(inbox)
            return True

    def leave(self, destination: str, lane: str, inbox: Inbox) -> list[str]:
        """Take no more along, if that has not been said; returns what was brought and not taken."""
        with self._lock:
            running = self._running[destination, lane]
            if inbox in running:
                running.remove(inbox)
            return list(inbox.event_ids)
