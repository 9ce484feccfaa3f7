"""A proof as one JSON document that needs nothing else to be checked: summary, chains with their places in the tree, and the day roots."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from pipeline.evidence.merkle import DayRoot, Leaf
from pipeline.evidence.reader import Reader
from pipeline.evidence.records import Record
from pipeline.evidence.summary import ALL_RECORDS, FORM, ONE_EVENT, summarise

CONTEXT: Final = {
    "dpv": "https://w3id.org/dpv#",
    "dct": "http://purl.org/dc/terms/",
    "schema_version": "dct:conformsTo",
    "receipt_id": "dct:identifier",
    "pii_principal": "dpv:hasDataSubject",
    "pii_principal_id": "dct:identifier",
    "purpose": "dpv:hasPurpose",
    "lawful_basis": "dpv:hasLegalBasis",
    "consent_status": "dpv:hasConsentStatus",
    "event_state": "dpv:hasConsentStatus",
    "event_time": "dct:date",
    "recipient_third_parties": "dpv:hasRecipient",
}
"""How the names stand in the vocabularies, as the guide of the W3C's group for TS 27560 has it."""
NOT_RECORDED: Final = (
    "privacy_notice",
    "language",
    "pii_information",
    "pii_controllers",
    "storage_locations",
    "retention_period",
    "jurisdiction",
    "withdrawal_method",
)
"""Fields of TS 27560 that the relay is not told, or forgets with the personal values: whoever asked for the consent has them."""

Shown = Callable[[Mapping[str, Any]], bool]


def build(reader: Reader, chains: Sequence[str], *, shows: str, now: str, shown: Shown, labels: Mapping[str, Any]) -> dict[str, Any]:
    """The proof of these chains; records that are not `shown` are there by their hash only, which `shows` says. `labels` are names for people, and not part of what is proven."""
    every = [_chain(reader, chain, shown) for chain in chains]
    sections = [section for section in every if any(map(_says, section["records"]))] or every
    contents = [record["content"] for section in sections for record in section["records"] if record["content"] is not None]
    first_day = min((str(content.get("at", ""))[:10] for content in contents), default="")
    return {
        "@context": dict(CONTEXT),
        "@type": "dpv:ConsentReceipt",
        "record_metadata": {
            "schema_version": [FORM, "https://w3id.org/dpv/schema/dpv-27560#receipt"],
            "receipt_id": secrets.token_hex(12),
            "created_at": now,
            "about": "event" if shows == ONE_EVENT else "subject",
            "shows": shows,
            "archive_id": reader.fact("archive_id"),
            "archived_until": reader.fact("archived_until") or None,
            "not_recorded": list(NOT_RECORDED),
        },
        **summarise([section["chain"] for section in sections], contents, stands=shows == ALL_RECORDS),
        "labels": dict(labels),
        "evidence": {"hash": "SHA-256", "chains": sections, "roots": [root_json(root) for root in reader.roots(first_day)]},
    }


def _says(record: Mapping[str, Any]) -> bool:
    """Whether anything of what the proof is about is shown: that the time of others was over is not."""
    return record["content"] is not None and record["content"].get("kind") != "expired"


def _chain(reader: Reader, chain: str, shown: Shown) -> dict[str, Any]:
    length, head = reader.head(chain)
    anchor = reader.anchor(chain)
    return {
        "chain": chain,
        "length": length,
        "head": head,
        "anchor": _anchor_json(*anchor) if anchor else None,
        "records": [_record_json(record, shown) for record in reader.records(chain)],
    }


def _record_json(record: Record, shown: Shown) -> dict[str, Any]:
    """A record whose content was removed says so: whoever checks the proof looks for the record of its removal."""
    content = _read(record.content) if record.content else None
    return {
        "sequence": record.sequence,
        "previous": record.previous,
        "content": content if content is not None and (content.get("kind") == "expired" or shown(content)) else None,
        "content_hash": record.content_hash,
        "hash": record.hash,
        **({} if record.content else {"removed": True}),
    }


def _read(content: bytes) -> dict[str, Any]:
    """What a record says; one that was made unreadable is shown as it is, so that whoever checks the proof sees it."""
    try:
        return dict(orjson.loads(content))
    except (ValueError, TypeError):
        return {"unreadable": content.decode(errors="replace")}


def _anchor_json(leaf: Leaf, path: Iterable[tuple[str, str]]) -> dict[str, Any]:
    return {"length": leaf.length, "head": leaf.head, "path": [{"side": side, "hash": value} for side, value in path]}


def root_json(root: DayRoot) -> dict[str, Any]:
    """A day root as documents and answers show it."""
    return {**root.covered(), "hash": root.hash()}
