"""What is heard from a destination may be our own word coming back: a `given` of that kind must not count as a newer one.

A system that we told `given` shows it as a change of its own, dated when it was written there, and so does another that is kept in step with it. Between
that date and the consent itself a withdrawal may lie. So such a `given` is placed right before the word that stands: it is recorded, and changes nothing.
A withdrawal that comes back is taken as it is: at worst it stops more than it had to, and never less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from pipeline.domain import ConsentEvent, DeliveryStatus, State, Word, us_from_utc
from pipeline.ledger import Ledger
from pipeline.ledger.events import StoredEvent
from pipeline.routing import Source


def place_heard(ledger: Ledger, heard: Sequence[tuple[Source, ConsentEvent]], echo_seconds: float) -> list[ConsentEvent]:
    """The events with their place in the order: every `given` that may be an echo stands right before the newest word of the person.

    `echo_seconds` is how long after our own word, or after a withdrawal was accepted, a copy of an older one may still turn up.
    """
    suspects = [(source, event) for source, event in heard if source.echoes and event.state is State.GIVEN]
    if not suspects:
        return [event for _, event in heard]
    reaches = ledger.standings.reach([event.identifier_keys.values() for _, event in suspects])
    newest = {event.event_id: reach.newest(event.purpose) for (_, event), reach in zip(suspects, reaches, strict=True)}
    wanted = sorted({word.event_id for word in newest.values() if word is not None})
    stored = dict(zip(wanted, ledger.events.load(wanted, payloads=False), strict=True))
    return [_placed(source, event, word, stored.get(word.event_id), echo_seconds) if (word := newest.get(event.event_id)) else event for source, event in heard]


def _placed(source: Source, event: ConsentEvent, newest: Word, stored: StoredEvent | None, echo_seconds: float) -> ConsentEvent:
    is_echo = us_from_utc(event.event_time) <= echo_until_us(newest, stored, source.echoes, echo_seconds)
    return replace(event, order_us=max(0, newest.order_us - 1)) if is_echo and newest.order_us <= event.order_us else event


def echo_until_us(newest: Word, stored: StoredEvent | None, echoes: frozenset[str], echo_seconds: float) -> float:
    """Until when a `given` may be the copy of one that we told `echoes`, in microseconds.

    After a withdrawal none of ours is told any more, but one told just before it may still be on its way. A `given` that stands may have been told there
    until now; one that is not known any more was told too long ago.
    """
    if stored is None:
        return 0
    if newest.state is State.WITHDRAWN:
        return stored.facts.received_us + echo_seconds * 1_000_000
    if stored.planned is None and not stored.finished:
        return math.inf
    told = [stored.results.get(name) for name in echoes.intersection(stored.destinations)]
    if any(result is None or result.status in (DeliveryStatus.WAITING, DeliveryStatus.AWAITING_CONFIRMATION) for result in told):
        return math.inf
    told_ms = [result.updated_ms for result in told if result is not None and result.status is DeliveryStatus.DELIVERED]
    return max(told_ms) * 1000 + echo_seconds * 1_000_000 if told_ms else 0
