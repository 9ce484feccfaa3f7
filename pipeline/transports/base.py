"""What the exchange asks of a transport: carry one HTTP call, say what came of it, and never more than was asked.

Every transport keeps to the same rules: no redirect is followed, no cookie kept, no proxy, netrc or other environment read, TLS
is verified, the dialled address is checked, the answer is capped, and a call ends within its total time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Final, Protocol

from msgspec import Struct

from pipeline.domain import Personal
from pipeline.vendors.base import VendorResponse

USER_AGENT: Final = "consent-relay"


class Failure(StrEnum):
    """Why a call has no answer; the exchange reports these as reason codes."""

    CONNECT_FAILED = "connect_failed"
    TIMED_OUT = "timed_out"
    CONNECTION_LOST = "connection_lost"
    TLS_FAILED = "tls_failed"
    RESPONSE_TOO_LARGE = "response_too_large"
    ADDRESS_REFUSED = "address_refused"


class Call(Personal, frozen=True, kw_only=True):
    """One signed HTTP request with its limits; only the method and the limits show in its repr.

    `total_timeout_seconds` runs from `submit`, waiting for a free connection included.
    """

    SHOWN = ("method", "connect_timeout_seconds", "total_timeout_seconds", "max_response_bytes", "allow_private_network")

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    connect_timeout_seconds: float = 5.0
    total_timeout_seconds: float = 20.0
    max_response_bytes: int = 1_048_576
    allow_private_network: bool = False


class Answer(Struct, frozen=True):
    """A response, or a failure and whether the request may have reached the other side all the same."""

    response: VendorResponse | None
    failure: Failure | None = None
    may_have_arrived: bool = True


OnAnswer = Callable[[Answer], None]


class Transport(Protocol):
    """Carries calls on one thread of its own, started at first use (so that a process may fork before).

    Everything handed over runs on that thread, one thing at a time, and must be quick. After `close` nothing is carried any more.
    """

    def post(self, action: Callable[[], None]) -> bool:
        """Run something on the transport's thread soon; False if the transport is closed. Callable from any thread."""

    def submit(self, call: Call, on_answer: OnAnswer) -> None:
        """Carry a call; `on_answer` is called exactly once on the transport's thread. Callable from any thread."""

    def close(self) -> None:
        """End what is in flight as `connection_lost`, and the thread."""


def read_headers(lines: Iterable[bytes]) -> dict[str, str] | None:
    """Header lines as received -> lower-cased names; of several answers (an interim 1xx first) only the last one counts.

    None if the stream ended before the empty line: HTTP libraries take that for a whole answer, and it may be a success cut short.
    """
    headers: dict[str, str] = {}
    ended = False
    for line in lines:
        name, colon, value = line.partition(b":")
        if line.startswith(b"HTTP/"):
            headers.clear()
            ended = False
        elif colon:
            headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
        elif line in (b"\r\n", b"\n"):
            ended = True
    return headers if ended else None
