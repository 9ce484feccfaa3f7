"""Archives the evidence that waits in the ledger's outbox, makes the day roots, and says aloud when too much waits.

Two may do it at once, and either may die at any moment: what is archived, and how far, is one transaction, and only then is the outbox trimmed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.domain import State, format_time, utc_from_us
from pipeline.errors import ArchiveMismatch, ArchiveUnavailable
from pipeline.evidence.archive import Archive, Writer
from pipeline.evidence.merkle import DayRoot
from pipeline.evidence.records import Entry
from pipeline.evidence.rows import entries_of, facts_in, named_in
from pipeline.ledger import Ledger
from pipeline.ledger.events import Facts
from pipeline.ledger.outbox import OutboxEntry
from pipeline.routing import Routing

log = logging.getLogger(__name__)

AT_ONCE = 200
"""Entries of one stream in one transaction; each holds what one step did to a whole chunk."""
MOST_ROUNDS = 50
"""Rounds of one run at the most; what is left waits for the next."""
MOST_STEPS = 5
"""And so with steps through what is old."""
SENT_KINDS = ("told", "asked")
"""Records whose time is that of the process that called."""
LAST_KINDS = ("completed", "erased")
"""What comes last of an event within a millisecond; these two are of one stream, which has them in order."""
GRACE = timedelta(minutes=1)
"""How far the clock of a process may be behind that of the ledger, and how long a request may be on its way to the ledger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiverOptions:
    """When too much waits: the age of the oldest entry, and the memory that all take; and for how many days what records say is kept, 0 for ever."""

    alert_seconds: float = 300.0
    alert_megabytes: float = 256.0
    keep_days: float = 0.0


class Archiver:
    """Moves evidence from the ledger to the archive; safe to share between threads and processes."""

    def __init__(self, ledger: Ledger, archive: Archive, options: ArchiverOptions, routing: Callable[[], Routing]) -> None:
        """`routing` has what sources and purposes say of how long their evidence is kept."""
        self._ledger, self._archive, self._options, self._routing = ledger, archive, options, routing

    def run(self) -> int:
        """Archive what waits, make the root of a day that is over, and look whether too much waits; returns how many records were added.

        An archive that is away, or not the one it was, raises the alert: what waits stays in the ledger. Raises LedgerUnavailable.
        """
        added = 0
        try:
            for _ in range(MOST_ROUNDS):
                read, some = self._round()
                added += some
                if not read:
                    break
            self._anchor_yesterday()
            self._remove_old()
        except (ArchiveUnavailable, ArchiveMismatch) as error:
            log.error("alert", extra={"alert": "evidence_not_archived", "reason": str(error)})  # noqa: TRY400 - the text is the whole story
        self._watch()
        return added

    def anchor(self) -> DayRoot | None:
        """Make a root over all chains now."""
        now_ms = self._ledger.now_ms()
        with self._archive.writing() as writer:
            return self._anchor(writer, format_time(utc_from_us(now_ms * 1000))[:10], now_ms, _covered_until(writer))

    def accept(self) -> str:
        """Go on with this archive, whatever the ledger wrote to before; returns its id."""
        with self._archive.writing() as writer:
            archive_id = writer.archive_id()
        self._ledger.outbox.accept(archive_id)
        return archive_id

    def _round(self) -> tuple[int, int]:
        """Archive some entries of every stream; returns how many were read, and how many records they made."""
        outbox, ledger_id = self._ledger.outbox, self._ledger.identity.ledger_id
        with self._archive.writing() as writer:
            positions = {name.removeprefix(f"{ledger_id}/"): entry for name, entry in writer.positions().items() if name.startswith(f"{ledger_id}/")}
            outbox.check(writer.archive_id(), positions)
            now_ms = self._ledger.now_ms()
            # Those of events last: whatever a delivery's evidence is about was accepted before it.
            read = [entry for stream in reversed(outbox.streams()) for entry in outbox.read(stream, positions.get(stream, ""), AT_ONCE)]
            entries = self._entries(writer, read)
            added = writer.append(entries)
            if entries and not writer.fact("first_day"):
                writer.know("first_day", entries[0].content["at"][:10])
            reached = {entry.stream: entry.entry for entry in read}
            writer.move({f"{ledger_id}/{stream}": entry for stream, entry in reached.items()})
            if all(sum(1 for entry in read if entry.stream == stream) < AT_ONCE for stream in reached):
                writer.know("archived_until", format_time(utc_from_us(now_ms * 1000)))
        outbox.trim({**positions, **reached})
        return len(read), added

    def _entries(self, writer: Writer, read: Sequence[OutboxEntry]) -> list[Entry]:
        """What the entries say, in the order in which it happened."""
        facts: dict[str, Facts] = {}
        for entry in read:
            facts |= facts_in(entry)
        wanted = {event_id for entry in read for event_id in named_in(entry)} - facts.keys()
        facts |= self._facts(writer, wanted)
        ledger_id = self._ledger.identity.ledger_id
        events_first = sorted(read, key=lambda entry: entry.stream.startswith("d:"))  # within a millisecond
        made = [found for entry in events_first for found in entries_of(entry, ledger_id, facts)]
        return _in_order(made)

    def _facts(self, writer: Writer, event_ids: Iterable[str]) -> dict[str, Facts]:
        """What is known of events that were accepted earlier: by their record of receipt, or else by the ledger."""
        found = {event_id: _facts_of(content) for event_id, content in writer.received(event_ids).items()}
        missing = sorted(set(event_ids) - found.keys())
        stored = self._ledger.events.load(missing, payloads=False) if missing else []
        return found | {event.event_id: event.facts for event in stored if event is not None}

    def _anchor_yesterday(self) -> None:
        now_ms = self._ledger.now_ms()
        yesterday = (utc_from_us(now_ms * 1000) - timedelta(days=1)).date().isoformat()
        with self._archive.writing() as writer:
            until = _covered_until(writer)
            # Not before all of that day is archived: what a root leaves out looks as if it had been taken away.
            if writer.covered_day() < yesterday < until[:10] and "" < writer.fact("first_day") <= yesterday:
                self._anchor(writer, yesterday, now_ms, until)

    def _remove_old(self) -> None:
        """Once a day, step by step over many runs: remove what records say whose time is over."""
        routing, usual = self._routing(), self._options.keep_days
        shortest = shortest_days(routing, usual)
        if shortest is None:
            return
        now_ms = self._ledger.now_ms()
        today = format_time(utc_from_us(now_ms * 1000))[:10]
        for _ in range(MOST_STEPS):
            with self._archive.writing() as writer:
                if writer.fact("retention_day") == today:
                    return
                after_ms = int(writer.fact("retention_after_ms") or 0)
                step = writer.remove_old(
                    self._ledger.identity.ledger_id, now_ms, lambda source, purpose: kept_days(routing, usual, source, purpose), after_ms, shortest
                )
                writer.know("retention_after_ms", str(step.next_ms))
                if not step.next_ms:
                    writer.know("retention_day", today)
            if step.removed:
                log.info("evidence_expired", extra={"records": step.removed, "chains": len(step.entries)})

    @staticmethod
    def _anchor(writer: Writer, day: str, now_ms: int, until: str) -> DayRoot | None:
        root = writer.anchor(day, now_ms, until)
        if root is not None:
            log.info("evidence_root", extra={"day": root.day, "number": root.number, "root": root.hash(), "chains": root.chains, "records": root.records})
        return root

    def _watch(self) -> None:
        """The outbox is never shortened by dropping: when it grows too old or too large, a person has to act."""
        waiting = self._ledger.outbox.waiting()
        if waiting.oldest_seconds >= self._options.alert_seconds or waiting.megabytes >= self._options.alert_megabytes:
            figures = {"seconds": int(waiting.oldest_seconds), "megabytes": round(waiting.megabytes, 1), "entries": waiting.entries}
            log.error("alert", extra={"alert": "evidence_waits", **figures})


