"""What is heard from a destination may be our own word coming back: a `given` of that kind must not count as a newer one.

A system that we told `given` shows it as a change of its own, dated when it was written there, and so does another that is kept in step with it. Between
that date and the consent itself a withdrawal may lie. So such a `given` is placed right before the word that stands: it is recorded, and changes nothing.
A withdrawal that comes back is taken as it is: at worst it stops more than it had to, and never less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct, structs

from pipeline.domain import ConsentEvent, DeliveryStatus, State, Word, us_from_utc
from pipeline.ledger import Ledger
from pipeline.ledger.events import StoredEvent
from pipeline.routing import Source

UNTOLD = frozenset({DeliveryStatus.WAITING, DeliveryStatus.AWAITING_CONFIRMATION, DeliveryStatus.DEAD})
"""Ends, or none, of a delivery by which a vendor may still hold what it was told before."""


class HeardEvent(Struct, frozen=True, kw_only=True):
    """An event as a source sent it; `latest_us` is the latest moment that its time can mean."""

    source: Source
    event: ConsentEvent
    latest_us: int


def place_heard(ledger: Ledger, heard: Sequence[HeardEvent], echo_seconds: float) -> list[ConsentEvent]:
    """The events with their place in the order: every `given` that may be an echo stands right before the newest word of the person.

    `echo_seconds` is how long after a `given` or a withdrawal was told a copy of an older `given` may still turn up.
    """
    suspects = [each for each in heard if each.source.echoes and each.event.state is State.GIVEN]
    if not suspects:
        return [each.event for each in heard]
    reaches = ledger.standings.reach([each.event.identifier_keys.values() for each in suspects])
    newest = {each.event.event_id: reach.newest(each.event.purpose) for each, reach in zip(suspects, reaches, strict=True)}
    contacts = {each.event.event_id: [record.key for ring in reach.rings for record in ring] for each, reach in zip(suspects, reaches, strict=True)}
    wanted = sorted({word.event_id for word in newest.values() if word is not None})
    stored = dict(zip(wanted, ledger.events.load(wanted, payloads=False), strict=True))
    placed = []
    for each in heard:
        if (word := newest.get(each.event.event_id)) is None:
            placed.append(each.event)
            continue
        gave_us = ledger.shown.given_ms(sorted(each.source.echoes), contacts[each.event.event_id]) * 1000
        placed.append(_placed(each, word, echo_until_us(word, stored.get(word.event_id), each.source.echoes, gave_us, echo_seconds)))
    return placed


def _placed(heard: HeardEvent, newest: Word, until_us: float) -> ConsentEvent:
    is_echo = us_from_utc(heard.event.event_time) <= until_us and newest.order_us <= heard.latest_us
    return structs.replace(heard.event, order_us=max(0, newest.order_us - 1)) if is_echo else heard.event


def echo_until_us(newest: Word, stored: StoredEvent | None, echoes: frozenset[str], gave_us: int, echo_seconds: float) -> float:
    """Until when a `given` may be the copy of one that was told to `echoes`, in microseconds; `gave_us` is when one was last told there.

    As long as the word that stands waits for one of them, nobody can say: a `given` may be told any moment, and before a withdrawal has arrived an older one
    may still be copied. A word that is not known any more stands since long.
    """
    told = [stored.results.get(name) for name in sorted(echoes.intersection(stored.destinations))] if stored else []
    if stored and ((stored.planned is None and not stored.finished) or any(result is None or result.status in _undecided(newest) for result in told)):
        return math.inf
    moments = [gave_us]
    if stored and newest.state is State.WITHDRAWN:
        moments += [stored.facts.received_us, *(result.updated_ms * 1000 for result in told if result is not None)]
    return max(moments) + echo_seconds * 1_000_000 if max(moments) else 0


def _undecided(newest: Word) -> frozenset[DeliveryStatus]:
    return UNTOLD if newest.state is State.WITHDRAWN else UNTOLD - {DeliveryStatus.DEAD}
