"""Hands planned deliveries to a task of this process that is telling their destination: the step that plans them leases them, and their events come along opened.

It spares the message, the lease and the second opening, for which a lone event would wait.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from msgspec import Struct

from pipeline.crew import Crew, Inbox
from pipeline.domain import ConsentEvent
from pipeline.ledger.deliveries import Leased
from pipeline.routing import Destination

FRESH_SECONDS = 2.0
"""How long after it was planned a delivery is taken on without another look at its lease, its record and a pause; a task that is busy for longer leases it anew."""
MOST_LEASED = 100
"""Deliveries that wait leased for one task at the most. Behind more it would be busy for longer, and is brought ids."""


class Handed(Struct, frozen=True, kw_only=True):
    """A delivery that was leased for a task when it was planned, with its event; `fresh_until` is by the monotonic clock."""

    leased: Leased
    event: ConsentEvent
    fresh_until: float

    @property
    def event_id(self) -> str:
        return self.leased.event_id


Item = str | Handed
"""What is brought to a task: an event id, to be leased, or what is leased for it already."""


class Reservation:
    """Room for `count` deliveries at a running task, which does not end while it is held: to be used in a `with` statement, by one thread.

    `lease` says for whom, and for how many ms, to lease what is planned; None where the task has enough to do.
    """

    def __init__(self, crew: Crew[Item], inbox: Inbox[Item], count: int, lease_ms: int) -> None:
        self._crew, self._inbox, self._count = crew, inbox, count
        self._fresh_until = time.monotonic() + min(FRESH_SECONDS, lease_ms / 3000)
        self._is_held = True
        has_little = len(inbox.items) + inbox.held <= MOST_LEASED and not inbox.is_waiting  # who waits may yet hand over what it has
        self.token, self.lease = inbox.token, (inbox.token, lease_ms) if has_little else None

    def bring(self, leased: Sequence[ConsentEvent], others: Sequence[str]) -> bool:
        """Have these told: fresh deliveries of events that were leased for the task, and those (by event id) that it has to lease itself.

        False if it had to end all the same: then they are to be given back, in the name of `token`.
        """
        handed = [Handed(leased=Leased(event_id=event.event_id), event=event, fresh_until=self._fresh_until) for event in leased]
        return self._put([*handed, *others])

    def _put(self, items: Sequence[Item]) -> bool:
        self._is_held = False
        return self._crew.bring(self._inbox, items, self._count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if self._is_held:
            self._put(())


class Hands(Protocol):
    """Who tells destinations in this process."""

    def reserve(self, destination: Destination, lane: str, count: int) -> Reservation | None:
        """Room for so many deliveries of a destination and lane; None if no task can take them."""

    def give_back(self, destination: str, lane: str, event_ids: Sequence[str], token: str) -> None:
        """Return to the ledger what was planned for a task that has ended; what cannot be returned is rescued after its lease."""


class NoHands:
    """Those of a process that tells nobody."""

    def reserve(self, _destination: Destination, _lane: str, _count: int) -> None:
        """There is nobody."""

    def give_back(self, _destination: str, _lane: str, _event_ids: Sequence[str], _token: str) -> None:
        """There is nothing."""
