"""The peers and limits: what each is, how it is configured, how its processes are started."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.processes import Process, Producer, python_of
from benchmarks.stores import running_store
from benchmarks.stub import Stub

ENVIRONMENT: Final = ".venv-bench"
SAQ_ENVIRONMENT: Final = ".venv-bench-saq"
PACKAGES: Final = ("celery", "kombu", "dramatiq", "taskiq", "taskiq-redis", "saq", "aiohttp", "requests", "pycurl", "falcon", "granian", "uvloop", "redis")

PATIENCE_SECONDS: Final = 2.0
"""How long a peer gets to stop when its figures are taken; some wait long for work that will not come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A queue that does the same job. `events_per_second` is a first guess at its pace, which sets the length of the first round only.

    `boot_seconds` are left to its workers before anything is enqueued.
    """

    title: str
    how: str
    module: str
    worker: Sequence[str]
    events_per_second: float
    boot_seconds: float = 0.0
    environment: str = ENVIRONMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A loop without any promise; `how` says what it leaves out."""

    title: str
    how: str
    module: str
    events_per_second: float
    arguments: Sequence[str] = ()


PEERS: Final[Mapping[str, Peer]] = {
    "celery": Peer(
        title="plain Celery",
        how="a fan-out task for each event, a task for each delivery, late acks, retries with back-off, one kept `requests.Session` a process, 2 prefork processes, events on (`-E`) as Flower needs them; events are enqueued by one thread",
        module="benchmarks.peers.celery_peer",
        worker=("celery", "-A", "benchmarks.peers.celery_peer", "worker", "-c", "2", "-E", "-l", "WARNING", "--without-gossip", "--without-mingle"),
        events_per_second=110,
    ),
    "dramatiq": Peer(
        title="dramatiq",
        how="an actor for each event and for each delivery, its own retries, 2 processes of 8 threads, one kept `requests.Session` a thread, a pool of 300 connections; events are enqueued by one thread",
        module="benchmarks.peers.dramatiq_peer",
        worker=("dramatiq", "benchmarks.peers.dramatiq_peer", "--processes", "2", "--threads", "8", "--skip-logging"),
        events_per_second=430,
    ),
    "taskiq": Peer(
        title="taskiq",
        how="Redis streams, acknowledged after the work, retries, 2 processes, aiohttp, up to 100 tasks at once each; events are enqueued 32 at a time",
        module="benchmarks.peers.taskiq_peer",
        worker=(
            *("taskiq", "worker", "benchmarks.peers.taskiq_peer:broker", "--workers", "2", "--max-async-tasks", "100"),
            *("--ack-type", "when_executed", "--log-level", "WARNING"),
        ),
        events_per_second=600,
    ),
    "saq": Peer(
        title="saq",
        how="a job for each event and for each delivery, its own retries, 2 processes, aiohttp on uvloop, 100 jobs at once each; events are enqueued 32 at a time; an environment of its own, since it wants an older redis-py",
        module="benchmarks.peers.saq_peer",
        worker=("saq", "benchmarks.peers.saq_peer.settings", "--workers", "2", "--quiet"),
        events_per_second=600,
        boot_seconds=2.5,  # it runs a job twice that it finds while it starts
        environment=SAQ_ENVIRONMENT,
    ),
}
LIMITS: Final[Mapping[str, Limit]] = {
    "bare asyncio loop": Limit(
        title="bare asyncio loop",
        how="2 processes pop a ready backlog from a Redis list by hundreds and post with aiohttp on uvloop, 64 under way; a popped event is lost with its process",
        module="benchmarks.bare.asyncio_loop",
        events_per_second=6000,
    ),
    "bare libcurl loop": Limit(
        title="bare libcurl loop",
        how="the same with libcurl's multi interface",
        module="benchmarks.bare.curl_loop",
        events_per_second=16_000,
    ),
    "bare libcurl loop, 100 a call": Limit(
        title="bare libcurl loop, 100 a call",
        how="the same with a hundred events in one call",
        module="benchmarks.bare.curl_loop",
        arguments=("batch",),
        events_per_second=90_000,
    ),
}
SERVERS: Final[Mapping[str, str]] = {
    "falcon + celery.delay": "falcon on granian (WSGI, 2 processes) that calls `fan_out.delay(event)` of the plain Celery above before it answers 202; no worker runs",
    "the framework, empty 202": "falcon.asgi on granian as in the product, 2 processes, reading the body and answering an empty 202",
}


@contextlib.contextmanager
def running_peer(folder: Path, peer: Peer, stub: Stub, *, everysec: bool = False) -> Iterator[RunningPeer]:
    """A peer's workers on a fresh server, stopped in the end."""
    with running_store(folder, everysec=everysec) as store:
        runner = RunningPeer(folder / f"{peer.title.replace(' ', '-')}-{time.monotonic_ns()}", peer, {"BENCH_REDIS_URL": store.url, "BENCH_STUB_URL": stub.url})
        runner.processes["store"] = store.process
        try:
            time.sleep(peer.boot_seconds)
            yield runner
        finally:
            runner.processes["worker"].stop(PATIENCE_SECONDS)


class RunningPeer:
    """A peer at work."""

    def __init__(self, folder: Path, peer: Peer, environment: Mapping[str, str]) -> None:
        folder.mkdir(parents=True)
        self._folder, self._peer, self._environment = folder, peer, environment
        self._python = python_of(peer.environment)
        script = str(Path(self._python).with_name(peer.worker[0]))
        command = [self._python, script, *peer.worker[1:]]
        self.processes = {"worker": Process(peer.title, command, environment, folder / "worker.log")}

    def check(self) -> None:
        for process in self.processes.values():
            process.check()

    def producer(self, *, count: int, run: str, rate: float = 0) -> Producer:
        """A producer that is ready to begin."""
        command = [self._python, "-P", "-m", self._peer.module]
        return Producer(
            lambda: Process("producer", command, self._environment, self._folder / "producer.log", talks=True), {"count": count, "run": run, "rate": rate}
        )


def loops(folder: Path, limit: Limit, environment: Mapping[str, str]) -> list[Process]:
    """Two processes of a bare loop, ready to begin at the word."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [python_of(ENVIRONMENT), "-P", "-m", limit.module, *limit.arguments]
    started = [Process(f"loop-{number}", command, environment, folder / f"loop-{time.monotonic_ns()}.log", talks=True) for number in (1, 2)]
    for process in started:
        process.hear()
    return started


def described() -> dict[str, Any]:
    """Every contender besides ours and how it is configured."""
    return {**{name: peer.how for name, peer in PEERS.items()}, **{name: limit.how for name, limit in LIMITS.items()}, **SERVERS}
