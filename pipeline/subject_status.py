"""What holds for one person: for each purpose the newest word, and what every destination was last told of it. Nothing personal goes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.domain import DeliveryStatus, Subject, Word, format_time, utc_from_us
from pipeline.identifiers import Hasher
from pipeline.ledger import Ledger
from pipeline.ledger.standings import newest_of

if TYPE_CHECKING:
    from pipeline.evidence.told import Told

Recorded = Mapping[tuple[str, str], "Told"]
"""(purpose, destination) -> what it was told last, by the evidence."""


def subject_status(ledger: Ledger, hasher: Hasher, subject: Subject, *, source: str | None = None) -> dict[str, Any]:
    """The standings of a person and of whoever is linked to them directly, as `POST /v1/subjects/status` answers.

    `source` shows only purposes whose newest word came from that source, and what was told of its events; of a word whose event is no longer kept, only
    somebody who may see all sources learns.
    """
    reach = ledger.standings.reach([hasher.identifier_keys(subject).values()])[0]
    words: dict[str, dict[str, Word]] = {}
    for ring in reach.rings[:2]:
        for record in ring:
            for purpose, word in record.words.items():
                words.setdefault(purpose, {})[word.event_id] = word
    shown = _shown(ledger, {event_id for each in words.values() for event_id in each}, source)
    purposes = [_purpose(purpose, list(words[purpose].values()), shown) for purpose in sorted(words)]
    return {
        "subject_key": hasher.subject_key(subject),
        "purposes": [each for each in purposes if source is None or each["source"] == source],
    }


def with_recorded(status: dict[str, Any], recorded: Recorded, *, source: str | None = None) -> dict[str, Any]:
    """The same, with what destinations were told of words that no standing names any more; a `source` learns of its own events only."""
    for purpose in status["purposes"]:
        for (name, destination), told in sorted(recorded.items()):
            if name != purpose["purpose"] or source not in (None, told.source):
                continue
            shown = next((each for each in purpose["destinations"] if each["destination"] == destination), None)
            if shown is None:
                shown = dict.fromkeys(("destination", "told", "told_at", "event_id", "status", "reason", "next_attempt_at")) | {"destination": destination}
                purpose["destinations"] = sorted([*purpose["destinations"], shown], key=lambda each: str(each["destination"]))
            if shown["told"] is None:
                shown |= {"told": told.state, "told_at": told.at, "event_id": told.event_id}
    return status


def _shown(ledger: Ledger, event_ids: Iterable[str], source: str | None) -> dict[str, dict[str, Any]]:
    found = ledger.events.load(sorted(event_ids), payloads=False)
    return {stored.event_id: ledger.view(stored) for stored in found if stored is not None and source in (None, stored.facts.source)}


def _purpose(purpose: str, words: Sequence[Word], shown: dict[str, dict[str, Any]]) -> dict[str, Any]:
    newest = newest_of(words)
    if newest is None:
        raise AssertionError("a purpose is named by a word")
    view = shown.get(newest.event_id)
    views = [shown[word.event_id] for word in words if word.event_id in shown]
    names = sorted({delivery["destination"] for each in views for delivery in each["deliveries"]})
    return {
        "purpose": purpose,
        "state": newest.state.value,
        "order_time": format_time(utc_from_us(newest.order_us)),
        "event_id": newest.event_id,
        "source": view["source"] if view else None,
        "destinations": [_destination(name, newest.event_id, views) for name in names],
    }


def _destination(name: str, newest_id: str, views: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a destination was told last, and where the delivery of the newest word stands (None: it does not go there)."""
    deliveries = [(view, delivery) for view in views for delivery in view["deliveries"] if delivery["destination"] == name]
    told = max((pair for pair in deliveries if pair[1]["status"] == DeliveryStatus.DELIVERED), key=lambda pair: str(pair[1]["updated_at"]), default=None)
    current = next((delivery for view, delivery in deliveries if view["event_id"] == newest_id), None)
    return {
        "destination": name,
        "told": told[0]["state"] if told else None,
        "told_at": told[1]["updated_at"] if told else None,
        "event_id": told[0]["event_id"] if told else None,
        "status": current["status"] if current else None,
        "reason": current["reason"] if current else None,
        "next_attempt_at": current["next_attempt_at"] if current else None,
    }
