"""Examples for the OpenAPI document; tests check each against its schema, and that the application accepts the posted ones."""

from __future__ import annotations

from typing import Any, Final

import orjson

from pipeline.errors import FieldError

EVENT_ID: Final = "b4q7zk2lm5x4a6n2c7d3e4f5"
DELIVERY_ID: Final = f"{EVENT_ID}.dinamize-news"

EVENT: Final[dict[str, Any]] = {
    "idempotency_key": "form-2026-000017",
    "subject": {"external_id": "customer-81", "email": "ana@example.com", "phone": "+5511987654321", "country": "BR"},
    "purpose": "newsletter",
    "state": "given",
    "event_time": "2026-01-05T13:00:00-03:00",
    "profile": {"first_name": "Ana", "language": "pt"},
    "evidence": {"website": "https://shop.example", "form": "footer", "notice_version": "3"},
    "metadata": {"campaign": "summer"},
}
WITHDRAWAL: Final[dict[str, Any]] = {
    "subject": {"email": "ana@example.com"},
    "purpose": "newsletter",
    "state": "withdrawn",
    "event_time": "2026-02-01T09:30:00Z",
}
NDJSON: Final = "".join(orjson.dumps(event).decode() + "\n" for event in (EVENT, WITHDRAWAL))

ACCEPTED: Final = {"event_id": EVENT_ID, "status": "accepted"}
BATCH_ACCEPTED: Final[dict[str, Any]] = {
    "accepted": 1, "duplicates": 0, "superseded": 0, "rejected": 0,
    "results": [{"index": 0, "status": "accepted", "event_id": EVENT_ID}],
}  # fmt: skip
BATCH_PARTLY: Final[dict[str, Any]] = {
    "accepted": 1, "duplicates": 0, "superseded": 0, "rejected": 1,
    "results": [
        {"index": 0, "status": "accepted", "event_id": EVENT_ID},
        {"index": 1, "status": "rejected", "errors": [{"path": "purpose", "message": "unknown purpose"}]},
    ],
}  # fmt: skip
EVENT_VIEW: Final[dict[str, Any]] = {
    "event_id": EVENT_ID,
    "source": "web-forms",
    "subject_key": "xk5m2q7zl4n6a3b5c7d2e4f6g",
    "purpose": "newsletter",
    "state": "given",
    "event_time": "2026-01-05T16:00:00Z",
    "order_time": "2026-01-05T16:00:00Z",
    "received_at": "2026-01-05T16:00:01.250000Z",
    "status": "accepted",
    "superseded_by": None,
    "complete": True,
    "deliveries": [
        {
            "delivery_id": DELIVERY_ID,
            "destination": "dinamize-news",
            "status": "delivered",
            "outcome": "applied",
            "reason": "",
            "attempts": 1,
            "next_attempt_at": None,
            "vendor_reference": "4711",
            "updated_at": "2026-01-05T16:00:02Z",
        }
    ],
}
SUBJECT: Final[dict[str, Any]] = {"subject": {"email": "ana@example.com"}}
SUBJECT_STATUS: Final[dict[str, Any]] = {
    "subject_key": "ek5m2q7zl4n6a3b5c7d2e4f6g",
    "purposes": [
        {
            "purpose": "newsletter",
            "state": "withdrawn",
            "order_time": "2026-02-01T09:30:00Z",
            "event_id": EVENT_ID,
            "source": "web-forms",
            "destinations": [
                {
                    "destination": "dinamize-news",
                    "told": "withdrawn",
                    "told_at": "2026-02-01T09:30:01Z",
                    "event_id": EVENT_ID,
                    "status": "delivered",
                    "reason": None,
                    "next_attempt_at": None,
                }
            ],
        }
    ],
}
DEAD_LETTERS: Final[dict[str, Any]] = {
    "items": [
        {
            "delivery_id": DELIVERY_ID,
            "event_id": EVENT_ID,
            "destination": "dinamize-news",
            "state": "withdrawn",
            "outcome": "rejected",
            "reason": "http_400",
            "attempts": 1,
            "died_at": "2026-01-05T16:00:02Z",
        }
    ],
    "groups": [{"destination": "dinamize-news", "state": "withdrawn", "reason": "http_400", "count": 1}],
    "next_cursor": None,
}
REPLAY: Final[dict[str, Any]] = {"filter": {"destination": "dinamize-news", "reason": "http_400"}, "dry_run": True}
REPLAYED: Final[dict[str, Any]] = {"dry_run": True, "replayed": [DELIVERY_ID], "not_replayed": [], "more": False}
NOT_READY: Final[dict[str, Any]] = {"ready": False, "problems": ["the ledger cannot be reached"]}

ERRORS: Final = {
    400: (FieldError("", "is not valid JSON at line 1, column 14"),),
    401: (FieldError("authorization", "give a key as `Authorization: Bearer <key>`"),),
    403: (FieldError("authorization", "this key lacks the scope `ingest`"),),
    404: (FieldError("event_id", "no such event"),),
    409: (FieldError("idempotency_key", "stands for an event with other content already"),),
    413: (FieldError("", "the body is larger than 1048576 bytes"),),
    415: (FieldError("content-type", "expected application/json"),),
    422: (FieldError("subject.email", "is not an e-mail address"), FieldError("purpose", "unknown purpose")),
    429: (FieldError("", "too many events are waiting to be written"),),
    503: (FieldError("", "the ledger cannot confirm a write; sending the same event again is safe"),),
}


PROOF: Final[dict[str, Any]] = {
    "@context": {"dpv": "https://w3id.org/dpv#"},
    "@type": "dpv:ConsentReceipt",
    "record_metadata": {"schema_version": ["consent-relay:proof:2"], "receipt_id": "4f0c2a9be1d75c33a8e0b6d1", "about": "event", "shows": "one event"},
    "pii_principal": {"@type": "dpv:DataSubject", "pii_principal_id": ["eqxjzmelvnnvc3fzk3cq2lwk5"]},
    "pii_processing": {"purposes": [{"purpose": "newsletter", "lawful_basis": "dpv:Consent", "said": "dpv:ConsentWithdrawn"}]},
    "party_identification": [{"party_id": "dinamize-news", "party_role": "dpv:Recipient"}],
    "events": [{"event_id": "b4q7zk2lm5x4a6n2c7d3e4f5", "event_state": "dpv:ConsentWithdrawn", "purpose": "newsletter"}],
    "labels": {"purposes": {"newsletter": "Newsletter"}},
    "evidence": {"hash": "SHA-256", "chains": [], "roots": []},
}
