"""The invented events and the vendor calls that every contender makes of them; standard library only, since every environment imports it.

A call is what the product sends for the same event: a small JSON body, an id that a receiver can recognise a repeat by, and an HMAC signature.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from typing import Any, Final

VENDORS: Final = ("one", "two", "three")
"""Three vendors, each a path of the stub."""
SIGNING_KEY: Final = b"test-webhook-signing-secret-0001"
Event = dict[str, Any]


def event(run: str, number: int, *, purpose: str = "newsletter", state: str = "given") -> Event:
    """One event of a person of its own, about 540 bytes as JSON."""
    return {
        "idempotency_key": f"{run}-{number}",
        "subject": {"external_id": f"crm-{run}-{number}", "email": f"person-{run}-{number}@example.org", "country": "BR"},
        "purpose": purpose,
        "state": state,
        "event_time": "2026-01-05T13:00:00-03:00",
        "profile": {"name": "Ana Exemplo", "first_name": "Ana", "last_name": "Exemplo", "language": "pt"},
        "evidence": {
            "ip": "192.0.2.7",
            "user_agent": "Mozilla/5.0 (X11; Linux x86_64)",
            "website": "https://shop.example.org",
            "form": "checkout",
            "notice_version": "7",
        },
    }


def call(event: Event, vendor: str) -> tuple[bytes, dict[str, str]]:
    """Body and headers that tell a vendor about one event."""
    body = json.dumps({"type": f"consent.{event['state']}", "timestamp": event["event_time"], "data": _data(event)}, separators=(",", ":")).encode()
    return body, _headers(f"{event['idempotency_key']}.{vendor}", body)


def batch_call(events: Sequence[Event], vendor: str) -> tuple[bytes, dict[str, str]]:
    """Body and headers that tell a vendor about many events at once."""
    newest = max(event["event_time"] for event in events)
    body = json.dumps({"type": "consent.batch", "timestamp": newest, "data": [_data(event) for event in events]}, separators=(",", ":")).encode()
    return body, _headers(f"batch-{events[0]['idempotency_key']}.{vendor}", body)


def _data(event: Event) -> dict[str, Any]:
    subject = {name: event["subject"][name] for name in ("external_id", "email")}
    return {
        "event_id": event["idempotency_key"],
        "subject": subject,
        "purpose": event["purpose"],
        "state": event["state"],
        "event_time": event["event_time"],
    }


def _headers(message_id: str, body: bytes) -> dict[str, str]:
    sent_at = str(int(time.time()))
    content = b".".join((message_id.encode(), sent_at.encode(), body))
    signature = base64.b64encode(hmac.digest(SIGNING_KEY, content, hashlib.sha256)).decode()
    return {"content-type": "application/json", "webhook-id": message_id, "webhook-timestamp": sent_at, "webhook-signature": f"v1,{signature}"}
