"""Which keys will not be taken much longer: no vendor tells it, so a person writes down `key_expires_on` of a destination."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from pipeline.routing import Routing

NOTICE_DAYS = 30
"""How long before its end a key is worth a note: time enough to have a new one made by somebody else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyExpiry:
    """The end of one destination's key; `days` from today, 0 or less once it is past (on its last day nobody knows the hour)."""

    destination: str
    on: date
    days: int

    @property
    def is_past(self) -> bool:
        return self.days <= 0

    @property
    def is_near(self) -> bool:
        return self.days <= NOTICE_DAYS

    def __str__(self) -> str:
        when = f"has expired ({self.on})" if self.is_past else f"expires in {self.days} day{'' if self.days == 1 else 's'} ({self.on})"
        return f"the key of {self.destination} {when}"


def key_expiries(routing: Routing, today: date) -> list[KeyExpiry]:
    """The end of every key that has one, the nearest first."""
    found = [
        KeyExpiry(destination=destination.name, on=destination.key_expires_on, days=(destination.key_expires_on - today).days)
        for destination in routing.destinations.values()
        if destination.key_expires_on is not None
    ]
    return sorted(found, key=lambda expiry: (expiry.days, expiry.destination))
