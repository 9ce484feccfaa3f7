"""What must be true of vendors once everything is quiet, computed from what was said alone: a small model of the rules, not of the code.

Some outcomes depend on when a link was learned or a vendor refused; there the model says which outcomes are allowed, everywhere else the one that must be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Identifier = tuple[str, str]
"""Kind and value."""

REACH = 2
"""Links that a withdrawal follows to find an identifier that a destination needs."""


@dataclass(slots=True, kw_only=True)
class Said:
    """One event as a source sent it. `order_us` is known once it is in the ledger; `answered` counts 202 answers (None: never got one)."""

    event_id: str
    identifiers: frozenset[Identifier]
    purpose: str
    state: str
    links: bool = True
    country: str | None = None
    possible_orders_us: set[int] = field(default_factory=set)
    order_us: int = 0
    answered: int | None = None
    asked: int = 0

    @property
    def word(self) -> tuple[int, bool, str]:
        """Its place in the order: time, then `withdrawn` over `given`, then event id."""
        return self.order_us, self.withdrawn, self.event_id

    @property
    def withdrawn(self) -> bool:
        return self.state == "withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One destination: the kinds of identifier it knows people by, whether it keeps one state for each contact, and which events are routed to it."""

    name: str
    kinds: tuple[str, ...]
    contact_scope: bool = False
    routes: Callable[[Said], bool] = lambda _: True

    def key(self, value: str, purpose: str) -> tuple[str, str]:
        """Under what the vendor keeps the state of one of its identifiers."""
        return value, "" if self.contact_scope else purpose


class Links:
    """Which identifiers were named together by sources that may link."""

    def __init__(self, events: Iterable[Said]) -> None:
        self._next: dict[Identifier, set[Identifier]] = {}
        self._valued: set[Identifier] = set()
        for event in events:
            if event.links:
                self._valued |= event.identifiers
                for one in event.identifiers:
                    self._next.setdefault(one, set()).update(event.identifiers - {one})

    def rings(self, start: Iterable[Identifier], depth: int) -> list[set[Identifier]]:
        """The identifiers 0, 1, ... `depth` links away."""
        rings, seen = [set(start)], set(start)
        for _ in range(depth):
            further = {other for one in rings[-1] for other in self._next.get(one, ())} - seen
            rings.append(further)
            seen |= further
        return rings

    def near(self, event: Said) -> set[Identifier]:
        """Its own identifiers and their linked aliases: the standings that fence it."""
        return set[Identifier]().union(*self.rings(event.identifiers, 1))

    def everybody(self, event: Said) -> set[Identifier]:
        """All that hang together with it, however far: standings may have been merged along any chain."""
        return set[Identifier]().union(*self.rings(event.identifiers, 50))

    def nearest(self, event: Said, kind: str, depth: int = REACH) -> set[Identifier]:
        """Who could be meant by an event that lacks a kind: the candidates at the smallest distance."""
        for ring in self.rings(event.identifiers, depth):
            if found := {one for one in ring if one[0] == kind and one in self._valued}:
                return found
        return set()

    def candidates(self, event: Said, kind: str) -> set[Identifier]:
        """Whoever was or will be the nearest at some time, whatever the order in which links were learned."""
        return {one for ring in self.rings(event.identifiers, REACH) for one in ring if one[0] == kind}


