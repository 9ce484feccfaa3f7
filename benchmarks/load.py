"""The load on our HTTP interface, in a process of its own: `python -m benchmarks.load`, driven like the peers' producers.

A raw asyncio client, so that its own cost (it shares the machine with what it measures) is a fraction of the server's. Every request is encoded before the
word to begin, unless there are too many for that.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
import uvloop

from benchmarks.invented import event

MOST_ENCODED: Final = 200_000
STALL_SECONDS: Final = 60.0


class Client(asyncio.Protocol):
    """One keep-alive connection: sends the next request when the answer to the one before is whole."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.is_busy = False
        self._held = b""
        self._posted_at = 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        self.load.lost(self)

    def send(self, request: bytes) -> None:
        self.is_busy = True
        self._posted_at = time.time()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._held += data
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._held[:end].lower()
        start = head.find(b"content-length:")
        length = int(head[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
        if len(self._held) < end + 4 + length:
            return
        body, self._held = self._held[end + 4 :], b""
        self.is_busy = False
        self.load.answered(self, int(head[9:12]), body, self._posted_at)


class Load:
    """All connections and what came back."""

    def __init__(self, order: dict[str, Any], url: str, key: str) -> None:
        self.order, self._key = order, key
        self._address = urlsplit(url)
        self._requests = self._encoded()
        if order["count"] <= MOST_ENCODED:
            self._requests = iter(list(self._requests))
        self._free: list[Client] = []
        self._under_way = 0
        self._exhausted = False
        self._done = asyncio.Event()
        self._has_room = asyncio.Event()
        self.statuses: Counter[int] = Counter()
        self.accepted = 0
        self.posted_at: dict[str, float] = {}
        self.ended_at = 0.0

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(self.order["connections"]):
            _, client = await loop.create_connection(lambda: Client(self), self._address.hostname, self._address.port)
            self._set_free(client)

    async def run(self) -> None:
        """Send everything, as fast as the connections answer or at `rate` a second."""
        if self.order["rate"]:
            await self._paced()
        else:
            while self._free and self._send_next():
                pass
        async with asyncio.timeout(STALL_SECONDS + self.order["seconds"]):
            await self._done.wait()

    def answered(self, client: Client, status: int, body: bytes, posted_at: float) -> None:
        self.statuses[status] += 1
        self._under_way -= 1
        self.ended_at = time.time()
        if status == 202:
            self._note(body, posted_at)
        self._set_free(client)
        if not self.order["rate"]:
            self._send_next()
        self._end_if_done()

    def lost(self, client: Client) -> None:
        """A connection that ends before its answer makes the run worthless; one that has been idle for long may be closed."""
        if not client.is_busy and len(self._free) > 1:
            self._free.remove(client)
        elif not self._done.is_set():
            self.statuses[0] += 1
            self._done.set()

    def _send_next(self) -> bool:
        request = next(self._requests, None)
        if request is None:
            self._exhausted = True
            return False
        self._under_way += 1
        self._free.pop().send(request)
        if not self._free:
            self._has_room.clear()
        return True

    def _set_free(self, client: Client) -> None:
        self._free.append(client)
        self._has_room.set()

    async def _paced(self) -> None:
        begun_at, number = time.time(), 0
        while True:
            await asyncio.sleep(max(0.0, begun_at + number / self.order["rate"] - time.time()))
            await self._has_room.wait()
            if not self._send_next():
                self._end_if_done()
                return
            number += 1

    def _end_if_done(self) -> None:
        if self._exhausted and not self._under_way:
            self._done.set()

    def _note(self, body: bytes, posted_at: float) -> None:
        if self.order["batch"] > 1:
            self.accepted += orjson.loads(body)["accepted"]
            return
        self.accepted += 1
        if self.order["rate"]:
            self.posted_at[orjson.loads(body)["event_id"]] = posted_at

    def _encoded(self) -> Iterator[bytes]:
        order, batch = self.order, self.order["batch"]
        path = "/v1/consent-events" + ("/batch" if batch > 1 else "")
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._address.netloc}\r\nAuthorization: Bearer {self._key}\r\nContent-Type: application/json\r\nContent-Length: "
        )
        for first in range(0, order["count"], batch):
            events = [self._event(number) for number in range(first, min(order["count"], first + batch))]
            body = orjson.dumps(events if batch > 1 else events[0])
            yield f"{head}{len(body)}\r\n\r\n".encode() + body

    def _event(self, number: int) -> dict[str, Any]:
        return event(self.order["run"], number, purpose=self.order["purpose"], state=self.order["state"])


async def main() -> None:
    order = json.loads(sys.stdin.readline())
    load = Load(order, os.environ["BENCH_INGEST_URL"], os.environ.get("BENCH_INGEST_KEY", ""))
    await load.connect()
    print("ready", flush=True)
    sys.stdin.readline()
    begun_at = time.time()
    await load.run()
    report = {"begun_at": begun_at, "ended_at": load.ended_at, "accepted": load.accepted, "statuses": load.statuses, "posted_at": load.posted_at}
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
