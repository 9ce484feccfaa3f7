"""Erases what is personal of a person, and keeps the fence: keyed hashes, purposes, order times and states, by which an older `given` still loses.

A person's events are found by walking all of them, since not every source may teach links. What a `given` still had to tell ends untold; a withdrawal is told first, or discarded
by a person. From the first step on nothing said before teaches anything again and no `given` from before is told, whoever is at work at the same time; what came
before that step, and after the person was looked for, is found by a second walk. Then the erasure is noted in the ledger: what a killed command leaves behind of it is
ended by beat, and every step may be repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from pipeline.domain import FINAL_STATUSES, DeliveryStatus, Outcome, State, delivery_id
from pipeline.envelope import open_if_readable
from pipeline.errors import ConsentRelayError
from pipeline.ledger import Ledger
from pipeline.ledger.append_log import begin_rewrite
from pipeline.ledger.deliveries import DeadLetter, Row
from pipeline.ledger.erasures import Begun, Erasure
from pipeline.ledger.events import StoredEvent
from pipeline.ledger.letters import ERASED
from pipeline.ledger.results import DeliveryResult
from pipeline.ledger.standings import MAX_REACH, IdentifierRecord, Records
from pipeline.ledger.walks import END
from pipeline.routing import Routing
from pipeline.subjects import withdrawals_spread
from pipeline.vault import Vault

log = logging.getLogger(__name__)

PAGE = 500
LOOKS = 5
"""Walks after which a person who is named together with somebody new in each of them is refused."""

Progress = Callable[[int], object]
"""Told how many events were looked at."""


class NotOnePerson(ConsentRelayError):
    """The identifiers that are linked to a person may be those of several."""


@dataclass(slots=True, kw_only=True)
class Found:
    """What there is of a person: its erasure, the events it covers (id and what it said) and what of withdrawals is still to be told, by delivery id (event id before fan-out)."""

    erasure: Erasure
    events: dict[str, State] = field(default_factory=dict)
    untold: list[str] = field(default_factory=list)
    is_known: bool = False


class Erasing:
    """Finds and erases persons; safe to share between threads and to run in several processes."""

    def __init__(self, ledger: Ledger, vault: Vault, routing: Callable[[], Routing]) -> None:
        self._ledger, self._vault, self._routing = ledger, vault, routing

    def find(self, keys: Iterable[str], *, with_linked: bool = True, progress: Progress = lambda _: None) -> Found:
        """What there is of the person with these identifiers and those linked to them, until now. Raises NotOnePerson."""
        erasure = Erasure(at_us=self._ledger.clock_ms() * 1000 + 999, keys=self._linked(keys) if with_linked else tuple(dict.fromkeys(keys)))
        for _ in range(LOOKS):
            found, named = self._look(erasure, progress, with_linked=with_linked)
            if named <= set(erasure.keys):
                break
            erasure = replace(erasure, keys=self._linked([*erasure.keys, *sorted(named)]))
        else:
            raise NotOnePerson("this person is named together with more and more others meanwhile; erase with --only-given")
        found.untold = [name for stored in self._stored(found.events) if stored.facts.state is State.WITHDRAWN for name in untold(stored)]
        found.is_known = bool(found.events) or any(record.words or record.value or record.links for record in self._records(erasure.keys).values())
        return found

    def close(self, found: Found, *, with_linked: bool = True, progress: Progress = lambda _: None) -> Found:
        """Let nothing more come of what was said until then, and add what came since it was looked for. Raises NotOnePerson where that names somebody who was not shown.

        What is accepted from now on is erased by whoever plans it; what was planned before is found by one more walk.
        """
        self._ledger.erasures.forbid(found.erasure)
        again, named = self._look(found.erasure, progress, with_linked=with_linked)
        if not named <= set(found.erasure.keys):
            raise NotOnePerson("this person was named together with another identifier meanwhile: look at what there is now, and erase again")
        return replace(found, events=found.events | again.events)

    def begin(self, found: Sequence[Found]) -> list[Begun]:
        """Note erasures: from now on they are carried out, by the caller or by beat."""
        begun = [Begun(erasure=each.erasure, event_ids=tuple(each.events)) for each in found]
        self._ledger.erasures.begin(begun)
        return begun

    def advance(self, begun: Begun) -> Begun:
        """Do what can be done of an erasure; the events that are left have to be told, or to end, first."""
        erasure = begun.erasure
        self._ledger.erasures.forbid(erasure)
        near = self._neighbourhood(erasure)
        if merges := withdrawals_spread(near.values()):
            self._ledger.standings.merge(merges)
        stored = list(self._stored(begun.event_ids))
        given = [each for each in stored if each.facts.state is State.GIVEN]
        self._end_given(given, erasure)
        self._erase(given, erasure)
        # A `given` that a worker has in hand may still have to be corrected by a withdrawal: that is readable until then.
        left = [each.event_id for each in self._stored(each.event_id for each in given) if any(True for _ in unfinished(each))]
        withdrawn = [each for each in stored if each.facts.state is State.WITHDRAWN]
        left += [each.event_id for each in withdrawn] if left else self._erase(withdrawn, erasure)
        remaining = replace(begun, event_ids=tuple(left))
        if left:
            self._ledger.erasures.begin([remaining])
        else:
            self._ledger.erasures.strip(erasure, {key: record.links for key, record in near.items()})
            self._ledger.erasures.end(erasure)
            log.info("erased", extra={"identifiers": len(erasure.keys), "events": len(begun.event_ids)})
        return remaining

    def go_on(self) -> int:
        """Go on with every erasure under way, and have the append-only file written anew after the end of any; returns how many are left. Run by beat."""
        advanced = {each.erasure.name: self.advance(each) for each in self._ledger.erasures.under_way()}
        left = sum(bool(each.event_ids) for each in advanced.values())
        if left < len(advanced):
            begin_rewrite(self._ledger.store)
        return left

    def again(self, erasures: Sequence[Erasure], progress: Progress = lambda _: None) -> int:
        """Carry out former erasures in a ledger that may have forgotten them, with one walk for all; returns how many wait for a withdrawal to be told.

        Only what was said until each of them goes.
        """
        found = {each.name: Found(erasure=each) for each in erasures}
        for each in found.values():
            self._ledger.erasures.forbid(each.erasure)
        for stored, own in self._walk(erasures, progress):
            for each in found.values():
                if each.erasure.covers(own, stored.facts.order_us):
                    each.events[stored.event_id] = stored.facts.state
        return sum(bool(self.advance(begun).event_ids) for begun in self.begin(list(found.values())))

    def _linked(self, keys: Iterable[str]) -> tuple[str, ...]:
        """These identifiers and all that are linked to them."""
        reach = self._ledger.standings.reach([keys], depth=MAX_REACH)[0]
        linked = tuple(record.key for ring in reach.rings for record in ring)
        if len(linked) >= MAX_REACH:
            raise NotOnePerson(
                f"{MAX_REACH} or more identifiers are linked to this person: they are hardly one person's; name some of them and erase with --only-given"
            )
        return linked

    def _look(self, erasure: Erasure, progress: Progress, *, with_linked: bool) -> tuple[Found, set[str]]:
        """The events of an erasure, and all identifiers that are linked by them."""
        found, named = Found(erasure=erasure), set[str]()
        for stored, own in self._walk([erasure], progress):
            found.events[stored.event_id] = stored.facts.state
            if with_linked and self._links(stored):
                named |= own
        return found, named

    def _walk(self, erasures: Sequence[Erasure], progress: Progress) -> Iterable[tuple[StoredEvent, set[str]]]:
        """Every event that one of the erasures covers, with the identifiers it names."""
        keys = {key for erasure in erasures for key in erasure.keys}
        latest_us, cursor = max((erasure.at_us for erasure in erasures), default=0), 0
        while keys and cursor != END:
            page = self._ledger.walks.events(cursor, PAGE)
            cursor = page.cursor
            for stored in self._stored(page.names, payloads=True):
                own = self._named(stored)
                if stored.facts.order_us <= latest_us and not keys.isdisjoint(own) and any(each.covers(own, stored.facts.order_us) for each in erasures):
                    yield stored, own
            progress(len(page.names))

    def _named(self, stored: StoredEvent) -> set[str]:
        event = open_if_readable(stored, self._vault)
        return {stored.facts.subject_key, *(event.identifier_keys.values() if event else ())}

    def _links(self, stored: StoredEvent) -> bool:
        source = self._routing().sources.get(stored.facts.source)
        return source is not None and source.teaches_links

    def _records(self, keys: Iterable[str]) -> dict[str, IdentifierRecord]:
        reach = self._ledger.standings.reach([keys], depth=0)[0]
        return {record.key: record for record in reach.rings[0]}

    def _neighbourhood(self, erasure: Erasure) -> Records:
        """The identifiers of an erasure, and those linked to them."""
        own = self._records(erasure.keys)
        return {**own, **self._records(sorted({link for record in own.values() for link in record.links} - own.keys()))}

    def _stored(self, event_ids: Iterable[str], *, payloads: bool = False) -> Iterable[StoredEvent]:
        names = list(event_ids)
        for first in range(0, len(names), PAGE):
            yield from (each for each in self._ledger.events.load(names[first : first + PAGE], payloads=payloads) if each is not None)

    def _erase(self, events: Sequence[StoredEvent], erasure: Erasure) -> list[str]:
        """Erase what is personal in events; returns the ids of those that have to be told first."""
        left: list[str] = []
        for first in range(0, len(events), PAGE):
            part = [(each.event_id, each.facts.state is State.WITHDRAWN) for each in events[first : first + PAGE]]
            left += [name for (name, _), gone in zip(part, self._ledger.erasures.erase_events(part, erasure.at_us), strict=True) if not gone]
        return left

    def _end_given(self, events: Sequence[StoredEvent], erasure: Erasure) -> None:
        """End what nobody has in hand of these; whoever has some of it finds the mark, and ends it as well."""
        by_destination: dict[str, list[str]] = {}
        for stored in events:
            for name, status in unfinished(stored, or_dead=True):
                if status is DeliveryStatus.DEAD:
                    row = Row(state=stored.facts.state.value, source=stored.facts.source, reason=stored.results[name].reason)
                    self._ledger.letters.close_erased([DeadLetter(event_id=stored.event_id, destination=name, row=row, died_ms=0)], self._ledger.clock_ms())
                else:
                    by_destination.setdefault(name, []).append(stored.event_id)
        for name, event_ids in by_destination.items():
            self._end(name, event_ids, erasure)

    def _end(self, destination: str, event_ids: Sequence[str], erasure: Erasure) -> None:
        result = DeliveryResult(status=DeliveryStatus.SKIPPED, updated_ms=self._ledger.clock_ms(), outcome=Outcome.NOT_APPLICABLE, reason=ERASED).encode()
        counter = f"o|{Outcome.NOT_APPLICABLE}|{State.GIVEN}"
        ended = self._ledger.backlog.overtake(destination, State.GIVEN.value, [(each, result) for each in event_ids], counter)
        done = [(event_id, result) for event_id, was_free in zip(event_ids, ended, strict=True) if was_free]
        if done:
            self._ledger.events.fold([(event_id, destination, result) for event_id, _ in done])
            self._ledger.deliveries.unfold(destination, done)
            self._ledger.shown.hasten(destination, [(event_id, erasure.keys) for event_id, _ in done])


def unfinished(stored: StoredEvent, *, or_dead: bool = False) -> Iterable[tuple[str, DeliveryStatus]]:
    """The destinations of an event that are still to be told, and how it stands there."""
    for name in stored.destinations:
        status = stored.results[name].status if name in stored.results else DeliveryStatus.WAITING
        if status not in FINAL_STATUSES or (or_dead and status is DeliveryStatus.DEAD):
            yield name, status


def untold(stored: StoredEvent) -> list[str]:
    """What of a withdrawal has to be told, or discarded by a person, before its identifiers go: delivery ids, or the event's before it is known where it goes."""
    if not stored.fanned_out:
        return [stored.event_id]
    return [delivery_id(stored.event_id, name) for name, _ in unfinished(stored, or_dead=True)]
