"""What follows when a destination itself is heard to say `given`, and another word stands: it confirms what we told it, or has to be told the withdrawal again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.domain import ConsentEvent, DeliveryStatus, Outcome, State, Word, delivery_id, utc_from_us
from pipeline.envelope import facts_of, open_if_readable, seal_event
from pipeline.ledger import Ledger
from pipeline.ledger.deliveries import DeadLetter, Row
from pipeline.ledger.events import DeliveryResult, StoredEvent
from pipeline.routing import Routing
from pipeline.vault import Vault

log = logging.getLogger(__name__)

CONFIRMED = "confirmed"
HEARD_GIVEN = "heard_given"
"""Reason of a withdrawal that is told again, because its vendor showed a `given` after it."""


class Heard:
    """Acts on events of sources that speak for destinations; may be repeated without harm."""

    def __init__(self, ledger: Ledger, vault: Vault, routing: Callable[[], Routing]) -> None:
        self._ledger, self._vault, self._routing = ledger, vault, routing

    def answer(self, heard: Sequence[tuple[ConsentEvent, Word]]) -> None:
        """Act on each event, given the newest word of its person."""
        routing = self._routing()
        for event, newest in heard:
            echoes = routing.echoes_of(event.source)
            if not echoes or event.state is not State.GIVEN or newest.event_id == event.event_id:
                continue
            if newest.state is State.WITHDRAWN:
                for destination in sorted(name for name in echoes if event.purpose in routing.purposes_of(name)):
                    self._tell_again(newest, event, destination)
            elif event.order_us == newest.order_us - 1:  # it was placed there, so it was not said before the consent that stands
                self._confirm(newest.event_id, event, routing.origin_of(event.source))

    def _tell_again(self, newest: Word, heard: ConsentEvent, destination: str) -> None:
        """Have the withdrawal that stands told to a destination that shows a `given`, whether it was told there, is being told, or never was to be."""
        stored = self._ledger.events.load([newest.event_id])[0]
        if open_if_readable(stored, self._vault) is None:
            self._remake(newest, heard, stored)
        now_ms = self._ledger.now_ms()
        row = Row(state=State.WITHDRAWN.value, source=stored.facts.source if stored else heard.source, reason=HEARD_GIVEN, since_ms=now_ms)
        if stored and destination in stored.destinations:
            known = stored.results.get(destination)
            letter = DeadLetter(event_id=newest.event_id, destination=destination, row=row, died_ms=known.updated_ms if known else 0)
            planned = bool(self._ledger.letters.reopen([letter], only_dead=False, reason=HEARD_GIVEN))
        else:
            planned = self._ledger.deliveries.plan(destination, State.WITHDRAWN.value, [(newest.event_id, now_ms)], row)[0]
            self._ledger.events.reopen_for(destination, [newest.event_id], now_ms)
        if planned:
            log.info("withdrawal_revived", extra={"delivery_id": delivery_id(newest.event_id, destination), "reason": HEARD_GIVEN})

    def _remake(self, newest: Word, heard: ConsentEvent, stored: StoredEvent | None) -> None:
        """Make a withdrawal whose payload is gone tellable again, by the identifiers under which the destination itself knows the person."""
        said_at = utc_from_us(newest.order_us)
        again = replace(
            heard,
            event_id=newest.event_id,
            source=stored.facts.source if stored else heard.source,
            subject_key=stored.facts.subject_key if stored else heard.subject_key,
            state=State.WITHDRAWN,
            event_time=utc_from_us(stored.facts.event_us) if stored else said_at,
            order_us=newest.order_us,
            received_at=utc_from_us(stored.facts.received_us) if stored else said_at,
            group=None,
            profile={},
            evidence={},
            metadata={},
        )
        self._ledger.events.restore(again.event_id, facts_of(again), seal_event(again, self._vault))

    def _confirm(self, event_id: str, heard: ConsentEvent, origin: frozenset[str]) -> None:
        """End the deliveries of the consent that stands, where they await just this word of the vendor."""
        stored = self._ledger.events.load([event_id], payloads=False)[0]
        if stored is None:
            return
        result = DeliveryResult(status=DeliveryStatus.DELIVERED, updated_ms=self._ledger.now_ms(), outcome=Outcome.APPLIED, reason=CONFIRMED, attempts=1)
        for destination in sorted(origin.intersection(stored.destinations)):
            if self._ledger.shown.confirm(destination, stored.facts.state.value, [event_id], result)[0]:
                self._ledger.events.fold([(event_id, destination, result.encode())])
                self._ledger.deliveries.unfold(destination, [(event_id, result.encode())])
                self._ledger.shown.hasten(destination, [(event_id, list(heard.identifier_keys.values()))])
                log.info("confirmed", extra={"delivery_id": delivery_id(event_id, destination), "by": heard.event_id})
