"""Records of every kind, and proofs made of them, for tests of the evidence."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from pipeline.evidence.archive import Archive
from pipeline.evidence.document import build
from pipeline.evidence.reader import Reader
from pipeline.evidence.records import KINDS, Entry, time_text
from pipeline.evidence.summary import ALL_RECORDS, ONE_EVENT

ANA, BRUNO = "e" + "a" * 24, "e" + "b" * 24
FIRST_MS = 1_767_618_000_000
EVERY_FIELD: Mapping[str, Any] = {
    "source": "web",
    "purpose": "news",
    "state": "given",
    "event_time": "2026-01-05T12:00:00Z",
    "order_time": "2026-01-05T12:00:00Z",
    "content_hmac": "c" * 24,
    "identifiers": ["x" + "a" * 24],
    "routing_version": "0123456789ab",
    "destinations": ["crm", "mail"],
    "destination": "crm",
    "operation": "tell",
    "request_hmac": "h" * 24,
    "status_code": 200,
    "status": "delivered",
    "outcome": "applied",
    "reason": "http_200",
    "attempts": 1,
    "vendor_reference": "ref-1",
    "superseded_by": "n" * 24,
    "records": ["1-3", "7"],
    "erase_at": "2026-02-05T12:00:00Z",
}


def entry(number: int, kind: str = "answered", *, subject_key: str = ANA, event_id: str = "v" * 24, **content: Any) -> Entry:
    """One entry; `number` gives it its id and its time."""
    at_ms = FIRST_MS + number * 1000
    said = {
        "id": f"ledger/{subject_key[:2]}/{at_ms}-0/{number}/{kind}",
        "kind": kind,
        "at": time_text(at_ms),
        "subject_key": subject_key,
        "event_id": event_id,
        **content,
    }
    return Entry(said["id"], subject_key, event_id, at_ms, said)


def one_of_each(subject_key: str = ANA, first: int = 0) -> list[Entry]:
    """A chain with a record of every kind, each with every field there is; the newer word that they name is on record."""
    numbers, event_id = itertools.count(first), f"{subject_key[:2]:v<24}"
    said = {**EVERY_FIELD, "superseded_by": event_id}
    return [entry(next(numbers), kind, subject_key=subject_key, event_id=event_id, **said) for kind in KINDS]


def proof(archive: Archive, chains: Sequence[str], shown: Callable[[Mapping[str, Any]], bool] | None = None) -> dict[str, Any]:
    """The proof of these chains, or of the one event of which the records are `shown`, as it reads once it was written to a file."""
    with archive.reading() as connection:
        shows = ONE_EVENT if shown else ALL_RECORDS
        made = build(Reader(connection), chains, shows=shows, now="2026-01-06T00:00:00Z", shown=shown or (lambda _: True), labels={})
    return dict(orjson.loads(orjson.dumps(made)))


def changed(document: Mapping[str, Any], change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """A copy of a proof with something done to it."""
    altered = copy.deepcopy(dict(document))
    change(altered)
    return altered
