"""A tray for each lane, on which accepted events are laid for a fan-out task that waits there: in the round trip that commits them, where a message would need one more.

A tray holds hints, as messages do: beat announces what lies on one that nobody attends any more, and what is lost with a process that took it is found by the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.ledger.keys import Keys
from pipeline.ledger.nodes import Command
from pipeline.ledger.store import Durability, Store, text

MOST_ON_TRAY = 50
"""What a task plans in a moment; what comes beyond goes by messages, which bring in other tasks and processes."""
ATTENDED_MS = 2000
"""How long a task counts as there after it said so: what is laid for one that was killed meanwhile waits for so long."""
KEPT_MS = 10_000
"""How long a tray is kept on which nothing more is laid."""


class Trays:
    """Lays and takes; safe to share between threads."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store, self._keys = store, keys

    def are_used(self, durability: Durability) -> bool:
        """Whether events are laid at all: a task must not build on what is not durable yet, so only where one server has all keys and syncs before it answers."""
        return durability.mode == "fsync" and not self._store.nodes.is_spread and not self._store.nodes.replicates

    def lay_commands(self, event_ids: Mapping[str, Sequence[str]]) -> list[Command]:
        """What lays events, by lane, on their trays, for the round trip that commits them; each is answered by 1 if nobody needs to be told of them."""
        return [
            self._store.script("lay", [*_names(lane), *(self._keys.record(each) for each in ids)], [MOST_ON_TRAY, KEPT_MS, *ids])
            for lane, ids in event_ids.items()
        ]

    def take(self, lane: str, token: str, *, wait_seconds: float, says_so: bool) -> list[str]:
        """What lies there, as soon as there is anything; nothing after `wait_seconds`. The task called `token` counts as there for a while if it `says_so`."""
        tray, attended = _names(lane)
        saying = [self._store.script("attend", [attended], [token, ATTENDED_MS])] if says_so else []
        found: Any = self._store.run([*saying, ("BZMPOP", wait_seconds, 1, tray, "MIN", "COUNT", MOST_ON_TRAY)])[-1]
        return [text(event_id) for event_id, _ in found[1]] if found else []

    def abandoned(self, lane: str) -> list[str]:
        """What lies on a tray although nobody attends it any more, to be announced by a message; it lies there no longer."""
        return self.leave(lane, "")

    def leave(self, lane: str, token: str) -> list[str]:
        """Attend no more; what lies there if nobody else does."""
        return [text(event_id) for event_id in self._store.call("unattend", list(_names(lane)), [token])]


def _names(lane: str) -> tuple[str, str]:
    return Keys.tray(lane), Keys.attended(lane)
