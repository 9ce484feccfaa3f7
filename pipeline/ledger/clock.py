"""The time by which everything is written down: the server's clock, which all processes share whatever their own clocks say, but never going back.

A server's clock may be put back. What people said is put in order by receipts too, and of two results of a delivery the later one counts: both must not fall behind what
was written before. So where the server's clock is behind the latest time that beat has noted, this clock goes on at half its pace until the two meet again.
Waits, leases and rate windows are timed by the scripts, with the server's own clock; `pipeline.mending` puts them right when it was put back.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pipeline.ledger.keys import BEAT
from pipeline.ledger.store import Store

ASK_AGAIN_SECONDS = 1.0
NOTED = f"{BEAT}:clock"
"""What all processes know of it: `high`, the latest time noted, `server`, the server's own at that moment, and the last `step` back."""


def _steady() -> float:
    """Seconds on a clock that nobody sets and that, where the system has one, goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Clock:
    """The ledger's clock in one process, safe to share between threads; times are milliseconds since 1970."""

    def __init__(self, store: Store, steady: Callable[[], float] = _steady) -> None:
        self._store, self._steady = store, steady
        self._known: tuple[float, int, int] | None = None

    def server_ms(self) -> int:
        """The server's own clock."""
        return _milliseconds(self._store.run([("TIME",)])[0])

    def now_ms(self) -> int:
        """Now; the server is asked once a second."""
        if self._known is None or self._steady() - self._known[0] > ASK_AGAIN_SECONDS:
            self._ask()
        return self.carried_ms()

    def carried_ms(self) -> int:
        """Now, by what the server said when it was asked last: for whoever must not wait for it."""
        if self._known is None:
            self._ask()
            return self.carried_ms()
        asked_at, said_ms, ahead_ms = self._known
        elapsed_ms = round((self._steady() - asked_at) * 1000)
        return said_ms + elapsed_ms - min(ahead_ms, elapsed_ms // 2)

    def _ask(self) -> None:
        server, high = self._store.run([("TIME",), ("HGET", NOTED, "high")])
        server_ms, known = _milliseconds(server), self._known
        least_ms = max(int(high or 0), self.carried_ms() if known else 0)
        self._known = (self._steady(), max(server_ms, least_ms), max(0, least_ms - server_ms))

    def tick(self, lately_ms: int = 0) -> tuple[int, int]:
        """Note for all processes how late it is; returns by how many milliseconds the server's clock was put back since that was last done, and by how many lately."""
        step_ms, late_step_ms = self._store.call("tick", [NOTED], [self.now_ms(), lately_ms])
        return int(step_ms), int(late_step_ms)

    def accept_step(self, step_ms: int) -> None:
        """The server's clock was put back, and what had to be done about it is done."""
        self._store.run([("HDEL", NOTED, "server"), ("HSET", NOTED, "step", step_ms, "stepped", self.server_ms())])


def _milliseconds(answer: tuple[int, int]) -> int:
    seconds, microseconds = answer
    return int(seconds) * 1000 + int(microseconds) // 1000
