"""Looks through the whole ledger page by page, for whoever compares all of it: in bounded memory, and without holding anybody up.

A page is where the server's own SCAN stands, so something that moves meanwhile may be seen twice, and what is there all the time is seen once at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.ledger.deliveries import Row
from pipeline.ledger.keys import LANES, Keys
from pipeline.ledger.store import Store, text

END: Final = -1
"""Instead of a cursor: there is nothing after this page."""


@dataclass(frozen=True, slots=True)
class Page:
    """Names found by one step, each once, and the cursor of the next one (`END`: this was the last)."""

    names: tuple[str, ...]
    cursor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one delivery stands in its destination's indexes; times are the scores there, in milliseconds."""

    out_ms: int | None = None
    due_ms: int | None = None
    entries: int = 0
    is_dead: bool = False
    is_leased: bool = False
    has_result: bool = False
    row: Row = field(default_factory=Row)

    @property
    def is_unfinished(self) -> bool:
        return self.entries > 0


class Walks:
    """The ledger page by page; all methods need one round trip."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store, self._keys = store, keys

    def size(self) -> int:
        """About how many names a whole walk passes: those of all kinds."""
        return sum(int(answers[0]) for answers in self._store.on_each([("DBSIZE",)]))

    def server(self) -> str:
        """What tells one run of the server, or of any of several, from the next: a cursor means nothing to another one."""
        found = [answers[0] for answers in self._store.on_each([("INFO", "server")])]
        return ",".join(str(info["run_id"]) if isinstance(info, dict) else text(info).partition("run_id:")[2].split()[0] for info in found)

    def identifiers(self, cursor: int, count: int) -> Page:
        """Keys of identifiers that have a record."""
        return self._scan(self._keys.identifier("*"), cursor, count)

    def events(self, cursor: int, count: int) -> Page:
        """Ids of events that have a record."""
        return self._scan(self._keys.record("*"), cursor, count)

    def unfinished(self, destination: str, lane: str, index: str, cursor: int, count: int) -> Page:
        """Event ids in an index (`out` or `due`) of a destination and lane."""
        return self._members(self._keys.destination(destination, f"{index}:{lane}"), cursor, count)

    def open_events(self, partition: int, cursor: int, count: int) -> Page:
        """Event ids in the index of unfinished events."""
        return self._members(self._keys.event(partition, "open"), cursor, count)

    def open_ms(self, event_ids: Sequence[str]) -> list[int | None]:
        """For each event when it is looked at again, None if it does not stand in the index of unfinished events."""
        answers: list[int | None] = [None] * len(event_ids)
        groups = self._keys.by_partition(event_ids)
        commands = [("ZMSCORE", self._keys.event(partition, "open"), *(event_ids[n] for n in places)) for partition, places in groups.items()]
        for places, scores in zip(groups.values(), self._store.run(commands), strict=True):
            for place, score in zip(places, scores, strict=True):
                answers[place] = _ms(score)
        return answers

    def places(self, destination: str, event_ids: Sequence[str]) -> list[Place]:
        """Where the deliveries of these events to one destination stand."""
        if not event_ids:
            return []
        names = [self._keys.destination(destination, f"{index}:{lane}") for index in ("out", "due") for lane in LANES]
        commands: list[tuple[Any, ...]] = [("ZMSCORE", name, *event_ids) for name in (*names, self._keys.destination(destination, "dead"))]
        commands += [("HMGET", self._keys.destination(destination, suffix), *event_ids) for suffix in ("lease", "result", "row")]
        return [_place(*values) for values in zip(*self._store.run(commands), strict=True)]

    def _scan(self, pattern: str, cursor: int, count: int) -> Page:
        match = pattern[: pattern.index("{") + 2] + "*" + pattern[pattern.index("}") :]  # any partition
        names, following = self._store.page(match, cursor, count)
        return _page((following, names))

    def _members(self, name: str, cursor: int, count: int) -> Page:
        reply = self._store.run([("ZSCAN", name, cursor, "COUNT", count)])[0]
        members = [each[0] if isinstance(each, tuple | list) else each for each in reply[1]]
        return _page((reply[0], members))


def _page(reply: Any) -> Page:
    names = dict.fromkeys(text(name).rpartition(":")[2] for name in reply[1])
    return Page(tuple(names), int(reply[0]) or END)


def _place(out_withdrawn: Any, out_given: Any, due_withdrawn: Any, due_given: Any, dead: Any, lease: Any, result: Any, row: Any) -> Place:
    scores = (out_withdrawn, out_given, due_withdrawn, due_given)
    return Place(
        out_ms=_ms(out_withdrawn if out_withdrawn is not None else out_given),
        due_ms=_ms(due_withdrawn if due_withdrawn is not None else due_given),
        entries=sum(score is not None for score in scores),
        is_dead=dead is not None,
        is_leased=lease is not None,
        has_result=result is not None,
        row=Row.decode(row or b""),
    )


def _ms(score: Any) -> int | None:
    return None if score is None else int(float(score))
