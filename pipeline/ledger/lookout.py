"""Notices a ledger that is older than it was: a snapshot put back, a failover to a replica that lagged. Such a ledger is quarantined.

A ledger that forgot a withdrawal would let an older `given` win. So every process remembers how many events it has seen accepted, for each partition, beside
the ledger; a ledger that knows of fewer has lost some. While it is quarantined withdrawals are told and `given` wait, until a person says that
everything was posted again. What is lost before any process saw it, within a second or so, cannot be noticed; nobody was answered 202 for it, as ingest sees its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from pipeline.errors import LedgerUnavailable
from pipeline.ledger.keys import META, SCHEMA_VERSION, Keys
from pipeline.ledger.migrations import note_process
from pipeline.ledger.parts import recognise_parts
from pipeline.ledger.store import Store, text

log = logging.getLogger(__name__)

MARGIN_MS = 60_000
"""How much earlier than the last sure moment words may be missing: clocks and answers under way."""
SHORTEST_MS = 60_000
FACTS_APART = 2
"""The schema since which facts and times are apart."""
KEPT_OF_AGE = 16
"""Samples of the past lie a sixteenth of their age apart, so that a few hundred reach back for months."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """Why `given` wait: `reason` is restored, older or accepted; words said from `from_ms` until `since_ms` may be missing (milliseconds since 1970)."""

    reason: str
    since_ms: int
    from_ms: int

    def encode(self) -> str:
        return f"{self.reason}|{self.since_ms}|{self.from_ms}"

    @classmethod
    def decode(cls, value: bytes | str) -> Quarantine:
        reason, since_ms, from_ms = text(value).split("|")
        return cls(reason=reason, since_ms=int(since_ms), from_ms=int(from_ms))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """How far a ledger was seen: events accepted for each partition, in one era of its history. `past` are (time in ms, accepted) of earlier looks, newest first."""

    ledger_id: str
    era: int = 0
    accepted: tuple[int, ...] = ()
    past: tuple[tuple[int, tuple[int, ...]], ...] = ()

    def joined(self, other: Mark) -> Mark:
        """What both together have seen; the later era counts."""
        if self.ledger_id != other.ledger_id or self.era != other.era:
            return max(self, other, key=lambda mark: mark.era)
        accepted = tuple(map(max, self.accepted, other.accepted))
        return replace(self, accepted=accepted, past=_thinned(sorted({*self.past, *other.past}, reverse=True)))

    def exceeds(self, accepted: Sequence[int]) -> bool:
        """Whether more was seen than a ledger knows of now."""
        return any(seen > known for seen, known in zip(self.accepted, accepted, strict=False))

    def sure_until_ms(self, accepted: Sequence[int]) -> int | None:
        """The last look at which no more had been accepted than a ledger knows of now; None if it reaches back too far."""
        return next((at_ms for at_ms, seen in self.past if all(map(int.__le__, seen, accepted))), None)


class Marks(Protocol):
    """Where marks are kept outside of the ledger."""

    def newest(self) -> str | None:
        """The id of the ledger that was seen last; None if none was."""

    def recall(self, ledger_id: str) -> Mark | None:
        """What all processes that share this place have seen of a ledger."""

    def keep(self, mark: Mark) -> None:
        """Join a mark to what is kept; never raises."""


class InMemory:
    """Marks that end with their process."""

    def newest(self) -> str | None:
        return None

    def recall(self, ledger_id: str) -> Mark | None:
        del ledger_id
        return None

    def keep(self, mark: Mark) -> None:
        del mark


class Lookout:
    """Looks at one ledger; safe to share between threads. `quarantine`, `backed_up_ms` and `schema_version` are what the last look found; a `process` is noted as living."""

    def __init__(self, store: Store, keys: Keys, ledger_id: str, created_seconds: int, marks: Marks) -> None:
        self._store, self._keys, self._marks, self._created_ms = store, keys, marks, created_seconds * 1000
        self._lock = threading.Lock()
        self._mark = Mark(ledger_id=ledger_id, accepted=(0,) * keys.partitions)
        self._kept: tuple[int, tuple[int, ...]] | None = None
        self._kept_ms = 0
        self.quarantine: Quarantine | None = None
        self.backed_up_ms, self.schema_version = 0, 0
        self.process = ""

    @property
    def facts_apart(self) -> bool:
        """Whether every program that works with the ledger reads an event's facts and times apart."""
        return self.schema_version >= FACTS_APART

    def follow(self, ledger_id: str, created_seconds: int) -> None:
        """Look at another ledger from now on, of which nothing was seen yet."""
        with self._lock:
            self._mark = Mark(ledger_id=ledger_id, accepted=(0,) * len(self._mark.accepted))
            self._created_ms, self._kept = created_seconds * 1000, None

    def note(self, counts: Mapping[int, int]) -> None:
        """Note how many events partitions had accepted right after a write of ours."""
        with self._lock:
            self._mark = replace(self._mark, accepted=tuple(max(seen, counts.get(n, 0)) for n, seen in enumerate(self._mark.accepted)))

    def look(self) -> None:
        """Compare the ledger with what was seen of it, and quarantine one that knows less. Raises LedgerUnavailable, LedgerMismatch."""
        if self._store.nodes.is_spread:
            recognise_parts(self._store, self._keys)
        with self._lock:  # what was seen before the question was put must be in its answer
            kept = self._marks.recall(self._mark.ledger_id)
            known = self._mark = self._mark.joined(kept) if kept else self._mark
        names = [self._keys.event(partition, "n") for partition in self._keys.all]
        (quarantine, era_value, backed_up, schema), now, *counts = self._store.run(
            [("HMGET", META, "quarantine", "era", "backed_up", "schema"), ("TIME",), *(("HGET", name, "accepted") for name in names)]
        )
        era, accepted = int(era_value or 0), tuple(int(count or 0) for count in counts)
        now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
        self.backed_up_ms, self.schema_version = int(backed_up or 0), int(schema or 0)
        if self.process:
            with suppress(LedgerUnavailable):  # while memory is full: what ends work under way must go on
                note_process(self._store, self.process, SCHEMA_VERSION, now_ms)
        if era < known.era or (era == known.era and known.exceeds(accepted)):
            sure_ms = known.sure_until_ms(accepted) or self._created_ms
            self.quarantine = quarantine_now(self._store, reason="older", from_ms=sure_ms - MARGIN_MS, era=known.era)
            log.error("alert", extra={"alert": "ledger_older", "ledger_id": known.ledger_id, "missing_from_ms": self.quarantine.from_ms})
            return
        self.quarantine = Quarantine.decode(quarantine) if quarantine else None
        if self._is_replicated():
            self._keep(Mark(ledger_id=known.ledger_id, era=era, accepted=accepted, past=((now_ms, accepted),)))

    def begin_quarantine(self, reason: str, from_ms: int) -> Quarantine:
        """Quarantine the ledger in a new era, whatever was seen of it."""
        with self._lock:
            era = self._mark.era
        self.quarantine = quarantine_now(self._store, reason=reason, from_ms=from_ms, era=era)
        return self.quarantine

    def _is_replicated(self) -> bool:
        """Whether all that was written until now is at every replica that may take over: what a failover may still forget does not count as seen."""
        if self._store.nodes.replicates:
            try:  # what is written after it is replicated after it
                self._store.run([("SET", self._keys.event(partition, "look"), 1) for partition in self._keys.all], replicated=True)
            except LedgerUnavailable:
                return False
        return True

    def _keep(self, seen: Mark) -> None:
        with self._lock:
            self._mark = mark = self._mark.joined(seen)
            is_news = (mark.era, mark.accepted) != self._kept or seen.past[0][0] - self._kept_ms >= SHORTEST_MS
            if is_news:
                self._kept, self._kept_ms = (mark.era, mark.accepted), seen.past[0][0]
        if is_news:
            self._marks.keep(mark)


def quarantine_now(store: Store, *, reason: str, from_ms: int, era: int) -> Quarantine:
    """Quarantine the ledger; `era` is the latest that was seen of it. Sent whole: the server that has to be recognised may not know our scripts."""
    return Quarantine.decode(store.run([("EVAL", store.source("quarantine"), 1, META, reason, max(0, from_ms), era)])[0])


def _thinned(past: Sequence[tuple[int, tuple[int, ...]]]) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """The newest and the oldest look, and between them fewer the longer ago they were."""
    kept: list[tuple[int, tuple[int, ...]]] = []
    for place, sample in enumerate(past):
        is_end = place in (0, len(past) - 1)
        if is_end or kept[-1][0] - past[place + 1][0] > max(SHORTEST_MS, (past[0][0] - sample[0]) // KEPT_OF_AGE):
            kept.append(sample)
    return tuple(kept)
