"""Writes endings into the ledger and makes them known."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from random import Random

from msgspec import Struct, structs

from pipeline.domain import FINAL_STATUSES, DeliveryStatus, Outcome, State, delivery_id
from pipeline.ledger import Ledger
from pipeline.ledger.copies import Settling
from pipeline.patience import insist
from pipeline.ports import Publisher
from pipeline.routing import Destination
from pipeline.settle import TOLD, Decision, Ending, SettleOptions, counted_as, decide, given_back
from pipeline.sightings import Sightings

log = logging.getLogger(__name__)


class Draft(Struct, frozen=True, kw_only=True):
    """Endings, what each becomes, and how that is written down."""

    settling: Settling
    endings: Sequence[Ending]
    decisions: Sequence[Decision]


class Settler:
    """Settles deliveries; safe to share between threads."""

    def __init__(self, ledger: Ledger, publisher: Publisher, sightings: Sightings, options: SettleOptions, random: Random) -> None:
        self._ledger, self._publisher, self._sightings, self._options, self._random = ledger, publisher, sightings, options, random

    def settle(self, destination: Destination, lane: str, token: str, endings: Sequence[Ending], now_ms: int) -> None:
        """End leased deliveries of one chunk in one step, at `now_ms`: to try again after an outage, come with the same time, so that what was settled is recognised."""
        draft = self.draft(destination, lane, token, endings, now_ms)
        self.make_known(destination, draft, self._ledger.copies.settle(draft.settling))

    def draft(self, destination: Destination, lane: str, token: str, endings: Sequence[Ending], now_ms: int) -> Draft:
        """What is to be written down of endings, for whoever does it with other steps; `make_known` is to follow."""
        decisions = [decide(ending, destination, now_ms=now_ms, random=self._random, options=self._options) for ending in endings]
        counted = [counted_as(ending, now_ms) for ending in endings]
        settlements = [
            structs.replace(decision.settlement, sent=each.sent, asked=each.asked, counters=counters, told_seconds=seconds)
            for each, decision, (counters, seconds) in zip(endings, decisions, counted, strict=True)
        ]
        settling = Settling(destination=destination.name, lane=lane, token=token, settlements=settlements)
        return Draft(settling=settling, endings=endings, decisions=decisions)

    def make_known(self, destination: Destination, draft: Draft, held: Sequence[bool]) -> None:
        """Announce what was settled, and remember what hearing from the destination needs to know of it."""
        settled = [(ending, decision) for ending, decision, was_held in zip(draft.endings, draft.decisions, held, strict=True) if was_held]
        self._announce(destination.name, draft.settling.lane, [decision for _, decision in settled])
        # All is settled: to fail now would have it settled, and counted, once more.
        insist(lambda: self._remember(destination, settled))

    def finish(self, destination: str) -> None:
        """Copy what was settled last: nothing more is settled for now, that could take it along."""
        insist(lambda: self._ledger.copies.flush(destination))

    def give_back(self, destination: str, lane: str, token: str, endings: Sequence[Ending]) -> None:
        """Return leased deliveries untouched."""
        self._ledger.deliveries.settle(destination, lane, token, [given_back(ending) for ending in endings])

    def overtake(self, destination: Destination, lane: str, endings: Sequence[Ending]) -> int:
        """End deliveries that nobody has in hand, because a newer word overtook them; returns how many."""
        now_ms = self._ledger.clock_ms()
        decisions = [decide(ending, destination, now_ms=now_ms, random=self._random, options=self._options) for ending in endings]
        results = [(each.settlement.event_id, each.settlement.result.encode()) for each in decisions if each.settlement.result]
        ended = self._ledger.backlog.overtake(destination.name, lane, results, f"o|{Outcome.SUPERSEDED}|{lane}") if results else []
        if copied := [result for result, was_waiting in zip(results, ended, strict=True) if was_waiting]:
            self._ledger.events.fold([(event_id, destination.name, result) for event_id, result in copied])
            self._ledger.deliveries.unfold(destination.name, copied)
        return len(copied)

    def _remember(self, destination: Destination, settled: Sequence[tuple[Ending, Decision]]) -> None:
        """What hearing from this destination needs to know: which contacts await a confirmation, and what a poll will see that is no news."""
        if destination.adapter.capabilities.double_opt_in:
            awaiting = [ending for ending, decision in settled if decision.status is DeliveryStatus.AWAITING_CONFIRMATION]
            self._ledger.shown.await_confirmation(destination.name, {key: ending.event_id for ending in awaiting for key in ending.contact_keys})
            ended = [(ending.event_id, ending.contact_keys) for ending, decision in settled if decision.status in FINAL_STATUSES]
            self._ledger.shown.hasten(destination.name, ended)
        if destination.is_heard:
            given = [ending for ending, _ in settled if _may_have_given(ending)]
            self._ledger.shown.note_given(destination.name, [key for ending in given for key in ending.contact_keys], self._ledger.clock_ms())
        if destination.is_polled:
            told = [(ending.event, decision.settlement.row) for ending, decision in settled if decision.status is DeliveryStatus.DELIVERED and ending.event]
            self._sightings.note_told(destination, [(event.purpose, event.state, row.vendor_reference) for event, row in told])

    def _announce(self, destination: str, lane: str, decisions: Sequence[Decision]) -> None:
        dead: dict[str, list[str]] = {}
        for decision in decisions:
            settlement = decision.settlement
            name = delivery_id(settlement.event_id, destination)
            if decision.status is DeliveryStatus.DEAD:
                dead.setdefault(settlement.row.reason or settlement.row.outcome, []).append(name)
            if decision.alert:
                log.error("alert", extra={"alert": decision.alert, "delivery_id": name, "destination": destination, "reason": settlement.row.reason})
        for reason, names in dead.items():
            log.warning("dead_letter", extra={"destination": destination, "lane": lane, "reason": reason, "deliveries": len(names)})
            self._publisher.dead_letter(destination, reason, names)


def _may_have_given(ending: Ending) -> bool:
    """Whether the vendor may hold a `given` by this, now or later."""
    result = ending.result
    if result is None or ending.event is None or ending.event.state is not State.GIVEN:
        return False
    return result.outcome in (*TOLD, Outcome.PENDING_CONFIRMATION) or not result.definite
