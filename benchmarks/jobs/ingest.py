"""Jobs C and D: how many events the HTTP interface takes, each on disk before its 202; nothing is fanned out meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from benchmarks.figures import Figure, Figures, Goal
from benchmarks.jobs.base import BATCH, Job, running_relay
from benchmarks.measure import Context, Meter, in_turn
from benchmarks.peers.catalogue import ENVIRONMENT
from benchmarks.processes import Failed, Process, Producer, python_of, running
from benchmarks.relay import load, routing
from benchmarks.stores import running_store
from workers.embedded import free_port

OURS: Final = "ours"
ONE_PROCESS: Final = "ours, 1 process"
CELERY: Final = "falcon + celery.delay"
EMPTY: Final = "the framework, empty 202"
PROCESSES: Final = 2
CONNECTIONS: Final = 32
BATCH_CONNECTIONS: Final = 4
RATE: Final = "requests_per_second"
FIRST_GUESSES: Final = {OURS: 5000.0, ONE_PROCESS: 5000.0, CELERY: 2000.0, EMPTY: 25_000.0, "batches": 13_000.0}
NOBODY: Final = routing(
    {
        "newsletter": [
            "  resting: {vendor: webhook, base_url: 'http://127.0.0.1:9/', allow_private_network: true, credentials: {secret: '${BENCH_WEBHOOK_SECRET}'}, enabled: false}\n"
        ]
    }
)


def run_c(context: Context) -> Figures:
    """Single posts on 32 connections."""
    return in_turn(context, JOBS[0].names(is_quick=context.is_quick), lambda name: measure_c(context, name))


def measure_c(context: Context, name: str) -> Mapping[str, float]:
    """One round of one server."""
    if name in (OURS, ONE_PROCESS):
        with running_relay(context, NOBODY, ingest_processes=PROCESSES if name == OURS else 1) as relay:
            relay.start("serve")
            return _timed(context, name, relay.load, relay.processes)
    command = _celery_command if name == CELERY else _empty_command
    with running_store(context.folder) as store, _server(context, name, command, {"BENCH_REDIS_URL": store.url}) as (process, url):
        processes = {"serve": process, "store": store.process}
        return _timed(context, name, lambda **order: load(url, "", context.folder / "load.log", **order), processes)


def run_d(context: Context) -> Figures:
    """Batches of a thousand."""

    def measure(_name: str) -> Mapping[str, float]:
        with running_relay(context, NOBODY, ingest_processes=PROCESSES) as relay:
            relay.start("serve")
            values = _timed(context, "batches", relay.load, relay.processes, batch=BATCH)
            return {"events_per_second": values.pop(RATE), **values}

    return in_turn(context, (OURS,), measure)


def _timed(context: Context, name: str, loader: Callable[..., Producer], processes: Mapping[str, Process], *, batch: int = 1) -> dict[str, float]:
    """Warm up, then post; only answers of 202 count, and any other answer makes the round worthless."""
    connections = BATCH_CONNECTIONS if batch > 1 else CONNECTIONS
    pace = context.paces.get(f"ingest {name}", FIRST_GUESSES[name])
    count = max(batch * BATCH_CONNECTIONS, int(min(150_000, pace * context.seconds)))
    for warming, events in ((True, 200 * (5 if batch > 1 else 1)), (False, count)):
        producer = loader(count=events, run=context.run(), batch=batch, connections=connections)
        meter = Meter({**processes, "producer": producer.process})
        producer.begin()
        report = producer.report(meter.used)
        if report["accepted"] != events:
            raise Failed(f"{events - report['accepted']} of {events} events were not accepted: answers {report['statuses']}, warming up: {warming}")
    used, seconds = report["used"], report["ended_at"] - report["begun_at"]
    context.paces[f"ingest {name}"] = count / seconds
    others = used.pop("others")
    cpu = {f"cpu_ms_{part}": value * 1e6 / count for part, value in used.items()}
    return {RATE: count / seconds, "seconds": seconds, **cpu, "cores_busy": sum(used.values()) / seconds, "others_cores": others / seconds}


@contextlib.contextmanager
def _server(context: Context, name: str, command: Callable[[int], list[str]], environment: Mapping[str, str]) -> Iterator[tuple[Process, str]]:
    port = free_port()
    log = context.folder / f"server-{time.monotonic_ns()}.log"
    with running(Process(name, command(port), environment, log)) as process:
        until = time.monotonic() + 20
        while not _answers(port):
            process.check()
            if time.monotonic() > until:
                raise Failed(f"{name} did not answer: {process.last_words()}")
            time.sleep(0.05)
        yield process, f"http://127.0.0.1:{port}"


def _celery_command(port: int) -> list[str]:
    return [*_granian(port), "--interface", "wsgi", "benchmarks.peers.falcon_celery:app"]


def _empty_command(port: int) -> list[str]:
    return [*_granian(port), "--interface", "asgi", "--loop", "uvloop", "benchmarks.bare.falcon_empty:app"]


def _granian(port: int) -> list[str]:
    return [python_of(ENVIRONMENT), "-P", "-m", "granian", "--host", "127.0.0.1", "--port", str(port), "--workers", str(PROCESSES), "--no-ws", "--http", "1"]


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/")
        return connection.getresponse().status == 404
    return False


def _c(contender: str) -> Figure:
    return Figure(job="C", contender=contender, metric=RATE)


JOBS: Final = (
    Job(
        letter="C",
        title=f"ingest, single posts on {CONNECTIONS} connections, durable 202",
        measured=f"requests/s, {PROCESSES} server processes each",
        contenders=(OURS, ONE_PROCESS, CELERY, EMPTY),
        goals=(
            Goal(text="at least 5 x falcon + `celery.delay`", ours=_c(OURS), against=(_c(CELERY),), factor=5),
            Goal(text="at least 0.5 x the same framework answering an empty 202", ours=_c(OURS), against=(_c(EMPTY),), factor=0.5),
        ),
        run=run_c,
        chart=RATE,
        left_out=(ONE_PROCESS,),
        why_missed=(
            "an event costs four times what an empty answer does, the server included, and half a core is idle meanwhile: each request waits for the write of its group, which takes five milliseconds in all on 32 connections. One process answers as many as two, for three quarters of the CPU, since its groups are larger, "
            "and waits for its interpreter's lock instead. Of the time with the interpreter's lock a fifth goes into reading and checking it, a quarter into receiving its body and sending the answer, "
            "a quarter into the group commit, and the rest into the server's tasks, heads, keys and hints. Batches (D) spare what each request costs, the small groups, about fifteen events a write, and their way between two threads. "
            "The peer neither checks nor seals what it takes, and still takes more than three times as much CPU for it"
        ),
    ),
    Job(
        letter="D",
        title="ingest, batches of 1,000, durable 202",
        measured=f"events/s, {PROCESSES} server processes, {BATCH_CONNECTIONS} connections",
        contenders=(OURS,),
        goals=(Goal(text="at least 2 x C", ours=Figure(job="D", contender=OURS, metric="events_per_second"), against=(_c(OURS),), factor=2),),
        run=run_d,
        chart="events_per_second",
    ),
)
