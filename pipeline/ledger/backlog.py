"""What waits for a destination that takes nothing, in the ledger: looked over part by part, and ended where a newer word has overtaken it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.ledger.deliveries import Leased, Row
from pipeline.ledger.keys import Keys
from pipeline.ledger.outbox import Outbox
from pipeline.ledger.store import Store, pairs_of, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How far a backlog has been looked over: `cursor` 0 stands between two passes, the other values are those when the last pass began."""

    cursor: int = 0
    accepted: int = -1
    began_ms: int = 0


class Backlog:
    """The deliveries of destinations that nobody has in hand: `due:<lane>` waits, `out:<lane>` was pushed. One destination, one slot."""

    def __init__(self, store: Store, keys: Keys, outbox: Outbox) -> None:
        self._store, self._keys, self._outbox = store, keys, outbox

    def is_held(self, destination: str, account: str, now_ms: int) -> bool:
        """Whether a destination takes nothing now: its account's gate is closed or on trial, or a person has paused it."""
        gate, paused = self._store.run(
            [("HMGET", self._keys.account(account, "gate"), "until", "open"), ("HEXISTS", self._keys.destination(destination, "flags"), "paused")]
        )
        return bool(paused or gate[1] or int(gate[0] or 0) > now_ms)

    def place(self, destination: str, index: str) -> Place:
        """How far the last look came."""
        value = self._store.run([("HGET", self._keys.destination(destination, "looked"), index)])[0]
        return Place(**dict(zip(Place.__slots__, map(int, text(value).split("|")), strict=True))) if value else Place()

    def keep(self, destination: str, index: str, place: Place) -> None:
        """Note how far this look came."""
        self._store.run([("HSET", self._keys.destination(destination, "looked"), index, f"{place.cursor}|{place.accepted}|{place.began_ms}")])

    def look(self, destination: str, index: str, cursor: int, count: int) -> tuple[int, list[Leased]]:
        """Some of an index, and where to go on (0: that was the rest); what is there during a whole pass is seen at least once."""
        reply = self._store.run([("ZSCAN", self._keys.destination(destination, index), cursor, "COUNT", count)])[0]
        event_ids = [text(pair[0]) for pair in (reply[1] if reply[1] and isinstance(reply[1][0], list | tuple) else pairs_of(reply[1]))]
        rows = self._store.run([("HMGET", self._keys.destination(destination, "row"), *event_ids)])[0] if event_ids else []
        return int(reply[0]), [Leased(event_id=event_id, row=Row.decode(row or b"")) for event_id, row in zip(event_ids, rows, strict=True)]

    def overtake(self, destination: str, lane: str, results: Sequence[tuple[str, str]], counter: str) -> list[bool]:
        """End deliveries (event id, encoded result) and count them as `counter`; False for one that somebody has in hand or that has ended."""
        names = [self._keys.destination(destination, suffix) for suffix in (f"due:{lane}", f"out:{lane}", "lease", "row", "result", "untold", "n")]
        arguments: list[Any] = [counter, *(value for result in results for value in result)]
        names += self._outbox.of_destination(destination)
        arguments += self._outbox.said("settle", [(event_id, result, "", (), "") for event_id, result in results])
        return [bool(value) for value in self._store.call("overtake", names, arguments)]
