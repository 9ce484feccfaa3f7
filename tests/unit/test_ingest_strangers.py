"""Who has no key stands in nobody's way: bodies before their signature is looked at, health and metrics."""

from __future__ import annotations

import asyncio
import threading

import orjson
import pytest
from falcon.testing import ASGIConductor, create_scope

from pipeline.ingest import IngestLimits, Readiness
from tests.unit.ingest_fakes import EVENT, FakeLedger, Relay, make_relay
from tests.unit.test_ingest_authentication import headers as signed

HOOKS = "/v1/sources/hooks"
BATCH = "/v1/consent-events/batch"
MANY = 600
"""More than may wait for a place or a thread."""

IN_CHUNKS = {"Transfer-Encoding": "chunked"}
DECLARED = {"Content-Length": "2000000"}
BEARER = {"Authorization": "Bearer key-web-forms"}
JSON = {"Content-Type": "application/json"}


async def status_of(relay: Relay, method: str, path: str, headers: dict, body: bytes = b"") -> int:
    """The status of one request; its body arrives whole and then ends, an empty one of a post goes on and never does."""
    scope = create_scope(method=method, path=path, headers={**JSON, **headers})
    parts, statuses = [{"type": "http.request", "body": body or b"[", "more_body": not body and method == "POST"}], []

    async def receive() -> dict:
        return parts.pop() if parts else await asyncio.Event().wait()

    async def send(event: dict) -> None:
        statuses.append(event.get("status"))

    await relay.application(scope, receive, send)
    return statuses[0]


@pytest.mark.parametrize("length", [IN_CHUNKS, DECLARED])
@pytest.mark.parametrize("slow_headers", [{}, signed()], ids=["unsigned", "forged"])
def test_slow_bodies_of_strangers_delay_no_batch(length, slow_headers):
    """Given hundreds of posts to a source that signs, whose bodies never end, a large batch with a key is taken at once, in chunks or not, and so is a signed event in chunks."""
    relay = make_relay(limits=IngestLimits(body_timeout_seconds=30.0))
    batch = orjson.dumps([EVENT] * 200).ljust(1_600_000)
    event = orjson.dumps(EVENT)

    async def scenario() -> list[int]:
        async with ASGIConductor(relay.application):
            slow = [asyncio.ensure_future(status_of(relay, "POST", HOOKS, {**slow_headers, **length})) for _ in range(MANY)]
            await asyncio.sleep(0.1)
            async with asyncio.timeout(5):
                statuses = [
                    await status_of(relay, "POST", BATCH, {**BEARER, **IN_CHUNKS}, batch),
                    await status_of(relay, "POST", BATCH, {**BEARER, "Content-Length": str(len(batch))}, batch),
                    await status_of(relay, "POST", HOOKS, {**signed(body=event), **IN_CHUNKS}, event),
                ]
            for one in slow:
                one.cancel()
            await asyncio.gather(*slow, return_exceptions=True)
            return statuses

    assert asyncio.run(scenario()) == [202, 202, 202]


@pytest.mark.parametrize("is_declared, status", [(True, 202), (False, 413)])
def test_a_large_signed_list_says_its_length(is_declared, status):
    """Given a signed list larger than a single event may be, it is taken if it declares its length, and is too large in chunks."""
    relay = make_relay(limits=IngestLimits(max_body_bytes=1000))
    body = orjson.dumps([EVENT] * 50)
    length = {"Content-Length": str(len(body))} if is_declared else IN_CHUNKS

    async def scenario() -> int:
        async with ASGIConductor(relay.application):
            return await status_of(relay, "POST", HOOKS, {**signed(body=body), **length}, body)

    assert asyncio.run(scenario()) == status
    assert len(relay.acceptor.events) == (1 if is_declared else 0)


def test_a_flood_of_probes_refuses_nobody():
    """Given hundreds who ask for health and figures while the ledger is slow, readers are answered, and so are all of them: the ledger is asked once."""
    gate, asked = threading.Event(), []

    class Slow(FakeLedger):
        def gauges(self):
            gate.wait(10)
            return super().gauges()

    def readiness() -> Readiness:
        gate.wait(10)
        asked.append("readiness")
        return Readiness(ready=True)

    relay = make_relay(ledger=Slow(sources={"a": "web-forms"}), readiness=readiness)

    async def scenario() -> tuple[int, set[int]]:
        async with ASGIConductor(relay.application):
            flood = [asyncio.ensure_future(status_of(relay, "GET", path, {})) for path in ("/metrics", "/health/ready") for _ in range(MANY)]
            await asyncio.sleep(0.1)
            try:
                async with asyncio.timeout(5):
                    read = await status_of(relay, "GET", "/v1/consent-events/a", BEARER)
            finally:
                gate.set()
            return read, set(await asyncio.gather(*flood))

    assert asyncio.run(scenario()) == (200, {200})
    assert (relay.ledger.calls.count(("gauges", None)), len(asked)) == (1, 2)  # the figures say whether it is ready
