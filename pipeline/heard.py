"""What follows when a destination itself is heard to say `given`, and another word stands: it confirms what we told it, or has to be told the withdrawal again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from pipeline.domain import ConsentEvent, DeliveryStatus, Outcome, State, Word, delivery_id
from pipeline.ledger import Ledger
from pipeline.ledger.results import DeliveryResult
from pipeline.retelling import Retelling
from pipeline.routing import Routing
from pipeline.vault import Vault

log = logging.getLogger(__name__)

CONFIRMED = "confirmed"
HEARD_GIVEN = "heard_given"
"""Reason of a withdrawal that is told again, because its vendor showed a `given` after it."""


class Heard:
    """Acts on events of sources that speak for destinations; may be repeated without harm."""

    def __init__(self, ledger: Ledger, vault: Vault, routing: Callable[[], Routing]) -> None:
        self._ledger, self._routing = ledger, routing
        self._retelling = Retelling(ledger, vault)

    def answer(self, heard: Sequence[tuple[ConsentEvent, Word]]) -> None:
        """Act on each event, given the newest word of its person."""
        routing = self._routing()
        for event, newest in heard:
            echoes = routing.echoes_of(event.source)
            if not echoes or event.state is not State.GIVEN or newest.event_id == event.event_id:
                continue
            if newest.state is State.WITHDRAWN:
                for destination in sorted(name for name in echoes if event.purpose in routing.purposes_of(name)):
                    self._retelling.tell_again(newest, event, destination, HEARD_GIVEN)
            elif event.order_us == newest.order_us - 1:  # it was placed there, so it was not said before the consent that stands
                self._confirm(newest.event_id, event, routing.origin_of(event.source))

    def _confirm(self, event_id: str, heard: ConsentEvent, origin: frozenset[str]) -> None:
        """End the deliveries of the consent that stands, where they await just this word of the vendor."""
        stored = self._ledger.events.load([event_id], payloads=False)[0]
        if stored is None:
            return
        result = DeliveryResult(status=DeliveryStatus.DELIVERED, updated_ms=self._ledger.clock_ms(), outcome=Outcome.APPLIED, reason=CONFIRMED, attempts=1)
        for destination in sorted(origin.intersection(stored.destinations)):
            if self._ledger.shown.confirm(destination, stored.facts.state.value, [event_id], result)[0]:
                self._ledger.events.fold([(event_id, destination, result.encode())])
                self._ledger.deliveries.unfold(destination, [(event_id, result.encode())])
                self._ledger.shown.hasten(destination, [(event_id, list(heard.identifier_keys.values()))])
                log.info("confirmed", extra={"delivery_id": delivery_id(event_id, destination), "by": heard.event_id})
