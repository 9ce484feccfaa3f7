"""The product as its users run it: `consent serve`, `worker` and `beat` in processes of their own, with default settings but for what a job says."""

from __future__ import annotations

import base64
import http.client
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import redis

from benchmarks.processes import Failed, Process, Producer
from benchmarks.stores import Store
from workers.embedded import free_port
from workers.process import python
from workers.queues import LANES, fan_out_queue
from workers.state import key_hash, new_pepper, new_source_key, new_vault_key

START_SECONDS: Final = 30.0
CONNECTIONS: Final = 32
WEBHOOK_SECRET: Final = "whsec_" + base64.b64encode(b"test-webhook-signing-secret-0001").decode()


def destination(name: str, url: str, *, batch_size: int = 1, concurrent: int = 64, enabled: bool = True) -> str:
    """A webhook destination for the routing file; 64 connections, as many as the bare loops have."""
    return (
        f"  {name}: {{vendor: webhook, base_url: '{url}', allow_private_network: true, credentials: {{secret: '${{BENCH_WEBHOOK_SECRET}}'}}, "
        f"options: {{batch_size: {batch_size}}}, rate: {{concurrent: {concurrent}}}, enabled: {str(enabled).lower()}}}\n"
    )


def routing(destinations: Mapping[str, list[str]]) -> str:
    """A routing file: for each purpose the lines of the destinations that are told of it."""
    lines = ["version: 1\nsources:\n  bench: {kind: native, keys: ['${BENCH_KEY_SHA256}'], scopes: [ingest, read]}\npurposes:\n"]
    lines += [f"  {purpose}: {{title: {purpose}}}\n" for purpose in destinations]
    lines += ["destinations:\n", *(line for parts in destinations.values() for line in parts), "triggers:\n"]
    for purpose, parts in destinations.items():
        names = ", ".join(part.strip().split(":", 1)[0] for part in parts)
        lines.append(f"  - {{purposes: [{purpose}], deliver_to: [{names}]}}\n")
    return "".join(lines)


class Relay:
    """All processes of one relay on one store; use it from the main thread, and `stop` it."""

    def __init__(self, folder: Path, store: Store, routing_text: str, *, worker_processes: int = 2, ingest_processes: int = 1) -> None:
        self.folder = folder / f"relay-{time.monotonic_ns()}"
        self.folder.mkdir(parents=True)
        self.store = store
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._key = new_source_key()
        self._environment = {
            "CONSENT_REDIS_URL": store.url,
            "CONSENT_CONFIG": str(self.folder / "consent.yaml"),
            "CONSENT_STATE_DIR": str(self.folder / "state"),
            "CONSENT_SUBJECT_PEPPER": new_pepper(),
            "CONSENT_VAULT_KEYS": new_vault_key(),
            "CONSENT_INGEST_PORT": str(self.port),
            "CONSENT_INGEST_PROCESSES": str(ingest_processes),
            "CONSENT_WORKER_PROCESSES": str(worker_processes),
            "BENCH_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "BENCH_KEY_SHA256": key_hash(self._key),
        }
        self.processes: dict[str, Process] = {"store": store.process}
        self.route(routing_text)

    def route(self, text: str) -> None:
        """Write the routing file; processes that are started afterwards read it."""
        (self.folder / "consent.yaml").write_text(text)

    def start(self, *names: str) -> None:
        """Start `serve`, `worker` and `beat`, or those named; returns when events can be posted."""
        for name in names or ("serve", "worker", "beat"):
            self.processes[name] = Process(name, python("workers.cli", name), self._environment, self.folder / f"{name}.log")
        until = time.monotonic() + START_SECONDS
        while not self._is_live():
            self.check()
            if time.monotonic() > until:
                raise Failed(f"the relay did not answer: {self.processes['serve'].last_words()}")
            time.sleep(0.05)

    def end(self, name: str) -> None:
        """Stop one process."""
        self.processes.pop(name).stop()

    def stop(self) -> None:
        """Stop all but the store, in the order of `consent up`."""
        for name in ("serve", "beat", "worker"):
            if name in self.processes:
                self.end(name)

    def check(self) -> None:
        """Raise Failed if a process has ended."""
        for process in self.processes.values():
            process.check()

    def unplanned(self) -> int:
        """Messages that still wait to be fanned out, in the broker's database beside the ledger's."""
        with redis.Redis.from_url(self.store.url.removesuffix("/0") + "/1") as broker:
            return sum(int(broker.llen(fan_out_queue(lane))) for lane in LANES)

    def load(self, **order: Any) -> Producer:
        """A load on the HTTP interface that is ready to begin."""
        return load(self.url, self._key, self.folder / "load.log", **order)

    def _is_live(self) -> bool:
        if "serve" not in self.processes:
            return True
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/health/live")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def load(url: str, key: str, log: Path, **order: Any) -> Producer:
    """Load on any server that takes events: `count`, `run`, and `batch`, `connections`, `rate`, `seconds`, `purpose`, `state`."""
    whole = {"batch": 1, "connections": CONNECTIONS, "rate": 0, "seconds": 300, "purpose": "newsletter", "state": "given", **order}
    environment = {"BENCH_INGEST_URL": url, "BENCH_INGEST_KEY": key}
    return Producer(lambda: Process("load", python("benchmarks.load"), environment, log, talks=True), whole)
