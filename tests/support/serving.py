"""The HTTP interface alone, as it really runs: `consent serve` on a real server of its own, for tests that throw anything at it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.support.servers import valkey_server
from tests.support.stack import ROOT
from workers.embedded import free_port
from workers.state import new_pepper, new_vault_key


@dataclass(frozen=True)
class Serving:
    """A running `consent serve`; `log` is what it wrote so far."""

    url: str
    port: int
    process: subprocess.Popen[bytes]
    redis_url: str
    folder: Path

    @property
    def log(self) -> str:
        return (self.folder / "serve.log").read_text(errors="replace")

    def memory_bytes(self) -> int:
        """What the process holds now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def key_line(key: str) -> str:
    """A key as the routing file names it."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


@contextlib.contextmanager
def serving(routing: str, environment: Mapping[str, str] | None = None) -> Iterator[Serving]:
    """Start it on a free port with a ledger of its own, and stop both."""
    with tempfile.TemporaryDirectory(prefix="consent-serve-") as name, valkey_server() as redis_url:
        folder, port = Path(name), free_port()
        (folder / "consent.yaml").write_text(routing)
        settings = {
            "CONSENT_CONFIG": str(folder / "consent.yaml"),
            "CONSENT_STATE_DIR": str(folder / "state"),
            "CONSENT_REDIS_URL": redis_url,
            "CONSENT_INGEST_PORT": str(port),
            "CONSENT_SUBJECT_PEPPER": new_pepper(),
            "CONSENT_VAULT_KEYS": new_vault_key(),
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CONSENT_")}
        with (folder / "serve.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers.cli", "serve", "--single"],
                cwd=ROOT,
                env={**inherited, **settings, **(environment or {})},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        running = Serving(f"http://127.0.0.1:{port}", port, process, redis_url, folder)
        try:
            _wait_for(running)
            yield running
        finally:
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()
                process.wait()


def _wait_for(running: Serving) -> None:
    until = time.monotonic() + 30
    while True:
        with contextlib.suppress(requests.RequestException):
            if requests.get(running.url + "/health/live", timeout=2).ok:
                return
        assert running.process.poll() is None, running.log
        assert time.monotonic() < until, running.log
        time.sleep(0.05)
