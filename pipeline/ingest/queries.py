"""Filters of dead letters, from a query string or a JSON object; what is wrong is named by path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validate

from pipeline.errors import FieldError, InvalidInput, shown_name
from pipeline.schemas import SubjectSchema

PAGE = 100
LARGEST_PAGE = 500
LARGEST_IDS = 5000
NAME = validate.Length(min=1, max=200, error="must have 1 to 200 characters")
MESSAGES = {
    "Unknown field.": "unknown field",
    "Field may not be null.": "must not be null",
    "Invalid input type.": "must be an object",
    "Not a valid string.": "must be a string",
    "Not a valid list.": "must be a list",
    "Not a valid integer.": "must be a whole number",
    "Not a valid datetime.": "must be a time with its zone such as 2026-01-05T13:00:00-03:00",
    "Not a valid aware datetime.": "must be a time with its zone such as 2026-01-05T13:00:00-03:00",
}
"""In the words in which events are refused."""


class TrueOrFalse(fields.Boolean):
    """A JSON boolean and nothing like it: `1` and `"true"` may mean something else to whoever sent them."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **options: Any) -> bool:  # noqa: ARG002 - the signature of marshmallow
        if not isinstance(value, bool):
            raise ValidationError("must be true or false")
        return value


class FilterSchema(Schema):
    """Which dead letters: all given conditions must hold."""

    class Meta:
        unknown = RAISE

    destination = fields.String(validate=NAME, metadata={"description": "Only those of this destination.", "example": "dinamize-news"})
    reason = fields.String(validate=NAME, metadata={"description": "Only those that died for this reason code.", "example": "http_400"})
    state = fields.String(
        validate=validate.OneOf(("given", "withdrawn"), error="must be given or withdrawn"),
        metadata={"description": "Only consents given, or only withdrawals."},
    )
    since = fields.AwareDateTime(
        format="iso", metadata={"description": "Only those that died at or after this time (RFC 3339).", "example": "2026-01-05T13:00:00Z"}
    )


class PageSchema(FilterSchema):
    """Which page of dead letters."""

    cursor = fields.String(validate=NAME, metadata={"description": "`next_cursor` of the page before."})
    limit = fields.Integer(
        strict=False,
        load_default=PAGE,
        validate=validate.Range(min=1, max=LARGEST_PAGE, error=f"must be from 1 to {LARGEST_PAGE}"),
        metadata={"description": "Items on the page."},
    )


class ReplayRequestSchema(Schema):
    """What to replay: either ids or a filter; an empty filter means all."""

    class Meta:
        unknown = RAISE

    ids = fields.List(
        fields.String(validate=validate.Length(min=1, max=300, error="must have 1 to 300 characters")),
        validate=validate.Length(min=1, max=LARGEST_IDS, error=f"must have 1 to {LARGEST_IDS} entries"),
        metadata={"description": "Delivery ids.", "example": ["rqk3v7mzk2l5x4a6b7c2d3e4.dinamize-news"]},
    )
    filter = fields.Nested(FilterSchema, metadata={"description": "Instead of ids: all that fit; `{}` for all."})
    dry_run = TrueOrFalse(load_default=False, metadata={"description": "Only tell what would be done."})


class SubjectRequestSchema(Schema):
    """Who is asked about."""

    class Meta:
        unknown = RAISE

    subject = fields.Nested(SubjectSchema, required=True)


PAGES = PageSchema()
REPLAYS = ReplayRequestSchema()


def read_page(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The query string of `GET /v1/dead-letters`; raises InvalidInput by parameter."""
    repeated = [FieldError(shown_name(name), "is given more than once") for name, value in parameters.items() if isinstance(value, list)]
    if repeated:
        raise InvalidInput(repeated)
    return load(PAGES, parameters)


def read_replay(document: Any) -> dict[str, Any]:
    """The body of `POST /v1/dead-letters/replay`; raises InvalidInput by path."""
    if not isinstance(document, dict):
        raise InvalidInput([FieldError("", "must be an object")])
    request = load(REPLAYS, document)
    if ("ids" in request) == ("filter" in request):
        raise InvalidInput([FieldError("ids", "give either `ids` or `filter`")])
    return request


def load(schema: Schema, raw: Mapping[str, Any]) -> dict[str, Any]:
    """What a schema makes of `raw`; its complaints as InvalidInput with dotted paths."""
    try:
        loaded: dict[str, Any] = schema.load(raw)
        return loaded
    except ValidationError as error:
        raise InvalidInput([FieldError(path, message) for path, message in _flat(error.messages)]) from None


def _flat(messages: Any, path: str = "") -> list[tuple[str, str]]:
    if isinstance(messages, dict):
        return [
            found
            for name, inner in messages.items()
            for found in _flat(inner, path if name == "_schema" else f"{path}.{shown_name(name)}" if path else shown_name(name))
        ]
    return [(path, MESSAGES.get(message, str(message))) for message in messages]
