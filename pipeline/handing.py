"""Hands planned deliveries to a task of this process that is telling their destination: the step that plans them leases them, and their events come along opened.

It spares the message, the lease and the second opening, for which a lone event would wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from pipeline.crew import Crew, Inbox
from pipeline.domain import ConsentEvent
from pipeline.ledger.deliveries import Leased
from pipeline.routing import Destination

FRESH_SECONDS = 2.0
"""How long after it was planned a delivery is told without another look at its lease, at a pause or an erasure; a task that is busy leases it anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """A delivery that was leased for a task when it was planned, with its event; `fresh_until` is by the monotonic clock."""

    leased: Leased
    event: ConsentEvent
    fresh_until: float

    @property
    def event_id(self) -> str:
        return self.leased.event_id


class Reservation:
    """Room for `count` deliveries at a running task, which does not end while it is held: to be used in a `with` statement, by one thread.

    `token` is whom to lease them for. What the task could not take after all goes to `give_back`.
    """

    def __init__(
        self, crew: Crew[str | Handed], inbox: Inbox[str | Handed], count: int, lease_ms: int, give_back: Callable[[Sequence[str], str], None]
    ) -> None:
        self._crew, self._inbox, self._count, self._give_back = crew, inbox, count, give_back
        self._fresh_until = time.monotonic() + min(FRESH_SECONDS, lease_ms / 3000)
        self.token, self.lease_ms = inbox.token, lease_ms

    def bring(self, leased: Sequence[ConsentEvent], others: Sequence[str]) -> None:
        """Have these told: fresh deliveries of events that were leased for the task, and those (by event id) that it has to lease itself."""
        handed: list[str | Handed] = [Handed(leased=Leased(event_id=event.event_id), event=event, fresh_until=self._fresh_until) for event in leased]
        if not self._crew.bring(self._inbox, [*handed, *others]):
            self._give_back([*(event.event_id for event in leased), *others], self.token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._crew.release(self._inbox, self._count)


Reserve = Callable[[Destination, str, int], Reservation | None]
"""Reserves room for so many deliveries of a destination and lane; None if no task of this process can take them."""


def nobody(_destination: Destination, _lane: str, _count: int) -> None:
    """The reserving of a process that tells nobody."""
