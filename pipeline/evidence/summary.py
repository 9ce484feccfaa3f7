"""What records say, in the terms of ISO/IEC TS 27560 and the W3C Data Privacy Vocabulary (DPV): made of the records alone, so that whoever checks a proof makes it again.

The sections are those of the specification: the person (PII principal), what is processed for which purpose, the parties, and the events of the consent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pipeline.evidence.records import sortable

Content = Mapping[str, Any]

FIRST_FORM: Final = "consent-relay:proof:1"
"""Documents of earlier releases: every destination is a recipient there, told or not."""
FORM: Final = "consent-relay:proof:2"
STATUSES: Final = {"given": "dpv:ConsentGiven", "withdrawn": "dpv:ConsentWithdrawn"}
UNKNOWN: Final = "dpv:ConsentUnknown"
ALL_RECORDS: Final = "all records"
ONE_EVENT: Final = "one event"
ONE_SOURCE: Final = "one source"
NEAREST: Final = "the nearest chains"
SHOWS: Final = {ALL_RECORDS: "", ONE_EVENT: "event_id", ONE_SOURCE: "source", NEAREST: ""}
"""What a proof may show of a person, and the field that all its records have in common. Only of all of them can be said what stands."""
ENDINGS: Final = frozenset({"answered", "unanswered", "skipped", "dead", "confirmed", "exported", "discarded", "superseded", "reopened", "repaired"})
"""Kinds that say where a delivery stands."""
TELLING: Final = frozenset({"answered", "confirmed", "exported"})
"""Kinds that say that a destination has what it was told, where their status is one of `TOLD`."""
TOLD: Final = frozenset({"delivered", "awaiting_confirmation"})
WHY_NOT: Final = ("party_id", "requests", "last", "status", "outcome", "reason")
"""What is said of a destination that was not told."""
SHOWN: Final = ("status", "outcome", "reason", "status_code", "attempts", "vendor_reference", "superseded_by")


def summarise(subject_keys: Iterable[str], contents: Iterable[Content], *, stands: bool, form: str = FORM) -> dict[str, Any]:
    """The sections of a consent record, of records in the order of their chains; `stands`: these are all that there are, so that the newest word is what stands.

    `form` is the one that the document says that it has.
    """
    by_event: dict[str, list[Content]] = {}
    for content in filter(_is_readable, contents):
        by_event.setdefault(content["event_id"], []).append(content)
    events = [_event(event_id, said) for event_id, said in by_event.items()]
    events.sort(key=lambda event: (sortable(event["order_time"]), event["event_id"]))
    told = None if form == FIRST_FORM else _told(by_event)
    return {
        "pii_principal": {"@type": "dpv:DataSubject", "pii_principal_id": sorted(set(subject_keys))},
        "pii_processing": {"purposes": _purposes(events, told, by_event if stands else None)},
        "party_identification": _parties(events, told),
        "events": events,
    }


def _is_readable(content: Any) -> bool:
    """Whether a record says enough to be counted; one that was changed so that it does not is named by whoever checks the chain."""
    return isinstance(content, dict) and all(isinstance(content.get(name), str) for name in ("event_id", "kind", "at"))


def _event(event_id: str, said: Sequence[Content]) -> dict[str, Any]:
    first = next((content for content in said if content["kind"] == "received"), said[0])
    planned = next((content for content in reversed(said) if content["kind"] == "planned"), {})
    overtaken = next((content["superseded_by"] for content in said if content["kind"] == "superseded" and "destination" not in content), None)
    return {
        "event_id": event_id,
        "event_time": first.get("event_time", first["at"]),
        "order_time": first.get("order_time", first["at"]),
        "event_type": "dpv:ExpressedConsent",
        "event_state": STATUSES.get(first.get("state", ""), UNKNOWN),
        "entity_id": first.get("source"),
        "purpose": first.get("purpose"),
        "received_at": _at(said, "received"),
        "accepted_at": _at(said, "accepted"),
        "completed_at": _at(said, "completed"),
        "erased_at": _at(said, "erased"),
        "superseded_by": overtaken,
        "recipients": _recipients(said, planned.get("destinations", [])),
    }


def _recipients(said: Sequence[Content], planned: Iterable[str]) -> list[dict[str, Any]]:
    names = sorted({*planned, *(content["destination"] for content in said if "destination" in content)})
    found = []
    for name in names:
        about = [content for content in said if content.get("destination") == name]
        last = next((content for content in reversed(about) if content["kind"] in ENDINGS), {})
        told = [content["at"] for content in about if content["kind"] == "told"]
        found.append(
            {
                "party_id": name,
                "requests": len(told),
                "first_told_at": min(told, default=None),
                "last": last.get("kind"),
                "at": last.get("at"),
                **{field: last.get(field) for field in SHOWN},
            }
        )
    return found


def _told(by_event: Mapping[str, Sequence[Content]]) -> set[tuple[str, str]]:
    """(event id, destination): who has what the event says, by its own answer or by a file."""
    contents = (content for said in by_event.values() for content in said if content["kind"] in TELLING)
    return {(content["event_id"], content["destination"]) for content in contents if "destination" in content and content.get("status") in TOLD}


def _purposes(events: Sequence[Mapping[str, Any]], told: set[tuple[str, str]] | None, every: Mapping[str, Sequence[Content]] | None) -> list[dict[str, Any]]:
    """The newest word on each purpose: the consent's status, by `every` record there is, or else only what these records said."""
    newest: dict[str, Mapping[str, Any]] = {}
    for event in events:
        standing = newest.get(event["purpose"] or "")
        if standing is None or _order(event) >= _order(standing):
            newest[event["purpose"] or ""] = event
    return [
        {
            "purpose": purpose,
            "lawful_basis": "dpv:Consent",
            **(_said(event) if every is None else _standing(event, every)),
            **_told_and_not([other for other in events if other["purpose"] == purpose], told),
        }
        for purpose, event in sorted(newest.items())
    ]


