"""Clients that mean harm, against the real server: no request is hidden within another, slow ones are cut off, and everybody else is served meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import redis
import requests

from tests.support.fuzzing import FACTOR
from tests.support.serving import Serving, key_line, serving

pytestmark = pytest.mark.timeout(240)

KEY = "key-of-web-forms"
SIGNING_SECRET = "whsec_c2lnbmluZy1zZWNyZXQtZm9yLXRoZXNlLXRlc3Rz"
ROUTING = f"""
version: 1
sources:
  web-forms: {{kind: native, keys: ['{key_line(KEY)}'], scopes: [ingest, read], url_keys: ['{key_line("url-" + KEY)}']}}
  other: {{kind: native, keys: ['{key_line("key-of-other")}'], scopes: [ingest, read]}}
  reader: {{kind: native, keys: ['{key_line("key-of-reader")}'], scopes: [read]}}
  signed: {{kind: native, signing_secret: {SIGNING_SECRET}}}
purposes:
  newsletter: {{title: Newsletter}}
destinations:
  crm: {{vendor: webhook, base_url: "https://crm.example/hook", credentials: {{secret: "{SIGNING_SECRET}"}}}}
triggers:
  - {{deliver_to: [crm]}}
"""
EVENT = b'{"subject": {"email": "ana@example.org"}, "purpose": "newsletter", "state": "given", "event_time": "2026-01-05T13:00:00Z", "idempotency_key": "%s"}'
HIDDEN_BODY = EVENT % b"hidden-00"
HIDDEN = b"POST /v1/consent-events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    KEY.encode(),
    len(HIDDEN_BODY),
    HIDDEN_BODY,
)
"""A whole request that is to be smuggled: it would be accepted, and shows in the ledger."""
HEAD = b"POST /v1/consent-events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer nobody\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(ROUTING) as running:
        yield running
        assert running.process.poll() is None
        assert "request_failed" not in running.log


def accepted(server: Serving) -> int:
    """How many events there are."""
    with redis.Redis.from_url(server.redis_url) as client:
        return sum(1 for _ in client.scan_iter(match="cr:{e*}:e:*"))


def talk(server: Serving, *parts: bytes, seconds: float = 1.0) -> list[bytes]:
    """Send parts and return the status lines of all answers until the server closes or is silent for that long."""
    received = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        with contextlib.suppress(OSError):
            for part in parts:
                client.sendall(part)
        client.settimeout(seconds)
        with contextlib.suppress(OSError):
            while part := client.recv(65_536):
                received += part
    return re.findall(rb"HTTP/1[.][01] ([0-9]{3}) ", received)


def both(first: bytes, second: bytes) -> bytes:
    """A request of which one reading ends early, so that a hidden one follows."""
    return HEAD + first + b"\r\n" + second + b"\r\n\r\n"


LENGTH, CHUNKED = b"Content-Length: %d" % (5 + len(HIDDEN)), b"Transfer-Encoding: chunked"
ENDS_EARLY = b"0\r\n\r\n" + HIDDEN
AS_CHUNK = b"%x\r\n%s\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)
AMBIGUOUS = {
    "CL.TE": both(LENGTH, CHUNKED) + ENDS_EARLY,
    "TE.CL": both(CHUNKED, b"Content-Length: 4") + AS_CHUNK,
    "two lengths": both(b"Content-Length: 0", LENGTH) + b"01234" + HIDDEN,
    "two lengths, turned": both(LENGTH, b"Content-Length: 0") + b"01234" + HIDDEN,
    "a list of lengths": HEAD + b"Content-Length: 0, %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a signed length": HEAD + b"Content-Length: +%d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\n" + HIDDEN,
    "a hexadecimal length": HEAD + b"Content-Length: 0x0\r\n\r\n" + HIDDEN,
    "a length beyond all bounds": HEAD + b"Content-Length: 18446744073709551616\r\n\r\n" + HIDDEN,
    "a blank before the colon": both(LENGTH, b"Transfer-Encoding : chunked") + ENDS_EARLY,
    "a tab before the colon": both(LENGTH, b"Transfer-Encoding\t: chunked") + ENDS_EARLY,
    "a misspelt coding": both(LENGTH, b"Transfer-Encoding: xchunked") + ENDS_EARLY,
    "two codings": both(LENGTH, b"Transfer-Encoding: chunked, identity") + ENDS_EARLY,
    "two coding headers": both(CHUNKED, b"Transfer-Encoding: identity") + b"Content-Length: 4\r\n\r\n" + AS_CHUNK,
    "a vertical tab in the coding": both(LENGTH, b"Transfer-Encoding: \x0bchunked") + ENDS_EARLY,
    "a folded coding": both(LENGTH, b"Transfer-Encoding:\r\n chunked") + ENDS_EARLY,
    "a folded header": both(LENGTH, b"X-Folded: a\r\n Transfer-Encoding: chunked") + ENDS_EARLY,
    "a folded length": both(b"Content-Length: 0\r\n 5", CHUNKED) + ENDS_EARLY,
    "bare line feeds": (HEAD + LENGTH + b"\r\n" + CHUNKED + b"\r\n\r\n").replace(b"\r\n", b"\n") + ENDS_EARLY,
    "a header behind a bare line feed": both(LENGTH, b"X-A: b\nTransfer-Encoding: chunked") + ENDS_EARLY,
    "a header behind a bare carriage return": both(LENGTH, b"X-A: b\rTransfer-Encoding: chunked") + ENDS_EARLY,
    "a zero byte": both(LENGTH, b"X-A: b\x00Transfer-Encoding: chunked") + ENDS_EARLY,
    "no header name": both(LENGTH, b": chunked") + ENDS_EARLY,
    "chunked before 1.1": (both(LENGTH, CHUNKED) + ENDS_EARLY).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    "a signed chunk": HEAD + CHUNKED + b"\r\n\r\n+0\r\n\r\n" + HIDDEN,
    "a prefixed chunk": HEAD + CHUNKED + b"\r\n\r\n0x0\r\n\r\n" + HIDDEN,
    "a chunk beyond all bounds": HEAD + CHUNKED + b"\r\n\r\n10000000000000000\r\n\r\n" + HIDDEN,
    "a chunk that ends elsewhere": HEAD + CHUNKED + b"\r\n\r\n2\r\n{}XX0\r\n\r\n" + HIDDEN,
    "a line feed in a chunk extension": HEAD + CHUNKED + b"\r\n\r\n0;a\nb\r\n\r\n" + HIDDEN,
    "a request line of two": b"GET / HTTP/1.1\r\nHost: x\r\nGET / HTTP/1.1\r\n\r\n" + HIDDEN,
    "no version": b"GET /health/live\r\n\r\n" + HIDDEN,
    "another version": b"GET /health/live HTTP/9.9\r\n\r\n" + HIDDEN,
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_an_ambiguous_request_is_the_last_one(server: Serving, name: str) -> None:
    """It is refused, the connection is closed, and what hides within it is never carried out."""
    before = accepted(server)
    request = AMBIGUOUS[name].replace(b"hidden-00", b"hidden-%02d" % (list(AMBIGUOUS).index(name) + 10))
    answers = talk(server, request, seconds=0.6)
    assert len(answers) <= 1, answers
    assert all(status in (b"400", b"401", b"408", b"413", b"501", b"505") for status in answers), answers
    assert accepted(server) == before


def test_a_hidden_request_would_be_carried_out(server: Serving) -> None:
    """Behind a request whose end is clear it is the next one: what the tests above look for can happen."""
    whole = HEAD + b"Content-Length: 2\r\n\r\n{}"
    before = accepted(server)
    assert talk(server, whole + HIDDEN) == [b"401", b"202"]
    assert talk(server, HEAD + CHUNKED + b"\r\n\r\n0\r\n\r\n" + HIDDEN) == [b"401", b"202"]
    assert accepted(server) == before + 1


def test_an_address_injects_no_header(server: Serving) -> None:
    """Line breaks in an address, plain or encoded, are no header of the answer and no second answer."""
    for path in ("/v1/consent-events/a%0d%0aX-Injected:%20yes", "/v1/sources/a/b%0aX-Injected:yes", "/docs?%0d%0aX-Injected=1", "/%0d%0a%0d%0aHTTP/1.1%20200"):
        answer = requests.get(server.url + path, timeout=5)
        assert "x-injected" not in {name.lower() for name in answer.headers}
        assert answer.status_code in (200, 401, 404)
    assert talk(server, b"GET /a\r\nX-Injected: 1 HTTP/1.1\r\nHost: x\r\n\r\n") in ([b"400"], [])


def is_served(server: Serving, ended: threading.Event) -> list[float]:
    """How long each of many honest requests took while others were at work."""
    took = []
    session = requests.Session()
    while not ended.is_set():
        begun = time.monotonic()
        assert session.get(server.url + "/health/live", timeout=10).status_code == 200
        took.append(time.monotonic() - begun)
        time.sleep(0.05)
    session.close()
    return took


def dripping(server: Serving, head: bytes, results: list[tuple[float, bytes]], seconds: float) -> None:
    """One client that sends a byte now and then; how long it was let, and what it was told."""
    begun, answer = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as client, contextlib.suppress(OSError):
        client.sendall(head)
        client.settimeout(0.25)
        while time.monotonic() - begun < seconds:
            client.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                answer = client.recv(4096)
                break
    results.append((time.monotonic() - begun, answer))


@pytest.mark.parametrize("what", ["headers", *(["body"] if FACTOR > 1 else [])])  # a body has half a minute: too long for every run
def test_slow_clients_are_cut_off_while_others_are_served(server: Serving, what: str) -> None:
    """Two hundred that drip their headers or bodies end within the time they have, and an honest client waits for none of them."""
    head = {"headers": HEAD + b"X-Slow: ", "body": HEAD.replace(b"nobody", KEY.encode()) + b"Content-Length: 100000\r\n\r\n"}[what]
    most_seconds = {"headers": 14.0, "body": 40.0}[what]
    ended, results = threading.Event(), []
    clients = [threading.Thread(target=dripping, args=(server, head, results, most_seconds)) for _ in range(200)]
    before = server.memory_bytes()
    took: list[float] = []
    honest = threading.Thread(target=lambda: took.extend(is_served(server, ended)))
    honest.start()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    ended.set()
    honest.join()
    assert len(results) == 200
    assert max(seconds for seconds, _ in results) < most_seconds
    assert all(answer == b"" or answer.startswith((b"HTTP/1.1 408", b"HTTP/1.1 400")) for _, answer in results)
    assert len(took) > 20
    assert sorted(took)[len(took) * 9 // 10] < 2.0
    assert server.memory_bytes() - before < 100_000_000


def test_keys_open_their_own_door_only(server: Serving) -> None:
    """Wrong, foreign, scopeless, hashed and misplaced keys are refused, alike where a stranger could learn something, and nothing is accepted."""
    before = accepted(server)
    event = EVENT % b"keys"

    def status(path: str = "/v1/consent-events", key: str | None = KEY, **headers: str) -> int:
        sent = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {}), **headers}
        return requests.post(server.url + path, data=event, headers=sent, timeout=5).status_code

    assert [status(key=key) for key in ("nobody", KEY[:-1], KEY + "x", KEY.upper(), key_line(KEY), key_line(KEY)[7:], "url-" + KEY)] == [401] * 7
    assert (status(key=None), status(key="key-of-reader"), status("/v1/sources/other"), status("/v1/sources/web-forms", key="key-of-other")) == (
        401,
        403,
        403,
        403,
    )
    assert (status(f"/v1/sources/web-forms/{KEY}", key=None), status(f"/v1/sources/other/url-{KEY}", key=None)) == (401, 401)
    old = str(int(time.time()) - 3600)
    signed = hmac.new(b"signing-secret-for-these-tests", f"m.{old}.".encode() + event, hashlib.sha256).digest()
    assert status("/v1/sources/signed", key=None, **{"webhook-id": "m", "webhook-timestamp": old, "webhook-signature": "v1," + signed.hex()}) == 401
    assert accepted(server) == before
