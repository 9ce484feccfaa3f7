"""Plans which destinations are told of accepted events; may be repeated at any time without harm.

Merges what is not merged yet (healing a crash after the commit), learns links and merges across them in both directions, completes withdrawals,
routes, plans the deliveries in each destination's slot, notes the plan in the event's record, and only then has them told: by tasks of this process, or by hints.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack

from msgspec import Struct

from pipeline.domain import ConsentEvent, State, Word
from pipeline.envelope import open_if_readable
from pipeline.handing import Hands, NoHands, Reservation
from pipeline.heard import Heard
from pipeline.hints import publish_chunks
from pipeline.ledger import Ledger
from pipeline.ledger.deliveries import Place, Planned
from pipeline.ledger.events import StoredEvent
from pipeline.ledger.standings import Merge, Reach, Records
from pipeline.ports import Publisher
from pipeline.revival import Revival
from pipeline.routing import Routing
from pipeline.subjects import COMPLETION_DEPTH, complete, is_merged, merges_of, spread
from pipeline.vault import Vault

log = logging.getLogger(__name__)


class Plan(Struct, frozen=True, kw_only=True):
    """One event's destinations and, if there is one, the newer event that supersedes it."""

    event: ConsentEvent
    destinations: tuple[str, ...]
    superseded_by: str = ""


