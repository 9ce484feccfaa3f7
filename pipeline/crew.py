"""Who works at which destination in this process: one task runs for each lane, takes along what others bring meanwhile, and stays a moment for more.

Ten chunks of one destination side by side would only wait for each other's connections, each with round trips of its own; one after the other, and
many at once, the same work takes a fraction of them. A message and a task for each delivery would cost several times what telling it does.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

MOST_HANDED = 5000
"""Deliveries that wait in memory for a running task at the most: few enough for a quick destination to be told of before the ledger would bring them back."""
STAY_SECONDS = 5.0
"""How long a running task takes more along; then the next one takes over, so that none runs for ever."""
HELD_SECONDS = 0.02
"""How soon a task that would end looks again while somebody holds room for what he brings."""
LOOK_SECONDS = 0.5
"""How soon a task that waits for another looks again without being told."""
Item = TypeVar("Item")


class Inbox(Generic[Item]):
    """What one running task is to tell next; others put in, it alone takes out. `settings` are those of its destination when it began.

    `token` is the task's name in the ledger; `held` is the room that is kept for what `holders` are about to bring; `is_waiting` until it is the task's turn.
    """

    def __init__(self, place: tuple[str, str], token: str, settings: object, items: Sequence[Item], closes_at: float) -> None:
        self.place, self.token, self.settings = place, token, settings
        self.items = deque(items)
        self.closes_at = closes_at
        self.held = 0
        self.holders = 0
        self.is_waiting = False
        self.brought = threading.Event()


class Crew(Generic[Item]):
    """The running tasks of a process, by destination and lane; safe to share between threads.

    `most_idle` tasks wait for more at the most: each of them holds a thread.
    """

    def __init__(
        self, *, most_handed: int = MOST_HANDED, stay_seconds: float = STAY_SECONDS, most_idle: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most_handed, self._stay_seconds, self._most_idle, self._clock = most_handed, stay_seconds, most_idle, clock
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._running: dict[tuple[str, str], list[Inbox[Item]]] = {}
        self._process, self._tasks = secrets.token_hex(4), itertools.count()
        self.idle = 0

    @property
    def is_working(self) -> bool:
        """Whether any task does more than wait for more."""
        with self._lock:
            return sum(map(len, self._running.values())) > self.idle

    def join(self, destination: str, lane: str, items: Sequence[Item], settings: object = None) -> Inbox[Item] | None:
        """An inbox with these deliveries for a task that must run itself; None if one that runs with the same settings takes them along."""
        with self._lock:
            if (inbox := self._with_room(destination, lane, len(items), settings)) is not None:
                self._put(inbox, items)
                return None
            mine = Inbox((destination, lane), self._next_token(), settings, items, self._clock() + self._stay_seconds)
            mine.is_waiting = bool(self._before(mine))
            self._running.setdefault(mine.place, []).append(mine)
            return mine

    def take_turn(self, inbox: Inbox[Item]) -> bool:
        """Wait until nobody takes more along at the place of this new inbox but its own task; False if one that does had room, bit by bit, for all that is in it.

        Two tasks at one place would share its connections, each with round trips of its own for half as many. Whoever takes no more along leaves what it has not leased to the next.
        """
        with self._lock:
            while before := self._before(inbox):
                now = self._clock()
                open_ones = [other for other in before if not other.is_waiting and now < other.closes_at]
                for other in open_ones:
                    self._fill(other, inbox)
                if not inbox.items and not inbox.holders:
                    self._remove(inbox)
                    return False
                if not open_ones and not any(other.is_waiting for other in before):
                    inbox.items = deque([*(item for other in before for item in self._unleased(other)), *inbox.items])
                    break
                self._room.wait(min([LOOK_SECONDS, *(other.closes_at - now for other in open_ones)]))
            inbox.is_waiting = False
            inbox.closes_at = self._clock() + self._stay_seconds
            return True

    def reserve(self, destination: str, lane: str, count: int, settings: object = None) -> Inbox[Item] | None:
        """Room for so many at a task that runs with the same settings, which stays until `bring`; None if there is none."""
        with self._lock:
            inbox = self._with_room(destination, lane, count, settings)
            if inbox is not None:
                inbox.held += count
                inbox.holders += 1
            return inbox

    def bring(self, inbox: Inbox[Item], items: Sequence[Item], count: int) -> bool:
        """Put in what room for `count` was reserved for, which is held no longer; False, and nothing is put in, if the task had to end all the same."""
        with self._lock:
            inbox.held -= count
            inbox.holders -= 1
            if inbox not in self._running.get(inbox.place, ()):
                return False
            if items:
                self._put(inbox, items)
            return True

    def put_back(self, inbox: Inbox[Item], items: Sequence[Item]) -> None:
        """Have what was taken wait again, behind the others."""
        with self._lock:
            inbox.items.extend(items)

    def waiting(self, inbox: Inbox[Item]) -> list[Item]:
        """What waits to be taken."""
        with self._lock:
            return list(inbox.items)

    def stay(self, inbox: Inbox[Item], seconds: float) -> bool:
        """Wait until somebody brings more; False when nobody has, or when enough others wait."""
        with self._lock:
            if inbox.items:
                return True
            seconds = min(seconds, inbox.closes_at - self._clock())
            if inbox.holders:
                seconds = max(seconds, HELD_SECONDS)
            elif seconds <= 0 or self.idle >= self._most_idle:
                return False
            self.idle += 1
            inbox.brought.clear()
        try:
            return inbox.brought.wait(seconds)
        finally:
            with self._lock:
                self.idle -= 1

    def take(self, inbox: Inbox[Item], most: int) -> list[Item]:
        """The next deliveries to tell, up to `most`."""
        with self._lock:
            self._room.notify_all()
            return [inbox.items.popleft() for _ in range(min(most, len(inbox.items)))]

    def leave_empty(self, inbox: Inbox[Item]) -> bool:
        """Take no more along, unless somebody has just brought more or is about to: then False, and nothing has changed."""
        with self._lock:
            if inbox.items or inbox.holders:
                return False
            self._remove(inbox)
            return True

    def leave(self, inbox: Inbox[Item]) -> list[Item]:
        """Take no more along, if that has not been said; returns what was brought and not taken."""
        with self._lock:
            self._remove(inbox)
            return list(inbox.items)

    def hand_on(self, inbox: Inbox[Item]) -> None:
        """The task of this inbox has failed: what it has not leased goes to another at its place, if there is one, and else back to the ledger by itself."""
        with self._lock:
            others = [other for other in self._running.get(inbox.place, ()) if other is not inbox and other.settings is inbox.settings]
            if others:
                self._put(max(others, key=lambda other: other.is_waiting), self._unleased(inbox))
            self._remove(inbox)

    def _remove(self, inbox: Inbox[Item]) -> None:
        running = self._running[inbox.place]
        if inbox in running:
            running.remove(inbox)
            self._room.notify_all()

    def _before(self, inbox: Inbox[Item]) -> list[Inbox[Item]]:
        """Those that came to the place of an inbox before it, with the same settings."""
        running = self._running.get(inbox.place, [])
        return [other for other in itertools.takewhile(lambda other: other is not inbox, running) if other.settings is inbox.settings]

    def _fill(self, other: Inbox[Item], inbox: Inbox[Item]) -> None:
        """As much from one inbox as there is room for in the other."""
        room = self._most_handed - len(other.items) - other.held
        if moved := [inbox.items.popleft() for _ in range(min(room, len(inbox.items)))]:
            self._put(other, moved)

    @staticmethod
    def _unleased(inbox: Inbox[Item]) -> list[Item]:
        """Takes out what is leased for nobody; the rest is leased for the task of this inbox."""
        ids: list[Item] = [item for item in inbox.items if isinstance(item, str)]
        inbox.items = deque(item for item in inbox.items if not isinstance(item, str))
        return ids

    def _with_room(self, destination: str, lane: str, count: int, settings: object) -> Inbox[Item] | None:
        """Behind the last that waits, so that nothing overtakes it; else with the one that is at work."""
        now = self._clock()
        same = [inbox for inbox in self._running.get((destination, lane), ()) if inbox.settings is settings]
        for inbox in [inbox for inbox in same if inbox.is_waiting][-1:] or [inbox for inbox in same if now < inbox.closes_at]:
            if len(inbox.items) + inbox.held + count <= self._most_handed:
                return inbox
        return None

    def _put(self, inbox: Inbox[Item], items: Sequence[Item]) -> None:
        inbox.items.extend(items)
        inbox.brought.set()
        if inbox.is_waiting:
            self._room.notify_all()  # whoever takes more along before it takes these at once

    def _next_token(self) -> str:
        return f"{self._process}.{next(self._tasks)}"
