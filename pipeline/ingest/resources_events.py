"""`/v1/consent-events`: the native way in, one by one or in batches, and the way to see what became of an event."""

from __future__ import annotations

import falcon.asgi

from pipeline.ingest.body import media_type_of
from pipeline.ingest.intake import Intake
from pipeline.ingest.problems import Kind, problem
from pipeline.ingest.services import Services, answer_json
from pipeline.schemas import JSON_TYPES, NDJSON_TYPES


class Events:
    """`POST /v1/consent-events`: one event, written in a group with others that arrive at the same time."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._intake = Intake(services)

    async def on_post(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        source = self._services.doorkeeper.caller(request, "ingest")
        media_type_of(request, JSON_TYPES)
        await self._intake.one(response, source, self._services.reader.one(source, await self._intake.small_body(request)))


class Batch:
    """`POST /v1/consent-events/batch`: many events in one write; bad ones are named, the others accepted."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._intake = Intake(services)

    async def on_post(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        source = self._services.doorkeeper.caller(request, "ingest")
        media_type = media_type_of(request, JSON_TYPES + NDJSON_TYPES)
        await self._intake.many(request, response, lambda body: (source, self._services.reader.many(source, body, media_type)))


class Event:
    """`GET /v1/consent-events/<event_id>`: the event without personal values, and every delivery of it."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, request: falcon.asgi.Request, response: falcon.asgi.Response, event_id: str) -> None:
        source = self._services.doorkeeper.caller(request, "read")
        found = await self._services.reads.run(self._services.ledger.event, event_id)
        if found is None or not (source.all_sources or found["source"] == source.name):
            raise problem(Kind.NOT_FOUND, "no such event", path="event_id")
        answer_json(response, 200, found)
