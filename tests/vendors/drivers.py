"""Ways to run a dialogue in a test: handing it answers, straight over http.client, and through the exchange with either transport."""

from __future__ import annotations

import http.client
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from pipeline.domain import Outcome, VendorResult
from pipeline.vendors.base import Adapter, Held, VendorRequest, VendorResponse

DRIVERS = ("direct", "curl", "requests")
PATIENT_SECONDS = 30.0
"""How long a driver waits for an answer: longer than any slow machine takes, unless a test is about the waiting."""
Dialogue = Generator[VendorRequest, VendorResponse, Any]


@dataclass
class Replayed:
    """What a dialogue sent, and what it returned; `result` is None as long as it waits for one more answer."""

    sent: list[VendorRequest]
    result: Any = None

    @property
    def operations(self) -> list[str]:
        return [request.operation for request in self.sent]


def replay(dialogue: Dialogue, *answers: VendorResponse) -> Replayed:
    """Hand answers to a dialogue; no network at all."""
    replayed = Replayed([])
    waiting = iter(answers)
    try:
        replayed.sent.append(next(dialogue))
        for answer in waiting:
            replayed.sent.append(dialogue.send(answer))
    except StopIteration as end:
        replayed.result = end.value
        assert not list(waiting), "the dialogue ended before all answers were handed over"
    return replayed


@dataclass
class DirectDriver:
    """A small driver over http.client that follows the same rules as the exchange: one sign-in, one renewal, no redirect."""

    timeout_seconds: float = PATIENT_SECONDS
    token: str | None = field(default=None, repr=False)
    sign_ins: int = 0

    def drive(self, adapter: Adapter, dialogue: Dialogue, size: int = 1) -> Any:
        """Run a `tell` or an `ask` to its end."""
        renewed = False
        try:
            request = next(dialogue)
            while True:
                if adapter.needs_session() and self.token is None and (refused := self._sign_in(adapter)):
                    return self._ended(dialogue, refused, size)
                response = self._send(adapter, request)
                if adapter.needs_session() and adapter.is_signed_out(response) and not renewed:
                    renewed, self.token = True, None
                    continue
                request = dialogue.send(response)
        except StopIteration as end:
            return end.value
        except (OSError, http.client.HTTPException) as error:
            reason = "timed_out" if isinstance(error, TimeoutError) else "connection_lost"
            return self._ended(dialogue, VendorResult(outcome=Outcome.UNAVAILABLE, reason=reason, definite=False), size)

    def _ended(self, dialogue: Dialogue, result: VendorResult, size: int) -> Any:
        is_ask = dialogue.gi_code.co_name == "ask"
        dialogue.close()
        return Held(readable=False) if is_ask else (result,) * size

    def _sign_in(self, adapter: Adapter) -> VendorResult | None:
        self.sign_ins += 1
        dialogue = adapter.sign_in()
        try:
            request = next(dialogue)
            while True:
                request = dialogue.send(self._send(adapter, request))
        except StopIteration as end:
            self.token = end.value.token
            return end.value.refusal

    def _send(self, adapter: Adapter, request: VendorRequest) -> VendorResponse:
        signed = adapter.sign(request, self.token)
        parts = urlsplit(adapter.address + signed.path)
        target = parts.path or "/"
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=self.timeout_seconds)
        try:
            connection.request(signed.method, f"{target}?{urlencode(signed.query)}" if signed.query else target, signed.body, dict(signed.headers))
            answer = connection.getresponse()
            return VendorResponse(status=answer.status, headers={name.lower(): value for name, value in answer.getheaders()}, body=answer.read())
        finally:
            connection.close()

    def close(self) -> None:
        """Nothing is kept open."""


@dataclass
class MemorySessions:
    """Session tokens of a test, by the name of the session."""

    tokens: dict[str, str] = field(default_factory=dict, repr=False)
    puts: int = 0

    def get(self, session: str) -> tuple[str, float] | None:
        return (self.tokens[session], 3600.0) if session in self.tokens else None

    def put(self, session: str, token: str, ttl_seconds: float) -> None:
        self.puts += 1
        self.tokens[session] = token

    def drop(self, session: str, token: str) -> None:
        if self.tokens.get(session) == token:
            del self.tokens[session]


class ExchangeDriver:
    """The real thing: the exchange with one of its transports."""

    def __init__(self, transport: str, timeout_seconds: float = PATIENT_SECONDS) -> None:
        from pipeline.exchange import Exchange

        self.sessions = MemorySessions()
        self.exchange = Exchange(make_transport(transport), self.sessions, total_timeout_seconds=timeout_seconds, connect_timeout_seconds=timeout_seconds)

    @property
    def sign_ins(self) -> int:
        return self.sessions.puts

    def drive(self, adapter: Adapter, dialogue: Dialogue, size: int = 1) -> Any:
        from pipeline.exchange import Work

        deadline = time.monotonic() + 30
        is_ask = dialogue.gi_code.co_name == "ask"
        work = Work(adapter=adapter, dialogue=dialogue, account="test", size=0 if is_ask else size, allow_private_network=True, deadline=deadline)
        return self.exchange.run(work).results

    def close(self) -> None:
        self.exchange.close()


def make_transport(name: str) -> Any:
    """`curl`, or `requests`, the portable one."""
    if name == "curl":
        from pipeline.transports.curl import CurlTransport

        return CurlTransport()
    from pipeline.transports.portable import PortableTransport

    return PortableTransport()


def make_driver(name: str, timeout_seconds: float = PATIENT_SECONDS) -> DirectDriver | ExchangeDriver:
    """`direct`, `curl` or `requests`."""
    return DirectDriver(timeout_seconds) if name == "direct" else ExchangeDriver(name, timeout_seconds)


def results_of(answer: Any) -> list[VendorResult]:
    """The results of a `tell`, whichever driver ran it."""
    assert isinstance(answer, Sequence)
    return list(answer)
