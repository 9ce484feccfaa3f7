"""The server under everything: the product's own embedded Valkey, fresh for each run, for the product and for its peers alike."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import redis

from benchmarks.processes import Failed, Process, running
from workers.embedded import EmbeddedServer, server_environment

START_SECONDS: Final = 20.0


class Store:
    """A running server; every write is on disk before it is confirmed, unless `everysec`."""

    def __init__(self, process: Process, url: str) -> None:
        self.process, self.url = process, url

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def is_rewriting(self) -> bool:
        """Whether the server rewrites its append-only file now, which takes a core."""
        with self.client() as client:
            return bool(client.info("persistence")["aof_rewrite_in_progress"])


@contextlib.contextmanager
def running_store(folder: Path, *, everysec: bool = False) -> Iterator[Store]:
    """Start a server with an empty folder, stop it in the end."""
    place = folder / f"store-{time.monotonic_ns()}"
    place.mkdir(parents=True)
    server = EmbeddedServer(place / "data")
    with running(Process("store", server.prepare(), server_environment(), place / "log")) as process:
        until = time.monotonic() + START_SECONDS
        while not server.answers():
            process.check()
            if time.monotonic() > until:
                raise Failed(f"the server did not answer: {process.last_words()}")
            time.sleep(0.02)
        store = Store(process, server.url)
        if everysec:
            with store.client() as client:
                client.config_set("appendfsync", "everysec")
        yield store
