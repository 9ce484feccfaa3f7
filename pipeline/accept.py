"""Accepts events: after it answers, nothing of them can be lost.

Commit (event, dedup key and "to fan out" mark in one atomic write), wait until that is durable, merge the standings, ask for fan-out (where no task of it has the event already).
A crash in between heals: the open index brings the event back and fan-out merges again.

Without an idempotency key the content is the key, and a date of low precision makes two withdrawals of one day equal in content. If the person gave in
between, the second one is a new word, or it would be lost as a duplicate; a repeat of the first that comes as late counts as one too, which stops more than it had to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from msgspec import Struct, structs

from pipeline.domain import ConsentEvent, IncomingEvent, State, Word, us_from_utc
from pipeline.echo import HeardEvent, place_heard
from pipeline.envelope import facts_of, seal_event
from pipeline.errors import KeyReused
from pipeline.identifiers import Hasher
from pipeline.ledger import Ledger
from pipeline.ledger.events import Facts, NewEvent
from pipeline.ledger.standings import Merge, Merged
from pipeline.ports import Publisher
from pipeline.routing import Source
from pipeline.subjects import merges_of
from pipeline.vault import Vault

FAN_OUT_CHUNK = 250
"""Events in one fan_out message at the most."""


class _Taken(Struct, frozen=True):
    """An event that is durable and merged; `fact` is what the commit answered: True if it is new, the first facts of a duplicate, False for a reused key.

    `is_laid`: a fan-out task has it already.
    """

    event: ConsentEvent
    fact: Facts | bool
    status: str
    is_laid: bool


class Accepted(Struct, frozen=True, kw_only=True):
    """The answer to one event: `status` is accepted, duplicate or superseded."""

    event_id: str
    status: str


class Acceptor:
    """Accepts batches of events of any sources in a round trip or two; safe to share between threads.

    `now` is the receipt clock (UTC), by default the ledger's own; `echo_seconds` how long what we told a system may come back from it as news.
    `on_heard_again` is called with each `given` that a destination shows once more, and the newest word of its person.
    """

    def __init__(
        self,
        ledger: Ledger,
        hasher: Hasher,
        vault: Vault,
        publisher: Publisher,
        now: Callable[[], datetime] | None = None,
        *,
        echo_seconds: float = 900.0,
        on_heard_again: Callable[[Sequence[tuple[ConsentEvent, Word]]], None] | None = None,
    ) -> None:
        self._ledger, self._hasher, self._vault, self._publisher, self._now = ledger, hasher, vault, publisher, now or ledger.now
        self._echo_seconds, self._on_heard_again = echo_seconds, on_heard_again

    def accept_many(self, items: Sequence[tuple[Source, IncomingEvent]]) -> list[Accepted | KeyReused]:
        """Accept events, answers in order; KeyReused (as a value) where a key stands for other content.

        Raises LedgerUnavailable if the write cannot be confirmed: some events may then be accepted all the same, and sending them again is safe.
        """
        received_at = self._now()
        events, hashes = [], []
        for source, incoming in items:
            content_hash = self._hasher.content_hash(incoming)
            hashes.append(content_hash)
            events.append(self._identified(source, incoming, content_hash, received_at))
        events = place_heard(
            self._ledger, [_heard(source, incoming, event) for (source, incoming), event in zip(items, events, strict=True)], self._echo_seconds
        )
        sources = [source for source, _ in items]
        taken = self._take(sources, events, hashes)
        if again := self._said_again(items, taken, hashes, received_at):
            anew = self._take([sources[place] for place in again], list(again.values()), [hashes[place] for place in again])
            for place, each in zip(again, anew, strict=True):
                taken[place] = each
        self._announce([each.event for each in taken if each.fact is True and not each.is_laid])
        self._heard_again([each.event for source, each in zip(sources, taken, strict=True) if isinstance(each.fact, Facts) and source.echoes])
        return [
            KeyReused("this idempotency key was used for other content") if each.fact is False else Accepted(event_id=each.event.event_id, status=each.status)
            for each in taken
        ]

    def _take(self, sources: Sequence[Source], events: Sequence[ConsentEvent], hashes: Sequence[str]) -> list[_Taken]:
        """Commit events, wait until they are durable, and merge them."""
        merges = [merges_of(event, self._ledger.standings, links=source.teaches_links) for source, event in zip(sources, events, strict=True)]
        took = self._ledger.acceptance.take(self._new(sources, events, hashes), merges, self._ledger.durability)
        facts, found = took.facts, took.found
        placed = [_as_first_accepted(event, fact) for event, fact in zip(events, facts, strict=True)]
        rest = [place for place, (fact, merged) in enumerate(zip(facts, found, strict=True)) if merged is None and fact is not False]
        for place in rest:
            if facts[place] is not True:  # a duplicate stands where the first one was put
                merges[place] = merges_of(placed[place], self._ledger.standings, links=sources[place].teaches_links)
        for place, merged in zip(rest, self._merge([merges[place] for place in rest]), strict=True):
            found[place] = merged
        return [
            _Taken(event, fact, _status(event, fact, merged), event.state.value in took.laid) for event, fact, merged in zip(placed, facts, found, strict=True)
        ]

    def _said_again(
        self, items: Sequence[tuple[Source, IncomingEvent]], taken: Sequence[_Taken], hashes: Sequence[str], received_at: datetime
    ) -> dict[int, ConsentEvent]:
        """The duplicates, by place, that are a new word: withdrawals that may have been said after the `given` that stands since the first one.

        Their key is the content and that `given`, so that a repeat finds them.
        """
        suspects = [place for place, ((_, incoming), each) in enumerate(zip(items, taken, strict=True)) if _may_be_new(incoming, each.fact)]
        reaches = self._ledger.standings.reach([taken[place].event.identifier_keys.values() for place in suspects]) if suspects else []
        found = {}
        for place, reach in zip(suspects, reaches, strict=True):
            (source, incoming), event = items[place], taken[place].event
            newest, order_us = reach.newest(event.purpose), us_from_utc(order_time(incoming, received_at))
            if newest is not None and newest.state is State.GIVEN and event.order_us < newest.order_us <= order_us:
                event_id = self._hasher.event_id(source.name, f"c\0{hashes[place]}\0{newest.event_id}")
                found[place] = structs.replace(event, event_id=event_id, order_us=order_us)
        return found

    def _identified(self, source: Source, incoming: IncomingEvent, content_hash: str, received_at: datetime) -> ConsentEvent:
        key = f"k\0{incoming.idempotency_key}" if incoming.idempotency_key else f"c\0{content_hash}"
        identifier_keys = self._hasher.identifier_keys(incoming.subject)
        return ConsentEvent(
            event_id=self._hasher.event_id(source.name, key),
            source=source.name,
            subject=incoming.subject,
            subject_key=next(iter(identifier_keys.values())),
            identifier_keys=identifier_keys,
            purpose=incoming.purpose,
            state=incoming.state,
            event_time=incoming.event_time,
            order_us=us_from_utc(order_time(incoming, received_at)),
            received_at=received_at,
            group=incoming.group,
            profile=incoming.profile,
            evidence=incoming.evidence,
            metadata=incoming.metadata,
        )

    def _new(self, sources: Sequence[Source], events: Sequence[ConsentEvent], hashes: Sequence[str]) -> list[NewEvent]:
        return [
            NewEvent(
                event_id=event.event_id,
                facts=facts_of(event),
                content_hash=content_hash,
                payload=seal_event(event, self._vault),
                record_ms=source.dedup_days * 86_400_000 if source.dedup_days else None,
                payload_ms=source.payload_ms(event.purpose),
                other_keys=tuple(key for key in event.identifier_keys.values() if key != event.subject_key),
            )
            for source, event, content_hash in zip(sources, events, hashes, strict=True)
        ]

    def _merge(self, merges: Sequence[Sequence[Merge]]) -> list[list[Merged]]:
        """Merge what the commit has not."""
        found = iter(self._ledger.standings.merge([merge for each in merges for merge in each]))
        return [[next(found) for _ in own] for own in merges]

    def _heard_again(self, events: Sequence[ConsentEvent]) -> None:
        """A `given` that a destination shows once more is no new event, and still says that a withdrawal has to be told there again."""
        given = [event for event in events if event.state is State.GIVEN]
        if given and self._on_heard_again is not None:
            reaches = self._ledger.standings.reach([event.identifier_keys.values() for event in given])
            newest = ((event, reach.newest(event.purpose)) for event, reach in zip(given, reaches, strict=True))
            self._on_heard_again([(event, word) for event, word in newest if word is not None])

    def _announce(self, events: Sequence[ConsentEvent]) -> None:
        for state in (State.WITHDRAWN, State.GIVEN):
            event_ids = [event.event_id for event in events if event.state is state]
            for first in range(0, len(event_ids), FAN_OUT_CHUNK):
                self._publisher.fan_out(state.value, event_ids[first : first + FAN_OUT_CHUNK])


def order_time(incoming: IncomingEvent, received_at: datetime) -> datetime:
    """The event's place in the order: the earlier of event time and receipt, so that a fast clock beats no later withdrawal.

    A time of lower precision counts for a withdrawal at the end of its interval and for a `given` at its beginning.
    """
    said_at = incoming.event_time
    if incoming.state is State.WITHDRAWN and incoming.event_time_end is not None:
        said_at = incoming.event_time_end
    return min(said_at, received_at)


def _status(event: ConsentEvent, fact: Facts | bool, merged: Sequence[Merged] | None) -> str:
    if fact is not True:
        return "duplicate"
    newest = max((each.newest for each in merged or () if each.newest), key=Word.encode, default=event.word)
    return "superseded" if newest.encode() > event.word.encode() else "accepted"


def _heard(source: Source, incoming: IncomingEvent, event: ConsentEvent) -> HeardEvent:
    return HeardEvent(source=source, event=event, latest_us=us_from_utc(min(incoming.event_time_end or incoming.event_time, event.received_at)))


def _may_be_new(incoming: IncomingEvent, fact: Facts | bool) -> bool:
    """Whether a duplicate is a withdrawal whose time, not its key, leaves open that it was said later than its original."""
    if not isinstance(fact, Facts) or incoming.idempotency_key or incoming.state is not State.WITHDRAWN or incoming.event_time_end is None:
        return False
    return us_from_utc(incoming.event_time_end) > fact.order_us


def _as_first_accepted(event: ConsentEvent, fact: Facts | bool) -> ConsentEvent:
    """A duplicate keeps the place in the order that its original was given."""
    return structs.replace(event, order_us=fact.order_us) if isinstance(fact, Facts) else event
