"""Proofs: what was done with an event, or with all that a person said, as a document that can be checked without us, and as a page for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import falcon.asgi

from pipeline.evidence.page import render
from pipeline.ingest.body import media_type_of, read_body
from pipeline.ingest.ports import Prover
from pipeline.ingest.problems import Kind, problem
from pipeline.ingest.resources_dead_letters import own_only
from pipeline.ingest.resources_service import PAGE_POLICY
from pipeline.ingest.resources_subjects import read_subject
from pipeline.ingest.services import Services, answer_bytes, answer_json
from pipeline.schemas import JSON_TYPES, read_json

HTML = "text/html"


class EventProof:
    """`GET /v1/consent-events/<event_id>/proof`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, request: falcon.asgi.Request, response: falcon.asgi.Response, event_id: str) -> None:
        source = self._services.doorkeeper.caller(request, "read")
        prover = _prover(self._services)
        _answer(request, response, await self._services.reads.run(prover.event, event_id, own_only(source)), "event_id")


class SubjectProof:
    """`POST /v1/subjects/proof`: the person is named in the body, since addresses end up in logs."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_post(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        services = self._services
        source = services.doorkeeper.caller(request, "read")
        prover = _prover(services)
        media_type_of(request, JSON_TYPES)
        body = await read_body(request, cap_bytes=services.limits.max_body_bytes, timeout_seconds=services.limits.body_timeout_seconds)
        subject = read_subject(read_json(body), source.country)
        _answer(request, response, await services.reads.run(prover.subject, subject, own_only(source)), "subject")


def _prover(services: Services) -> Prover:
    if services.prover is None:
        raise problem(Kind.NOT_FOUND, "no evidence is kept here")
    return services.prover


def _answer(request: falcon.asgi.Request, response: falcon.asgi.Response, found: Mapping[str, Any] | None, path: str) -> None:
    """The document, or the page of it for whoever prefers HTML."""
    if found is None:
        raise problem(Kind.NOT_FOUND, "nothing is recorded of that, or not yet: records are archived every few seconds", path=path)
    if request.client_prefers(("application/json", HTML)) == HTML:
        answer_bytes(response, 200, render(found).encode(), "text/html; charset=utf-8")
        response.set_header("Content-Security-Policy", PAGE_POLICY)
    else:
        answer_json(response, 200, found)
