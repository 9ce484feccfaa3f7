"""Every reader of what comes from outside, as one call on bytes that must never do anything but read or refuse; and samples of what each is sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from pipeline.accept import order_time
from pipeline.dates import parse_source_date
from pipeline.domain import ConsentEvent, IncomingEvent, us_from_utc
from pipeline.envelope import seal_event
from pipeline.errors import InvalidInput
from pipeline.identifiers import Hasher
from pipeline.routing import Source
from pipeline.schemas import NativeReader, read_batch, read_time
from pipeline.sources import read_natives, read_source
from pipeline.vault import Vault
from pipeline.vendors import has_verb, vendor_names
from pipeline.vendors.base import Notification

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NATIVE = NativeReader({"newsletter", "sms"}, lambda: NOW, 300)
HASHER, VAULT = Hasher(b"pepper-for-tests"), Vault([b"k" * 32])
FORM, JSON, LINES = "application/x-www-form-urlencoded", "application/json", "application/x-ndjson"
PURPOSES: Mapping[str, Mapping[str, str]] = {
    "privacy_tools": {"test-template-hash-newsletter": "newsletter", "test-template-hash-sms": "sms"},
    "cmxorganize": {"newsletter": "newsletter", "single_user_tracking": "sms"},
    "mailchimp": {"L1": "newsletter", "test-list": "newsletter"},
    "maileon": {"doi": "newsletter", "doi+": "sms"},
    "contacthub": {"newsletter": "newsletter"},
}
MEDIA_TYPES = {"mailchimp": (FORM, JSON), "native": (JSON, LINES)}


def heard_kinds() -> list[str]:
    """Every kind of source that is posted to us."""
    return ["native", *(name for name in vendor_names() if has_verb(name, "hear"))]


def source_of(kind: str) -> Source:
    return Source(name=kind, kind=kind, purposes=PURPOSES.get(kind, {}), time_zone="America/Sao_Paulo", country="BR")


def _file(name: str) -> Any:
    return json.loads((ROOT / "samples" / name).read_text())


def samples() -> dict[str, list[bytes]]:
    """Bodies that each kind reads as events."""
    forms = {
        "type": "unsubscribe",
        "fired_at": "2026-02-01 11:59:50",
        "data[action]": "unsub",
        "data[list_id]": "L1",
        "data[email]": "ana@example.org",
        "data[ip_opt]": "203.0.113.9",
    }
    natives = _file("native.json")
    hub = {
        "base": {
            "contacts": {"email": "ana@example.org"},
            "firstName": "Ana",
            "subscriptions": [{"id": "newsletter", "subscribed": False, "endDate": "2026-02-01T10:00:00.000+0000"}],
        },
        "externalId": "C-7",
    }
    return {
        "native": [json.dumps(natives[0]).encode(), json.dumps(natives).encode(), b"\n".join(json.dumps(each).encode() for each in natives)],
        "privacy_tools": [
            json.dumps(each).encode() for name in ("privacy-tools-import.json", "privacy-tools-import-phone.json") for each in _listed(_file(name))
        ],
        "cmxorganize": [json.dumps(each).encode() for each in _listed(_file("cmxorganize.json"))],
        "mailchimp": [
            urlencode(forms).encode(),
            urlencode({**forms, "type": "subscribe"}).encode(),
        ],
        "maileon": [
            json.dumps({"event": "doi", "email": "ana@example.org", "permission": 5, "timestamp": 1767620000000}).encode(),
            json.dumps({"event": "unsubscription", "email": "ana@example.org", "external_id": "C-7", "timestamp": "2026-01-05 12:00:00"}).encode(),
        ],
        "contacthub": [json.dumps({"updates": [{"operation": "UPDATE", "entity": {"type": "CUSTOMER", "data": hub}}], "nextOffset": "9"}).encode()],
    }


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def read_body(kind: str, body: bytes, media_type: str = "", query: Mapping[str, str] | None = None) -> Sequence[IncomingEvent | InvalidInput]:
    """What a body says; a refusal of the whole is one of its items. Anything that would be accepted is made ready for the ledger."""
    chosen = media_type or MEDIA_TYPES.get(kind, (JSON,))[0]
    try:
        items = read_source(source_of(kind), Notification(body=body, media_type=chosen, received_at=NOW, query=query or {}), NATIVE)
    except InvalidInput as error:
        items = [error]
    for item in items:
        _checked(kind, item)
    return items


def read_native_batch(body: bytes, media_type: str) -> Sequence[IncomingEvent | InvalidInput]:
    """A native batch, as `POST /v1/consent-events/batch` reads it."""
    try:
        items = read_natives(source_of("native"), read_batch(body, media_type), NATIVE)
    except InvalidInput as error:
        items = [error]
    for item in items:
        _checked("native", item)
    return items


def _checked(kind: str, item: IncomingEvent | InvalidInput) -> None:
    if isinstance(item, InvalidInput):
        assert item.status in (400, 413, 415, 422)
        assert item.errors
        for error in item.errors:
            assert len(error.path) < 200
            assert f"{error.path}{error.message}".isprintable()
        return
    assert item.subject.identifiers()
    earliest, latest = item.event_time, item.event_time_end or item.event_time
    assert earliest <= latest
    assert earliest.utcoffset() is not None
    keys = HASHER.identifier_keys(item.subject)
    HASHER.content_hash(item)
    event = ConsentEvent(
        event_id=HASHER.event_id(kind, item.idempotency_key or "x"),
        source=kind,
        subject=item.subject,
        subject_key=next(iter(keys.values())),
        identifier_keys=keys,
        purpose=item.purpose,
        state=item.state,
        event_time=earliest,
        order_us=us_from_utc(order_time(item, NOW)),
        received_at=NOW,
        group=item.group,
        profile=item.profile,
        evidence=item.evidence,
        metadata=item.metadata,
    )
    assert event.order_us <= us_from_utc(NOW)
    assert "|" not in event.purpose
    seal_event(event, VAULT)


DATES = (
    "2026-01-05T13:00:00.000-0300",
    "05/01/2026",
    "05/01/2026 13:00",
    "05/01/2026 13:00:00",
    "01/05/2026 01:00:00 pm",
    "01/05/2026 01:00 PM",
    "29/02/2024 23:59:59",
    "15/02/2026 00:00",
    "2026-01-05T13:00:00Z",
)
REFUSALS = ("must be a date such as 2026", "must be a time with its zone such as 2026", "must not lie before 1970")
ZONES = ("America/Sao_Paulo", "Europe/Berlin", "UTC", "Pacific/Apia", "Asia/Kathmandu")


def read_dates(text: str, order: str = "day_first", zone: str = ZONES[0]) -> None:
    """Both readers of dates: an interval from 1970 on, or a refusal that does not repeat the text."""
    for read in (lambda: parse_source_date(text, order, zone), lambda: (read_time(text), read_time(text))):
        try:
            earliest, latest = read()
        except ValueError as error:
            if not str(error).startswith(REFUSALS):
                raise
        else:
            assert earliest <= latest
            assert earliest.year >= 1970
            assert us_from_utc(latest) >= us_from_utc(earliest) >= 0


TARGETS: Mapping[str, Callable[[bytes], object]] = {}
"""What a fuzzer drives, by name."""


def _bodies(data: bytes) -> None:
    kinds = heard_kinds()
    kind = kinds[data[0] % len(kinds)] if data else "native"
    types = MEDIA_TYPES.get(kind, (JSON,))
    read_body(kind, data[2:], types[data[1] % len(types)] if len(data) > 1 else "")
    if kind == "native":
        read_native_batch(data[2:], LINES if data[1:2] > b"\x80" else JSON)


def _dates(data: bytes) -> None:
    read_dates(
        data[2:].decode("utf-8", "replace"),
        ("day_first", "month_first")[data[0] % 2] if data else "day_first",
        ZONES[data[1] % len(ZONES)] if len(data) > 1 else ZONES[0],
    )


TARGETS = {"bodies": _bodies, "dates": _dates}


def corpus(target: str) -> list[bytes]:
    """Inputs that a fuzzer begins with."""
    if target == "dates":
        return [bytes([order, zone]) + text.encode() for text in DATES for order in (0, 1) for zone in range(len(ZONES))]
    kinds = heard_kinds()
    return [bytes([place, choice]) + body for place, kind in enumerate(kinds) for body in samples()[kind] for choice in (0, 1)]