def _in_order(made: Sequence[Entry]) -> list[Entry]:
    """By time; what completes or erases an event comes after what its destinations did, and nobody is told before the event is planned, whatever a process's clock says."""
    planned_ms: dict[str, int] = {}
    for entry in made:
        if entry.content["kind"] == "planned":
            planned_ms.setdefault(entry.event_id, entry.at_ms)

    def place(entry: Entry) -> tuple[int, bool]:
        kind = entry.content["kind"]
        not_before = planned_ms.get(entry.event_id, 0) if kind in SENT_KINDS else 0
        return max(entry.at_ms, not_before), kind in LAST_KINDS

    return sorted(made, key=place)


def _covered_until(writer: Writer) -> str:
    """Until when all that was said is archived for certain; empty while nobody can say."""
    reached = writer.fact("archived_until")
    return format_time(datetime.fromisoformat(reached) - GRACE) if reached else ""


def _facts_of(content: Mapping[str, str]) -> Facts:
    """Facts, as far as evidence needs them, from a record of receipt."""
    return Facts(
        source=content["source"],
        subject_key=content["subject_key"],
        purpose=content["purpose"],
        state=State(content["state"]),
        event_us=0,
        order_us=0,
        received_us=0,
    )


def kept_days(routing: Routing, usual: float, source: str, purpose: str) -> float | None:
    """For how long evidence of an event is kept: the shortest of what is said of its source, its purpose, and usually (0: for ever)."""
    of_source, of_purpose = routing.sources.get(source), routing.purposes.get(purpose)
    return _shortest(usual, of_source.evidence_days if of_source else None, of_purpose.evidence_days if of_purpose else None)


def shortest_days(routing: Routing, usual: float) -> float | None:
    """The shortest time for which anything is kept; None if all is kept for ever."""
    of_sources, of_purposes = [each.evidence_days for each in routing.sources.values()], [each.evidence_days for each in routing.purposes.values()]
    return _shortest(usual, *of_sources, *of_purposes)


def _shortest(usual: float, *others: float | None) -> float | None:
    return min((days for days in (usual or None, *others) if days is not None), default=None)
