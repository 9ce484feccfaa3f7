"""`/v1/dead-letters`: what was given up, counted by cause, and sending it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import falcon.asgi

from pipeline.domain import split_delivery_id
from pipeline.errors import FieldError, InvalidInput
from pipeline.ingest.body import media_type_of, read_body
from pipeline.ingest.queries import LARGEST_PAGE, read_page, read_replay
from pipeline.ingest.services import Services, answer_json
from pipeline.routing import Source
from pipeline.schemas import JSON_TYPES, read_json

LARGEST_REPLAY = 10_000
"""Dead letters one call replays at the most; `more` says that some are left."""


class DeadLetters:
    """`GET /v1/dead-letters`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        source = self._services.doorkeeper.caller(request, "read")
        page = read_page(request.params)
        answer_json(response, 200, await self._services.reads.run(self._page, source, page))

    def _page(self, source: Source, page: Mapping[str, Any]) -> dict[str, Any]:
        try:
            found = self._services.ledger.dead_letters(**page, source=own_only(source))
        except ValueError:
            raise InvalidInput([FieldError("cursor", "is no cursor of this list")]) from None
        return {"items": list(found.items), "groups": list(found.groups), "next_cursor": found.next_cursor}


class Replay:
    """`POST /v1/dead-letters/replay`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_post(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        services = self._services
        source = services.doorkeeper.caller(request, "replay")
        media_type_of(request, JSON_TYPES)
        body = await read_body(request, cap_bytes=services.limits.max_body_bytes, timeout_seconds=services.limits.body_timeout_seconds)
        wanted = read_replay(read_json(body))
        answer_json(response, 200, await services.reads.run(self._replay, source, wanted))

    def _replay(self, source: Source, wanted: Mapping[str, Any]) -> dict[str, Any]:
        ids, more = (list(dict.fromkeys(wanted["ids"])), False) if "ids" in wanted else self._matching(source, wanted["filter"])
        own = ids if source.all_sources or "filter" in wanted else [value for value in ids if self._is_own(source, value)]
        answer: dict[str, Any] = {"dry_run": wanted["dry_run"], "replayed": [], "not_replayed": []}
        for start in range(0, len(own), LARGEST_PAGE):
            report = self._services.ledger.replay(own[start : start + LARGEST_PAGE], wanted["dry_run"])
            answer["replayed"] += report.replayed
            answer["not_replayed"] += report.skipped
        answer["not_replayed"] += [{"delivery_id": value, "reason": "not_found"} for value in sorted(set(ids) - set(own))]
        return {**answer, "more": more}

    def _matching(self, source: Source, conditions: Mapping[str, Any]) -> tuple[list[str], bool]:
        ids: list[str] = []
        cursor: str | None = None
        while len(ids) < LARGEST_REPLAY:
            page = self._services.ledger.dead_letters(**conditions, cursor=cursor, limit=LARGEST_PAGE, source=own_only(source))
            ids += [item["delivery_id"] for item in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        return ids, cursor is not None

    def _is_own(self, source: Source, delivery_id: str) -> bool:
        event = self._services.ledger.event(split_delivery_id(delivery_id)[0])
        return event is not None and event["source"] == source.name


def own_only(source: Source) -> str | None:
    """The source a key may see, or None for all of them."""
    return None if source.all_sources else source.name
