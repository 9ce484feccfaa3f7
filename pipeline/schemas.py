"""Our own JSON: bytes -> JSON values -> a native consent event, with every error by its path.

The same marshmallow schemas are printed as OpenAPI (with those of `answers`). No message repeats a value, and a path shows the
name of an unknown field only where it looks like a name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from marshmallow import RAISE, Schema, ValidationError, fields, validate

from pipeline import loose_json
from pipeline.dates import DEFAULT_SKEW_SECONDS, require_past
from pipeline.domain import IncomingEvent, State, Subject
from pipeline.errors import FieldError, InvalidInput, shown_name
from pipeline.identifiers import (
    MAX_IDENTIFIER_LENGTH,
    MAX_METADATA_ENTRIES,
    MAX_METADATA_KEY_LENGTH,
    MAX_TEXT_LENGTH,
    checked_text,
    normalise_subject,
)
from pipeline.plain import plain_event, plain_type

MAX_KEY_LENGTH: Final = 200
MAX_PURPOSE_LENGTH: Final = 40
MAX_DEPTH: Final = 8
MAX_BATCH_ITEMS: Final = 5_000
JSON_TYPES: Final = ("application/json",)
NDJSON_TYPES: Final = ("application/x-ndjson", "application/ndjson")

_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.][0-9]{1,9})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})")
_MESSAGES: Final = {
    "Missing data for required field.": "is required",
    "Field may not be null.": "must not be null",
    "Unknown field.": "unknown field",
    "Invalid input type.": "must be an object",
    "Not a valid mapping type.": "must be an object",
    "Not a valid string.": "must be a string",
}


class Text(fields.String):
    """A string of bounded length without control characters."""

    def __init__(self, *, max_length: int = MAX_TEXT_LENGTH, min_length: int = 0, **options: Any) -> None:
        super().__init__(validate=validate.Length(min=min_length, max=max_length, error=_length_message(min_length, max_length)), **options)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **options: Any) -> str:
        text: str = super()._deserialize(value, attr, data, **options)
        try:
            return checked_text(text, len(text))
        except ValueError as error:
            raise ValidationError(str(error)) from None


class Time(fields.String):
    """An RFC 3339 time with its zone, read as UTC."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **options: Any) -> Any:
        text = super()._deserialize(value, attr, data, **options)
        try:
            return read_time(text)
        except ValueError as error:
            raise ValidationError(str(error)) from None


def read_time(text: str) -> datetime:
    """The UTC instant of an RFC 3339 time. Raises ValueError saying what was expected."""
    try:
        if not _TIME.fullmatch(text):
            raise ValueError
        instant = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be a time with its zone such as 2026-01-05T13:00:00-03:00") from None
    if instant.year < 1970:
        raise ValueError("must not lie before 1970")
    return instant


def _length_message(min_length: int, max_length: int) -> str:
    return f"must have {min_length} to {max_length} characters" if min_length else f"must have at most {max_length} characters"


def _identifier(description: str) -> Text:
    return Text(max_length=MAX_IDENTIFIER_LENGTH, allow_none=True, metadata={"description": description})


def _texts(*names: str) -> type[Schema]:
    return Schema.from_dict({name: Text(allow_none=True) for name in names})


class SubjectSchema(Schema):
    """A person, by at least one identifier; blank ones count as absent."""

    external_id = _identifier("Names one person in all sources: a producer's own id needs a prefix where others count too, as in `shop-a:42`. Case matters.")
    email = _identifier("One e-mail address.")
    phone = _identifier("E.164, or as dialled in `country`.")
    national_id = _identifier(
        "Names one person in all countries: put the country's code in front where two may be alike. Leading zeros count, separators do not."
    )
    country = Text(max_length=2, allow_none=True, metadata={"description": "ISO 3166-1 alpha-2.", "example": "BR"})


class ProfileSchema(_texts("name", "first_name", "last_name", "salutation", "title", "name_prefix", "language")):  # type: ignore[misc]
    """What vendors may be told about the person besides the identifiers."""


