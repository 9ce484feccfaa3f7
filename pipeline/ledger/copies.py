"""Results on their way from their destination's keys into their events' records: settled, copied, dropped, each step safe to repeat and done before the next.

The keys may lie on different servers, so no script can do it at once. A worker that goes on settling sends the three steps in one round trip: what it settles now, a copy of
what it settled the last time, and the end of what it copied the last time. What a crash leaves behind is found by the audit.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from pipeline.errors import LedgerUnavailable
from pipeline.ledger.deliveries import Deliveries
from pipeline.ledger.events import Events
from pipeline.ledger.nodes import Command
from pipeline.ledger.rows import UNASKED, Lasted, Settlement
from pipeline.ledger.store import Store

Result = tuple[str, str]
"""Event id and encoded result."""


class Settling(Struct, frozen=True, kw_only=True):
    """Deliveries of one destination and lane, leased for `token`, that are to end."""

    destination: str
    lane: str
    token: str
    settlements: Sequence[Settlement]


class Batch(Struct, frozen=True, kw_only=True):
    """A settlement with what is copied and dropped along with it, and the commands that do it."""

    settling: Settling
    settled: Sequence[Result]
    copied: Sequence[Result]
    commands: Sequence[Command]


class Copies:
    """Settles deliveries and copies what became of them; safe to share between threads."""

    def __init__(self, store: Store, deliveries: Deliveries, events: Events) -> None:
        self._store, self._deliveries, self._events = store, deliveries, events
        self._lock = threading.Lock()
        self._settled: dict[str, list[Result]] = {}
        self._copied: dict[str, list[Result]] = {}

    def settle(self, settling: Settling) -> list[bool]:
        """End leased deliveries; False for those whose lease somebody else has taken meanwhile, which are left alone.

        Their results reach their events' records with the next call, or with `flush`.
        """
        batch = self.begin(settling)
        try:
            reply = self._store.run(batch.commands, replicated=True)[0]
        except LedgerUnavailable:
            self.give_up(batch)
            raise
        return self.end(batch, reply)

    def begin(self, settling: Settling, lasted: Lasted = UNASKED) -> Batch:
        """What settles and copies, for a round trip with other commands; to be followed by `end` with the first answer, or by `give_up`."""
        destination = settling.destination
        settled, copied = self._take(destination)
        commands = [self._deliveries.settle_command(destination, settling.lane, settling.token, settling.settlements, lasted)]
        commands += self._events.fold_commands([(event_id, destination, result) for event_id, result in settled])
        commands += [self._deliveries.unfold_command(destination, copied)] if copied else []
        return Batch(settling=settling, settled=settled, copied=copied, commands=commands)

    def end(self, batch: Batch, reply: Sequence[Any]) -> list[bool]:
        """For each delivery whether it was settled; empty if none was, as a claim had not lasted."""
        held, settlements = [bool(value) for value in reply], batch.settling.settlements
        ended = [(each.event_id, each.result.encode()) for each, was_held in zip(settlements, held, strict=bool(held)) if was_held and each.result]
        self._keep(batch.settling.destination, ended, batch.settled)
        return held

    def give_up(self, batch: Batch) -> None:
        """The answers were lost: what was to be copied is copied the next time."""
        self._keep(batch.settling.destination, batch.settled, batch.copied)

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
