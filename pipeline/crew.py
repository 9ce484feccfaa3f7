"""Who works at which destination in this process: one task runs for each lane, takes along what others bring meanwhile, and stays a moment for more.

Ten chunks of one destination side by side would only wait for each other's connections, each with round trips of its own; one after the other, and
many at once, the same work takes a fraction of them. A message and a task for each delivery would cost several times what telling it does.
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
    """What one running task is to claim next; others put in, it alone takes out. `settings` are those of its destination when it began."""

    def __init__(self, settings: object, event_ids: Sequence[str], closes_at: float) -> None:
        self.settings = settings
        self.event_ids = deque(event_ids)
        self.closes_at = closes_at
        self.brought = threading.Event()


class Crew:
    """The running tasks of a process, by destination and lane; safe to share between threads.

    `most_idle` tasks wait for more at the most: each of them holds a thread.
    """

    def __init__(
        self, *, most_handed: int = MOST_HANDED, stay_seconds: float = STAY_SECONDS, most_idle: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most_handed, self._stay_seconds, self._most_idle, self._clock = most_handed, stay_seconds, most_idle, clock
        self._lock = threading.Lock()
        self._running: dict[tuple[str, str], list[Inbox]] = {}
        self.idle = 0

    @property
    def is_working(self) -> bool:
        """Whether any task does more than wait for more."""
        with self._lock:
            return sum(map(len, self._running.values())) > self.idle

    def join(self, destination: str, lane: str, event_ids: Sequence[str], settings: object = None) -> Inbox | None:
        """An inbox with these deliveries for a task that must run itself; None if one that runs with the same settings takes them along."""
        with self._lock:
            if self._hand_over(destination, lane, event_ids, settings):
                return None
            mine = Inbox(settings, event_ids, self._clock() + self._stay_seconds)
            self._running.setdefault((destination, lane), []).append(mine)
            return mine

    def offer(self, destination: str, lane: str, event_ids: Sequence[str], settings: object = None) -> bool:
        """Hand deliveries to a task that runs with the same settings; False, and nothing has changed, if none can take them along."""
        with self._lock:
            return self._hand_over(destination, lane, event_ids, settings)

    def _hand_over(self, destination: str, lane: str, event_ids: Sequence[str], settings: object) -> bool:
        now = self._clock()
        for inbox in self._running.get((destination, lane), ()):
            if inbox.settings is settings and now < inbox.closes_at and len(inbox.event_ids) + len(event_ids) <= self._most_handed:
                inbox.event_ids.extend(event_ids)
                inbox.brought.set()
                return True
        return False

    def stay(self, inbox: Inbox, seconds: float) -> bool:
        """Wait until somebody brings more; False when nobody has, or when enough others wait."""
        with self._lock:
            if inbox.event_ids:
                return True
            seconds = min(seconds, inbox.closes_at - self._clock())
            if seconds <= 0 or self.idle >= self._most_idle:
                return False
            self.idle += 1
            inbox.brought.clear()
        try:
            return inbox.brought.wait(seconds)
        finally:
            with self._lock:
                self.idle -= 1

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