class EvidenceSchema(_texts("ip", "user_agent", "website", "form", "notice_version")):  # type: ignore[misc]
    """Where and how the person said it."""


class ConsentEventSchema(Schema):
    """One consent event."""

    idempotency_key = Text(
        min_length=1,
        max_length=MAX_KEY_LENGTH,
        allow_none=True,
        metadata={
            "description": "Names this event; without it, the content does. Remembered for 90 days after the event is complete, unless the relay is set up otherwise."
        },
    )
    subject = fields.Nested(SubjectSchema, required=True)
    purpose = Text(max_length=MAX_PURPOSE_LENGTH, required=True, metadata={"example": "newsletter"})
    state = fields.String(required=True, validate=validate.OneOf([state.value for state in State], error="must be given or withdrawn"))
    event_time = Time(required=True, metadata={"format": "date-time", "description": "When the person said it."})
    profile = fields.Nested(ProfileSchema, allow_none=True)
    evidence = fields.Nested(EvidenceSchema, allow_none=True)
    metadata = fields.Dict(
        keys=Text(min_length=1, max_length=MAX_METADATA_KEY_LENGTH),
        values=Text(),
        allow_none=True,
        validate=validate.Length(max=MAX_METADATA_ENTRIES, error=f"must have at most {MAX_METADATA_ENTRIES} entries"),
    )


TEXTS: Final = {name: tuple(part().fields) for name, part in (("subject", SubjectSchema), ("profile", ProfileSchema), ("evidence", EvidenceSchema))}
"""The names that each part of an event may hold."""
PLAIN: Final = plain_type(TEXTS, {"purpose": MAX_PURPOSE_LENGTH, "idempotency_key": MAX_KEY_LENGTH})


class NativeReader:
    """Reads native events; made once for a routing file, because building a schema costs more than using it.

    `purposes` are the known ones, `clock` says what time it is (UTC).
    """

    def __init__(self, purposes: Collection[str], clock: Callable[[], datetime], allowed_skew_seconds: float = DEFAULT_SKEW_SECONDS) -> None:
        self._purposes = frozenset(purposes)
        self._clock = clock
        self.allowed_skew_seconds = allowed_skew_seconds
        self._schema = ConsentEventSchema(unknown=RAISE)

    def read(self, item: Any, *, default_country: str | None = None) -> IncomingEvent:
        """The event that a JSON value says; `default_country` helps to read a phone. Raises InvalidInput naming every wrong field."""
        errors: list[FieldError] = []
        data = plain_event(item, PLAIN, read_time)
        if data is None:
            try:
                data = self._schema.load(item)
            except ValidationError as error:
                errors.extend(_flatten(error.messages))
                data = error.valid_data if isinstance(error.valid_data, dict) else {}
        subject = self._check(data, default_country, errors)
        if errors or subject is None:
            raise InvalidInput(errors)
        return IncomingEvent(
            subject=subject,
            purpose=data["purpose"],
            state=State(data["state"]),
            event_time=data["event_time"],
            idempotency_key=data.get("idempotency_key"),
            profile=_filled(data.get("profile")),
            evidence=_filled(data.get("evidence")),
            metadata=data.get("metadata") or {},
        )

    def _check(self, data: Mapping[str, Any], default_country: str | None, errors: list[FieldError]) -> Subject | None:
        """What no single field can tell; only looks at fields that are right so far."""
        if "purpose" in data and data["purpose"] not in self._purposes:
            errors.append(FieldError("purpose", "unknown purpose"))
        if "event_time" in data:
            try:
                require_past(data["event_time"], self._clock(), self.allowed_skew_seconds)
            except ValueError as error:
                errors.append(FieldError("event_time", str(error)))
        return self._subject(data.get("subject"), default_country, errors)

    def _subject(self, raw: Any, default_country: str | None, errors: list[FieldError]) -> Subject | None:
        is_partial = any(error.path.partition(".")[0] == "subject" for error in errors)
        if not isinstance(raw, dict):
            return None
        try:
            return normalise_subject(raw, default_country=default_country)
        except InvalidInput as error:
            errors.extend(found for found in error.errors if not (is_partial and found.path == "subject"))
            return None


