"""Brings work back: what is due is pushed again, withdrawals first; what was pushed or leased and never heard of is rescued; what does not add up is mended.

Run by beat every second or two; safe to run twice, late, or not at all for a while.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from pipeline.domain import FINAL_STATUSES, State
from pipeline.hints import publish_chunks
from pipeline.ledger import Ledger
from pipeline.ledger.events import OVERDUE_MS, StoredEvent
from pipeline.ledger.keys import LANES
from pipeline.limits import LimitOptions, traffic_of
from pipeline.mending import Mending
from pipeline.ports import Publisher
from pipeline.routing import Destination, Routing

log = logging.getLogger(__name__)

QUEUE_MESSAGES = 20
"""Messages that a destination's queue may hold before no more is pushed, so that a backlog is not multiplied."""
RESCUE_DEPTH = 2
"""A queue longer than this may still hold the very messages that seem lost; they are sent again once they have been overdue for `OVERDUE_MS`."""
EVENTS_AT_ONCE = 500
"""Unfinished events of one partition looked at in one run."""


class Release:
    """Pushes what is due and rescues what is overdue; safe to share between threads and to run in several processes."""

    def __init__(self, ledger: Ledger, publisher: Publisher, routing: Callable[[], Routing], limits: LimitOptions, *, chunk_size: int) -> None:
        self._ledger, self._publisher, self._routing, self._limits, self._chunk_size = ledger, publisher, routing, limits, chunk_size
        self._mending = Mending(ledger, routing, limits)

    def run(self) -> int:
        """One round over all destinations and events; returns how many deliveries and events were pushed."""
        self._ledger.beat()
        self._mending.run()
        self._announce_abandoned()
        pushed = self._release_events()
        for lane in LANES:
            for destination in self._routing().destinations.values():
                if destination.enabled and not self._ledger.holds(lane):
                    pushed += self._release_deliveries(destination, lane)
        return pushed

    def _release_deliveries(self, destination: Destination, lane: str) -> int:
        depth = self._publisher.depth(destination.name, lane)
        most = self._room(destination, lane, depth)
        if most <= 0:
            return 0
        due, rescued = self._ledger.deliveries.release(destination.name, lane, most, rescue_after_ms=0 if depth <= RESCUE_DEPTH else OVERDUE_MS)
        by_attempt: dict[int, list[str]] = {}
        for delivery in due:
            by_attempt.setdefault(delivery.row.attempts + 1, []).append(delivery.event_id)
        for attempt, event_ids in by_attempt.items():
            publish_chunks(self._publisher, destination, destination.name, lane, event_ids, attempt, self._chunk_size)
        if rescued:
            log.warning("rescued", extra={"destination": destination.name, "lane": lane, "deliveries": len(rescued)})
            publish_chunks(self._publisher, destination, destination.name, lane, rescued, 1, self._chunk_size)
        return len(due) + len(rescued)

    def _room(self, destination: Destination, lane: str, depth: int) -> int:
        """How many deliveries are worth pushing now: as many as the queue may hold and the account could take."""
        batch = destination.adapter.batch_size(State(lane))
        most = (QUEUE_MESSAGES - depth) * max(self._chunk_size, batch)
        traffic = traffic_of(destination, lane, self._limits)
        room, closed = self._ledger.accounts.room(traffic)
        if closed:
            return 0
        return min(most, -(-room // traffic.calls_per_dialogue) * batch) if traffic.calls else most

    def _announce_abandoned(self) -> None:
        """Events that were laid for a fan-out task that died go by messages, as they would have without it."""
        if self._ledger.trays.are_used(self._ledger.durability):
            for lane in LANES:
                if left := self._ledger.trays.abandoned(lane):
                    log.warning("rescued", extra={"stage": "tray", "lane": lane, "events": len(left)})
                    self._publisher.fan_out(lane, left)
                    self._ledger.events.note_rescued(left)

    def _release_events(self) -> int:
        """Events whose fan-out was lost are fanned out again; those open for long are audited."""
        long = {lane for lane in LANES if self._publisher.fan_out_depth(lane) > RESCUE_DEPTH}
        lost, stale = self._ledger.events.take_due(EVENTS_AT_ONCE, is_behind=bool(long))
        by_lane: dict[str, list[StoredEvent]] = {lane: [] for lane in LANES}
        for event in self._ledger.events.load(lost, payloads=False):
            if event is not None:
                by_lane[event.facts.state.value].append(event)
        for lane, events in by_lane.items():
            overdue_us = (self._ledger.clock_ms() - OVERDUE_MS) * 1000
            if event_ids := [event.event_id for event in events if lane not in long or event.facts.received_us <= overdue_us]:
                log.warning("rescued", extra={"stage": "fan_out", "lane": lane, "events": len(event_ids)})
                for first in range(0, len(event_ids), self._chunk_size):
                    self._publisher.fan_out(lane, event_ids[first : first + self._chunk_size])
                self._ledger.events.note_rescued(event_ids)
        self.audit(stale)
        return len(lost)

    def audit(self, event_ids: Sequence[str]) -> int:
        """Check that every planned delivery of these open events stands in some index; plan again what does not. Returns how many did not."""
        missing = 0
        for (destination, lane), events in self._unfinished(event_ids).items():
            known = self._ledger.deliveries.is_known(destination, [event_id for event_id, _ in events])
            lost = [event for event, is_known in zip(events, known, strict=True) if not is_known]
            if lost:  # unless they ended, and their results were copied, between the two looks
                lost = self._unfinished([event_id for event_id, _ in lost]).get((destination, lane), [])
            if lost:
                missing += len(lost)
                log.error("alert", extra={"alert": "unaccounted", "destination": destination, "deliveries": len(lost)})
                self._ledger.deliveries.plan(destination, lane, lost)
        return missing

    def _unfinished(self, event_ids: Sequence[str]) -> dict[tuple[str, str], list[tuple[str, int]]]:
        """By destination and lane, the planned deliveries of these events that have no final result: event id and receipt in ms."""
        found: dict[tuple[str, str], list[tuple[str, int]]] = {}
        for event in self._ledger.events.load(event_ids, payloads=False):
            if event is None or not event.planned:
                continue
            for destination in event.planned:
                if destination not in event.results or event.results[destination].status not in FINAL_STATUSES:
                    found.setdefault((destination, event.facts.state.value), []).append((event.event_id, event.facts.received_us // 1000))
        return found
