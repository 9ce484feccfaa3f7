"""Tells news from what was known, where a polled vendor shows states without saying since when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.domain import IncomingEvent, Sighting, State, utc_from_us
from pipeline.identifiers import Hasher
from pipeline.ledger import Ledger
from pipeline.routing import Destination


class Sightings:
    """What each destination showed last, or was told last; safe to share between threads."""

    def __init__(self, ledger: Ledger, hasher: Hasher) -> None:
        self._ledger, self._hasher = ledger, hasher

    def note_told(self, destination: Destination, told: Iterable[tuple[str, State, str]]) -> None:
        """Remember what was told (purpose, state, the vendor's reference), so that seeing it there is no news."""
        places = ((destination.adapter.place_of(destination.options_for(purpose)), state, reference) for purpose, state, reference in told if reference)
        self._ledger.shown.note(
            destination.name, {self._hasher.thing_key(place, reference): state.value for place, state, reference in places}, self._ledger.clock_ms()
        )

    def news(self, destination: str, seen: Sequence[Sighting], swept_ms: int, asked_ms: int) -> list[IncomingEvent]:
        """The events that changed sightings amount to: said between the last full sweep and `asked_ms`, when the vendor was asked.

        What was told since then is newer than what was seen. A `given` that the first sweep of all shows may be of any age: it is remembered and
        no event, while a withdrawal counts even then.
        """
        before = self._ledger.shown.states(destination, [self._key(each) for each in seen])
        changed = [(each, known) for each, (known, at_ms) in zip(seen, before, strict=True) if known != each.state.value and at_ms <= asked_ms]
        asked_at = utc_from_us(asked_ms * 1000)
        since = min(utc_from_us(swept_ms * 1000), asked_at) if swept_ms else asked_at
        return [
            IncomingEvent(subject=each.subject, purpose=each.purpose, state=each.state, event_time=since, event_time_end=asked_at, profile=each.profile)
            for each, known in changed
            if swept_ms or known or each.state is State.WITHDRAWN
        ]

    def note_seen(self, destination: str, seen: Sequence[Sighting], asked_ms: int) -> None:
        """Remember what was seen, once the news in it is safe."""
        self._ledger.shown.note(destination, {self._key(each): each.state.value for each in seen}, asked_ms)

    def _key(self, sighting: Sighting) -> str:
        return self._hasher.thing_key(sighting.place, sighting.reference)
