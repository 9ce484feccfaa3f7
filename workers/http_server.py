"""The HTTP/1 server: uvicorn with httptools on our own event loop, and what it leaves to a proxy in front of it, which we do not presuppose.

Everything happens in the thread of the event loop, so that no request waits for the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, Final

import httptools
import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from pipeline.ingest.problems import MEDIA_TYPE, Kind, problem

MOST_HEAD_BYTES: Final = 65_536
MOST_FIELDS: Final = 100
IDLE_SECONDS: Final = 75
"""How long a connection is kept without a request; longer than proxies keep theirs, so that none sends into one that is being closed."""
WAITING: Final = 1024
"""Connections that the system keeps until we take them."""


class HttpServer(uvicorn.Server):
    """Serves an ASGI application until `stop`, which answers what is under way for `stop_seconds` at the most; whoever runs it listens to signals."""

    def __init__(self, application: Any, *, host: str, port: int, stop_seconds: int) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                http=Connection,
                ws="none",
                interface="asgi3",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=WAITING,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=stop_seconds,
            )
        )
        self._socket = _bound(host, port)

    async def run_until_stopped(self) -> None:
        await self.serve(sockets=[self._socket])

    def stop(self) -> None:
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn would end the process by the signal that stopped it; a stop that was asked for is no failure."""
        yield


class Connection(HttpToolsProtocol):
    """One connection. It is cut off if its next request has a large head or does not arrive: uvicorn waits for ever and keeps whatever comes.

    What cannot be read is the last of a connection, and refused in the application's words (RFC 9457).
    """

    head_seconds = 10.0
    """Within this time after its first byte a request has to be whole up to its body."""

    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _unread_bytes = 0
    _is_too_large = False
    _is_over = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.transport = _Joining(transport)  # type: ignore[assignment]
        self._look_at_the_time()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_the_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        self._unread_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")
        if self._unread_bytes > MOST_HEAD_BYTES and not self._is_over:
            self._is_too_large = True
            self.send_400_response("")
        self._look_at_the_time()

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._measure(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._measure(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._unread_bytes = 0
        if self.parser.get_http_version() not in ("1.0", "1.1") or self.parser.get_method() == b"CONNECT":
            raise ValueError
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread_bytes = 0
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self.transport.flush()  # type: ignore[attr-defined]
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """End the connection: with a refusal, unless an answer that is under way would be mistaken for it or the other way round."""
        del msg
        self._is_over = True
        cycle = self.cycle
        if cycle is None or cycle.response_complete or (cycle.more_body and not cycle.response_started and not self.pipeline):
            if cycle is not None:
                cycle.disconnected = True
                cycle.message_event.set()
            self.transport.write(_refusal(Kind.HEADERS_TOO_LARGE if self._is_too_large else Kind.UNREADABLE))
            self.transport.close()
        elif cycle.more_body:
            self.transport.close()
        else:
            cycle.keep_alive = False  # it is whole and gets its answer; what followed is not looked at

    def _decline(self, rest: bytes) -> None:
        """Read a request that offers another protocol once more without the offer: the parser takes what follows its head for that protocol, and some clients offer HTTP/2 with any event."""
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                kept = [token for token in map(bytes.strip, value.split(b",")) if token.lower() in (b"close", b"keep-alive")]
                lines.append(b"connection: " + b", ".join(kept))
            elif name != b"upgrade":
                lines.append(b"%b: %b" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*lines, b"", rest]))

    def _measure(self, size: int) -> None:
        """Raise, which httptools makes an error of the request, if the head is too large."""
        self._head_bytes += size
        if self._head_bytes > MOST_HEAD_BYTES or len(self.headers) > MOST_FIELDS:
            self._is_too_large = True
            raise ValueError

    def _look_at_the_time(self) -> None:
        """Let the clock run as long as nobody works at a request of this connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_the_clock()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.head_seconds, self.transport.close)

    def _stop_the_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Joining:
    """A transport that sends the head of an answer together with what follows it: uvicorn writes each by itself, which makes two packets of every answer."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._head = b""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        held, self._head = self._head, b""
        if not held and data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n") and not data.startswith(b"HTTP/1.1 1"):
            self._head = data
        else:
            self._transport.write(held + data)

    def flush(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def close(self) -> None:
        self.flush()
        self._transport.close()


def _refusal(kind: Kind) -> bytes:
    body = orjson.dumps(problem(kind, "the request cannot be read").as_json())
    return b"%bcontent-type: %b\r\ncontent-length: %d\r\ncache-control: no-store\r\nconnection: close\r\n\r\n%b" % (
        STATUS_LINE[kind.status],
        MEDIA_TYPE.encode(),
        len(body),
        body,
    )


def _bound(host: str, port: int) -> socket.socket:
    """A socket that other processes of ours may share."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((host, port))
    return bound
