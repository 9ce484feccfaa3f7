"""Tells a new destination the current standings: withdrawals first, each subject's newest word once."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.domain import ConsentEvent, State
from pipeline.envelope import open_event
from pipeline.errors import PayloadUnreadable
from pipeline.ledger import Ledger
from pipeline.ledger.deliveries import Row
from pipeline.ledger.events import StoredEvent
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


class Backfill:
    """Plans deliveries of the events that current standings rest on; they then travel like any other, at the destination's rate.

    Reads every identifier of the ledger once and may be run again: what was planned is not planned twice.
    """

    def __init__(self, ledger: Ledger, vault: Vault, routing: Callable[[], Routing]) -> None:
        self._ledger, self._vault, self._routing = ledger, vault, routing

    def run(self, destination: str, dry_run: bool = False) -> BackfillReport:
        """Plan for `destination` every newest word that its triggers would send there; with `dry_run` only count."""
        counts = {"withdrawn": 0, "given": 0, "known_already": 0, "unreadable": 0}
        for state in (State.WITHDRAWN, State.GIVEN):
            for chunk in _chunks(self._newest(state), EVENTS_AT_ONCE):
                self._plan(destination, state, chunk, dry_run, counts)
        log.info("backfill", extra={"destination": destination, "dry_run": dry_run, **counts})
        return BackfillReport(**counts)

    def _newest(self, state: State) -> Iterator[str]:
        """The events on which standings of this state rest, each once."""
        seen: set[str] = set()
        for record in self._ledger.standings.scan():
            for word in record.words.values():
                if word.state is state and word.event_id not in seen:
                    seen.add(word.event_id)
                    yield word.event_id

    def _plan(self, destination: str, state: State, event_ids: Sequence[str], dry_run: bool, counts: dict[str, int]) -> None:
        routing = self._routing()
        wanted: list[StoredEvent] = []
        for stored in self._ledger.events.load(event_ids):
            event = self._opened(stored)
            if stored is None or event is None:
                counts["unreadable"] += 1
            elif destination in routing.route(event) and destination in stored.destinations:
                counts["known_already"] += 1
            elif destination in routing.route(event):
                wanted.append(stored)
        counts[state.value] += len(wanted)
        if wanted and not dry_run:
            now_ms = self._ledger.clock_ms()  # before they can be told: no result of theirs is older
            row = Row(state=state.value, reason="backfill", since_ms=now_ms)
            self._ledger.deliveries.plan(destination, state.value, [(each.event_id, now_ms) for each in wanted], row)
            self._ledger.events.reopen_for(destination, [each.event_id for each in wanted], now_ms)

    def _opened(self, stored: StoredEvent | None) -> ConsentEvent | None:
        try:
            return open_event(stored, self._vault) if stored else None
        except PayloadUnreadable:
            return None


def _chunks(values: Iterator[str], size: int) -> Iterator[list[str]]:
    while chunk := list(itertools.islice(values, size)):
        yield chunk
