"""Health, metrics and documentation: open to whoever reaches the port, and without a word about anybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import falcon.asgi

from pipeline.ingest.services import Services, answer_bytes, answer_json
from pipeline.metrics import CONTENT_TYPE, MetricsSnapshot, render_metrics

PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class Root:
    """`GET /`: whoever opens the address in a browser is shown the documentation."""

    async def on_get(self, _request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        answer_bytes(response, 303, b"see /docs\n", "text/plain; charset=utf-8")
        response.set_header("Location", "/docs")

    on_head = on_get


class Live:
    """`GET /health/live`: the process answers."""

    async def on_get(self, _request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        answer_json(response, 200, {"live": True})

    on_head = on_get


class Ready:
    """`GET /health/ready`: events can be taken durably and work progresses; 503 names what stands in the way."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, _request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        readiness = await self._services.probes.shared(self._services.readiness)
        notices = {"notices": readiness.notices} if readiness.notices else {}
        answer_json(response, 200 if readiness.ready else 503, {"ready": readiness.ready, "problems": readiness.problems, **notices})

    on_head = on_get


class Metrics:
    """`GET /metrics`: the ledger's figures for Prometheus."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, _request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        answer_bytes(response, 200, await self._services.probes.shared(self._render), CONTENT_TYPE)

    on_head = on_get

    def _render(self) -> bytes:
        gauges = self._services.ledger.gauges()
        snapshot = MetricsSnapshot(**gauges) if isinstance(gauges, Mapping) else gauges
        return render_metrics(replace(snapshot, ready=self._services.readiness().ready))


class Document:
    """`GET /openapi.json` and `GET /docs`: made once, when the application is built."""

    def __init__(self, body: bytes, content_type: str) -> None:
        self._body = body
        self._content_type = content_type

    async def on_get(self, _request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        answer_bytes(response, 200, self._body, self._content_type)
        response.set_header("Content-Security-Policy", PAGE_POLICY)

    on_head = on_get
