"""What a job is, and the ways of running ours that several jobs share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.bare.backlog import fill
from benchmarks.figures import Figures, Goal
from benchmarks.invented import VENDORS, event
from benchmarks.measure import Context, Meter, end_to_end, oddities, rates, total_cpu, warm_up
from benchmarks.peers.catalogue import LIMITS, PEERS, loops, running_peer
from benchmarks.processes import Failed, running
from benchmarks.relay import Relay, destination, routing
from benchmarks.stores import running_store
from benchmarks.stub import Stub

BATCH: Final = 1000
OURS_PARTS: Final = ("serve", "worker", "beat", "store")
PEER_PARTS: Final = ("producer", "worker", "store")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """`contenders` are all whose figures it has, ours first; `left_out` are those that the quick form goes without.

    `chart` is the metric of the plot, `columns` those of the table (all, if none are named), `remark` what one must know to read it. `why_missed` is what keeps goals out of reach, as profiles show it; it is
    published while one is missed.
    """

    letter: str
    title: str
    measured: str
    contenders: Sequence[str]
    goals: Sequence[Goal]
    run: Callable[[Context], Figures]
    chart: str = "deliveries_per_second"
    columns: Sequence[str] = ()
    left_out: Sequence[str] = ()
    why_missed: str = ""
    remark: str = ""

    def names(self, *, is_quick: bool) -> list[str]:
        """The contenders of a run."""
        return [name for name in self.contenders if not (is_quick and name in self.left_out)]


def three_vendors(stub: Stub, *, batch_size: int = 1) -> str:
    """A routing file with three destinations on the stub, all told of the same purpose."""
    return routing({"newsletter": [destination(name, f"{stub.url}/{name}", batch_size=batch_size) for name in VENDORS]})


@contextlib.contextmanager
def running_relay(context: Context, text: str, *, worker_processes: int = 2, ingest_processes: int = 1) -> Iterator[Relay]:
    """A relay on a fresh store; nothing is started yet, and all is stopped in the end."""
    with running_store(context.folder) as store:
        relay = Relay(context.folder, store, text, worker_processes=worker_processes, ingest_processes=ingest_processes)
        try:
            yield relay
        finally:
            relay.stop()


def relay_end_to_end(context: Context, stub: Stub, name: str, *, batch: int = 1, batch_size: int = 1) -> Mapping[str, float]:
    """Ours from the first POST to the last call."""
    with running_relay(context, three_vendors(stub, batch_size=batch_size)) as relay:
        relay.start()
        warm_up(stub, relay.load(count=100, run=context.run(), batch=batch), relay.check)
        count = context.count(name)
        values = end_to_end(
            stub, relay.load(count=count, run=context.run(), batch=batch, connections=4 if batch > 1 else 32), relay.processes, count, relay.check
        )
    context.paces[name] = values["deliveries_per_second"] / len(VENDORS)
    return total_cpu(dict(values), OURS_PARTS)


def relay_backlog(context: Context, stub: Stub, name: str, *, worker_processes: int = 2) -> Mapping[str, float]:
    """Ours emptying a backlog that was accepted while no worker ran, from the first call to the last: the starting of processes is not counted."""
    with running_relay(context, three_vendors(stub), worker_processes=worker_processes) as relay:
        values = drained(context, stub, relay, context.count(name), len(VENDORS))
    context.paces[name] = values["deliveries_per_second"] / len(VENDORS)
    return total_cpu(dict(values), OURS_PARTS)


def drained(context: Context, stub: Stub, relay: Relay, count: int, calls_per_event: int) -> dict[str, float]:
    """Have events accepted while no worker runs, then start the workers; figures from the first call to the last. Raises Failed if any is refused."""
    relay.start("serve")
    mark, base, wanted = stub.mark(), stub.count(), count * calls_per_event
    fill_relay(context, relay, count)
    relay.start("worker", "beat")
    while (first := stub.count() - base) == 0:
        relay.check()
        time.sleep(0.005)
    begun_at, meter = time.time(), Meter({**relay.processes, "stub": stub.process})
    complete = stub.wait_for(base + wanted, relay.check)
    seconds, used, told = time.time() - begun_at, meter.used(), stub.count() - base
    return {**rates(told - first, seconds, used), **oddities(wanted, told, complete, stub.repeats(base + wanted, mark))}


def fill_relay(context: Context, relay: Relay, count: int, **order: Any) -> None:
    """Have that many events accepted, in batches. Raises Failed if any is not."""
    producer = relay.load(count=count, run=context.run(), batch=BATCH, connections=4, **order)
    producer.begin()
    report = producer.report()
    if report["accepted"] != count:
        raise Failed(f"{count - report['accepted']} of {count} events were not accepted: answers {report['statuses']}")


def peer_end_to_end(context: Context, stub: Stub, name: str, *, everysec: bool = False) -> Mapping[str, float]:
    """A peer from the first event its producer hands over to the last call."""
    with running_peer(context.folder, PEERS[name], stub, everysec=everysec) as peer:
        warm_up(stub, peer.producer(count=100, run=context.run()), peer.check)
        count = context.count(name)
        values = end_to_end(stub, peer.producer(count=count, run=context.run()), peer.processes, count, peer.check)
    context.paces[name] = values["deliveries_per_second"] / len(VENDORS)
    return total_cpu(dict(values), PEER_PARTS)


def limit_backlog(context: Context, stub: Stub, name: str) -> Mapping[str, float]:
    """A bare loop emptying a ready backlog, from the word to begin to the last call."""
    with running_store(context.folder) as store:
        mark, base, count = stub.mark(), stub.count(), context.count(name)
        run = context.run()
        with store.client() as client:
            fill(client, [event(run, number) for number in range(count)])
        environment = {"BENCH_REDIS_URL": store.url, "BENCH_STUB_URL": stub.url}
        first, second = loops(context.folder / "loops", LIMITS[name], environment)
        with running(first), running(second):
            meter = Meter({"store": store.process, "loop-1": first, "loop-2": second, "stub": stub.process})
            begun_at = time.time()
            first.say("")
            second.say("")
            wanted = count * len(VENDORS)
            complete = stub.wait_for(base + wanted)
            seconds, used, told = time.time() - begun_at, meter.used(), stub.count() - base
        values = {**rates(told, seconds, used), **oddities(wanted, told, complete, stub.repeats(base + wanted, mark))}
    context.paces[name] = values["deliveries_per_second"] / len(VENDORS)
    return total_cpu(dict(values), ("store", "loop-1", "loop-2"))
