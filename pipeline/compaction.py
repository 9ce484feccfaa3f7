"""Ends what a newer word has overtaken while it waits for a destination that takes nothing: only the newest word of each person remains to be told there.

At a destination that works an overtaken delivery ends when its turn comes, without a call; where no turn comes for hours it would be counted, kept and looked at
again and again. Run by beat with the audit; safe to run twice. It costs at most `BUDGET_SECONDS` of each round, less while others are told, and nothing while nobody says anything new.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from pipeline.domain import Outcome
from pipeline.judging import Judge
from pipeline.ledger import Ledger
from pipeline.ledger.backlog import Place
from pipeline.ledger.keys import LANES
from pipeline.prepare import Preparer
from pipeline.routing import Destination, Routing
from pipeline.settler import Settler

AT_ONCE = 500
"""Deliveries looked at in one step."""
BUDGET_SECONDS = 1.0
"""How long one round may look at backlogs, shared by all of them; the next round goes on where this one stopped."""
WORKING_SECONDS = 0.2
"""The same while this process tells others: what waits for a closed destination can wait a little longer to be tidied."""
LOOK_AGAIN_MS = 60_000
"""When to look over a backlog again although nothing was accepted: what a worker had in hand during the last pass has come back to it since."""


class Compaction:
    """Compacts backlogs; safe to share between threads and to run in several processes."""

    def __init__(
        self, ledger: Ledger, preparer: Preparer, settler: Settler, routing: Callable[[], Routing], *, is_working: Callable[[], bool] = lambda: False
    ) -> None:
        self._is_working = is_working
        self._ledger, self._preparer, self._settler, self._routing = ledger, preparer, settler, routing
        self._judge = Judge(ledger, preparer, routing)

    def run(self) -> int:
        """Look over the backlogs of all destinations that take nothing now; returns how many deliveries ended."""
        now_ms = self._ledger.now_ms()
        held = [each for each in self._routing().destinations.values() if not each.enabled or self._ledger.backlog.is_held(each.name, each.account, now_ms)]
        if not held:
            return 0
        accepted = self._ledger.events.counts()["accepted"]
        places = [(destination, index, lane) for destination in held for lane in LANES for index in ("due", "out")]
        now = Place(accepted=accepted, began_ms=now_ms)
        share_seconds = (WORKING_SECONDS if self._is_working() else BUDGET_SECONDS) / len(places)
        return sum(self._pass(destination, index, lane, now, share_seconds) for destination, index, lane in places)

    def _pass(self, destination: Destination, index: str, lane: str, now: Place, seconds: float) -> int:
        """Begin a pass if there may be something to find, or go on with the one under way, for so many seconds."""
        name = f"{index}:{lane}"
        place = self._ledger.backlog.place(destination.name, name)
        if place.cursor == 0:
            if place.accepted == now.accepted and 0 <= now.began_ms - place.began_ms < LOOK_AGAIN_MS:
                return 0
            place = now
        stop_at, ended, cursor = time.monotonic() + seconds, 0, place.cursor
        while True:
            cursor, count = self._look(destination, name, lane, cursor)
            ended += count
            if cursor == 0 or time.monotonic() >= stop_at:
                self._ledger.backlog.keep(destination.name, name, replace(place, cursor=cursor))
                return ended

    def _look(self, destination: Destination, index: str, lane: str, cursor: int) -> tuple[int, int]:
        """Judge the next part of an index and end what was overtaken; returns where to go on, and how many ended."""
        cursor, waiting = self._ledger.backlog.look(destination.name, index, cursor, AT_ONCE)
        stored = self._ledger.events.load([each.event_id for each in waiting])
        tasks = self._preparer.waiting(destination, list(zip(waiting, stored, strict=True)))
        judged = self._judge.endings(destination, tasks).values()
        overtaken = [ending for ending in judged if ending is not None and ending.result is not None and ending.result.outcome is Outcome.SUPERSEDED]
        return cursor, self._settler.overtake(destination, lane, overtaken)
