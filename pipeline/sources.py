"""What sources send, whatever their kind: the native body here, every other by the `hear` of the vendor file of that name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from pipeline.domain import IncomingEvent
from pipeline.errors import FieldError, InvalidInput
from pipeline.routing import NATIVE, Source
from pipeline.schemas import JSON_TYPES, NDJSON_TYPES, NativeReader, read_batch, read_json
from pipeline.vendors import adapter_class
from pipeline.vendors.base import Adapter, Notification


def read_source(source: Source, notification: Notification, native: NativeReader) -> Sequence[IncomingEvent | InvalidInput]:
    """The events that one request to `source` carries, in order; a wrong one among several is an InvalidInput in its place.

    Raises InvalidInput if the request carries a single event that is wrong, or cannot be read at all.
    """
    if source.kind != NATIVE:
        return adapter_class(source.kind).hear(notification, source.settings(allowed_skew_seconds=native.allowed_skew_seconds))
    if notification.media_type in NDJSON_TYPES or notification.body.lstrip()[:1] == b"[":
        return read_natives(source, read_batch(notification.body, notification.media_type), native)
    if notification.media_type not in JSON_TYPES:
        raise InvalidInput([FieldError("", "must be application/json or application/x-ndjson")], status=415)
    return [native.read(read_json(notification.body), default_country=source.country)]


def signature_error(source: Source, secret: str, headers: Mapping[str, str], body: bytes, now: datetime) -> FieldError | None:
    """What is wrong with the signature of a request to `source`, in the way its kind signs; None if it holds. Header names are lower-cased."""
    adapter = Adapter if source.kind == NATIVE else adapter_class(source.kind)
    return adapter.signature_error(secret, headers, body, now)


def read_natives(source: Source, items: Sequence[object], native: NativeReader) -> list[IncomingEvent | InvalidInput]:
    """The events of a native batch (`read_batch`), each wrong one an InvalidInput in its place."""
    return [_read_native(source, item, native) for item in items]


def _read_native(source: Source, item: object, native: NativeReader) -> IncomingEvent | InvalidInput:
    if isinstance(item, InvalidInput):
        return item
    try:
        return native.read(item, default_country=source.country)
    except InvalidInput as error:
        return error
