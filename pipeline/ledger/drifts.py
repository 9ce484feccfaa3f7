"""Which contacts were found to have drifted at a destination, by event, so that a person can act on it; one destination, one slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.ledger.keys import Keys
from pipeline.ledger.outbox import Outbox
from pipeline.ledger.store import Store, pairs_of, text

MOST_KEPT: Final = 1000
"""Contacts of one destination that are remembered; all of them are counted by the pass that meets them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drifted:
    """One contact where the vendor holds something else than the standing: `contact` is a keyed hash, `repaired` says how, empty if it is only reported."""

    contact: str
    event_id: str
    drift: str
    repaired: str = ""
    at_ms: int = 0


class Drifts:
    """What has drifted and was not seen in sync since."""

    def __init__(self, store: Store, keys: Keys, outbox: Outbox) -> None:
        self._store, self._keys, self._outbox = store, keys, outbox

    def note(self, destination: str, found: Drifted, asked: Sequence[Any] = ()) -> None:
        """Remember it as of now; the requests that showed it become evidence of the event in the same step."""
        names, arguments = [self._name(destination)], [MOST_KEPT, found.contact, found.event_id, found.drift, found.repaired]
        if asked:
            names += self._outbox.of_destination(destination)
            arguments += self._outbox.said("compare", [(found.event_id, found.drift, asked)])
        self._store.call("note_drift", names, arguments)

    def in_sync(self, destination: str, contacts: Sequence[str]) -> None:
        """Forget these: the vendor holds what stands."""
        if contacts:
            self._store.run([("HDEL", self._name(destination), *contacts)])

    def forget(self, destination: str, before_ms: int) -> None:
        """Forget what was last seen before: everybody has been looked at since, so whoever is meant is not there any more, or cannot be compared."""
        self.in_sync(destination, [each.contact for each in self.of(destination) if each.at_ms < before_ms])

    def of(self, destination: str) -> list[Drifted]:
        """What has drifted, the latest first."""
        found = [_drifted(text(contact), text(value)) for contact, value in pairs_of(self._store.run([("HGETALL", self._name(destination))])[0])]
        return sorted(found, key=lambda each: (-each.at_ms, each.contact))

    def _name(self, destination: str) -> str:
        return self._keys.destination(destination, "drift")


def _drifted(contact: str, value: str) -> Drifted:
    at, event_id, drift, repaired = value.split(" ")
    return Drifted(contact=contact, event_id=event_id, drift=drift, repaired=repaired, at_ms=int(at))
