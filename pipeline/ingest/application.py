"""The HTTP application, put together from the parts it is given; it reads no environment and keeps nothing global."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import falcon.asgi
import orjson

from pipeline.ingest.authentication import Doorkeeper
from pipeline.ingest.blocking import BlockingCalls
from pipeline.ingest.body import discard_rest
from pipeline.ingest.committer import GroupCommitter
from pipeline.ingest.docs_page import render_page
from pipeline.ingest.openapi import build_document
from pipeline.ingest.outcomes import refused
from pipeline.ingest.ports import Acceptor, IngestLimits, Ledger, Prover, Readiness
from pipeline.ingest.problems import Kind, from_status, problem, write
from pipeline.ingest.reading import Reader
from pipeline.ingest.resources_dead_letters import DeadLetters, Replay
from pipeline.ingest.resources_events import Batch, Event, Events
from pipeline.ingest.resources_proofs import EventProof, SubjectProof
from pipeline.ingest.resources_service import Document, Live, Metrics, Ready, Root
from pipeline.ingest.resources_sources import SourceAddress, SourceEvents
from pipeline.ingest.resources_subjects import SubjectStatus
from pipeline.ingest.services import Services
from pipeline.ingest.single_posts import PATH, SinglePosts, refuse
from pipeline.routing import Routing

BATCH_THREADS = 2
"""Batches written at a time; more would only compete for the same processor."""

UNPROVEN_PLACES = 2
"""Bodies larger than a single event's that are in memory before their signature can be looked at: anybody can send such, and whoever is in earnest sends few."""


class Application(falcon.asgi.App[Any, Any]):
    """Falcon's application for every HTTP/1 client, and the short way around it: granian calls HTTP/1.0, which older proxies speak, `1`, and falcon knows only `1.0`."""

    single_posts: SinglePosts

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:  # type: ignore[override]  # falcon overrides its own WSGI signature too
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        if scope.get("http_version") == "1":
            scope["http_version"] = "1.0"
        scope["headers"] = list(map(tuple, scope["headers"]))  # ASGI allows what can be read once only
        sender = self.single_posts.sender_of(scope)
        rest = await (self.single_posts.take(*sender, receive, send) if sender else self.single_posts.begun(receive, send))
        if rest is None:
            return
        if any(name == b"transfer-encoding" for name, _ in scope["headers"]):
            await self._in_chunks(scope, rest, send)
        else:
            await super().__call__(scope, rest, send)

    async def _in_chunks(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """A body in chunks that are none looks like a client that has gone, whom falcon leaves without an answer and granian answers 500; it is still there."""
        answered = False

        async def answer(event: dict[str, Any]) -> None:
            nonlocal answered
            answered = True
            await send(event)

        await super().__call__(scope, receive, answer)
        if not answered:
            await refuse(send, problem(Kind.UNREADABLE, "the chunks of the body cannot be read", headers={"Connection": "close"}))


def build_application(
    *,
    routing: Callable[[], Routing],
    acceptor: Acceptor,
    ledger: Ledger,
    readiness: Callable[[], Readiness],
    limits: IngestLimits = IngestLimits(),  # noqa: B008 - frozen
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    prover: Prover | None = None,
) -> Application:
    """The application; the server must run its lifespan, which starts and, after the last request, drains the group commit.

    `routing` is asked on every request, so a reload takes effect at once. Without a `prover` no evidence is kept.
    """
    services = Services(
        routing=routing,
        reader=Reader(routing, limits, now),
        doorkeeper=Doorkeeper(routing, now),
        acceptor=acceptor,
        ledger=ledger,
        committer=GroupCommitter(acceptor, limits),
        reads=BlockingCalls("reads", threads=limits.blocking_threads, places=limits.blocking_threads, queue=limits.max_queued),
        batches=BlockingCalls("batches", threads=BATCH_THREADS, places=limits.max_concurrent_batches, queue=limits.max_queued),
        unproven=BlockingCalls("unproven", threads=1, places=UNPROVEN_PLACES, queue=limits.max_queued),
        probes=BlockingCalls("probes", threads=2, places=2, queue=0),
        limits=limits,
        now=now,
        readiness=readiness,
        prover=prover,
    )
    middleware: list[Any] = [_Lifespan(services), _Finish()]
    application = Application(middleware=middleware)
    application.single_posts = SinglePosts(services)
    application.add_error_handler(Exception, _refused)
    application.add_error_handler(falcon.HTTPError, _refused_by_framework)
    _add_routes(application, services)
    return application


def _add_routes(application: Application, services: Services) -> None:
    document = build_document()
    application.add_route(PATH, Events(services))
    application.add_route("/v1/consent-events/batch", Batch(services))
    application.add_route("/v1/consent-events/{event_id}", Event(services))
    application.add_route("/v1/consent-events/{event_id}/proof", EventProof(services))
    application.add_route("/v1/subjects/proof", SubjectProof(services))
    application.add_route("/v1/sources/{source}", SourceEvents(services))
    application.add_route("/v1/sources/{source}/{url_key}", SourceAddress(services))
    application.add_route("/v1/subjects/status", SubjectStatus(services))
    application.add_route("/v1/dead-letters", DeadLetters(services))
    application.add_route("/v1/dead-letters/replay", Replay(services))
    application.add_route("/", Root())
    application.add_route("/health/live", Live())
    application.add_route("/health/ready", Ready(services))
    application.add_route("/metrics", Metrics(services))
    application.add_route("/openapi.json", Document(orjson.dumps(document), "application/json"))
    application.add_route("/docs", Document(render_page(document).encode(), "text/html; charset=utf-8"))


class _Lifespan:
    """Starts the threads with the server and drains them when it stops."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def process_startup(self, _scope: dict[str, Any], _event: dict[str, Any]) -> None:
        self._services.start()

    async def process_shutdown(self, _scope: dict[str, Any], _event: dict[str, Any]) -> None:
        await asyncio.to_thread(self._services.close)


class _Finish:
    """The last touch on every answer."""

    async def process_response(self, request: falcon.asgi.Request, response: falcon.asgi.Response, _resource: object, req_succeeded: bool) -> None:
        response.set_header("X-Content-Type-Options", "nosniff")
        if not req_succeeded:
            response.set_header("Cache-Control", "no-store")
        if not req_succeeded and response.status_code != Kind.TIMEOUT.status:
            await discard_rest(request)


async def _refused(request: falcon.asgi.Request, response: falcon.asgi.Response, error: Exception, _params: dict[str, Any]) -> None:
    write(response, refused(error, request.method, request.uri_template))


async def _refused_by_framework(_request: falcon.asgi.Request, response: falcon.asgi.Response, error: falcon.HTTPError, _params: dict[str, Any]) -> None:
    headers = {name: value for name, value in dict(error.headers or {}).items() if name.lower() == "allow"}
    write(response, from_status(error.status_code, headers))
