"""A vendor in a process of its own, where nginx is not installed, a call carries many events, or an answer must take time: `python -m benchmarks.stub_server`.

It answers any POST with 200, counts calls and events, and remembers when which `webhook-id` came on which path. `/slow/...` answers after 100 ms.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, Final

import uvloop

SLOW_SECONDS: Final = 0.1
BODY: Final = b'{"code":"SUCCESS"}'
ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


class Counts:
    """What came in, for all connections of this process."""

    def __init__(self) -> None:
        self.calls = 0
        self.events = 0
        self.arrivals: list[tuple[float, bytes, bytes]] = []

    def note(self, path: bytes, head: bytes, body: bytes) -> None:
        self.calls += 1
        self.events += body.count(b'"event_id"')
        self.arrivals.append((time.time(), path, header(head, b"webhook-id")))

    def shown(self) -> bytes:
        return json.dumps({"calls": self.calls, "events": self.events}).encode()

    def log(self) -> bytes:
        return b"".join(b"%.6f %s %s\n" % arrival for arrival in self.arrivals)


class Vendor(asyncio.Protocol):
    """One connection; requests on it come one after the other."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._held = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            head = self._held[:end]
            whole = end + 4 + int(header(head, b"content-length") or 0)
            if len(self._held) < whole:
                return
            body, self._held = self._held[end + 4 : whole], self._held[whole:]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        method, path = head.split(b" ", 2)[:2]
        if method == b"GET":
            shown = self._counts.log() if path == b"/_log" else self._counts.shown()
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(shown) + shown)
            return
        self._counts.note(path, head, body)
        if path.startswith(b"/slow/"):
            asyncio.get_running_loop().call_later(SLOW_SECONDS, self._transport.write, ANSWER)
        else:
            self._transport.write(ANSWER)


def header(head: bytes, name: bytes) -> bytes:
    """The value of a header, empty if it is not there."""
    start = head.lower().find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    return head[start + len(name) + 3 :].split(b"\r\n", 1)[0].strip()


async def serve() -> None:
    counts = Counts()
    server = await asyncio.get_running_loop().create_server(lambda: Vendor(counts), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
