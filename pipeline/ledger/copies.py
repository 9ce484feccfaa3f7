"""Results on their way from their destination's keys into their events' records: settled, copied, dropped, each step safe to repeat and done before the next.

The keys may lie on different servers, so no script can do it at once. A worker that goes on settling sends the three steps in one round trip: what it settles now, a copy of
what it settled the last time, and the end of what it copied the last time. What a crash leaves behind is found by the audit.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from pipeline.errors import LedgerUnavailable
from pipeline.ledger.deliveries import Deliveries, Settlement
from pipeline.ledger.events import Events
from pipeline.ledger.store import Store

Result = tuple[str, str]
"""Event id and encoded result."""


class Copies:
    """Settles deliveries and copies what became of them; safe to share between threads."""

    def __init__(self, store: Store, deliveries: Deliveries, events: Events) -> None:
        self._store, self._deliveries, self._events = store, deliveries, events
        self._lock = threading.Lock()
        self._settled: dict[str, list[Result]] = {}
        self._copied: dict[str, list[Result]] = {}

    def settle(self, destination: str, lane: str, token: str, settlements: Sequence[Settlement]) -> list[bool]:
        """End leased deliveries; False for those whose lease somebody else has taken meanwhile, which are left alone.

        Their results reach their events' records with the next call, or with `flush`.
        """
        settled, copied = self._take(destination)
        commands = [self._deliveries.settle_command(destination, lane, token, settlements)]
        commands += self._events.fold_commands([(event_id, destination, result) for event_id, result in settled])
        commands += [self._deliveries.unfold_command(destination, copied)] if copied else []
        try:
            held = [bool(value) for value in self._store.run(commands, replicated=True)[0]]
        except LedgerUnavailable:
            self._keep(destination, settled, copied)
            raise
        ended = [(each.event_id, each.result.encode()) for each, was_held in zip(settlements, held, strict=True) if was_held and each.result]
        self._keep(destination, ended, settled)
        return held

    def flush(self, destination: str) -> None:
        """Copy and drop what is left of a destination."""
        settled, copied = self._take(destination)
        try:
            self._events.fold([(event_id, destination, result) for event_id, result in settled])
            if settled or copied:  # in a step of its own: what could not be copied must not be dropped
                self._deliveries.unfold(destination, settled + copied)
        except LedgerUnavailable:
            self._keep(destination, settled, copied)
            raise

    def _take(self, destination: str) -> tuple[list[Result], list[Result]]:
        with self._lock:
            return self._settled.pop(destination, []), self._copied.pop(destination, [])

    def _keep(self, destination: str, settled: Sequence[Result], copied: Sequence[Result]) -> None:
        with self._lock:
            self._settled.setdefault(destination, []).extend(settled)
            self._copied.setdefault(destination, []).extend(copied)
