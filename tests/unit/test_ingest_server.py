"""The application on the real server: what clients see of refusals, old protocols and a stop."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVER = """
import asyncio, signal, sys, time
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server
from pipeline.ingest import IngestLimits
from tests.unit.ingest_fakes import FakeAcceptor, make_relay

class Slow(FakeAcceptor):
    def accept_many(self, items):
        time.sleep(0.3)
        return super().accept_many(items)

async def main():
    settings = HTTP1Settings(header_read_timeout=500, max_buffer_size=32768)
    application = make_relay(acceptor=Slow(), limits=IngestLimits(body_timeout_seconds=1.0)).application
    server = Server(application, port=int(sys.argv[1]), interface=Interfaces.ASGI, websockets=False, http=HTTPModes.http1, http1_settings=settings, log_enabled=False)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    await server.serve()

asyncio.run(main())
"""
HEAD = b"POST /v1/consent-events HTTP/%s\r\nHost: x\r\nAuthorization: Bearer key-web-forms\r\nContent-Type: application/json\r\n"
EVENT = b'{"subject": {"email": "ana@example.com"}, "purpose": "newsletter", "state": "given", "event_time": "2026-01-05T13:00:00-03:00"}'


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], env={"PYTHONPATH": str(ROOT)})
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.05)
    yield process, port
    process.kill()
    process.wait()


def talk(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer and (part := client.recv(65_536)):
            answer += part
    return answer.split(b"\r\n")[0]


def post(body: bytes, version: bytes = b"1.1") -> bytes:
    return HEAD % version + b"Content-Length: %d\r\n\r\n" % len(body) + body


def test_clients_see_their_answers(server):
    """Given old clients, large bodies and clients that never finish their headers, each gets its answer or is cut off."""
    _, port = server
    assert talk(port, post(EVENT)) == b"HTTP/1.1 202 Accepted"
    assert talk(port, post(EVENT, b"1.0")) == b"HTTP/1.0 202 Accepted"
    assert talk(port, post(b"x" * 4_000_000)).startswith(b"HTTP/1.1 413")
    assert talk(port, post(b"x" * 4_000_000).replace(b"key-web-forms", b"key-wrong")).startswith(b"HTTP/1.1 401")
    assert talk(port, HEAD % b"1.1" + b"X-Long: " + b"x" * 200_000 + b"\r\n\r\n").startswith(b"HTTP/1.1 431")
    started = time.monotonic()
    assert talk(port, HEAD % b"1.1") == b""
    assert time.monotonic() - started < 5


def answers_of(port: int, *parts: bytes) -> list[bytes]:
    """The status of every answer on one connection until the server closes it."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        for part in parts:
            client.sendall(part)
        return re.findall(rb"HTTP/1[.]1 ([0-9]{3}) ", client.makefile("rb").read())


def test_a_client_that_offers_another_protocol_is_served(server):
    """Given a client that offers HTTP/2 with an event, as some do by default, that event and the one after it are accepted."""
    _, port = server
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nHost"
    assert answers_of(port, post(EVENT).replace(b"Host", offer), post(EVENT).replace(b"Host", b"Connection: close\r\nHost")) == [b"202", b"202"]


def test_events_behind_each_other_are_answered_in_order(server):
    """Given an event, one that is refused, a head alone and a continued event on one connection, each gets its answer, in order."""
    _, port = server
    last = post(EVENT).replace(b"Host", b"Expect: 100-continue\r\nConnection: close\r\nHost")
    assert answers_of(port, post(EVENT) + post(b"{}") + b"HEAD /docs HTTP/1.1\r\nHost: x\r\n\r\n" + last) == [b"202", b"422", b"200", b"100", b"202"]


def test_a_body_that_never_begins_is_not_waited_for(server):
    """Given a head that announces a body, with a good key or none, for a single event or many, the client is told 408 in time, and the next one is served."""
    _, port = server
    for head in (HEAD % b"1.1", HEAD.replace(b"key-web-forms", b"nobody") % b"1.1", (HEAD % b"1.1").replace(b"consent-events", b"consent-events/batch")):
        started = time.monotonic()
        assert talk(port, head + b"Content-Length: 500\r\n\r\n").startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 5
    assert talk(port, post(EVENT)) == b"HTTP/1.1 202 Accepted"


def test_a_trailer_is_no_header(server):
    """Given a key in a trailer only, the event is refused: whoever checks heads on the way does not see it."""
    _, port = server
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(EVENT), EVENT)
    bare = (HEAD % b"1.1").replace(b"Authorization: Bearer key-web-forms\r\n", b"")
    assert talk(port, bare + chunked + b"Authorization: Bearer key-web-forms\r\n\r\n").startswith(b"HTTP/1.1 401")


def test_a_stop_answers_what_was_begun(server):
    """Given posts under way when the server is told to stop, each is answered 202, and the process ends with 0."""
    process, port = server
    answers = []
    callers = [threading.Thread(target=lambda: answers.append(talk(port, post(EVENT)))) for _ in range(10)]
    for caller in callers:
        caller.start()
    time.sleep(0.15)
    process.send_signal(signal.SIGTERM)
    for caller in callers:
        caller.join()
    assert answers == [b"HTTP/1.1 202 Accepted"] * 10
    assert process.wait(10) == 0
