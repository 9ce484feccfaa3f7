"""Gathers fan-out hints while the workers are behind, so that many single posts become few tasks.

A task costs about as much for one event as for a hundred. While the queue is short every hint goes out at once; while it is longer, what is
accepted within a quarter of a second travels together, and so do its deliveries. A hint would only wait in a long queue: it is kept until that is shorter or the
message is full, so that messages of a lane that has to wait for the other do not pile up. A hint that a dying process still kept is found by the ledger.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Final

from workers.queues import LANES, CeleryPublisher

SHORT_QUEUE: Final = 2
"""With so many messages or fewer in the queue the workers keep up."""
LONG_QUEUE: Final = 10
"""With so many or more the workers have enough to do for a while: only full messages are added."""
LONGEST_WAIT_SECONDS: Final = 0.25
KEPT_SECONDS: Final = 2.0
"""How long a hint is kept back at the most."""
LOOK_AGAIN_SECONDS: Final = 0.02
KNOWN_SECONDS: Final = 0.05
"""How long a queue that was short after a hint was sent counts as short for the next one: who sends now and then need not ask first."""
MOST_EVENTS: Final = 250


class GatheringPublisher(CeleryPublisher):
    """A publisher whose fan-out hints are sent by a thread of its own; accepting an event never waits for the broker."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._pending: dict[str, list[str]] = {lane: [] for lane in LANES}
        self._since = dict.fromkeys(LANES, 0.0)
        self._short_until = dict.fromkeys(LANES, 0.0)
        self._unasked = dict.fromkeys(LANES, 0)
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def fan_out(self, lane: str, event_ids: Sequence[str]) -> None:
        """Say, now or in a moment, that these events wait to be fanned out."""
        with self._changed:
            if not self._pending[lane]:
                self._since[lane] = time.monotonic()
            self._pending[lane] += event_ids
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="hints", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Send what is left and close the connection."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout=5)
        super().close()

    def _work(self) -> None:
        while self._wait():
            sent = [self._send_gathered(lane) for lane in LANES]
            if not any(sent):
                time.sleep(LOOK_AGAIN_SECONDS)

    def _wait(self) -> bool:
        """Until there is something to send; False when all is sent and nothing more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or any(self._pending.values()))
            return any(self._pending.values())

    def _send_gathered(self, lane: str) -> bool:
        """Send a lane's hints if it is time to; whether any were sent."""
        if not self._pending[lane] or not self._is_time(lane):
            return False
        with self._changed:
            event_ids, self._pending[lane] = self._pending[lane], []
        for first in range(0, len(event_ids), MOST_EVENTS):
            super().fan_out(lane, event_ids[first : first + MOST_EVENTS])
        self._look(lane, len(event_ids))
        return True

    def _look(self, lane: str, sent: int) -> None:
        """Ask how long the queue is, now that nobody waits for the answer: soon after what came alone one need not ask again, but what came together may be the first of many."""
        now = time.monotonic()
        self._unasked[lane] += 1
        if sent > 1 or self._unasked[lane] > SHORT_QUEUE or now >= self._short_until[lane] - KNOWN_SECONDS / 2:
            self._unasked[lane] = 0
            self._short_until[lane] = now + KNOWN_SECONDS if self.fan_out_depth(lane) <= SHORT_QUEUE else 0.0

    def _is_time(self, lane: str) -> bool:
        if self._closing or len(self._pending[lane]) >= MOST_EVENTS:
            return True
        waited = time.monotonic() - self._since[lane]
        if waited >= KEPT_SECONDS:  # others may keep the queue long with full messages of theirs
            return True
        if time.monotonic() < self._short_until[lane]:
            return True
        return self.fan_out_depth(lane) < (LONG_QUEUE if waited >= LONGEST_WAIT_SECONDS else SHORT_QUEUE + 1)
