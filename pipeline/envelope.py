"""The sealed part of an event: what is personal in it, encrypted for the ledger and opened only to tell a vendor."""

from __future__ import annotations

import logging
from typing import Any

import orjson

from pipeline.domain import ConsentEvent, Subject, us_from_utc, utc_from_us
from pipeline.errors import PayloadUnreadable
from pipeline.ledger.events import Facts, StoredEvent
from pipeline.vault import Vault

log = logging.getLogger(__name__)


def seal_event(event: ConsentEvent, vault: Vault) -> bytes:
    """The personal part of an event, encrypted for this event alone."""
    subject = event.subject
    content: dict[str, Any] = {"i": subject.identifiers(), "k": dict(event.identifier_keys)}
    optional = {"c": subject.country, "g": event.group, "f": event.profile, "v": event.evidence, "m": event.metadata}
    content |= {name: dict(value) if isinstance(value, dict) else value for name, value in optional.items() if value}
    return vault.seal(orjson.dumps(content), event.event_id)


def open_event(stored: StoredEvent, vault: Vault) -> ConsentEvent:
    """The whole event again. Raises PayloadUnreadable if its payload is gone or cannot be opened."""
    if stored.payload is None:
        raise PayloadUnreadable("the payload has expired or was erased")
    content = orjson.loads(vault.open(stored.payload, stored.event_id))
    facts = stored.facts
    return ConsentEvent(
        event_id=stored.event_id,
        source=facts.source,
        subject=Subject(**content["i"], country=content.get("c")),
        subject_key=facts.subject_key,
        identifier_keys=content["k"],
        purpose=facts.purpose,
        state=facts.state,
        event_time=utc_from_us(facts.event_us),
        order_us=facts.order_us,
        received_at=utc_from_us(facts.received_us),
        group=content.get("g"),
        profile=content.get("f", {}),
        evidence=content.get("v", {}),
        metadata=content.get("m", {}),
    )


def open_if_readable(stored: StoredEvent | None, vault: Vault, *, alert: bool = False) -> ConsentEvent | None:
    """The whole event again, or None if it is unknown, its payload is gone, or it cannot be opened; with `alert` the latter two are said aloud."""
    if stored is None:
        return None
    try:
        return open_event(stored, vault)
    except PayloadUnreadable as error:
        if alert:
            log.error("alert", extra={"alert": "payload_unreadable", "event_id": stored.event_id, "reason": str(error)})  # noqa: TRY400 (no traceback: it is no bug)
        return None


def nameless(stored: StoredEvent) -> ConsentEvent:
    """What is left of an event whose personal part was erased: enough to end what it still had to tell."""
    facts = stored.facts
    return ConsentEvent(
        event_id=stored.event_id,
        source=facts.source,
        subject=Subject(),
        subject_key=facts.subject_key,
        identifier_keys={},
        purpose=facts.purpose,
        state=facts.state,
        event_time=utc_from_us(facts.event_us),
        order_us=facts.order_us,
        received_at=utc_from_us(facts.received_us),
    )


def facts_of(event: ConsentEvent) -> Facts:
    """What the ledger may know of an event without opening it."""
    return Facts(
        source=event.source,
        subject_key=event.subject_key,
        purpose=event.purpose,
        state=event.state,
        event_us=us_from_utc(event.event_time),
        order_us=event.order_us,
        received_us=us_from_utc(event.received_at),
    )
