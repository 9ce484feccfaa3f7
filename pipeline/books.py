"""Goes through the whole ledger and accounts for every event and delivery: by state, what is stuck, late or dead, and by id whatever does not add up.

It only looks. What it sees moves meanwhile, so everything suspicious is looked at once more in the end, and only what is still so is reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.domain import FINAL_STATUSES, DeliveryStatus, State, delivery_id
from pipeline.figures import collect
from pipeline.ledger import Ledger
from pipeline.ledger.events import StoredEvent
from pipeline.ledger.keys import LANES
from pipeline.ledger.walks import END, Place
from pipeline.routing import Routing

EVENTS_AT_ONCE: Final = 500
MOST_SHOWN: Final = 1000
"""Ids that a report names of one kind at the most; all of them are counted."""
STUCK_MS: Final = 120_000
"""Work that should have been looked at so long ago and was not: nothing progresses there."""
SECOND_LOOK_SECONDS: Final = 0.5
SUSPECTS_AT_ONCE: Final = 5000
"""What looks wrong is looked at once more as soon as there is so much of it, and in the end."""
INDEXES: Final = ("out", "due")

LOST: Final = "is unfinished and stands in no index: nobody will come back to it"
TWICE: Final = "stands in more than one index"
LEFT_OVER: Final = "has ended and still stands in an index"
UNKNOWN: Final = "stands in an index and belongs to no event"
NOT_DEAD: Final = "died and is no dead letter any more"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about one event or delivery, named by its id; `what` says it in words."""

    id: str
    what: str


@dataclass(slots=True)
class Found:
    """Findings of one kind: all counted, the first of them named."""

    count: int = 0
    named: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        self.count += 1
        if len(self.named) < MOST_SHOWN:
            self.named.append(finding)

    def as_json(self) -> dict[str, Any]:
        return {"count": self.count, "items": [{"id": each.id, "what": each.what} for each in self.named]}


@dataclass(slots=True)
class Books:
    """What the ledger holds: `events` by (state, status), `deliveries` by (destination, status), `told_late` by purpose, and what is not as it should be."""

    events: Counter[tuple[str, str]] = field(default_factory=Counter)
    deliveries: Counter[tuple[str, str]] = field(default_factory=Counter)
    told_late: Counter[str] = field(default_factory=Counter)
    stuck: Found = field(default_factory=Found)
    late: Found = field(default_factory=Found)
    dead: Found = field(default_factory=Found)
    unexplained: Found = field(default_factory=Found)
    unaccounted: int = 0

    @property
    def is_good(self) -> bool:
        """Whether nothing is lost, stuck, late or a dead withdrawal; a dead `given` is only listed."""
        return not (self.unaccounted or self.unexplained.count or self.stuck.count or self.late.count or self.dead.count)

    def as_json(self) -> dict[str, Any]:
        return {
            "good": self.is_good,
            "events": [{"state": state, "status": status, "count": count} for (state, status), count in sorted(self.events.items())],
            "deliveries": [{"destination": name, "status": status, "count": count} for (name, status), count in sorted(self.deliveries.items())],
            "told_late": dict(sorted(self.told_late.items())),
            "unaccounted": self.unaccounted,
            **{name: getattr(self, name).as_json() for name in ("unexplained", "stuck", "late", "dead")},
        }


