"""Erasures in the ledger: identifiers of whom nothing older may be learned any more, events whose personal part goes, and what waits for a last withdrawal to be told.

What stays is the fence: keyed hashes, purposes, order times and states. Every step may be repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from pipeline.ledger.identity import Lifetimes
from pipeline.ledger.keys import PREFIX, Keys
from pipeline.ledger.letters import ERASED
from pipeline.ledger.outbox import Outbox
from pipeline.ledger.store import Store, pairs_of, text

ERASING = f"{PREFIX}:{{meta}}:erasing"
QUIET = f"{PREFIX}:{{meta}}:quiet"
QUIET_FOR_LONG = "identifier_days"
"""Why identifiers were taken of whom nothing was said for so long."""
AT_ONCE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """One person's: everything said until `at_us` (microseconds since 1970) by the identifiers with these keys. The name is the same for the same erasure."""

    at_us: int
    keys: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.at_us:016d}:{self.keys[0]}"

    def covers(self, keys: Iterable[str], order_us: int) -> bool:
        """Whether a word of these identifiers goes."""
        return order_us <= self.at_us and not set(self.keys).isdisjoint(keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """An erasure under way, and the ids of the events of which something may have to be told or to end before it is done."""

    erasure: Erasure
    event_ids: tuple[str, ...]

    def encode(self) -> bytes:
        return orjson.dumps([self.erasure.at_us, self.erasure.keys, self.event_ids])

    @classmethod
    def decode(cls, value: bytes) -> Begun:
        at_us, keys, event_ids = orjson.loads(value)
        return cls(erasure=Erasure(at_us=at_us, keys=tuple(keys)), event_ids=tuple(event_ids))


class Erasures:
    """The erasing part of the ledger."""

    def __init__(self, store: Store, keys: Keys, lifetimes: Lifetimes, outbox: Outbox) -> None:
        self._store, self._keys, self._lifetimes, self._outbox = store, keys, lifetimes, outbox

    def forbid(self, erasure: Erasure) -> None:
        """From now on nothing said until the erasure teaches values or links of its identifiers, and no `given` of theirs from before it is told."""
        groups = self._keys.by_partition(erasure.keys).values()
        names = [[self._keys.identifier(erasure.keys[place]) for place in places] for places in groups]
        self._store.run([self._store.script("forbid", each, [f"{erasure.at_us:016d}"] * len(each)) for each in names], replicated=True)

    def erase_events(self, events: Sequence[tuple[str, bool]], at_us: int) -> list[bool]:
        """Erase what is personal in events (id, whether it is a withdrawal); False for a withdrawal that has to be told first, and goes by itself then."""
        event_ids = [event_id for event_id, _ in events]
        groups = self._keys.by_partition(event_ids)
        commands = []
        for partition, places in groups.items():
            keys = [self._keys.event(partition, "open"), self._keys.event(partition, "n")]
            arguments: list[Any] = [self._lifetimes.record_ms]
            for place in places:
                keys += [self._keys.record(event_ids[place]), self._keys.payload(event_ids[place])]
                arguments += [event_ids[place], f"{at_us:016d}", int(events[place][1])]
            keys += self._outbox.of_partition(partition)
            arguments += self._outbox.said("erase", [(event_ids[place],) for place in places], reason=ERASED)
            commands.append(self._store.script("erase", keys, arguments))
        answers = [False] * len(events)
        for places, replies in zip(groups.values(), self._store.run(commands, replicated=True), strict=True):
            for place, reply in zip(places, replies, strict=True):
                answers[place] = bool(reply)
        return answers

    def strip(self, erasure: Erasure, neighbours: Mapping[str, Iterable[str]], *, only_quiet: bool = False) -> list[str]:
        """Take values and links from the identifiers, and the links to them from their neighbours (key -> keys it is linked to); returns the keys of those stripped.

        With `only_quiet` one of which anything was said since the erasure's time is left alone.
        """
        groups = self._keys.by_partition(erasure.keys)
        until, reason = (f"{erasure.at_us:016d}", QUIET_FOR_LONG) if only_quiet else ("", ERASED)
        commands = []
        for partition, places in groups.items():
            named = [erasure.keys[place] for place in places]
            names = [name(key) for key in named for name in (self._keys.identifier, self._keys.missing)] + self._outbox.of_identifiers(partition)
            commands.append(self._store.script("strip", names, [until, *self._outbox.said("strip", named, reason=reason)]))
        replies = self._store.run(commands, replicated=True)
        stripped = [
            erasure.keys[place] for places, answers in zip(groups.values(), replies, strict=True) for place, done in zip(places, answers, strict=True) if done
        ]
        ours = set(stripped)
        gone = {key: [f"l:{link}" for link in links if link in ours] for key, links in neighbours.items() if key not in ours}
        self._store.run([("HDEL", self._keys.identifier(key), *fields) for key, fields in gone.items() if fields])
        return stripped

    def quiet_cursor(self, cursor: int | None = None) -> int:
        """Where the walk over quiet identifiers stands; with a `cursor` it stands there from now on."""
        if cursor is not None:
            self._store.run([("SET", QUIET, cursor)])
            return cursor
        return int(self._store.run([("GET", QUIET)])[0] or 0)

    def begin(self, begun: Sequence[Begun]) -> None:
        """Note erasures under way, so that whoever comes by ends them."""
        if begun:
            self._store.run([("HSET", ERASING, *(value for each in begun for value in (each.erasure.name, each.encode())))])

    def end(self, erasure: Erasure) -> None:
        """An erasure is done."""
        self._store.run([("HDEL", ERASING, erasure.name)])

    def under_way(self) -> Iterator[Begun]:
        """Erasures that are not done; one may come twice."""
        cursor = 0
        while True:
            reply = self._store.run([("HSCAN", ERASING, cursor, "COUNT", AT_ONCE)])[0]
            yield from (Begun.decode(value) for _, value in pairs_of(reply[1]))
            cursor = int(text(reply[0])) if isinstance(reply[0], bytes) else int(reply[0])
            if not cursor:
                return
