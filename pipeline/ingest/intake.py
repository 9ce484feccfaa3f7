"""The common way of events from a request to an answer: how much is read, where it is parsed, and how it is written.

Small bodies are parsed on the event loop and written by the group commit; large ones hold a place, are parsed in a thread and written by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import falcon.asgi
import orjson

from pipeline.domain import IncomingEvent
from pipeline.errors import InvalidInput
from pipeline.ingest.blocking import BlockingCalls
from pipeline.ingest.body import declared_length, read_body
from pipeline.ingest.committer import Outcome, commit
from pipeline.ingest.outcomes import batch_answer, single_answer
from pipeline.ingest.reading import Read, Reading
from pipeline.ingest.services import Services, answer_json
from pipeline.routing import Source

INLINE_BYTES: Final = 32 * 1024
"""Bodies up to this size are parsed on the event loop: a hop to a thread costs more."""

GROUPED_EVENTS: Final = 50
"""Batches up to this size go with the group commit; larger ones are written by themselves, so that single events never wait behind them."""


class Intake:
    """Takes events in for every resource that is posted to."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def small_body(self, request: falcon.asgi.Request) -> bytes:
        """A body that holds one event."""
        limits = self._services.limits
        return await read_body(request, cap_bytes=limits.max_body_bytes, timeout_seconds=limits.body_timeout_seconds)

    async def one(self, response: falcon.Response, source: Source, event: IncomingEvent) -> None:
        """Answer one event after the group it is in was written."""
        (outcome,) = await self._services.committer.submit([(source, event)])
        answer_json(response, 202, single_answer(outcome))

    async def many(
        self, request: falcon.asgi.Request, response: falcon.Response, read: Callable[[bytes], tuple[Source, Reading]], *, is_proven: bool = True
    ) -> None:
        """Read, parse, write and answer a body that may hold many events; a large one waits for its place before it is read.

        Before its signature was looked at (`is_proven` is false) a body holds nothing that a key pays for: its places and thread are others', and one in
        chunks, of which nobody knows how large it will be, has no more room than a single event, and needs no place.
        """
        limits = self._services.limits
        calls = self._services.batches if is_proven else self._services.unproven
        declared = declared_length(request)
        is_small = declared <= limits.max_body_bytes if declared is not None else not is_proven
        if is_small:
            await self._take(response, await self.small_body(request), read, calls)
            return
        if declared is not None and declared > limits.max_batch_bytes:
            await read_body(request, cap_bytes=limits.max_batch_bytes, timeout_seconds=limits.body_timeout_seconds)
        async with calls.place():
            body = await read_body(request, cap_bytes=limits.max_batch_bytes, timeout_seconds=limits.body_timeout_seconds)
            await self._take(response, body, read, calls)

    async def _take(self, response: falcon.Response, body: bytes, read: Callable[[bytes], tuple[Source, Reading]], calls: BlockingCalls) -> None:
        source, reading = read(body) if len(body) <= INLINE_BYTES else await calls.run(read, body)
        if reading.is_single and len(reading.items) == 1:
            item = reading.items[0]
            if isinstance(item, InvalidInput):
                raise item
            await self.one(response, source, item)
            return
        status, answer = batch_answer(await self._write(source, reading.items))
        large = len(reading.items) > GROUPED_EVENTS
        answer_json(response, status, await self._services.batches.run(orjson.dumps, answer) if large else answer)

    async def _write(self, source: Source, items: Sequence[Read]) -> list[Outcome]:
        """One outcome for each item, in order; the bad ones are not sent anywhere."""
        good = [(source, item) for item in items if not isinstance(item, InvalidInput)]
        if len(good) > GROUPED_EVENTS:
            written = iter(await self._services.batches.run(commit, self._services.acceptor, good))
        else:
            written = iter(await self._services.committer.submit(good) if good else [])
        return [item if isinstance(item, InvalidInput) else next(written) for item in items]
