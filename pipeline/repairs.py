"""What follows when a vendor holds something else than the standing: by itself only towards less permission, anything else by what the routing file says.

- It still permits what was withdrawn: the withdrawal is told again, by the way of every delivery.
- It permits less than the standing: where the routing file says `stricter: adopt` that is the vendor's own word, said when the vendor changed it, else when it last
  took ours. Never when it was read: what was accepted since stands.
- It has lost a consent: where the routing file says `missing: tell` it is told again, as long as its event is kept whole.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from pipeline.accept import Acceptor
from pipeline.domain import IncomingEvent, State, us_from_utc, utc_from_us
from pipeline.expectation import Contact, Drift, Said
from pipeline.ledger import Ledger
from pipeline.retelling import Retelling
from pipeline.routing import ADOPT, TELL, Destination, Routing, Source
from pipeline.vendors.base import Held

log = logging.getLogger(__name__)

REPAIRED: Final = "repaired"
A_SECOND: Final = timedelta(microseconds=999_999)
TOLD_AGAIN: Final = "told_again"
ADOPTED: Final = "adopted"


class Repairs:
    """Acts on drift, while the contact is claimed; may be repeated without harm."""

    def __init__(self, ledger: Ledger, retelling: Retelling, acceptor: Acceptor, routing: Callable[[], Routing]) -> None:
        self._ledger, self._retelling, self._acceptor, self._routing = ledger, retelling, acceptor, routing

    def act(self, destination: Destination, contact: Contact, held: Held, drift: Drift) -> str:
        """Do what the drift calls for; returns how it was repaired, empty if it is only reported."""
        how = ""
        if drift is Drift.VENDOR_LOOSER and not contact.is_parked:
            how = self._tell(destination, contact, contact.said[0])
        elif drift is Drift.VENDOR_STRICTER and destination.when_stricter == ADOPT:
            how = self._adopt(destination, contact, held)
        elif drift is Drift.MISSING and destination.when_missing == TELL and not contact.is_parked and contact.said[0].is_whole:
            how = self._tell(destination, contact, contact.said[0])
        said = {"destination": destination.name, "class": drift.value, "event_id": contact.said[0].word.event_id, "repaired": how}
        log.log(logging.WARNING if drift is Drift.VENDOR_LOOSER else logging.INFO, "drift", extra=said)
        return how

    def _tell(self, destination: Destination, contact: Contact, said: Said) -> str:
        planned = self._retelling.tell_again(said.word, said.event, destination.name, REPAIRED, contact_key=contact.key, cause=REPAIRED)
        return TOLD_AGAIN if planned else ""

    def _adopt(self, destination: Destination, contact: Contact, held: Held) -> str:
        """Accept what the vendor says as its word, for every purpose of the place; one that is older than the consent says nothing against it."""
        source = speaker_for(destination, self._routing())
        words = [(said, self._said_at(said, held)) for said in contact.said]
        events = [_withdrawal(destination, contact, said, times) for said, times in words if us_from_utc(times[1]) >= said.word.order_us]
        if source is None or not events:
            return ""
        self._acceptor.accept_many([(source, event) for event in events])
        return ADOPTED

    def _said_at(self, said: Said, held: Held) -> tuple[datetime, datetime]:
        """When the vendor changed it, if it says so and that is no time to come; else when it last confirmed our word, or the consent itself, which a withdrawal of the same time beats.

        Most vendors say the second only: then any moment of it may be meant, and for a withdrawal the last one counts.
        """
        if held.changed_at is not None and held.changed_at <= self._ledger.now():
            return held.changed_at, held.changed_at + (A_SECOND if held.changed_at.microsecond == 0 else timedelta())
        told_at = utc_from_us(max(said.told_ms * 1000, said.word.order_us))
        return told_at, told_at


def speaker_for(destination: Destination, routing: Routing) -> Source | None:
    """The source as which a destination's own word is accepted; of its own kind, if there is one."""
    speakers = [source for source in routing.sources.values() if destination.name in source.origin]
    return next((source for source in speakers if source.kind == destination.vendor), next(iter(speakers), None))


def _withdrawal(destination: Destination, contact: Contact, said: Said, times: tuple[datetime, datetime]) -> IncomingEvent:
    return IncomingEvent(
        subject=said.event.subject,
        purpose=said.purpose,
        state=State.WITHDRAWN,
        event_time=times[0],
        event_time_end=times[1],
        idempotency_key=f"drift {destination.name} {said.word.event_id} {contact.key} {us_from_utc(times[0])}",
    )
