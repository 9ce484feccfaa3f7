"""`/v1/sources/<source>`: each source's own body, by key, by signature, or by a key in the address."""

from __future__ import annotations

import falcon.asgi

from pipeline.ingest.body import media_type_of
from pipeline.ingest.intake import Intake
from pipeline.ingest.reading import Reading
from pipeline.ingest.services import Services, answer_json
from pipeline.routing import Source
from pipeline.vendors.base import Notification

SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})


class SourceEvents:
    """`POST /v1/sources/<source>` with a bearer key, or signed where the source has a signing secret."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._intake = Intake(services)

    async def on_post(self, request: falcon.asgi.Request, response: falcon.asgi.Response, source: str) -> None:
        sender = self._services.doorkeeper.sender(request, source)
        media_type = media_type_of(request)

        def read(body: bytes) -> tuple[Source, Reading]:
            known = sender or self._services.doorkeeper.signed(request, source, body)
            return known, read_notification(self._services, known, request, media_type, body)

        await self._intake.many(request, response, read, is_proven=sender is not None)


class SourceAddress:
    """`/v1/sources/<source>/<url_key>` for senders that can set no key of ours; it is a secret and never logged, and no substitute for a signature."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._intake = Intake(services)

    async def on_get(self, _request: falcon.asgi.Request, response: falcon.asgi.Response, source: str, url_key: str) -> None:
        """Some senders probe an address before they use it."""
        self._services.doorkeeper.by_address(source, url_key)
        answer_json(response, 200, {"source": source})

    on_head = on_get

    async def on_post(self, request: falcon.asgi.Request, response: falcon.asgi.Response, source: str, url_key: str) -> None:
        known = self._services.doorkeeper.by_address(source, url_key)
        media_type = media_type_of(request)

        def read(body: bytes) -> tuple[Source, Reading]:
            verified = self._services.doorkeeper.verified(request, known, body)
            return verified, read_notification(self._services, verified, request, media_type, body)

        await self._intake.many(request, response, read)


def read_notification(services: Services, source: Source, request: falcon.asgi.Request, media_type: str, body: bytes) -> Reading:
    """What the source's own reader makes of a request; it sees the headers except those that carry a secret."""
    query = {name: value if isinstance(value, str) else value[-1] for name, value in request.params.items()}
    headers = {name.lower(): value for name, value in request.headers.items() if name.lower() not in SECRET_HEADERS}
    return services.reader.of_source(source, Notification(body=body, media_type=media_type, received_at=services.now(), headers=headers, query=query))
