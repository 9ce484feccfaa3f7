"""Dead letters: listed, replayed, discarded, and deliveries brought back to be told again.

Every way back checks nothing here: the fence judges the standing again right before sending, as for any delivery.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipeline.domain import DeliveryStatus, Outcome, State, delivery_id, format_time, split_delivery_id, utc_from_us
from pipeline.ledger.deliveries import DeadLetter, Deliveries, Row
from pipeline.ledger.events import Events
from pipeline.ledger.results import DeliveryResult

ERASED = "erased"
"""Reason of a `given` that ended without being told, because its person was erased."""
EXPORTED = "exported"
"""Reason of a withdrawal that reached the vendor by a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterFilter:
    """Which dead letters are meant; None means any. `since` is the earliest time of death."""

    destination: str | None = None
    reason: str | None = None
    state: State | None = None
    since: datetime | None = None
    source: str | None = None

    def fits(self, letter: DeadLetter) -> bool:
        row = letter.row
        return (
            (self.reason is None or row.reason == self.reason)
            and (self.state is None or row.state == self.state)
            and (self.source is None or row.source == self.source)
            and (self.since is None or letter.died_ms >= self.since.timestamp() * 1000)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterPage:
    """One page of dead letters and the groups of all that fit, in the form of the public answer."""

    items: Sequence[Mapping[str, Any]]
    groups: Sequence[Mapping[str, Any]]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """What a replay did (or would do): delivery ids replayed, and those that were not, each with its reason."""

    replayed: Sequence[str] = ()
    skipped: Sequence[Mapping[str, str]] = field(default_factory=tuple)


class Letters:
    """Dead letters over all destinations."""

    def __init__(self, deliveries: Deliveries, events: Events) -> None:
        self._deliveries, self._events = deliveries, events

    def page(self, wanted: LetterFilter, *, cursor: str | None = None, limit: int = 100) -> DeadLetterPage:
        """Dead letters by destination, newest first. Raises ValueError for a cursor that is none of ours."""
        start = _decode_cursor(cursor)
        found: list[DeadLetter] = []
        for letter in self._walk(wanted, start):
            found.append(letter)
            if len(found) > limit:
                break
        more = len(found) > limit
        items = [_item(letter) for letter in found[:limit]]
        return DeadLetterPage(items=items, groups=self.groups(wanted), next_cursor=_encode_cursor(found[limit - 1]) if more else None)

    def groups(self, wanted: LetterFilter) -> list[dict[str, Any]]:
        """Counts by destination, state and reason of all dead letters that fit."""
        counts: Counter[tuple[str, str, str]] = Counter()
        if wanted.source is None and wanted.since is None:
            for destination in self._destinations(wanted):
                for (state, reason), count in self._deliveries.dead_counts(destination).items():
                    if wanted.state in (None, state) and wanted.reason in (None, reason):
                        counts[destination, state, reason] += count
        else:
            for letter in self._walk(wanted, None):
                counts[letter.destination, letter.row.state, letter.row.reason] += 1
        return [
            {"destination": destination, "state": state, "reason": reason, "count": count} for (destination, state, reason), count in sorted(counts.items())
        ]

    def find(self, wanted: LetterFilter, *, most: int | None = None) -> list[DeadLetter]:
        """All dead letters that fit."""
        found: list[DeadLetter] = []
        for letter in self._walk(wanted, None):
            if most is not None and len(found) >= most:
                break
            found.append(letter)
        return found

    def by_id(self, delivery_ids: Sequence[str], *, source: str | None = None) -> tuple[list[DeadLetter], list[str]]:
        """The dead letters of these ids, and the ids that name none (of this source)."""
        by_destination: dict[str, list[str]] = {}
        for name in delivery_ids:
            event_id, destination = split_delivery_id(name)
            by_destination.setdefault(destination, []).append(event_id)
        known = self._deliveries.known_destinations()
        found = [
            letter
            for destination, event_ids in by_destination.items()
            if destination in known
            for letter in self._deliveries.find_dead(destination, event_ids)
            if source in (None, letter.row.source)
        ]
        names = {delivery_id(letter.event_id, letter.destination) for letter in found}
        return found, [name for name in delivery_ids if name not in names]

    def reopen(self, letters: Sequence[DeadLetter], *, only_dead: bool = True, reason: str = "") -> list[DeadLetter]:
        """Bring deliveries back to be told again at once; returns those that were reopened. One that was never planned is not invented."""
        reopened: list[DeadLetter] = []
        now_ms = self._deliveries.now_ms()
        for (destination, state), group in _grouped(letters).items():
            stored = self._events.load([letter.event_id for letter in group], payloads=False)
            present = [(letter, event) for letter, event in zip(group, stored, strict=True) if event is not None and destination in event.destinations]
            rows = [(letter.event_id, event.facts.received_us // 1000, letter.row.reason) for letter, event in present]
            for (letter, _), row in zip(present, rows, strict=True):
                own, at_ms = letter.row, _reopened_ms(letter, now_ms)  # no result from now on is older than this: it would count as one from before
                fresh = Row(state=own.state, source=own.source, reason=reason, updated_ms=at_ms, since_ms=now_ms, cause=own.cause)
                if self._deliveries.reopen(destination, state, [row], fresh, only_dead=only_dead)[0]:
                    reopened.append(letter)
            self._fold(destination, [letter for letter, _ in present if letter in reopened], now_ms, reason)
        return reopened

    def discard(self, letters: Sequence[DeadLetter], reason: str, now_ms: int) -> list[str]:
        """Close dead letters by a person's decision; `reason` is theirs. Returns the delivery ids that were dead."""
        result = DeliveryResult(status=DeliveryStatus.SKIPPED, updated_ms=now_ms, outcome=Outcome.NOT_APPLICABLE, reason=f"discarded: {reason}"[:120])
        return self._close(letters, result, "discarded")

    def close_exported(self, letters: Sequence[DeadLetter], file: str, now_ms: int) -> list[str]:
        """Close dead withdrawals that the vendor took from a file: they are delivered. Returns the delivery ids that were dead."""
        result = DeliveryResult(status=DeliveryStatus.DELIVERED, updated_ms=now_ms, outcome=Outcome.APPLIED, reason=EXPORTED, attempts=1, vendor_reference=file)
        return self._close(letters, result, f"o|{Outcome.APPLIED}|{State.WITHDRAWN}")

    def close_erased(self, letters: Sequence[DeadLetter], now_ms: int) -> list[str]:
        """Close dead `given` of a person who was erased: nobody can tell them any more. Returns the delivery ids that were dead."""
        return self._close(letters, DeliveryResult(status=DeliveryStatus.SKIPPED, updated_ms=now_ms, outcome=Outcome.NOT_APPLICABLE, reason=ERASED), ERASED)

    def _close(self, letters: Sequence[DeadLetter], result: DeliveryResult, counter: str) -> list[str]:
        closed: list[str] = []
        for (destination, _), group in _grouped(letters).items():
            was_dead = self._deliveries.discard(destination, group, result, counter)
            pairs = [(letter.event_id, result.encode()) for letter, dead in zip(group, was_dead, strict=True) if dead]
            if pairs:
                self._events.fold([(event_id, destination, encoded) for event_id, encoded in pairs])
                self._deliveries.unfold(destination, pairs)
            closed += [delivery_id(event_id, destination) for event_id, _ in pairs]
        return closed

    def _fold(self, destination: str, letters: Sequence[DeadLetter], now_ms: int, reason: str) -> None:
        results = []
        for letter in letters:
            result = DeliveryResult(status=DeliveryStatus.WAITING, updated_ms=_reopened_ms(letter, now_ms), reason=reason)
            results.append((letter.event_id, destination, result.encode()))
        if results:
            self._events.fold(results)

    def _destinations(self, wanted: LetterFilter) -> list[str]:
        return [name for name in self._deliveries.known_destinations() if wanted.destination in (None, name)]

    def _walk(self, wanted: LetterFilter, start: tuple[str, int, str] | None) -> Iterator[DeadLetter]:
        page = 200
        for destination in self._destinations(wanted):
            if start and destination < start[0]:
                continue
            before = (start[1], start[2]) if start and destination == start[0] else None
            while letters := self._deliveries.dead(destination, before=before, most=page):
                yield from (letter for letter in letters if wanted.fits(letter))
                if len(letters) < page:
                    break
                before = (letters[-1].died_ms, letters[-1].event_id)


def _reopened_ms(letter: DeadLetter, now_ms: int) -> int:
    """A time after every result that it can have had."""
    return max(letter.died_ms, letter.row.updated_ms, now_ms) + 1


def _grouped(letters: Sequence[DeadLetter]) -> dict[tuple[str, State], list[DeadLetter]]:
    groups: dict[tuple[str, State], list[DeadLetter]] = {}
    for letter in letters:
        groups.setdefault((letter.destination, State(letter.row.state)), []).append(letter)
    return groups


def _item(letter: DeadLetter) -> dict[str, Any]:
    row = letter.row
    return {
        "delivery_id": delivery_id(letter.event_id, letter.destination),
        "event_id": letter.event_id,
        "destination": letter.destination,
        "state": row.state,
        "outcome": row.outcome,
        "reason": row.reason,
        "attempts": row.attempts,
        "died_at": format_time(utc_from_us(letter.died_ms * 1000)),
    }


def _encode_cursor(letter: DeadLetter) -> str:
    return base64.urlsafe_b64encode(f"{letter.destination}|{letter.died_ms}|{letter.event_id}".encode()).decode()


def _decode_cursor(cursor: str | None) -> tuple[str, int, str] | None:
    if cursor is None:
        return None
    try:
        destination, died_ms, event_id = base64.urlsafe_b64decode(cursor.encode()).decode().split("|")
        return destination, int(died_ms), event_id
    except (ValueError, binascii.Error) as error:
        raise ValueError("not a cursor of a former page") from error