class Oracle:
    """The rules over everything that got into the ledger (`events`, with their order times filled in)."""

    def __init__(self, events: Sequence[Said], places: Sequence[Place]) -> None:
        self.events = {event.event_id: event for event in events}
        self.places = {place.name: place for place in places}
        self.links = Links(events)

    def newer(self, event: Said, *, state: str | None = None, purpose: str | None = None) -> list[Said]:
        """Newer events, oldest first, of anybody its identifiers hang together with."""
        everybody = self.links.everybody(event)
        found = [
            other
            for other in self.events.values()
            if other.word > event.word and other.purpose == (purpose or event.purpose) and state in (None, other.state) and other.identifiers & everybody
        ]
        return sorted(found, key=lambda other: other.word)

    def wrong_endings(self, views: Mapping[str, Mapping[str, Mapping[str, str | None]]], received: Callable[[str, str], bool]) -> list[str]:
        """Deliveries (event id -> destination -> its public form) that ended as no rule allows; `received(event_id, destination)`: the vendor confirmed it."""
        wrong = []
        for event_id, deliveries in views.items():
            event = self.events[event_id]
            for name in sorted({name for name, place in self.places.items() if place.routes(event)} | deliveries.keys()):
                fault = self._fault(event, self.places[name], deliveries.get(name), views, received)
                if fault:
                    wrong.append(f"{event.state} {sorted(event.identifiers)} {event.purpose} to {name}: {fault}: {deliveries.get(name)}")
        return wrong

    def _fault(
        self,
        event: Said,
        place: Place,
        view: Mapping[str, str | None] | None,
        views: Mapping[str, Mapping[str, Mapping[str, str | None]]],
        received: Callable[[str, str], bool],
    ) -> str:
        if view is None:
            opposite = "given" if event.withdrawn else "withdrawn"
            return "" if self.newer(event, state=opposite) else "never planned, though nothing newer says otherwise"
        status, reason = view["status"], view["reason"]
        own = {one for one in event.identifiers if one[0] in place.kinds}
        if status == "delivered":
            return "" if received(event.event_id, place.name) else "delivered, but the vendor never confirmed it"
        if status == "superseded":
            return self._superseding_fault(event, place, view["by"], views)
        if status == "skipped":
            if event.withdrawn:
                return "a withdrawal was skipped without a written rule"
            justified = not own if reason == "missing_identifier" else reason == "contact_withdrawn" and self._other_withdrawn(event, place)
            return "" if justified else "skipped for no reason"
        if status == "dead":
            return self._death_fault(event, place, own, reason)
        return "not final"

    def _superseding_fault(self, event: Said, place: Place, by: str | None, views: Mapping[str, Mapping[str, Mapping[str, str | None]]]) -> str:
        other = self.events.get(by or "")
        if other is None or other not in self.newer(event):
            return f"superseded by {by}, which is not newer"
        if other.state == event.state:
            told = views.get(other.event_id, {}).get(place.name, {}).get("status")
            if told not in ("delivered", "superseded", "dead") and not (told == "skipped" and place.contact_scope):
                return f"superseded by an event that says the same but was never told: {told}"
        return ""

    def _death_fault(self, event: Said, place: Place, own: set[Identifier], reason: str | None) -> str:
        if not event.withdrawn:
            return "" if reason in ("http_400", "http_500", "timed_out") else "died of nothing a vendor said"
        candidates = [self.links.nearest(event, kind) for kind in place.kinds]
        if reason == "missing_identifier":
            return "dead though a link names the identifier" if own or any(len(found) == 1 for found in candidates) else ""
        if reason == "ambiguous_subject":
            return "" if not own and not any(len(found) == 1 for found in candidates) else "dead though it is clear who is meant"
        return "a withdrawal died"

    def _other_withdrawn(self, event: Said, place: Place) -> bool:
        everybody = self.links.everybody(event)
        return place.contact_scope and any(
            other.withdrawn and other.purpose != event.purpose and place.routes(other) and other.identifiers & everybody for other in self.events.values()
        )

    def must_hold(self, place: Place, identifier: Identifier, purposes: Sequence[str], died: Callable[[str, str], bool]) -> str | None:
        """The state that a vendor must hold for one identifier (and purpose), or None where the rules leave it open or it need hold none.

        `died(event_id, destination)`: a `given` that the vendor refused or that gave up.
        """
        states = [self._must_hold(place, identifier, purpose, died) for purpose in purposes]
        if "withdrawn" in states:
            return "withdrawn"
        return "given" if "given" in states and all(state in ("given", "nothing") for state in states) else None

    def _must_hold(self, place: Place, identifier: Identifier, purpose: str, died: Callable[[str, str], bool]) -> str:
        """As above for one purpose: given, withdrawn, open, or nothing (nobody ever spoke of it)."""
        named = [
            event
            for event in self.events.values()
            if event.purpose == purpose and (identifier in event.identifiers or self._completes(event, place, identifier))
        ]
        if not named:
            return "nothing" if not self._touched(identifier, purpose) else "open"
        top = max(named, key=lambda event: event.word)
        if self.newer(top, state="given" if top.withdrawn else "withdrawn"):
            return "open"
        if top.withdrawn:
            return "withdrawn" if place.routes(top) else "open"
        if self._still_withdrawn(top, identifier):
            return "open"
        return "given" if place.routes(top) and not died(top.event_id, place.name) and not self._other_withdrawn(top, place) else "open"

    def _still_withdrawn(self, given: Said, identifier: Identifier) -> bool:
        """Whether an older withdrawal may have meant this identifier and also another, of which somebody withdrew later than this was given: it errs on the safe side.

        It is told as long as the newest word of anybody it may have meant is a withdrawal, and a lost answer may have it told once more after the `given`.
        """
        return any(
            other.withdrawn
            and other.purpose == given.purpose
            and identifier in self.links.everybody(other)
            and any(newer.word > given.word for newer in self.newer(other, state="withdrawn"))
            for other in self.events.values()
        )

    def _completes(self, event: Said, place: Place, identifier: Identifier) -> bool:
        """Whether a withdrawal that lacks this kind can only ever have meant this identifier, and knew it when it came (or waited for it)."""
        if not event.withdrawn or any(kind == identifier[0] for kind, _ in event.identifiers) or self.links.candidates(event, identifier[0]) != {identifier}:
            return False
        if not any(kind in place.kinds for kind, _ in event.identifiers) and len(place.kinds) == 1:
            return self.links.nearest(event, identifier[0]) == {identifier}
        known = Links(other for other in self.events.values() if other.answered is not None and other.answered <= event.asked)
        return known.nearest(event, identifier[0]) == {identifier}

    def _touched(self, identifier: Identifier, purpose: str) -> bool:
        ring = set[Identifier]().union(*self.links.rings({identifier}, 50))
        return any(event.purpose == purpose and event.identifiers & ring for event in self.events.values())
