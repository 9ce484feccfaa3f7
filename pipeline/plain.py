"""A quick look at a native event: what is evidently right is taken as it is, everything else is left to the schema, which says what is wrong.

The schema costs many times as much, because it prepares to explain every field. Both give the same; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime
from types import GenericAlias
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, ValidationError, convert, defstruct

from pipeline.identifiers import CONTROL, MAX_IDENTIFIER_LENGTH, MAX_METADATA_ENTRIES, MAX_METADATA_KEY_LENGTH, MAX_TEXT_LENGTH

PARTS: Final = ("subject", "profile", "evidence")
STRICT: Final[Mapping[str, Any]] = {"forbid_unknown_fields": True, "frozen": True, "gc": False}


def plain_type(texts: Mapping[str, Collection[str]], lengths: Mapping[str, int]) -> type[Struct]:
    """What an event has to look like that has nothing wrong in itself: `texts` are the names that `subject`, `profile` and `evidence` may hold, `lengths` the longest purpose and idempotency key."""
    subject, profile, evidence = (defstruct(part, [(name, _text(_most(name)) | None, None) for name in texts[part]], **STRICT) for part in PARTS)
    entries = GenericAlias(dict, (_text(MAX_METADATA_KEY_LENGTH, 1), _text(MAX_TEXT_LENGTH)))
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [
        ("subject", subject),
        ("purpose", _text(lengths["purpose"])),
        ("state", Literal["given", "withdrawn"]),
        ("event_time", str),
        ("idempotency_key", _text(lengths["idempotency_key"], 1) | None, None),
        ("profile", profile | None, None),
        ("evidence", evidence | None, None),
        ("metadata", Annotated[entries, Meta(max_length=MAX_METADATA_ENTRIES)] | None, None),
    ]
    plain = defstruct("event", fields, **STRICT)
    with suppress(ValidationError):
        convert({}, plain)  # what msgspec knows of a type it finds out at the first use, and crashes if two threads are the first at once
    return plain


def plain_event(item: Any, plain: type[Struct], read_time: Callable[[str], datetime]) -> dict[str, Any] | None:
    """The fields of an event that has nothing wrong, as the schema would load them; None to have the schema look.

    `plain` is of `plain_type`; `read_time` reads an event time or raises ValueError.
    """
    try:
        convert(item, plain)
        event_time = read_time(item["event_time"])
    except (ValidationError, ValueError):
        return None
    said = [item["purpose"], item.get("idempotency_key")]
    for name in PARTS:
        said += (item.get(name) or {}).values()
    for pair in (item.get("metadata") or {}).items():
        said += pair
    text = "".join(filter(None, said))
    if not text.isprintable() and CONTROL.search(text):  # no control character is printable, and asking that is quicker
        return None
    return {**item, "event_time": event_time}


def _text(longest: int, shortest: int = 0) -> Any:
    return Annotated[str, Meta(min_length=shortest, max_length=longest)]


def _most(name: str) -> int:
    return 2 if name == "country" else MAX_IDENTIFIER_LENGTH if name in ("external_id", "email", "phone", "national_id") else MAX_TEXT_LENGTH