def read_json(body: bytes, max_depth: int = MAX_DEPTH) -> Any:
    """The JSON value of a body; of equal keys in one object the last counts, NaN and infinities are refused.

    Raises InvalidInput (400) for what is not UTF-8, not JSON, or nested deeper than `max_depth`.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput([FieldError("", _unreadable(body, error))], status=400) from None
    if body.count(b"{") + body.count(b"[") > max_depth and _is_deeper(value, max_depth):
        raise InvalidInput([FieldError("", f"is nested deeper than {max_depth} levels")], status=400)
    return value


def read_batch(body: bytes, media_type: str, max_items: int = MAX_BATCH_ITEMS) -> list[Any]:
    """The items of a JSON array or of NDJSON (blank lines do not count); a broken NDJSON line is an InvalidInput in its place.

    Raises InvalidInput for the whole body: 400 unreadable, 413 more than `max_items`, 415 another media type, 422 no array or empty.
    """
    if media_type in NDJSON_TYPES:
        lines = [line for line in body.split(b"\n") if line.strip()]
        _require_count(len(lines), max_items)
        return [_read_line(line) for line in lines]
    if media_type not in JSON_TYPES:
        raise InvalidInput([FieldError("", "must be application/json or application/x-ndjson")], status=415)
    items = _read_array(body)
    if not isinstance(items, list):
        raise InvalidInput([FieldError("", "must be an array of consent events")])
    _require_count(len(items), max_items)
    return items


def _unreadable(body: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        body.decode()
    except UnicodeDecodeError as wrong:
        return f"is not UTF-8 at byte {wrong.start + 1}"
    return f"is not valid JSON at line {error.lineno}, column {error.colno}"


def _read_array(body: bytes) -> Any:
    """The array; an item with half a character in it, which no vendor could be told of, is an InvalidInput in its place."""
    try:
        return read_json(body, MAX_DEPTH + 1)
    except InvalidInput:
        items = loose_json.loads_halves(body)
        if not isinstance(items, list) or _is_deeper(items, MAX_DEPTH + 1):
            raise
        return [item if loose_json.is_whole(item) else InvalidInput([FieldError("", "must not contain half a character (a lone surrogate)")]) for item in items]


def _read_line(line: bytes) -> Any:
    try:
        return read_json(line)
    except InvalidInput as error:
        return error


def _require_count(count: int, max_items: int) -> None:
    if count == 0:
        raise InvalidInput([FieldError("", "must hold at least one consent event")])
    if count > max_items:
        raise InvalidInput([FieldError("", f"must hold at most {max_items} consent events")], status=413)


def _is_deeper(value: Any, max_depth: int) -> bool:
    """Level by level, so that depth costs no stack."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(max_depth):
        children = (child for node in level for child in (node.values() if isinstance(node, dict) else node))
        level = [child for child in children if isinstance(child, dict | list)]
    return bool(level)


def _filled(texts: Mapping[str, str | None] | None) -> dict[str, str]:
    return {name: text for name, text in (texts or {}).items() if text and text.strip()}


def _flatten(messages: Any, path: str = "") -> Iterator[FieldError]:
    if isinstance(messages, Mapping):
        for name, inner in messages.items():
            yield from _flatten(inner, _join(path, name))
    elif isinstance(messages, Sequence) and not isinstance(messages, str):
        for message in messages:
            yield from _flatten(message, path)
    else:
        yield FieldError(path, _MESSAGES.get(messages, str(messages)))


def _join(path: str, name: Any) -> str:
    if name == "_schema" or (path.startswith("metadata.") and name in ("key", "value")):
        return path
    return f"{path}.{shown_name(name)}" if path else shown_name(name)
