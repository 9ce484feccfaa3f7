"""What the ledger's outbox says, as entries for the archive: one for each thing that happened, each with all that tells whom and what it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from pipeline.domain import DeliveryStatus, format_time, utc_from_us
from pipeline.evidence.records import Entry, time_text
from pipeline.ledger.events import Facts
from pipeline.ledger.outbox import OutboxEntry
from pipeline.ledger.results import DeliveryResult
from pipeline.ledger.rows import Row

UNKNOWN: Final = "unknown"
"""The chain of what nobody can say any more whom it was about."""
ERASED: Final = "erased"
IDENTIFIERS: Final = "strip"
"""The kind of entries whose rows are identifiers and no events."""
EXPORTED: Final = "exported"
CONFIRMED: Final = "confirmed"
REPAIRS: Final = frozenset({"late_write", "heard_given", "repaired", "reconciled", "drift"})
"""Reasons to tell a destination again because of what it holds, or may hold."""
FINAL_KINDS: Final = {DeliveryStatus.SKIPPED: "skipped", DeliveryStatus.SUPERSEDED: "superseded", DeliveryStatus.DEAD: "dead"}
Said = Mapping[str, Any]


def facts_in(entry: OutboxEntry) -> dict[str, Facts]:
    """The facts of the events that an entry says were accepted."""
    return {row[0]: Facts.decode(row[1]) for row in entry.rows} if entry.kind == "commit" else {}


def named_in(entry: OutboxEntry) -> Iterator[str]:
    """The events that an entry is about."""
    return (row if isinstance(row, str) else row[0] for row in entry.rows if row and entry.kind != IDENTIFIERS)


def entries_of(entry: OutboxEntry, ledger_id: str, facts: Mapping[str, Facts]) -> list[Entry]:
    """What an entry of the outbox says, in order; `facts` are those of the events that are still known."""
    made = []
    for place, row in enumerate(entry.rows):
        if not row:
            continue
        if entry.kind == IDENTIFIERS:
            made.append(_identifier(f"{ledger_id}/{entry.stream}/{entry.entry}/{place}/erased", row, entry))
            continue
        event_id = row if isinstance(row, str) else row[0]
        known = facts.get(event_id)
        for number, (kind, at_ms, said) in enumerate(_READERS[entry.kind](entry, row, known)):
            record_id = f"{ledger_id}/{entry.stream}/{entry.entry}/{place}.{number}/{kind}"
            made.append(_entry(record_id, kind, event_id, known, at_ms, said, placed_ms=min(at_ms, entry.at_ms)))
    return made


def _identifier(record_id: str, key: str, entry: OutboxEntry) -> Entry:
    """What was taken from an identifier, its value or its links: it is about no event, and in a chain by that name."""
    content = {"id": record_id, "kind": "erased", "at": time_text(entry.at_ms), "subject_key": key, "reason": entry.shared.get("reason")}
    return Entry(record_id, key, "", entry.at_ms, content)


def _entry(record_id: str, kind: str, event_id: str, known: Facts | None, at_ms: int, said: Said, *, placed_ms: int) -> Entry:
    """`at_ms` is what the record says; its place is never after the step that wrote it down, though the clock of the process may be ahead of the ledger's."""
    subject_key = known.subject_key if known else UNKNOWN
    content = {"id": record_id, "kind": kind, "at": time_text(at_ms), "subject_key": subject_key, "event_id": event_id}
    if known:
        content |= {"source": known.source, "purpose": known.purpose, "state": known.state.value}
    content |= {name: value for name, value in said.items() if value not in ("", None, [], 0)}
    return Entry(record_id, subject_key, event_id, placed_ms, content)


Happened = Iterator[tuple[str, int, Said]]


def _commit(entry: OutboxEntry, row: Sequence[Any], known: Facts | None) -> Happened:
    _, _, content_hash, other_keys = row
    if known is None:
        raise AssertionError("an event that was accepted says of itself what it is")
    times = {"event_time": format_time(utc_from_us(known.event_us)), "order_time": format_time(utc_from_us(known.order_us))}
    yield "received", known.received_us // 1000, {**times, "content_hmac": content_hash, "identifiers": other_keys}
    yield "accepted", entry.at_ms, {}


def _plan(entry: OutboxEntry, row: Sequence[Any], _known: Facts | None) -> Happened:
    _, destinations, superseded_by = row
    named = [name for name in destinations.split(",") if name]
    if superseded_by:
        yield "superseded", entry.at_ms, {"superseded_by": superseded_by}
    yield "planned", entry.at_ms, {"destinations": named, "routing_version": entry.shared.get("version")}


