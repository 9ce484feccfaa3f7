"""From bytes to events: the native reader of the routing of the moment, and each source's own way of speaking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.domain import IncomingEvent
from pipeline.errors import FieldError, InvalidInput
from pipeline.ingest.ports import IngestLimits
from pipeline.routing import Routing, Source
from pipeline.schemas import NDJSON_TYPES, NativeReader, read_batch, read_json
from pipeline.sources import read_natives, read_source
from pipeline.vendors.base import Notification

Read = IncomingEvent | InvalidInput
"""What the reading of one item came to."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a body came to: its items, and whether it is answered as one event or as a batch."""

    items: Sequence[Read]
    is_single: bool = False


class Reader:
    """Reads bodies; builds the native reader anew only when the routing changed, because a schema costs more to build than to use."""

    def __init__(self, routing: Callable[[], Routing], limits: IngestLimits, now: Callable[[], datetime]) -> None:
        self._routing = routing
        self._limits = limits
        self._now = now
        self._native: tuple[Routing, NativeReader] | None = None

    def one(self, source: Source, body: bytes) -> IncomingEvent:
        """The native event of a body; raises InvalidInput."""
        return self._reader().read(read_json(body), default_country=source.country)

    def many(self, source: Source, body: bytes, media_type: str) -> Reading:
        """The native events of an array or of NDJSON, each bad one as InvalidInput in its place; raises InvalidInput for the body as a whole."""
        return Reading(read_natives(source, read_batch(body, media_type, self._limits.max_batch), self._reader()))

    def of_source(self, source: Source, notification: Notification) -> Reading:
        """What a source's own body says; an array or NDJSON is a batch even if it holds one event."""
        items = read_source(source, notification, self._reader())
        if len(items) > self._limits.max_batch:
            raise InvalidInput([FieldError("", f"must hold at most {self._limits.max_batch} consent events")], status=413)
        is_list = notification.media_type in NDJSON_TYPES or notification.body.lstrip()[:1] == b"["
        return Reading(items, is_single=len(items) == 1 and not is_list)

    def _reader(self) -> NativeReader:
        routing, native = self._routing(), self._native
        if native is None or native[0] is not routing:
            native = self._native = (routing, NativeReader(routing.purposes, self._now, self._limits.allowed_skew_seconds))
        return native[1]
