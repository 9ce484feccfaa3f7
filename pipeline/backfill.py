"""Tells a new destination the current standings: withdrawals first, each subject's newest word once."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pipeline.domain import ConsentEvent, State, Word
from pipeline.envelope import open_if_readable
from pipeline.ledger import Ledger
from pipeline.ledger.deliveries import Row
from pipeline.ledger.events import StoredEvent
from pipeline.ledger.standings import IdentifierRecord
from pipeline.retelling import remade, restore
from pipeline.routing import Routing
from pipeline.vault import Vault

log = logging.getLogger(__name__)

EVENTS_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillReport:
    """`planned` (or to be planned) deliveries by state, those the destination knows already, and words whose event can no longer be opened."""

    withdrawn: int = 0
    given: int = 0
    known_already: int = 0
    unreadable: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """What a standing still holds of an event: one identifier that carries its word, and the word."""

    record: IdentifierRecord
    purpose: str
    word: Word


class Backfill:
    """Plans deliveries of the events that current standings rest on; they then travel like any other, at the destination's rate.

    Where an event's payload has expired, the person is told of by the identifiers that the standings still hold: nothing else is left of it.
    Reads every identifier of the ledger once and may be run again: what was planned is not planned twice.
    """

    def __init__(self, ledger: Ledger, vault: Vault, routing: Callable[[], Routing]) -> None:
        self._ledger, self._vault, self._routing = ledger, vault, routing

    def run(self, destination: str, dry_run: bool = False) -> BackfillReport:
        """Plan for `destination` every newest word that its triggers would send there; with `dry_run` only count."""
        counts = {"withdrawn": 0, "given": 0, "known_already": 0, "unreadable": 0}
        for state in (State.WITHDRAWN, State.GIVEN):
            for chunk in _chunks(self._newest(state), EVENTS_AT_ONCE):
                self._plan(destination, state, dict(chunk), dry_run, counts)
        log.info("backfill", extra={"destination": destination, "dry_run": dry_run, **counts})
        return BackfillReport(**counts)

    def _newest(self, state: State) -> Iterator[tuple[str, Rest]]:
        """The events on which standings of this state rest, each once, with an identifier that knows of it; of who was erased nobody new is told."""
        seen: set[str] = set()
        for record in self._ledger.standings.scan():
            for purpose, word in record.words.items():
                if word.state is state and word.event_id not in seen and not record.is_erased(word.order_us):
                    seen.add(word.event_id)
                    yield word.event_id, Rest(record=record, purpose=purpose, word=word)

    def _plan(self, destination: str, state: State, rests: Mapping[str, Rest], dry_run: bool, counts: dict[str, int]) -> None:
        routing = self._routing()
        wanted: list[ConsentEvent] = []
        for rest, stored in zip(rests.values(), self._ledger.events.load(list(rests)), strict=True):
            event = open_if_readable(stored, self._vault) or self._remade(rest, stored)
            if event is None:
                counts["unreadable"] += 1
            elif destination in routing.route(event) and stored is not None and destination in stored.destinations:
                counts["known_already"] += 1
            elif destination in routing.route(event):
                wanted.append(event)
                if not dry_run and (stored is None or stored.payload is None):
                    restore(self._ledger, self._vault, event)
        counts[state.value] += len(wanted)
        if wanted and not dry_run:
            now_ms = self._ledger.clock_ms()  # before they can be told: no result of theirs is older
            row = Row(state=state.value, reason="backfill", since_ms=now_ms, updated_ms=now_ms)
            self._ledger.deliveries.plan(destination, state.value, [(each.event_id, now_ms) for each in wanted], row)
            self._ledger.events.reopen_for(destination, [each.event_id for each in wanted], now_ms)

    def _remade(self, rest: Rest, stored: StoredEvent | None) -> ConsentEvent | None:
        """What standings still say of an event whose payload is gone."""
        if stored is not None and stored.payload is not None:
            return None  # sealed with a key that is missing: whoever puts it back gets more than is left here
        return remade(self._ledger, rest.record, self._ledger.standings.reach([[rest.record.key]])[0], rest.purpose, rest.word, stored)


def _chunks(values: Iterator[tuple[str, Rest]], size: int) -> Iterator[list[tuple[str, Rest]]]:
    while chunk := list(itertools.islice(values, size)):
        yield chunk