def _settle(entry: OutboxEntry, row: Sequence[Any], _known: Facts | None) -> Happened:
    _, result, waiting, sent, asked = row
    destination = _destination(entry)
    fixed = {"destination": destination, "routing_version": entry.shared.get("version")}
    for at_ms, operation, request_hmac, status_code in sent:
        said = {"operation": operation, "request_hmac": request_hmac, "status_code": status_code}
        yield "asked" if asked else "told", at_ms, {**fixed, **said}
    said, status = _outcome(result, waiting)
    kind = FINAL_KINDS.get(status, "answered")
    if asked == "awaited" and status is DeliveryStatus.DELIVERED:
        kind = "confirmed"
    yield kind, entry.at_ms, {**fixed, **said, "status": status.value, "status_code": sent[-1][3] if sent else None}


def _compare(entry: OutboxEntry, row: Sequence[Any], _known: Facts | None) -> Happened:
    """What a destination was asked, where it held something else than the standing; the last answer showed it."""
    _, drift, sent = row
    fixed = {"destination": _destination(entry), "routing_version": entry.shared.get("version")}
    for number, (at_ms, operation, request_hmac, status_code) in enumerate(sent, 1):
        said = {"operation": operation, "request_hmac": request_hmac, "status_code": status_code}
        yield "asked", at_ms, {**fixed, **said, "reason": drift if number == len(sent) else ""}


def _outcome(result: str, waiting: str) -> tuple[dict[str, Any], DeliveryStatus]:
    """What became of a delivery: it ended, or it waits to be told again or to be confirmed."""
    if not result:
        row = Row.decode(waiting.encode())
        status = DeliveryStatus.AWAITING_CONFIRMATION if row.awaiting else DeliveryStatus.WAITING
        return {"outcome": row.outcome, "reason": row.reason, "attempts": row.attempts, "vendor_reference": row.vendor_reference}, status
    ended = DeliveryResult.decode(result)
    names = "superseded_by" if ended.status is DeliveryStatus.SUPERSEDED else "vendor_reference"
    return {"outcome": ended.outcome, "reason": ended.reason, "attempts": ended.attempts, names: ended.vendor_reference}, ended.status


def _confirm(entry: OutboxEntry, row: Sequence[Any], _known: Facts | None) -> Happened:
    said, status = _outcome(row[1], "")
    yield "confirmed", entry.at_ms, {"destination": _destination(entry), **said, "status": status.value}


def _close(entry: OutboxEntry, row: Sequence[Any], _known: Facts | None) -> Happened:
    """A dead letter was closed; the words of the person who discarded it stay in the ledger, as nobody knows what they say."""
    said, status = _outcome(row[1], "")
    if said["reason"] == ERASED:
        yield "skipped", entry.at_ms, {"destination": _destination(entry), **said, "status": status.value}
        return
    is_exported = said["reason"] == EXPORTED
    said = {**said, "reason": "" if is_exported else "discarded", "status": status.value}
    yield "exported" if is_exported else "discarded", entry.at_ms, {"destination": _destination(entry), **said}


def _again(entry: OutboxEntry, _row: Any, _known: Facts | None) -> Happened:
    reason = entry.shared.get("reason") or ""
    kind = "repaired" if reason in REPAIRS else "reopened"
    yield kind, entry.at_ms, {"destination": _destination(entry), "reason": reason, "status": DeliveryStatus.WAITING.value}


def _lost(entry: OutboxEntry, _row: Any, _known: Facts | None) -> Happened:
    yield "unanswered", entry.at_ms, {"destination": _destination(entry)}


def _done(entry: OutboxEntry, row: Sequence[Any], _known: Facts | None) -> Happened:
    erase_ms = int(row[1])
    yield "completed", entry.at_ms, {"erase_at": time_text(entry.at_ms + erase_ms) if erase_ms >= 0 else None}


def _erase(entry: OutboxEntry, _row: Any, _known: Facts | None) -> Happened:
    yield "erased", entry.at_ms, {"reason": entry.shared.get("reason")}


_READERS: Final[Mapping[str, Callable[[OutboxEntry, Any, Facts | None], Happened]]] = {
    "commit": _commit,
    "plan": _plan,
    "settle": _settle,
    "confirm": _confirm,
    "close": _close,
    "again": _again,
    "lost": _lost,
    "compare": _compare,
    "done": _done,
    "erase": _erase,
}


def _destination(entry: OutboxEntry) -> str:
    return entry.stream.removeprefix("d:")