class Bookkeeper:
    """Makes the books of a ledger; reads it page by page, so that memory stays bounded. `wait` lets a moment pass before the second look."""

    def __init__(self, ledger: Ledger, routing: Callable[[], Routing], wait: Callable[[float], None]) -> None:
        self._ledger, self._routing, self._wait = ledger, routing, wait

    def size(self) -> int:
        """About how far `run` has to go, in the unit of its progress."""
        return self._ledger.walks.size()

    def run(self, on_progress: Callable[[int], None] = lambda _: None) -> Books:
        """The books. Raises LedgerUnavailable."""
        books = Books()
        suspects: list[Finding] = []
        for page in self._pages(on_progress):
            suspects += self._look(page, books)
            self._look_again(suspects, books, at_least=SUSPECTS_AT_ONCE)
        for finding in self._strangers():
            suspects.append(finding)
            self._look_again(suspects, books, at_least=SUSPECTS_AT_ONCE)
        self._look_again(suspects, books, at_least=1)
        books.unaccounted = collect(self._ledger, self._routing()).unaccounted
        if books.unaccounted and not books.unexplained.count:
            for finding in self._miscounted():
                books.unexplained.add(finding)
        return books

    def _pages(self, on_progress: Callable[[int], None]) -> Iterator[list[StoredEvent]]:
        cursor = 0
        while cursor != END:
            page = self._ledger.walks.events(cursor, EVENTS_AT_ONCE)
            cursor = page.cursor
            yield [event for event in self._ledger.events.load(page.names, payloads=False) if event is not None]
            on_progress(EVENTS_AT_ONCE)

    def _look(self, events: Sequence[StoredEvent], books: Books | None) -> list[Finding]:
        """What is wrong with a page of events, which are entered into the books; on the second look (no books) only the former is wanted."""
        look, wrong = _Look(self._ledger, self._routing(), events), []
        for event in events:
            state = event.facts.state.value
            if problem := look.event_problem(event):
                wrong.append(Finding(event.event_id, problem))
            if books is not None:
                books.events[state, _status(event)] += 1
                if look.is_forgotten(event):
                    books.stuck.add(Finding(event.event_id, "was accepted and is not fanned out"))
            for name in event.destinations:
                if problem := look.delivery_problem(event, name):
                    wrong.append(Finding(delivery_id(event.event_id, name), problem))
                if books is not None:
                    look.enter(event, name, books)
        return wrong

    def _strangers(self) -> Iterator[Finding]:
        """Entries of indexes whose event does not know of them."""
        for name in self._ledger.deliveries.known_destinations():
            for lane in LANES:
                for index in INDEXES:
                    cursor = 0
                    while cursor != END:
                        page = self._ledger.walks.unfinished(name, lane, index, cursor, EVENTS_AT_ONCE)
                        cursor = page.cursor
                        yield from self._unknown(name, page.names)

    def _unknown(self, name: str, event_ids: Sequence[str]) -> Iterator[Finding]:
        """Those of these entries of a destination's indexes whose event does not know of them."""
        for event_id, event in zip(event_ids, self._ledger.events.load(event_ids, payloads=False), strict=True):
            if event is None or (event.fanned_out and name not in event.destinations):
                yield Finding(delivery_id(event_id, name), UNKNOWN)

    def _miscounted(self) -> Iterator[Finding]:
        """Which counters do not fit the indexes, where every event and delivery has its place: the counting is wrong, and nothing is lost."""
        events = self._ledger.events.counts()
        if (unfinished := events["accepted"] - events["finished"]) != events["open"]:
            yield Finding("events", f"the counters say that {unfinished} are unfinished, the index has {events['open']}")
        for name in self._ledger.deliveries.known_destinations():
            figures = self._ledger.deliveries.figures(name)
            waiting = sum(figures["waiting"].values())
            if (unfinished := int(figures["counters"].get("planned", 0) - figures["counters"].get("done", 0))) != waiting:
                yield Finding(f"deliveries to {name}", f"the counters say that {unfinished} are unfinished, the indexes have {waiting}")

    def _look_again(self, suspects: list[Finding], books: Books, *, at_least: int) -> None:
        """Report what is still wrong by the same reading as before, if there are so many of them; afterwards none is suspect."""
        if len(suspects) < at_least:
            return
        self._wait(SECOND_LOOK_SECONDS)
        event_ids = sorted({each.id.partition(".")[0] for each in suspects if each.what != UNKNOWN})
        still: set[Finding] = set()
        for first in range(0, len(event_ids), EVENTS_AT_ONCE):
            events = [event for event in self._ledger.events.load(event_ids[first : first + EVENTS_AT_ONCE], payloads=False) if event is not None]
            still.update(self._look(events, None))
        still.update(self._still_unknown([each for each in suspects if each.what == UNKNOWN]))
        for each in dict.fromkeys(suspects):
            if each in still:
                books.unexplained.add(each)
        suspects.clear()

    def _still_unknown(self, suspects: Sequence[Finding]) -> Iterator[Finding]:
        """Those that still stand in an index, and whose event still does not know of them."""
        by_destination: dict[str, list[str]] = {}
        for each in suspects:
            event_id, _, name = each.id.partition(".")
            by_destination.setdefault(name, []).append(event_id)
        for name, ids in by_destination.items():
            for first in range(0, len(ids), EVENTS_AT_ONCE):
                some = ids[first : first + EVENTS_AT_ONCE]
                places = zip(some, self._ledger.walks.places(name, some), strict=True)
                yield from self._unknown(name, [event_id for event_id, place in places if place.is_unfinished])


