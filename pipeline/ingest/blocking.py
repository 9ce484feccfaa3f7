"""Blocking calls off the event loop, bounded twice: so many at once, so many waiting; a slow ledger cannot pile up work without end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from pipeline.ingest.problems import overloaded, unavailable

Result = TypeVar("Result")


class BlockingCalls:
    """`threads` threads, `places` callers at once, `queue` more waiting; beyond that the 429 problem."""

    def __init__(self, name: str, *, threads: int, places: int, queue: int) -> None:
        self._name = name
        self._threads = threads
        self._places = places
        self._queue = queue
        self._inside = 0
        self._called = 0
        self._gate = asyncio.Semaphore(places)
        self._shared: dict[Callable[[], Any], asyncio.Future[Any]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Begin to take calls; may be called again after `close`."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix=self._name)
            self._gate = asyncio.Semaphore(self._places)
            self._shared = {}

    def close(self) -> None:
        """Wait for the calls under way and stop the threads."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Held while something large is in memory, such as a body that is read for a call; waits without holding anything."""
        if self._inside >= self._places + self._queue:
            raise overloaded("too many requests of this kind are under way")
        self._inside += 1
        try:
            async with self._gate:
                yield
        finally:
            self._inside -= 1

    async def run(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """The result of one blocking call; the call goes on even if its caller has gone."""
        if self._pool is None:
            raise unavailable("shutting down")
        if self._called >= self._places + self._queue:
            raise overloaded("too many requests of this kind are under way")
        self._called += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)
        finally:
            self._called -= 1

    async def shared(self, call: Callable[[], Result]) -> Result:
        """The result of one call for all who ask while it goes on: it takes one thread, however many they are, and goes on if any of them has gone."""
        underway = self._shared.get(call)
        if underway is None or underway.done():
            underway = self._shared[call] = asyncio.ensure_future(self.run(call))
        result: Result = await asyncio.shield(underway)
        return result
