"""A quick look at a native event: what is evidently right is taken as it is, everything else is left to the schema, which says what is wrong.

The schema costs four times as much, because it prepares to explain every field. Both give the same; a test compares them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final

from pipeline.identifiers import CONTROL, MAX_IDENTIFIER_LENGTH, MAX_METADATA_ENTRIES, MAX_METADATA_KEY_LENGTH, MAX_TEXT_LENGTH

REQUIRED: Final = frozenset({"subject", "purpose", "state", "event_time"})
OPTIONAL: Final = frozenset({"idempotency_key", "profile", "evidence", "metadata"})
STATES: Final = frozenset({"given", "withdrawn"})


def plain_event(item: Any, *, texts: Mapping[str, Collection[str]], lengths: Mapping[str, int], read_time: Any) -> dict[str, Any] | None:
    """The fields of an event that has nothing wrong, as the schema would load them; None to have the schema look.

    `texts` has the names that `subject`, `profile` and `evidence` may hold, `lengths` the longest purpose and idempotency key; `read_time` reads an event time or
    raises ValueError.
    """
    if type(item) is not dict or not item.keys() >= REQUIRED or not item.keys() <= REQUIRED | OPTIONAL:
        return None
    if type(item["state"]) is not str or item["state"] not in STATES:  # a list or an object is in no set, and may not even be asked for
        return None
    parts = [item.get(name) for name in texts]
    if not all(_has_texts(part, names) for part, names in zip(parts, texts.values(), strict=True)) or not _is_short(item, lengths):
        return None
    metadata = item.get("metadata")
    if item["subject"] is None or not _is_metadata(metadata):
        return None
    said = [value for part in parts if part for value in part.values() if value is not None]
    said += [value for name in lengths if (value := item.get(name)) is not None]
    said += [*metadata.keys(), *metadata.values()] if metadata else []
    if CONTROL.search("".join(said)):
        return None
    try:
        return {**item, "event_time": _time(item["event_time"], read_time)}
    except ValueError:
        return None


def _time(text: Any, read_time: Any) -> datetime:
    if type(text) is not str:
        raise ValueError
    moment: datetime = read_time(text)
    return moment


def _has_texts(part: Any, names: Collection[str]) -> bool:
    """Whether a part is absent, or an object of short texts under known names."""
    if part is None:
        return True
    if type(part) is not dict:
        return False
    return all(name in names and (value is None or (type(value) is str and len(value) <= _most(name))) for name, value in part.items())


def _most(name: str) -> int:
    return 2 if name == "country" else MAX_IDENTIFIER_LENGTH if name in ("external_id", "email", "phone", "national_id") else MAX_TEXT_LENGTH


def _is_short(item: Mapping[str, Any], lengths: Mapping[str, int]) -> bool:
    purpose, key = item["purpose"], item.get("idempotency_key")
    if type(purpose) is not str or len(purpose) > lengths["purpose"]:
        return False
    return key is None or (type(key) is str and 1 <= len(key) <= lengths["idempotency_key"])


def _is_metadata(metadata: Any) -> bool:
    if metadata is None:
        return True
    if type(metadata) is not dict or len(metadata) > MAX_METADATA_ENTRIES:
        return False
    return all(
        type(name) is str and 1 <= len(name) <= MAX_METADATA_KEY_LENGTH and type(value) is str and len(value) <= MAX_TEXT_LENGTH
        for name, value in metadata.items()
    )
