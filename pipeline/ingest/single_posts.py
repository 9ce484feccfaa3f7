"""A short way for what most producers send most of the time: one native event, whole and without fault, with a good key. It goes around the framework, which costs as much as reading the event.

Whatever is not evidently right takes the framework's way from its beginning, and is refused there. So nothing is answered here but what became of the write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

import orjson

from pipeline.domain import IncomingEvent
from pipeline.ingest.body import too_slow
from pipeline.ingest.intake import INLINE_BYTES
from pipeline.ingest.outcomes import refused, single_answer
from pipeline.ingest.problems import MEDIA_TYPE, Problem
from pipeline.ingest.services import Services
from pipeline.routing import Source

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PATH: Final = "/v1/consent-events"
PLAIN_JSON: Final = frozenset({b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"})
NOT_PLAIN: Final = frozenset({b"content-encoding", b"transfer-encoding", b"expect"})
NO_HEADERS: Final[Mapping[str, str]] = {}


class SinglePosts:
    """Takes single posts of an ASGI application; what it does not take is the framework's."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._most_bytes = min(INLINE_BYTES, services.limits.max_body_bytes)

    def sender_of(self, scope: Scope) -> tuple[Source, int] | None:
        """Who posts a single event and how many bytes it has; None if anything about the request needs a closer look."""
        if scope["path"] != PATH or scope["method"] != "POST":
            return None
        pairs = scope["headers"]
        headers = dict(pairs)
        length = headers.get(b"content-length", b"")
        if len(headers) != len(pairs) or not headers.keys().isdisjoint(NOT_PLAIN) or headers.get(b"content-type", b"").lower() not in PLAIN_JSON:
            return None
        if not length.isdigit() or len(length) > 9 or int(length) > self._most_bytes:
            return None
        try:
            return self._services.doorkeeper.bearer(headers.get(b"authorization", b"").decode("latin-1"), "ingest"), int(length)
        except Problem:
            return None

    async def begun(self, receive: Receive, send: Send) -> Receive | None:
        """For any other request: what its body is to be received from, once its first part is there, for which the framework would wait without end; None if that came to nothing."""
        first = await self._first(receive, send)
        return _once_more(first, receive) if first else None

    async def take(self, source: Source, length: int, receive: Receive, send: Send) -> Receive | None:
        """Accept the event and answer; or give back what the body is to be received from, if it is not whole or not evidently right."""
        message = await self._first(receive, send)
        if message is None:
            return None
        body = message.get("body", b"")
        if len(body) != length or message["type"] != "http.request":
            return _once_more(message, receive)
        try:
            event = self._services.reader.one(source, body)
        except Exception:  # noqa: BLE001 - whatever is wrong with it, the framework says what
            return _once_more(message, receive)
        await self._write(source, event, send)
        return None

    async def _first(self, receive: Receive, send: Send) -> MutableMapping[str, Any] | None:
        """The first part of the body; None if it did not come in time, which the client has been told."""
        seconds = self._services.limits.body_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                return await receive()
        except TimeoutError:
            await refuse(send, too_slow(seconds))
            return None

    async def _write(self, source: Source, event: IncomingEvent, send: Send) -> None:
        try:
            (outcome,) = await self._services.committer.submit([(source, event)])
            answer = orjson.dumps(single_answer(outcome))
        except Exception as error:  # noqa: BLE001 - as in the framework, where everything that is raised has its refusal
            await refuse(send, refused(error, "POST", PATH))
        else:
            await _answer(send, 202, b"application/json", answer)


async def refuse(send: Send, refusal: Problem) -> None:
    """Answer with a refusal, in the framework's stead."""
    await _answer(send, refusal.kind.status, MEDIA_TYPE.encode(), orjson.dumps(refusal.as_json()), refusal.headers)


async def _answer(send: Send, status: int, media_type: bytes, body: bytes, others: Mapping[str, str] = NO_HEADERS) -> None:
    headers = [
        (b"content-type", media_type),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        *((name.lower().encode(), value.encode()) for name, value in others.items()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _once_more(first: MutableMapping[str, Any], receive: Receive) -> Receive:
    """What gives the first message again and then the others."""
    messages = [first]

    async def again() -> MutableMapping[str, Any]:
        return messages.pop() if messages else await receive()

    return again
