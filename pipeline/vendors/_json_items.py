"""Reads what a source posts as JSON: one item, or an array of them."""

from __future__ import annotations

from typing import Any

import orjson

from pipeline import loose_json
from pipeline.errors import FieldError, InvalidInput
from pipeline.vendors.base import Notification


def read_items(notification: Notification, *, most: int, one: str, many: str) -> tuple[list[Any], bool]:
    """The items, and whether they came as an array; `one` and `many` name them in errors.

    Raises InvalidInput for another media type (415), what is no JSON (400), an array of more than `most` items (413) or of none (422).
    """
    if notification.media_type != "application/json":
        raise InvalidInput([FieldError("", "must be application/json")], status=415)
    try:
        content = loose_json.loads(notification.body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput([FieldError("", f"is not valid JSON at line {error.lineno}, column {error.colno}")], status=400) from None
    if not isinstance(content, list):
        return [content], False
    if len(content) > most:
        raise InvalidInput([FieldError("", f"must hold at most {most} {many}")], status=413)
    if not content:
        raise InvalidInput([FieldError("", f"must hold at least one {one}")])
    return content, True