def _said(event: Mapping[str, Any]) -> dict[str, Any]:
    return {"said": event["event_state"], "said_at": event["order_time"], "event_id": event["event_id"]}


def _standing(event: Mapping[str, Any], every: Mapping[str, Sequence[Content]]) -> dict[str, Any]:
    """What stands by the newest word on record; unknown where a newer one is named of which nothing is: it came before evidence was kept, or its records were lost."""
    own = event["event_id"]
    planned_at = next((sortable(content["at"]) for content in reversed(every[own]) if content["kind"] == "planned"), "")
    lost = max(
        (
            (sortable(content["at"]), content["superseded_by"])
            for said in every.values()
            for content in said
            if content["kind"] == "superseded" and content.get("superseded_by") and content["superseded_by"] not in every
            # Whoever is planned later, and not overtaken, is newer than what others were overtaken by until then.
            if content.get("purpose") == event["purpose"] and (content["event_id"] == own or sortable(content["at"]) > planned_at)
        ),
        default=None,
    )
    if lost is not None:
        return {"consent_status": UNKNOWN, "since": None, "event_id": lost[1]}
    return {"consent_status": event["event_state"], "since": event["order_time"], "event_id": own}


def _told_and_not(events: Sequence[Mapping[str, Any]], told: set[tuple[str, str]] | None) -> dict[str, Any]:
    """Who was told of a purpose; and who was not, with the reason of the newest event that was to be told there."""
    every = {each["party_id"]: each for event in events for each in event["recipients"]}
    if told is None:
        return {"recipient_third_parties": sorted(every)}
    reached = {name for event in events for name in every if (event["event_id"], name) in told}
    return {
        "recipient_third_parties": sorted(reached),
        "recipients_not_told": [{field: every[name][field] for field in WHY_NOT} for name in sorted(every.keys() - reached)],
    }


def _order(event: Mapping[str, Any]) -> tuple[str, bool, str]:
    """By time, then the withdrawal, then the id: as everywhere."""
    return sortable(event["order_time"]), event["event_state"] == STATUSES["withdrawn"], event["event_id"]


def _parties(events: Sequence[Mapping[str, Any]], told: set[tuple[str, str]] | None) -> list[dict[str, str]]:
    """Sources, and destinations: one that did not take what it was to be told is a third party, and no recipient."""
    reached = None if told is None else {name for _, name in told}
    recipients = sorted({each["party_id"] for event in events for each in event["recipients"]})
    sources = sorted({event["entity_id"] for event in events if event["entity_id"]})
    return [{"party_id": name, "party_role": "dpv:DataSource"} for name in sources] + [
        {"party_id": name, "party_role": "dpv:Recipient" if reached is None or name in reached else "dpv:ThirdParty"} for name in recipients
    ]


def _at(said: Sequence[Content], kind: str) -> str | None:
    return next((content["at"] for content in said if content["kind"] == kind), None)
