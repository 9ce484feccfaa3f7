"""Tells one destination about a chunk of events: lease, work through it, and go on with what is due."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Sequence

from pipeline.chunk import ChunkWorker
from pipeline.crew import Crew, Inbox
from pipeline.domain import State
from pipeline.exchange import Exchange
from pipeline.judging import Judge
from pipeline.ledger import Ledger
from pipeline.ledger.deliveries import Leased, Row
from pipeline.ledger.events import StoredEvent
from pipeline.limits import Bulkhead, DeliverOptions, LimitOptions
from pipeline.prepare import Preparer
from pipeline.routing import Destination, Routing
from pipeline.settle import Ending, Settler

PULL_SECONDS = 2.0
"""How long one task goes on with what is due after its own chunk is done."""
MOST_AT_ONCE = 500
"""Deliveries claimed at once of what other tasks bring."""
LOOK_AGAIN_SECONDS = 0.25
"""How soon a task looks again for what is due after it found nothing."""
FINISH_SECONDS = 0.02
"""How long a task waits for more before it finishes the books of what it told: the next settlement takes them along at no cost."""
RESTING_WAIT_MS = 60_000
"""When to look again at a destination that is not there, or not enabled."""
HELD_BACK_MS = 500
"""When to look again at a chunk that found no room in this process."""


class Deliver:
    """Works through chunks of deliveries; safe to share between threads, one chunk a thread.

    `routing` gives the current reading of the routing file. Raises LedgerUnavailable if the ledger goes away: leases then run out and the deliveries are rescued.
    """

    def __init__(
        self,
        ledger: Ledger,
        exchange: Exchange,
        preparer: Preparer,
        settler: Settler,
        routing: Callable[[], Routing],
        bulkhead: Bulkhead,
        limits: LimitOptions,
        options: DeliverOptions,
    ) -> None:
        self._ledger, self._preparer, self._settler, self._routing = ledger, preparer, settler, routing
        self._bulkhead, self._options = bulkhead, options
        self.worker = ChunkWorker(ledger, exchange, Judge(ledger, preparer, routing), settler, limits, options)
        self._crew = Crew(most_idle=options.most_idle)
        self._process = secrets.token_hex(4)
        self._chunks = itertools.count()

    @property
    def is_working(self) -> bool:
        """Whether anybody is being told by this process now."""
        return self._crew.is_working

    def run(self, destination: str, lane: str, event_ids: Sequence[str]) -> None:
        """Tell `destination` of these events, as far as they are still to be told and free; then of others that wait for nothing but a free hand.

        Where a task of this process is at it already, that one takes them along.
        """
        settings = self._routing().destinations.get(destination)
        if settings is None or not settings.enabled:
            self._give_back(destination, lane, event_ids, RESTING_WAIT_MS)
        elif self._ledger.holds(lane):
            self._give_back(destination, lane, event_ids, HELD_BACK_MS)  # beat pushes none of a lane that is held
        elif (inbox := self._crew.join(destination, lane, event_ids, settings)) is not None:
            self._run(settings, lane, inbox)

    def hand_over(self, destination: Destination, lane: str, event_ids: Sequence[str]) -> bool:
        """Have a task that runs in this process take these along, without a message; False if there is none, and then nothing has happened."""
        return self._crew.offer(destination.name, lane, event_ids, destination)

    def _run(self, destination: Destination, lane: str, inbox: Inbox) -> None:
        ticket = self._bulkhead.enter(destination.name, lane)
        if ticket is None:
            self._give_back(destination.name, lane, self._crew.leave(destination.name, lane, inbox), HELD_BACK_MS)
            return
        try:
            self._work(destination, lane, inbox)
        finally:
            self._crew.leave(destination.name, lane, inbox)
            self._bulkhead.leave(destination.name, lane, ticket)

    def _work(self, destination: Destination, lane: str, inbox: Inbox) -> None:
        """Work through what is brought, then what is due as long as there is room for any of it, and stay a moment for more to be brought."""
        pull_at = time.monotonic()
        pull_until = pull_at + PULL_SECONDS
        while self._goes_on(destination, lane):
            token = self._next_token()
            if leased := self._lease_brought(destination, lane, token, inbox):
                self._work_through(destination, lane, token, leased, inbox)
                continue
            if pull_at <= time.monotonic() < pull_until and self._bulkhead.may_stay(destination.name, lane):
                if self._work_through(destination, lane, token, self._pull(destination, lane, token), inbox):
                    continue
                pull_at = time.monotonic() + LOOK_AGAIN_SECONDS
            if self._crew.stay(inbox, min(FINISH_SECONDS, self._options.idle_seconds)):
                continue
            self._settler.finish(destination.name)
            if not self._crew.stay(inbox, self._options.idle_seconds) and self._crew.leave_empty(destination.name, lane, inbox):
                return
        self._settler.finish(destination.name)
        self._give_back(destination.name, lane, self._crew.leave(destination.name, lane, inbox), HELD_BACK_MS)

    def _goes_on(self, destination: Destination, lane: str) -> bool:
        """Whether the routing file has not been read anew since (what is brought now is for other settings), and the ledger has not been quarantined."""
        return self._routing().destinations.get(destination.name) is destination and not self._ledger.holds(lane)

    def _most(self, destination: Destination, lane: str) -> int:
        return max(MOST_AT_ONCE, self._options.chunk_size, destination.adapter.batch_size(State(lane)))

    def _next_token(self) -> str:
        return f"{self._process}.{next(self._chunks)}"

    def _pull(self, destination: Destination, lane: str, token: str) -> list[tuple[Leased, StoredEvent | None]]:
        """Lease a chunk of what is due, rather than leave it waiting for beat: most of it found every connection taken a moment ago."""
        due, _ = self._ledger.deliveries.release(destination.name, lane, self._most(destination, lane), rescue_after_ms=None)
        return self._ledger.lease(destination.name, lane, token, self._options.lease_ms, [each.event_id for each in due]) if due else []

    def _lease_brought(self, destination: Destination, lane: str, token: str, inbox: Inbox) -> list[tuple[Leased, StoredEvent | None]]:
        """Lease a chunk of what was brought, or the next where none of it was free; empty when nothing is left."""
        while self._goes_on(destination, lane) and (event_ids := self._crew.take(inbox, self._most(destination, lane))):
            if leased := self._ledger.lease(destination.name, lane, token, self._options.lease_ms, event_ids):
                return leased
        return []

    def _work_through(self, destination: Destination, lane: str, token: str, leased: Sequence[tuple[Leased, StoredEvent | None]], inbox: Inbox) -> bool:
        """Work through one chunk, and what is brought meanwhile; False if there was nothing in it, or no room for any of it."""
        if not leased:
            return False
        tasks, endings = self._preparer.prepare(destination, leased)
        return self.worker.work(
            destination, lane, token, tasks, endings, lambda: self._preparer.prepare(destination, self._lease_brought(destination, lane, token, inbox))
        )

    def _give_back(self, destination: str, lane: str, event_ids: Sequence[str], wait_ms: int) -> None:
        """Return deliveries to the ledger for a while, untouched."""
        token = self._next_token()
        leased = self._ledger.deliveries.claim(destination, lane, token, self._options.lease_ms, event_ids) if event_ids else []
        endings = [Ending(event=None, event_id=each.event_id, row=Row(), back_at_ms=-wait_ms) for each in leased]
        if endings:
            self._settler.give_back(destination, lane, token, endings)
