"""The short way of single posts answers as the framework would: the same status, headers and body, whatever is posted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import orjson
import pytest
from falcon.asgi import App
from falcon.testing import ASGIConductor, create_scope

from pipeline.errors import LedgerUnavailable
from pipeline.ingest import IngestLimits
from pipeline.ingest.reading import Reader
from tests.unit.ingest_fakes import EVENT, FakeAcceptor, make_relay

JSON = {"Authorization": "Bearer key-web-forms", "Content-Type": "application/json"}
KEYED = {**EVENT, "idempotency_key": "k"}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: frozenset
    body: bytes
    by_framework: bool


async def asked(relay, parts, headers, monkeypatch, *, path="/v1/consent-events", method="POST") -> Answer:
    """The answer to a request whose body arrives in these parts; None at the end stands for a client that has gone."""
    total = sum(len(part) for part in parts if part is not None)
    scope = create_scope(method=method, path=path, headers={"Content-Length": str(total), **headers}, include_server=False)
    messages = [{"type": "http.disconnect"} if part is None else {"type": "http.request", "body": part, "more_body": True} for part in parts]
    sent, seen, whole = [], [], App.__call__

    async def watched(self, *arguments):
        seen.append(self)
        await whole(self, *arguments)

    async def receive():
        return messages.pop(0) if messages else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    async with ASGIConductor(relay.application):
        with monkeypatch.context() as patched:
            patched.setattr(App, "__call__", watched)
            await relay.application(scope, receive, send)
    start = sent[0] if sent else {"status": 0, "headers": []}
    return Answer(start["status"], frozenset(map(tuple, start["headers"])), b"".join(each.get("body", b"") for each in sent[1:]), bool(seen))


def both(make, body, headers, monkeypatch, **options) -> tuple[Answer, Answer]:
    """The answers to a whole body and to the same in two parts, which the short way leaves to the framework."""
    middle = max(1, len(body) // 2)
    first = asyncio.run(asked(make(), [body], headers, monkeypatch, **options))
    second = asyncio.run(asked(make(), [body[:middle], body[middle:]], headers, monkeypatch, **options))
    assert second.by_framework
    return first, second


def failing(failure):
    return lambda: make_relay(acceptor=FakeAcceptor(failure=failure))


def refusing_the_second():
    """A relay to which `k` stands for other content already."""
    relay = make_relay()
    assert relay.post(json={**KEYED, "purpose": "sms"}).status_code == 202
    return relay


@pytest.mark.parametrize(
    "make, body, headers, status",
    [
        (make_relay, orjson.dumps(EVENT), JSON, 202),
        (make_relay, orjson.dumps(EVENT), {**JSON, "Content-Type": "application/json; charset=utf-8"}, 202),
        (make_relay, orjson.dumps(EVENT), {**JSON, "Content-Type": "Application/JSON"}, 202),
        (make_relay, orjson.dumps(EVENT), {**JSON, "Authorization": "bearer  key-web-forms "}, 202),
        (refusing_the_second, orjson.dumps(KEYED), JSON, 409),
        (failing(LedgerUnavailable("full")), orjson.dumps(EVENT), JSON, 503),
        (failing(KeyError("ana@example.com")), orjson.dumps(EVENT), JSON, 500),
        (lambda: make_relay(limits=IngestLimits(max_pending=0)), orjson.dumps(EVENT), JSON, 429),
    ],
)
def test_what_is_evidently_right_is_answered_without_the_framework_as_by_it(make, body, headers, status, monkeypatch, caplog):
    """Given an event that is right, its answer is the framework's, whatever becomes of the write; and no failure's text is told or logged."""
    short, whole = both(make, body, headers, monkeypatch)
    assert not short.by_framework
    assert (short.status, short.headers, short.body) == (whole.status, whole.headers, whole.body)
    assert short.status == status
    assert b"x-content-type-options" in dict(short.headers)
    assert "ana@example.com" not in caplog.text + short.body.decode()
    if status == 500:
        assert [record.route for record in caplog.records if record.message == "request_failed"] == ["/v1/consent-events"] * 2


@pytest.mark.parametrize(
    "body, headers, status",
    [
        (orjson.dumps({**EVENT, "state": "maybe"}), JSON, 422),
        (b'{"half', JSON, 400),
        (orjson.dumps([EVENT]), JSON, 422),
        (orjson.dumps(EVENT), {**JSON, "Authorization": "Bearer nobody"}, 401),
        (orjson.dumps(EVENT), {**JSON, "Authorization": "Basic key-web-forms"}, 401),
        (orjson.dumps(EVENT), {"Content-Type": "application/json"}, 401),
        (orjson.dumps(EVENT), {**JSON, "Authorization": "Bearer key-reader"}, 403),
        (orjson.dumps(EVENT), {**JSON, "Content-Type": "application/json; charset=latin-1"}, 415),
        (orjson.dumps(EVENT), {**JSON, "Content-Type": "text/plain"}, 415),
        (orjson.dumps(EVENT), {**JSON, "Content-Encoding": "gzip"}, 415),
        (orjson.dumps(EVENT), {**JSON, "Content-Encoding": "identity"}, 202),
        (orjson.dumps({**EVENT, "metadata": {str(n): "x" * 900 for n in range(50)}}), JSON, 202),
        (b" " * 2_000_000, JSON, 413),
    ],
)
def test_everything_else_is_left_to_the_framework(body, headers, status, monkeypatch):
    """Given anything that needs a closer look, the framework answers it as if it had come to it first, and nothing of it was written before."""
    short, whole = both(make_relay, body, headers, monkeypatch)
    assert short == whole
    assert (short.status, short.by_framework) == (status, True)


def test_other_methods_and_addresses_are_the_frameworks(monkeypatch):
    """Given another method or address, the short way does not look at it."""
    relay = make_relay()
    assert asyncio.run(asked(relay, [b""], JSON, monkeypatch, method="GET")).status == 405
    assert asyncio.run(asked(relay, [orjson.dumps([EVENT])], JSON, monkeypatch, path="/v1/consent-events/batch")).status == 202
    assert asyncio.run(asked(relay, [orjson.dumps(EVENT)], JSON, monkeypatch, path="/v1/consent-events/")).by_framework


def test_a_body_that_ends_early_or_never_is_not_written(monkeypatch):
    """Given a client that goes within its body, or falls silent, nothing is written; the silent one is told 408."""
    relay = make_relay(limits=IngestLimits(body_timeout_seconds=0.05))
    body = orjson.dumps(EVENT)
    gone = asyncio.run(asked(relay, [None], {**JSON, "Content-Length": str(len(body))}, monkeypatch))
    silent = asyncio.run(asked(relay, [], {**JSON, "Content-Length": str(len(body))}, monkeypatch))
    part = asyncio.run(asked(relay, [body[:9]], {**JSON, "Content-Length": str(len(body))}, monkeypatch))
    assert (gone.by_framework, gone.status) == (True, 0)
    assert (silent.by_framework, silent.status, part.by_framework, part.status) == (False, 408, True, 408)
    assert silent.body == part.body
    assert relay.acceptor.groups == []


@pytest.mark.parametrize("options", [{}, {"path": "/v1/consent-events/batch"}, {"path": "/nowhere"}, {"path": "/health/live", "method": "GET"}])
def test_no_body_is_waited_for_without_end(options, monkeypatch):
    """Given a client that announces a body and never begins it, whoever it is and wherever it posts, it is told 408 when the time for bodies is over."""
    relay = make_relay(limits=IngestLimits(body_timeout_seconds=0.05))
    answer = asyncio.run(asyncio.wait_for(asked(relay, [], {"Content-Length": "5"}, monkeypatch, **options), 5))
    assert (answer.status, answer.by_framework) == (408, False)


def test_an_event_that_breaks_the_reader_is_the_frameworks(monkeypatch):
    """Given a fault of ours in reading an event, the framework answers and logs it as it does any other."""
    monkeypatch.setattr(Reader, "one", lambda *_: 1 / 0)
    answer = asyncio.run(asked(make_relay(), [orjson.dumps(EVENT)], JSON, monkeypatch))
    assert (answer.status, answer.by_framework) == (500, True)


@pytest.mark.parametrize("length", ["", "0x10", "+5", "99999999999999999999", "-1"])
def test_a_strange_length_is_the_frameworks(length, monkeypatch):
    """Given a declared length that is no plain number, the short way does not guess."""
    relay = make_relay(limits=IngestLimits(body_timeout_seconds=0.05))  # an empty length is none, and the body has no end
    answer = asyncio.run(asked(relay, [orjson.dumps(EVENT)], {**JSON, "Content-Length": length}, monkeypatch))
    assert answer.by_framework
