"""What each vendor should hold by the standings, and what it means if it holds something else.

Compared is what an identifier's own record says, at the places where it was told. Left alone is who has unfinished work at the destination, who was told a moment
ago, and who cannot be asked about because nothing that names him is kept. Where a linked identifier has the opposite newer word, nobody can say who is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from pipeline.domain import ConsentEvent, DeliveryStatus, Outcome, State, Word
from pipeline.envelope import open_if_readable
from pipeline.fence import judge
from pipeline.ledger import Ledger
from pipeline.ledger.events import StoredEvent
from pipeline.ledger.results import DeliveryResult
from pipeline.ledger.standings import IdentifierRecord, Reach
from pipeline.ledger.walks import Place
from pipeline.prepare import contact_keys_of
from pipeline.retelling import derived_id, remade
from pipeline.routing import Destination, Routing
from pipeline.vault import Vault
from pipeline.vendors.base import Held

UNFINISHED: Final = "unfinished"
JUST_TOLD: Final = "just_told"
DEAD: Final = "dead"
HEARD: Final = "heard_from_it"
"""Reason of a `given` that the destination itself said: it holds it without having been told."""


class Drift(StrEnum):
    """What a comparison finds."""

    IN_SYNC = "in_sync"
    MISSING = "missing"
    VENDOR_STRICTER = "vendor_stricter"
    VENDOR_LOOSER = "vendor_looser"
    PENDING = "pending"
    UNREADABLE = "unreadable"


DRIFTED: Final = (Drift.VENDOR_LOOSER, Drift.VENDOR_STRICTER, Drift.MISSING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One word that a place should hold, its event as far as it is known, and when the destination was last told of it (0: that is not known any more)."""

    purpose: str
    word: Word
    event: ConsentEvent = field(repr=False)
    is_whole: bool
    told_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """One person at one place of a destination: the words that decide there, newest first, and by which identifiers he is asked about.

    With `why` he is not asked about now. `thing` is what stands for what he would be told, among what the vendor refuses.
    """

    key: str
    place: str
    state: State
    said: tuple[Said, ...]
    contact_keys: tuple[str, ...]
    why: str = ""
    refused_ms: int = 0
    parked_ms: int = 0

    @property
    def words(self) -> tuple[tuple[str, Word], ...]:
        return tuple((each.purpose, each.word) for each in self.said)

    @property
    def event(self) -> ConsentEvent:
        return self.said[0].event

    @property
    def thing(self) -> str:
        return derived_id(f"{self.place} {self.state}", " ".join(self.contact_keys))

    @property
    def is_parked(self) -> bool:
        """Whether the vendor refused for good just what it would be told, and has not taken it since."""
        return max(self.parked_ms, self.refused_ms) > max(each.told_ms for each in self.said)

    def options(self, destination: Destination) -> Mapping[str, Any]:
        return destination.options_for(self.said[0].purpose)


def compare(contact: Contact, held: Held) -> Drift:
    """What it means that a vendor holds this of a contact. Nothing held is no permission, so a withdrawal is in sync with it."""
    if not held.readable:
        return Drift.UNREADABLE
    if held.state is contact.state or (held.state is None and contact.state is State.WITHDRAWN):
        return Drift.IN_SYNC
    if contact.state is State.WITHDRAWN:
        return Drift.VENDOR_LOOSER
    return Drift.MISSING if held.state is None else Drift.VENDOR_STRICTER


