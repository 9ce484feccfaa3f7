"""The application on the real server: what clients see of refusals, old protocols and a stop."""

from __future__ import annotations

import contextlib
import json
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
from tests.unit.ingest_fakes import FakeAcceptor, make_relay
from workers.http_server import Connection, HttpServer

class Slow(FakeAcceptor):
    def accept_many(self, items):
        time.sleep(0.3)
        return super().accept_many(items)

async def main():
    Connection.head_seconds = 0.5
    server = HttpServer(make_relay(acceptor=Slow()).application, host="127.0.0.1", port=int(sys.argv[1]), stop_seconds=10)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    await server.run_until_stopped()

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
    assert talk(port, post(EVENT, b"1.0")) == b"HTTP/1.1 202 Accepted"
    assert talk(port, post(b"x" * 4_000_000)).startswith(b"HTTP/1.1 413")
    assert talk(port, post(b"x" * 4_000_000).replace(b"key-web-forms", b"key-wrong")).startswith(b"HTTP/1.1 401")
    assert talk(port, HEAD % b"1.1" + b"X-Long: " + b"x" * 200_000 + b"\r\n\r\n").startswith(b"HTTP/1.1 431")
    started = time.monotonic()
    assert talk(port, HEAD % b"1.1") == b""
    assert time.monotonic() - started < 5


def all_answers(port: int, *parts: bytes, pause_seconds: float = 0.0) -> list[bytes]:
    """The status of every answer until the server closes; asserts that it does."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        received = b""
        with contextlib.suppress(ConnectionError):
            for part in parts:
                client.sendall(part)
                time.sleep(pause_seconds)
            while piece := client.recv(65_536):
                received += piece
    return re.findall(rb"HTTP/1[.]1 ([0-9]{3}) ", received)


def test_a_request_that_cannot_be_read_ends_the_connection_and_the_one_before_is_answered(server):
    """Given a whole event and garbage behind it, the event is answered 202, nothing else is, and the connection ends."""
    _, port = server
    assert all_answers(port, post(EVENT) + b"\x00\x01 garbage\r\n\r\n" + post(EVENT)) == [b"202"]
    assert all_answers(port, post(EVENT), b"\x00\x01 garbage\r\n\r\n", post(EVENT), pause_seconds=0.05) == [b"202"]
    assert all_answers(port, b"GET /health/live\r\n\r\n") == [b"400"]


def test_a_refusal_of_what_cannot_be_read_is_a_problem(server):
    """Given bytes that are no request, or a head without end, the answer has the form of every refusal."""
    _, port = server
    for request, code in ((b"\x00\r\n\r\n", "unreadable-body"), (HEAD % b"1.1" + b"X: " + b"x" * 100_000, "headers-too-large")):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(request)
            head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
        assert b"content-type: application/problem+json" in head
        assert json.loads(body)["type"].endswith(code)


@pytest.mark.parametrize(
    "drip",
    [b"\r\n", b"GET / HT", b"POST /v1/consent-events HTTP/1.1\r\nHost: x\r\n", HEAD % b"1.1" + b"Content-Length: 5000000\r\n\r\n" + b"x" * 4_000_000],
    ids=["line ends", "a line", "fields", "a body that was refused"],
)
def test_whoever_drips_is_cut_off(server, drip):
    """Given a client that sends a little now and then and no whole request, it is cut off after the time for heads, whatever it sent before."""
    _, port = server
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client, contextlib.suppress(ConnectionError):
        client.sendall(drip)
        client.settimeout(0.1)
        while time.monotonic() - begun < 6:
            with contextlib.suppress(TimeoutError):
                if not client.recv(65_536):
                    break
            client.sendall(b"\r\n" if drip == b"\r\n" else b"x")
    assert time.monotonic() - begun < 4


def test_heads_and_trailers_have_bounds(server):
    """Given too many fields, or fields without end behind a body in chunks, the request is refused or cut off and memory stays."""
    _, port = server
    assert all_answers(port, HEAD % b"1.1" + b"".join(b"X-%d: y\r\n" % number for number in range(120)) + b"\r\n") == [b"431"]
    chunked = HEAD % b"1.1" + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%s\r\n0\r\n" % (len(EVENT), EVENT)
    assert all_answers(port, chunked + b"\r\n" + post(EVENT) + post(EVENT).replace(b"Host", b"Connection: close\r\nHost")) == [b"202"] * 3
    assert all_answers(port, chunked + b"X-Trailer: ", *[b"y" * 50_000] * 4, pause_seconds=0.05) in (
        [b"431"],
        [],
    )  # the answer is lost where the client still sends


def test_a_client_that_offers_another_protocol_is_served(server):
    """Given a client that offers HTTP/2 with its first request, as some do by default, its event and those after it are accepted."""
    _, port = server
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nHost"
    last = post(EVENT).replace(b"Host", b"Connection: close\r\nHost")
    assert all_answers(port, post(EVENT).replace(b"Host", offer), last, pause_seconds=0.6) == [b"202", b"202"]
    assert all_answers(port, post(EVENT).replace(b"Host", offer) + post(EVENT) + last) == [b"202"] * 3
    assert all_answers(port, b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n" + last) == [b"400"]


def test_an_answer_without_body_is_sent_at_once(server):
    """Given questions for heads only, each is answered on its own, and the connection goes on."""
    _, port = server
    head = b"HEAD /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        for _ in range(2):
            client.sendall(head)
            answer = b""
            while not answer.endswith(b"\r\n\r\n"):
                answer += client.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 ")
            assert answer.count(b"HTTP/1.1 ") == 1
        client.sendall(post(EVENT).replace(b"Host", b"Expect: 100-continue\r\nConnection: close\r\nHost"))
        assert re.findall(rb"HTTP/1[.]1 ([0-9]{3}) ", client.makefile("rb").read()) == [b"100", b"202"]


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