class FanOut:
    """Plans the deliveries of accepted events; safe to share between threads.

    `routing` gives the current reading of the routing file; `chunk_size` is the most deliveries one message carries (a destination that takes more at once gets more).
    Where a task of this process is telling the destination already, `hands` have it take new ones along.
    """

    def __init__(
        self, ledger: Ledger, vault: Vault, publisher: Publisher, routing: Callable[[], Routing], *, chunk_size: int, hands: Hands | None = None
    ) -> None:
        self._ledger, self._vault, self._publisher, self._routing, self._chunk_size = ledger, vault, publisher, routing, chunk_size
        self._hands = hands or NoHands()
        self._revival = Revival(ledger, vault, routing)
        self._heard = Heard(ledger, vault, routing)

    def run(self, event_ids: Sequence[str]) -> int:
        """Plan these events; returns how many deliveries are new. Events that are planned already are left alone."""
        routing = self._routing()
        stored = [event for event in self._ledger.events.load(event_ids) if event is not None and not event.fanned_out]
        events = [event for event in (open_if_readable(each, self._vault, alert=True) for each in stored) if event is not None]
        if not events:
            return 0
        learned = self._learn(events, routing)
        settled = {each.event_id: each for each in stored}
        erased = self._erased(events, learned)
        plans = [self._plan(event, word, reach, routing) for event, (word, reach) in zip(events, learned, strict=True) if event.event_id not in erased]
        self._ledger.standings.note_told(entry for plan in plans for entry in told_entries(plan.event, plan.destinations, routing))
        self._heard.answer([(event, word) for event, (word, _) in zip(events, learned, strict=True)])
        with ExitStack() as held:
            return self._tell(plans, settled, routing, held)

    def _learn(self, events: Sequence[ConsentEvent], routing: Routing) -> list[tuple[Word, Reach]]:
        """Merge words and links; returns for each event the newest word over everybody it may be about, and who that is."""
        subjects = [event.identifier_keys.values() for event in events]
        read, missed = self._merged(events, dict.fromkeys(key for keys in subjects for key in keys), routing)
        reaches = self._ledger.standings.reach(subjects, depth=COMPLETION_DEPTH, read=read)
        self._merge_across(events, reaches, routing)
        self._revival.by_identifiers(missed)
        return [(max(event.word, reach.newest(event.purpose) or event.word, key=Word.encode), reach) for event, reach in zip(events, reaches, strict=True)]

    def _merged(self, events: Sequence[ConsentEvent], named: Collection[str], routing: Routing) -> tuple[Records, set[str]]:
        """The records of their identifiers with all that the events say, and those for whose links deliveries wait. Who accepted the events has merged them, unless it ended in between."""
        standings = self._ledger.standings
        read, is_any_missed = standings.look(named)
        if not is_any_missed and all(is_merged(event, read, standings, links=_links(event, routing)) for event in events):
            return read, set()
        merges = [merge for event in events for merge in merges_of(event, standings, links=_links(event, routing))]
        merged, read = standings.merge_and_read(merges, named)
        return read, {merge.identifier_key for merge, found in zip(merges, merged, strict=True) if found.missed}

    def _erased(self, events: Sequence[ConsentEvent], learned: Sequence[tuple[Word, Reach]]) -> set[str]:
        """Erase what was said before its person was erased and came later: a `given` is not told (its id is returned), a withdrawal goes when it is."""
        said = [event for event, (_, reach) in zip(events, learned, strict=True) if reach.is_erased(event.order_us)]
        for event in said:
            self._ledger.erasures.erase_events([(event.event_id, event.state is State.WITHDRAWN)], event.order_us)
        return {event.event_id for event in said if event.state is State.GIVEN}

    def _merge_across(self, events: Sequence[ConsentEvent], reaches: Sequence[Reach], routing: Routing) -> None:
        """A link merges standings in both directions; a withdrawal is also merged into every identifier that completes it."""
        merges: list[Merge] = []
        for event, reach in zip(events, reaches, strict=True):
            if _links(event, routing) and len(event.identifier_keys) > 1:
                merges += spread(reach.rings[0])
        withdrawn = {word.event_id for word in (Word.decode(merge.word) for merge in merges) if word.state is State.WITHDRAWN}
        # Before the merge: repeated after a crash, this would no longer be seen to be needed.
        self._revival.retell(withdrawn - {event.event_id for event in events})
        for event, reach in zip(events, reaches, strict=True):
            completed = complete(event, reach, self._ledger.standings).event
            added = completed.identifier_keys.keys() - event.identifier_keys.keys()
            merges += [Merge(identifier_key=completed.identifier_keys[kind], purpose=event.purpose, word=event.word.encode()) for kind in sorted(added)]
        if merges:
            self._ledger.standings.merge(merges)

    def _plan(self, event: ConsentEvent, newest: Word, reach: Reach, routing: Routing) -> Plan:
        overtaken = newest.event_id != event.event_id
        destinations = routing.route(event) if not overtaken or newest.state is event.state else ()
        if event.state is State.WITHDRAWN and newest.state is State.WITHDRAWN:
            # A condition that its consent met must not keep the withdrawal from following it: it may name another country, or come by another source.
            followed = reach.told(event.purpose) & routing.told_conditionally(event.purpose)
            destinations = tuple(sorted({*destinations, *followed}))
        return Plan(event=event, destinations=destinations, superseded_by=newest.event_id if overtaken else "")

    def _tell(self, plans: Sequence[Plan], stored: Mapping[str, StoredEvent], routing: Routing, held: ExitStack) -> int:
        """Plan in every destination's slot, note it in the events' records, and have the new ones told: by a task that is at it, or by a message."""
        wanted, events = _wanted(plans, stored), {plan.event.event_id: plan.event for plan in plans}
        hands = {place: held.enter_context(hand) for place, owed in wanted.items() if (hand := self._hand(place, len(owed), routing)) is not None}
        noted = [(plan.event.event_id, plan.destinations, plan.superseded_by) for plan in plans]
        planned = self._ledger.plan(wanted, noted, {place: hand.lease for place, hand in hands.items() if hand.lease is not None})
        came = {
            place: {what: [event_id for (event_id, _), each in zip(owed, answers, strict=True) if each is what] for what in (Planned.LEASED, Planned.PUSHED)}
            for (place, owed), answers in zip(wanted.items(), planned, strict=True)
        }
        # First those that somebody waits for: a broker or a ledger that is away must hold up none of them.
        late = [
            place
            for place, hand in hands.items()
            if not hand.bring([events[event_id] for event_id in came[place][Planned.LEASED]], came[place][Planned.PUSHED])
        ]
        for place in late:
            self._hands.give_back(*place, [*came[place][Planned.LEASED], *came[place][Planned.PUSHED]], hands[place].token)
        for place in came.keys() - hands.keys():
            publish_chunks(self._publisher, routing.destinations.get(place[0]), *place, came[place][Planned.PUSHED], 1, self._chunk_size)
        return sum(map(bool, itertools.chain.from_iterable(planned)))

    def _hand(self, place: Place, count: int, routing: Routing) -> Reservation | None:
        destination = routing.destinations.get(place[0])
        return self._hands.reserve(destination, place[1], count) if destination is not None and destination.enabled else None


def _wanted(plans: Sequence[Plan], stored: Mapping[str, StoredEvent]) -> dict[Place, list[tuple[str, int]]]:
    """What is to be planned by destination and lane, as (event id, owed since in ms): all that has no result yet."""
    wanted: dict[Place, list[tuple[str, int]]] = {}
    for plan in plans:
        event = stored[plan.event.event_id]
        for destination in plan.destinations:
            if destination not in event.results:
                wanted.setdefault((destination, plan.event.state.value), []).append((event.event_id, event.facts.received_us // 1000))
    return wanted


def told_entries(event: ConsentEvent, destinations: Iterable[str], routing: Routing) -> list[tuple[str, str, str]]:
    """What to remember of a `given` that goes to these destinations under a condition: (identifier key, purpose, destination)."""
    if event.state is not State.GIVEN:
        return []
    conditional = routing.told_conditionally(event.purpose).intersection(destinations)
    return [(key, event.purpose, destination) for key in event.identifier_keys.values() for destination in sorted(conditional)]


def _links(event: ConsentEvent, routing: Routing) -> bool:
    source = routing.sources.get(event.source)
    return source is not None and source.teaches_links
