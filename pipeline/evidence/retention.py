"""Removes what records say when their time is over; their hashes stay, so that every chain, and every day root over it, still holds.

What is the newest word of a person on a purpose is kept however old it is: it is what is relied upon. So is every record of an event that has a younger one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from sqlalchemy import Connection, func, select, update

from pipeline.evidence.findings import ranges
from pipeline.evidence.records import Entry, sortable, time_text
from pipeline.evidence.tables import RECORDS

ROWS_AT_ONCE: Final = 2000
"""Old records that one step looks at, with the chains they belong to."""
DAY_MS: Final = 86_400_000

KeepDays = Callable[[str, str], float | None]
"""Days for which evidence of a source's event on a purpose is kept; None for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step has found: what is said of it in each chain, and where the next one begins (0: all was looked at)."""

    entries: Sequence[Entry]
    removed: int
    next_ms: int


@dataclass(slots=True)
class _Event:
    """One event in one chain, as far as its records still say something."""

    sequences: list[int] = field(default_factory=list)
    source: str = ""
    purpose: str = ""
    order: tuple[str, bool] = ("", False)
    last_ms: int = 0

    def add(self, sequence: int, at_ms: int, content: dict[str, Any]) -> None:
        self.sequences.append(sequence)
        self.last_ms = max(self.last_ms, at_ms)
        self.source, self.purpose = content.get("source", self.source), content.get("purpose", self.purpose)
        if content["kind"] == "received":
            self.order = (sortable(content["order_time"]), content["state"] == "withdrawn")


def remove_old(connection: Connection, ledger_id: str, now_ms: int, keep_days: KeepDays, *, after_ms: int, shortest_days: float) -> Step:
    """Take one step through the records that are older than the shortest time, from `after_ms` on; to be called within a transaction of the one who writes."""
    says = func.length(RECORDS.c.content) > 0
    old = select(RECORDS.c.at_ms, RECORDS.c.chain).where(says, RECORDS.c.at_ms >= after_ms, RECORDS.c.at_ms < now_ms - int(shortest_days * DAY_MS))
    rows = connection.execute(old.order_by(RECORDS.c.at_ms).limit(ROWS_AT_ONCE)).all()
    entries, removed = [], 0
    for chain in sorted({row.chain for row in rows}):
        gone = _remove_in(connection, chain, now_ms, keep_days)
        removed += len(gone)
        if gone:
            entries.append(_said(ledger_id, chain, now_ms, gone))
    return Step(entries=entries, removed=removed, next_ms=rows[-1].at_ms + 1 if len(rows) == ROWS_AT_ONCE else 0)


def _remove_in(connection: Connection, chain: str, now_ms: int, keep_days: KeepDays) -> list[int]:
    """Empty the records of one chain whose time is over; returns their numbers."""
    events: dict[str, _Event] = {}
    query = select(RECORDS.c.sequence, RECORDS.c.event_id, RECORDS.c.at_ms, RECORDS.c.content)
    for sequence, event_id, at_ms, content in connection.execute(query.where(RECORDS.c.chain == chain, func.length(RECORDS.c.content) > 0)):
        events.setdefault(event_id, _Event()).add(sequence, at_ms, orjson.loads(content))
    relied_upon = set({event.purpose: event_id for event_id, event in sorted(events.items(), key=lambda item: (item[1].order, item[0]))}.values())
    gone = sorted(
        sequence
        for event_id, event in events.items()
        if event_id and event_id not in relied_upon and _is_over(event, now_ms, keep_days)
        for sequence in event.sequences
    )
    for first in range(0, len(gone), 500):
        some = RECORDS.c.sequence.in_(gone[first : first + 500])
        connection.execute(update(RECORDS).where(RECORDS.c.chain == chain, some).values(content=b"", event_id=""))
    return gone


def _is_over(event: _Event, now_ms: int, keep_days: KeepDays) -> bool:
    days = keep_days(event.source, event.purpose)
    if not event.order[0]:  # nobody can say whether it is the newest: it was accepted before evidence was kept, or is a retelling of one that stands
        return False
    return days is not None and event.last_ms < now_ms - int(days * DAY_MS)


def _said(ledger_id: str, chain: str, now_ms: int, gone: Sequence[int]) -> Entry:
    """The record of it; it is about no event."""
    name = f"{ledger_id}/retention/{chain}/{gone[0]}-{gone[-1]}/expired"
    content = {
        "id": name,
        "kind": "expired",
        "at": time_text(now_ms),
        "subject_key": chain,
        "records": [str(first) if first == last else f"{first}-{last}" for first, last in ranges(gone)],
    }
    return Entry(id=name, subject_key=chain, event_id="", at_ms=now_ms, content=content)
