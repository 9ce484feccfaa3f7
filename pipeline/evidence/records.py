"""Records, their canonical form and their chains: pure functions, so that whoever checks a proof needs nothing but these few lines.

Canonical form: JSON with sorted keys, without blanks, in UTF-8; only texts, whole numbers and lists of texts occur, so it is that of RFC 8785.
A record's hash covers the hash of what it says, not its text: a record that is none of the reader's business can be shown by its hash alone, and the chain still holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

GENESIS: Final = "0" * 64
"""What the first record of a chain names as the one before it."""

KINDS: Final[Mapping[str, str]] = {
    "received": "the event came in from its source",
    "accepted": "it was durable in the ledger: from then on nothing of it could be lost",
    "planned": "the destinations to be told were decided, by this version of the routing",
    "superseded": "a newer word of the same person came first; where a destination is named, it was not told",
    "told": "a request was sent to the destination",
    "asked": "a request was sent to the destination to ask what it holds",
    "answered": "what came of telling the destination",
    "unanswered": "the delivery was a worker's and it never reported: the destination may have been told",
    "skipped": "the destination was not told, for the reason given",
    "dead": "the destination could not be told, a person has to look at it",
    "confirmed": "the destination said by itself that it holds what it was told",
    "repaired": "the destination was to be told again, since it held, or may hold, something else",
    "reopened": "the delivery was brought back to be told again",
    "exported": "the destination took it from a file",
    "discarded": "a person closed the delivery without telling",
    "completed": "every destination had its final answer; from `erase_at` on nothing personal of the event is kept",
    "erased": "the personal values of the event were erased, or, where no event is named, the identifier and its links",
    "expired": "what older records said was removed, since their time was over; their hashes stay",
}
"""Every kind of record, in words."""

FIELDS: Final[Mapping[str, str]] = {
    "id": "stable name of the record: ledger, stream, entry, place in it, kind",
    "kind": "what happened",
    "at": "when, by the clock of the ledger (`received` and `told`: of the process)",
    "subject_key": "keyed hash of the person's strongest identifier: the chain it belongs to",
    "event_id": "the event",
    "source": "where the event came from",
    "purpose": "the purpose it is about",
    "state": "given or withdrawn",
    "event_time": "when the person said it, as the source tells",
    "order_time": "its place in the order",
    "content_hmac": "keyed hash of all that the event said",
    "identifiers": "keyed hashes of the person's other identifiers",
    "routing_version": "hash of the routing file",
    "destinations": "the destinations to be told",
    "destination": "the destination",
    "operation": "which request of the dialogue it was",
    "request_hmac": "keyed hash of method, address and body as sent",
    "status_code": "HTTP status of the answer",
    "status": "where the delivery stood then",
    "outcome": "what came of it",
    "reason": "why",
    "attempts": "attempts so far",
    "vendor_reference": "the vendor's own name of it",
    "superseded_by": "the newer event",
    "records": "the numbers of the records whose content was removed",
    "erase_at": "when personal values are gone at the latest",
}
"""Every field a record may have, in words; absent ones were not there."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a record will say, before it has its place in a chain; `content` has the other fields too, `at_ms` is where it belongs by the ledger's clock."""

    id: str
    subject_key: str
    event_id: str
    at_ms: int
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """One link of a chain: `content` is the canonical form of what it says."""

    chain: str
    sequence: int
    previous: str
    content: bytes
    content_hash: str
    hash: str


def canonical(value: Mapping[str, Any]) -> bytes:
    """The one form of a value that is hashed."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def link_hash(chain: str, sequence: int, previous: str, content_hash: str) -> str:
    """The hash of a record at its place: chain, number, the record before it, and what it says."""
    return digest(canonical({"chain": chain, "content_hash": content_hash, "previous": previous, "sequence": sequence}))


def link(entry: Entry, sequence: int, previous: str) -> Record:
    """Give an entry its place after the record with the hash `previous`."""
    content = canonical(entry.content)
    content_hash = digest(content)
    return Record(
        chain=entry.subject_key,
        sequence=sequence,
        previous=previous,
        content=content,
        content_hash=content_hash,
        hash=link_hash(entry.subject_key, sequence, previous, content_hash),
    )


def sortable(time: str) -> str:
    """A time in RFC 3339 in a form in which the later one is greater: one on the full second may be written without a fraction, and `Z` comes after a point."""
    whole, _, fraction = time.removesuffix("Z").partition(".")
    return f"{whole}.{fraction:0<9}"


def time_text(milliseconds: int) -> str:
    """A time in RFC 3339, UTC, to the millisecond."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