class Expectations:
    """Reads what destinations should hold; safe to share between threads. `settle_ms` is how long after a telling a vendor may still be carrying it out."""

    def __init__(self, ledger: Ledger, vault: Vault, routing: Callable[[], Routing], *, settle_ms: int) -> None:
        self._ledger, self._vault, self._routing, self._settle_ms = ledger, vault, routing, settle_ms

    def of(self, destination: Destination, identifier_keys: Sequence[str]) -> dict[str, list[Contact]]:
        """For each identifier the places at the destination where its record says what should be held; a few round trips for all of them."""
        routing = self._routing()
        purposes = sorted(routing.purposes_of(destination.name))
        reaches = dict(zip(identifier_keys, self._ledger.standings.reach([[key] for key in identifier_keys]), strict=True))
        words = {key: {each: word for each in purposes if (word := _own(reach).words.get(each))} for key, reach in reaches.items()}
        event_ids = sorted({word.event_id for each in words.values() for word in each.values()})
        look = _Look(
            destination=destination,
            routing=routing,
            stored=dict(zip(event_ids, self._ledger.events.load(event_ids), strict=True)),
            places=dict(zip(event_ids, self._ledger.walks.places(destination.name, event_ids), strict=True)),
            now_ms=self._ledger.clock_ms(),
            settle_ms=self._settle_ms,
        )
        named = {(key, purpose): self._named(look, reaches[key], purpose, word) for key, each in words.items() for purpose, word in each.items()}
        fences = self._fences([each.event for each in named.values() if each is not None], {(key,): reach for key, reach in reaches.items()})
        found = {key: list(self._contacts(look, key, words[key], named, fences)) for key in identifier_keys}
        return self._with_parked(destination, found)

    def _named(self, look: _Look, reach: Reach, purpose: str, word: Word) -> Said | None:
        """The word as the vendor would be told it of this identifier; None where it never is, or nothing is left to name the person by.

        A consent never reaches further than the identifiers that its own event names.
        """
        stored, record = look.stored[word.event_id], _own(reach)
        event = open_if_readable(stored, self._vault)
        is_whole = event is not None and record.key in event.identifier_keys.values()
        if not is_whole:
            event = remade(self._ledger, record, reach, purpose, word, stored) if event is None or word.state is State.WITHDRAWN else None
        if event is None:
            return None
        keys = contact_keys_of(look.destination, event)
        if not keys or keys[0] != record.key:
            return None  # another identifier of the person comes first there, and stands for him
        told_ms = look.told_ms(word.event_id, event, record)
        return None if told_ms is None else Said(purpose=purpose, word=word, event=event, is_whole=is_whole, told_ms=told_ms)

    def _fences(self, events: Sequence[ConsentEvent], known: Mapping[tuple[str, ...], Reach]) -> dict[tuple[str, ...], Reach]:
        """The standings by which each set of identifiers is judged; those of one identifier alone are known already."""
        subjects = [subject for subject in dict.fromkeys(tuple(event.identifier_keys.values()) for event in events) if subject not in known]
        return {**known, **dict(zip(subjects, self._ledger.standings.reach(subjects), strict=True))}

    def _contacts(
        self, look: _Look, key: str, words: Mapping[str, Word], named: Mapping[tuple[str, str], Said | None], fences: Mapping[tuple[str, ...], Reach]
    ) -> Iterator[Contact]:
        """The places of one identifier, each with the words that the fence lets stand there."""
        places: dict[str, list[str]] = {}
        for purpose in words:
            places.setdefault(_place_of(look.destination, purpose), []).append(purpose)
        all_purposes = look.routing.purposes_of(look.destination.name)
        for place, purposes in places.items():
            said = [each for purpose in purposes if (each := named[key, purpose]) is not None]
            standing = [
                each for each in said if judge(each.event, fences[tuple(each.event.identifier_keys.values())], look.destination, all_purposes).result is None
            ]
            withdrawn = [each for each in standing if each.word.state is State.WITHDRAWN]
            deciding = sorted(withdrawn or standing, key=lambda each: each.word.encode(), reverse=True)
            if not deciding or deciding[0].word.state not in look.destination.adapter.capabilities.states:
                continue
            yield Contact(
                key=key,
                place=place,
                state=deciding[0].word.state,
                said=tuple(deciding),
                contact_keys=contact_keys_of(look.destination, deciding[0].event),
                why=look.why_not([words[purpose].event_id for purpose in purposes], [each.word.event_id for each in deciding]),
                refused_ms=look.refused_ms([each.word.event_id for each in deciding]),
            )

    def _with_parked(self, destination: Destination, found: Mapping[str, list[Contact]]) -> dict[str, list[Contact]]:
        contacts = [each for several in found.values() for each in several]
        parked = iter(self._ledger.sweeps.parked_ms(destination.name, [each.thing for each in contacts]))
        return {key: [replace(each, parked_ms=next(parked)) for each in several] for key, several in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What was read of the events behind some standings, at one destination."""

    destination: Destination
    routing: Routing
    stored: Mapping[str, StoredEvent | None]
    places: Mapping[str, Place]
    now_ms: int
    settle_ms: int

    def result(self, event_id: str) -> DeliveryResult | None:
        stored = self.stored[event_id]
        return stored.results.get(self.destination.name) if stored else None

    def told_ms(self, event_id: str, event: ConsentEvent, record: IdentifierRecord) -> int | None:
        """When the destination last took this word; 0 if that is not known, None if it was never to hold it.

        A withdrawal is expected everywhere, told or not; a consent only where it was told, or once its record has expired, where it would be.
        """
        stored, result = self.stored[event_id], self.result(event_id)
        if result is not None and result.status is DeliveryStatus.DELIVERED:
            return result.updated_ms
        if event.state is State.WITHDRAWN:
            return 0
        if stored is not None:
            is_held = result is not None and (result.status not in (DeliveryStatus.SKIPPED, DeliveryStatus.SUPERSEDED) or result.reason == HEARD)
            return 0 if is_held or self._is_planned(stored) else None
        was_told = self.destination.name in self.routing.route(event) or (event.purpose, self.destination.name) in record.told
        return 0 if was_told else None

    def why_not(self, every: Sequence[str], deciding: Sequence[str]) -> str:
        """Why a place is not compared now: something about the person is still under way there, or ended in a way that a person has to look at."""
        if any(self._is_unfinished(event_id) for event_id in every):
            return UNFINISHED
        results = [result for event_id in deciding if (result := self.result(event_id)) is not None]
        if any(result.status is DeliveryStatus.DEAD for result in results):
            return DEAD
        return JUST_TOLD if any(result.updated_ms > self.now_ms - self.settle_ms for result in results) else ""

    def refused_ms(self, deciding: Sequence[str]) -> int:
        """When the vendor refused one of these words for good, or a person decided that it is not told; 0 if neither."""
        results = [result for event_id in deciding if (result := self.result(event_id)) is not None]
        return max((result.updated_ms for result in results if _is_refusal(result)), default=0)

    def _is_unfinished(self, event_id: str) -> bool:
        stored, result = self.stored[event_id], self.result(event_id)
        if self.places[event_id].is_unfinished or (stored is not None and not stored.fanned_out):
            return True
        if result is not None:
            return result.status in (DeliveryStatus.WAITING, DeliveryStatus.AWAITING_CONFIRMATION)
        return stored is not None and self._is_planned(stored)

    def _is_planned(self, stored: StoredEvent) -> bool:
        return self.destination.name in (stored.planned or ()) and self.destination.name not in stored.results


def _is_refusal(result: DeliveryResult) -> bool:
    if result.status is DeliveryStatus.DEAD:
        return result.outcome == Outcome.REJECTED
    return result.status is DeliveryStatus.SKIPPED and result.reason.startswith("discarded: ")


def _own(reach: Reach) -> IdentifierRecord:
    return reach.rings[0][0]


def _place_of(destination: Destination, purpose: str) -> str:
    """What shares one state at the vendor."""
    if destination.adapter.capabilities.scope != "contact":
        return f"purpose {purpose}"
    return f"place {destination.adapter.place_of(destination.options_for(purpose))}"