class _Look:
    """A page of events, and where their deliveries stand."""

    def __init__(self, ledger: Ledger, routing: Routing, events: Sequence[StoredEvent]) -> None:
        self._routing, self._now_ms = routing, ledger.clock_ms()
        event_ids = [event.event_id for event in events]
        self._open_ms: Mapping[str, int | None] = dict(zip(event_ids, ledger.walks.open_ms(event_ids), strict=True))
        by_destination: dict[str, list[str]] = {}
        for event in events:
            for name in event.destinations:
                by_destination.setdefault(name, []).append(event.event_id)
        self._places: dict[tuple[str, str], Place] = {
            (event_id, name): place for name, ids in by_destination.items() for event_id, place in zip(ids, ledger.walks.places(name, ids), strict=True)
        }
        self._held_back = {name for name in by_destination if not _is_enabled(routing, name) or ledger.deliveries.figures(name)["paused"]}

    def event_problem(self, event: StoredEvent) -> str:
        is_open = self._open_ms[event.event_id] is not None
        if event.finished:
            return LEFT_OVER if is_open else ""
        return "" if is_open else LOST

    def is_forgotten(self, event: StoredEvent) -> bool:
        """Whether nobody has looked at an event that waits to be fanned out for long."""
        at_ms = self._open_ms[event.event_id]
        return not event.fanned_out and at_ms is not None and at_ms < self._now_ms - STUCK_MS

    def delivery_problem(self, event: StoredEvent, name: str) -> str:
        place, result = self._places[event.event_id, name], event.results.get(name)
        if place.entries > 1:
            return TWICE
        if result is None or result.status not in FINAL_STATUSES:
            return "" if place.entries or place.is_dead or place.has_result else LOST
        if place.entries:
            return LEFT_OVER
        return NOT_DEAD if result.status is DeliveryStatus.DEAD and not (place.is_dead or place.has_result) else ""

    def enter(self, event: StoredEvent, name: str, books: Books) -> None:
        """Count a delivery, and note if it is stuck, late or dead."""
        place, facts = self._places[event.event_id, name], event.facts
        status, named = self._status(event, name), delivery_id(event.event_id, name)
        books.deliveries[name, status.value] += 1
        goal_ms = self._goal_ms(facts.purpose)
        result = event.results.get(name)
        if status is DeliveryStatus.DELIVERED and result is not None and result.updated_ms - facts.received_us // 1000 > goal_ms:
            books.told_late[facts.purpose] += 1
        if status is DeliveryStatus.DEAD and facts.state is State.WITHDRAWN:
            books.dead.add(Finding(named, f"the withdrawal died: {place.row.reason or (result.reason if result else '') or 'no reason is known'}"))
        if status in (DeliveryStatus.WAITING, DeliveryStatus.SENDING):
            owed_ms = self._now_ms - max(facts.received_us // 1000, place.row.since_ms)
            if owed_ms > goal_ms:
                books.late.add(Finding(named, f"{facts.state} for {facts.purpose}, owed for {owed_ms // 1000} s; the goal is {goal_ms / 1000:g} s"))
            if problem := self._stuck(name, place):
                books.stuck.add(Finding(named, problem))

    def _status(self, event: StoredEvent, name: str) -> DeliveryStatus:
        place, result = self._places[event.event_id, name], event.results.get(name)
        if place.is_dead:
            return DeliveryStatus.DEAD
        if not place.entries:
            return result.status if result is not None else DeliveryStatus.WAITING
        if place.row.awaiting:
            return DeliveryStatus.AWAITING_CONFIRMATION
        return DeliveryStatus.SENDING if place.is_leased and place.out_ms is not None else DeliveryStatus.WAITING

    def _stuck(self, name: str, place: Place) -> str:
        if name not in self._routing.destinations and not self._routing.unset:
            return "waits for a destination that the routing file no longer has"
        is_overdue = place.out_ms is not None and place.out_ms < self._now_ms - STUCK_MS
        return "was pushed long ago and never heard of" if is_overdue and name not in self._held_back else ""

    def _goal_ms(self, purpose: str) -> float:
        known = self._routing.purposes.get(purpose)
        return known.tell_within_seconds * 1000 if known is not None else float("inf")


def _status(event: StoredEvent) -> str:
    if not event.fanned_out:
        return "accepted, not fanned out"
    end = "complete" if event.finished else "being told"
    return f"superseded, {end}" if event.superseded_by else end


def _is_enabled(routing: Routing, name: str) -> bool:
    destination = routing.destinations.get(name)
    return destination is not None and destination.enabled
