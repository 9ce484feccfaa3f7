"""Tells one destination about a chunk of events: lease, work through it, and go on with what is due."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from pipeline.chunk import ChunkWorker
from pipeline.crew import Crew, Inbox
from pipeline.domain import ConsentEvent, State
from pipeline.errors import LedgerUnavailable
from pipeline.exchange import Exchange
from pipeline.handing import Handed, Item, Reservation
from pipeline.in_hand import Brought
from pipeline.judging import Judge
from pipeline.ledger import Ledger
from pipeline.ledger.deliveries import Leased, Row
from pipeline.ledger.events import StoredEvent
from pipeline.limits import Bulkhead, DeliverOptions, LimitOptions
from pipeline.prepare import Preparer
from pipeline.routing import Destination, Routing
from pipeline.settle import Ending
from pipeline.settler import Settler

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

InHand = tuple[Leased, StoredEvent | ConsentEvent | None]
"""A leased delivery with its event: opened, as it is stored, or unknown."""


class Deliver:
    """Works through chunks of deliveries; safe to share between threads, one chunk a thread.

    `routing` gives the current reading of the routing file. Once this process `is_stopping`, what is under way ends and all else goes back. Raises LedgerUnavailable if the ledger goes away: leases then run out and the deliveries are rescued.
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
        *,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._ledger, self._preparer, self._settler, self._routing = ledger, preparer, settler, routing
        self._bulkhead, self._options, self._is_stopping = bulkhead, options, is_stopping
        self.worker = ChunkWorker(ledger, exchange, Judge(ledger, preparer, routing), settler, limits, options, is_stopping)
        self._crew = Crew[Item](most_idle=options.most_idle)

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
            self._give_back(destination, lane, RESTING_WAIT_MS, event_ids)
        elif self._ledger.holds(lane):
            self._give_back(destination, lane, HELD_BACK_MS, event_ids)  # beat pushes none of a lane that is held
        elif (inbox := self._crew.join(destination, lane, event_ids, settings)) is not None:
            self._run(settings, lane, inbox)

    def reserve(self, destination: Destination, lane: str, count: int) -> Reservation | None:
        """Room for so many at a task that runs in this process, to spare them a message and a lease; None if there is none."""
        inbox = self._crew.reserve(destination.name, lane, count, destination)
        return Reservation(self._crew, inbox, count, self._options.lease_ms) if inbox else None

    def give_back(self, destination: str, lane: str, event_ids: Sequence[str], token: str) -> None:
        """Return to the ledger what was planned for a task that has ended; what cannot be returned is rescued after its lease."""
        with suppress(LedgerUnavailable):
            self._give_back(destination, lane, HELD_BACK_MS, event_ids, token)

    def _run(self, destination: Destination, lane: str, inbox: Inbox[Item]) -> None:
        ticket = self._bulkhead.enter(destination.name, lane)
        if ticket is None:
            self._leave(inbox)
            return
        try:
            if self._crew.take_turn(inbox):
                self._work(destination, lane, inbox)
        except BaseException:
            self._crew.hand_on(inbox)
            raise
        finally:
            self._crew.leave(inbox)
            self._bulkhead.leave(destination.name, lane, ticket)

    def _work(self, destination: Destination, lane: str, inbox: Inbox[Item]) -> None:
        """Work through what is brought, then what is due as long as there is room for any of it, and stay a moment for more to be brought."""
        pull_at = time.monotonic()
        pull_until = pull_at + PULL_SECONDS
        while self._goes_on(destination, lane):
            if leased := self._lease_brought(destination, lane, inbox):
                self._work_through(destination, lane, leased, inbox)
                continue
            if pull_at <= time.monotonic() < pull_until and self._bulkhead.may_stay(destination.name, lane):
                if self._work_through(destination, lane, self._pull(destination, lane, inbox.token), inbox):
                    continue
                pull_at = time.monotonic() + LOOK_AGAIN_SECONDS
            if self._crew.stay(inbox, min(FINISH_SECONDS, self._options.idle_seconds)):
                continue
            self._settler.finish(destination.name)
            if not self._crew.stay(inbox, self._options.idle_seconds) and self._crew.leave_empty(inbox):
                return
        self._settler.finish(destination.name)
        self._leave(inbox)

    def _goes_on(self, destination: Destination, lane: str) -> bool:
        """Whether the routing file has not been read anew since (what is brought now is for other settings), the ledger has not been quarantined, and this process is not about to stop."""
        return self._routing().destinations.get(destination.name) is destination and not self._ledger.holds(lane) and not self._is_stopping()

    def _most(self, destination: Destination, lane: str) -> int:
        return max(MOST_AT_ONCE, self._options.chunk_size, destination.adapter.batch_size(State(lane)))

    def _pull(self, destination: Destination, lane: str, token: str) -> Sequence[InHand]:
        """Lease a chunk of what is due, rather than leave it waiting for beat: most of it found every connection taken a moment ago."""
        due, _ = self._ledger.deliveries.release(destination.name, lane, self._most(destination, lane), rescue_after_ms=None)
        return self._ledger.lease(destination.name, lane, token, self._options.lease_ms, [each.event_id for each in due]) if due else []

    def _lease_brought(self, destination: Destination, lane: str, inbox: Inbox[Item], limit: int | None = None) -> Sequence[InHand]:
        """Lease a chunk of what was brought (of `limit` deliveries at the most), or the next where none of it was free; empty when nothing is left. What was leased when it was planned is ours already."""
        most = self._most(destination, lane)
        while self._goes_on(destination, lane) and (items := self._crew.take(inbox, min(limit or most, most))):
            now = time.monotonic()
            fresh = {item.event_id: (item.leased, item.event) for item in items if isinstance(item, Handed) and now < item.fresh_until}
            others = [event_id for event_id in map(_event_id, items) if event_id not in fresh]
            in_hand: list[InHand] = [*fresh.values()]
            try:
                in_hand += self._ledger.lease(destination.name, lane, inbox.token, self._options.lease_ms, others) if others else []
            except LedgerUnavailable:
                self._crew.put_back(inbox, [item for item in items if _event_id(item) not in fresh])
                if not in_hand:
                    raise
            if in_hand:
                return in_hand
        return []

    def _work_through(self, destination: Destination, lane: str, leased: Sequence[InHand], inbox: Inbox[Item]) -> bool:
        """Work through one chunk, and what is brought meanwhile; False if there was nothing in it, or no room for any of it."""
        if not leased:
            return False
        tasks, endings = self._preparer.prepare(destination, leased)
        more = Brought(
            take=lambda limit: self._preparer.prepare(destination, self._lease_brought(destination, lane, inbox, limit)),
            leased=lambda: [item.event_id for item in self._crew.waiting(inbox) if isinstance(item, Handed)],
        )
        return self.worker.work(destination, lane, inbox.token, tasks, endings, more)

    def _leave(self, inbox: Inbox[Item]) -> None:
        """End early, and return what was brought."""
        left = self._crew.leave(inbox)
        self._give_back(*inbox.place, HELD_BACK_MS, list(map(_event_id, left)), inbox.token)

    def _give_back(self, destination: str, lane: str, wait_ms: int, event_ids: Sequence[str], token: str = "") -> None:
        """Return deliveries to the ledger for a while, untouched; `token` is for whom some of them may be leased."""
        token = token or secrets.token_hex(6)
        leased = self._ledger.deliveries.claim(destination, lane, token, self._options.lease_ms, event_ids) if event_ids else []
        endings = [Ending(event=None, event_id=each.event_id, row=Row(), back_at_ms=-wait_ms) for each in leased]
        if endings:
            self._settler.give_back(destination, lane, token, endings)


def _event_id(item: Item) -> str:
    return item if isinstance(item, str) else item.event_id
