"""Jobs E and F: how long from the beginning of a post until a vendor has it, in calm and behind a backlog."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from benchmarks.figures import Figure, Figures, Goal, add, quantile
from benchmarks.invented import VENDORS
from benchmarks.jobs.base import Job, fill_relay, running_relay, three_vendors
from benchmarks.measure import Context, Meter, in_turn, warm_up
from benchmarks.peers.catalogue import PEERS, running_peer
from benchmarks.processes import Failed, Process, Producer
from benchmarks.relay import Relay
from benchmarks.stub import Arrival, Stub, repeated, running_stub

OURS: Final = "ours"
QUEUES: Final = ("celery", "taskiq", "saq")
EVENTS_PER_SECOND: Final = 100.0
WITHDRAWALS_PER_SECOND: Final = 20.0
BACKLOG: Final = 100_000
QUICK_BACKLOG: Final = 10_000
LOOK_SECONDS: Final = 0.1
PERCENTILES: Final = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}


def run_e(context: Context) -> Figures:
    """A hundred events a second, for ours and each queue."""
    with running_stub(context.folder) as stub:
        return in_turn(context, JOBS[0].names(is_quick=context.is_quick), lambda name: measure_e(context, stub, name))


def measure_e(context: Context, stub: Stub, name: str) -> Mapping[str, float]:
    """One round of one contender."""
    count = int(EVENTS_PER_SECOND * context.seconds * 2)
    if name == OURS:
        with running_relay(context, three_vendors(stub)) as relay:
            relay.start()
            warm_up(stub, relay.load(count=100, run=context.run()), relay.check)
            return _paced(stub, relay.load(count=count, run=context.run(), rate=EVENTS_PER_SECOND), count, relay.processes)
    with running_peer(context.folder, PEERS[name], stub) as peer:
        warm_up(stub, peer.producer(count=100, run=context.run()), peer.check)
        return _paced(stub, peer.producer(count=count, run=context.run(), rate=EVENTS_PER_SECOND), count, peer.processes)


def run_f(context: Context) -> Figures:
    """A backlog of `given` is accepted while no worker runs; then the workers start, and withdrawals come in while it is being told."""
    figures: Figures = {}
    backlog = QUICK_BACKLOG if context.is_quick else BACKLOG
    with running_stub(context.folder) as stub, running_relay(context, three_vendors(stub)) as relay:
        relay.start("serve")
        accepted = 0
        for round_number in range(context.rounds):
            context.say(f"{OURS}, round {round_number + 1}")
            missing = max(0, backlog - accepted + stub.count() // len(VENDORS))
            fill_relay(context, relay, missing)
            values, withdrawn = _behind(context, stub, relay)
            accepted += missing + withdrawn
            add(figures, OURS, {**values, "backlog": backlog, "backlog_left": accepted - stub.count() / len(VENDORS)})
            relay.end("worker")
            relay.end("beat")
    if context.is_quick:
        context.note(f"the quick form's backlog was {backlog:,}")
    if min(figures[OURS]["backlog_left"]) <= 0:
        context.note("the backlog was told before the last withdrawal came; the figures are those of a shorter one")
    return figures


def _behind(context: Context, stub: Stub, relay: Relay) -> tuple[dict[str, float], int]:
    """Start the workers and, once they tell, withdraw at a pace; returns the waits and how many were withdrawn."""
    told, count = stub.count(), int(WITHDRAWALS_PER_SECOND * context.seconds * 2)
    relay.start("worker", "beat")
    while stub.count() == told:
        relay.check()
        time.sleep(0.01)
    withdrawals = relay.load(count=count, run=context.run(), state="withdrawn", rate=WITHDRAWALS_PER_SECOND)
    return _paced(stub, withdrawals, count, relay.processes, patience_seconds=60), count


def _paced(stub: Stub, producer: Producer, count: int, processes: Mapping[str, Process], *, patience_seconds: float = 30) -> dict[str, float]:
    """Post at a pace, wait for all of it to be told, and compare the times of posting and of arrival."""
    mark, meter = stub.mark(), Meter({**processes, "producer": producer.process, "stub": stub.process})
    producer.begin()
    report = producer.report(meter.used)
    posted, others = report["posted_at"], report["used"]["others"] / (time.time() - meter.begun_at)
    if len(posted) != count:
        raise Failed(f"{count - len(posted)} of {count} events were not accepted")
    until = time.monotonic() + patience_seconds
    while True:
        arrivals = of_events(stub.arrivals(mark), posted)
        delays = waits(arrivals, posted)
        if len(delays) == count * len(VENDORS) or time.monotonic() > until:
            break
        time.sleep(LOOK_SECONDS)
    if not delays:
        raise Failed("nothing was told in time")
    figures = {name: quantile(delays, share) * 1000 for name, share in PERCENTILES.items()}
    told = {"told_share": len(delays) / (count * len(VENDORS)), "repeats": repeated(arrivals), "others_cores": others}
    return {**figures, "max_ms": delays[-1] * 1000, **told}


def of_events(arrivals: Iterable[Arrival], posted: Mapping[str, float]) -> list[Arrival]:
    """The arrivals that tell of these events."""
    return [arrival for arrival in arrivals if arrival.message_id.partition(".")[0] in posted]


def waits(arrivals: Sequence[Arrival], posted: Mapping[str, float]) -> list[float]:
    """Seconds from post to first arrival for each event and vendor, sorted."""
    first: dict[str, float] = {}
    for arrival in arrivals:
        first.setdefault(arrival.message_id, arrival.at - posted[arrival.message_id.partition(".")[0]])
    return sorted(first.values())


def _e(contender: str, metric: str) -> Figure:
    return Figure(job="E", contender=contender, metric=metric)


JOBS: Final = (
    Job(
        letter="E",
        title="latency from post to told at 100 events/s, 3 destinations",
        measured="p50, p95 and p99 in ms, from before the post (or the call that enqueues) to the vendor",
        contenders=(OURS, *QUEUES),
        goals=(
            *(
                Goal(text=f"{metric[:3]} below plain Celery's", ours=_e(OURS, metric), against=(_e("celery", metric),), lower_is_better=True)
                for metric in PERCENTILES
            ),
            *(
                Goal(text=f"{metric[:3]} within 2 x taskiq's", ours=_e(OURS, metric), against=(_e("taskiq", metric),), factor=2, lower_is_better=True)
                for metric in PERCENTILES
            ),
        ),
        run=run_e,
        chart="p99_ms",
        left_out=("saq",),
        remark="these are 300 deliveries/s. Where A shows fewer for Celery, it cannot carry them, and its latency is that of a queue that grows",
        why_missed=(
            "three durable writes in a row, three readings and three hops between threads and processes, where a queue that keeps no ledger has three writes and one hop. "
            "The tails are steps that stand in line for a core: a hundred events a second keep one of the two busy"
        ),
    ),
    Job(
        letter="F",
        title=f"a withdrawal behind a backlog of {BACKLOG:,} `given`",
        measured=f"p99 in ms from post to told, {WITHDRAWALS_PER_SECOND:.0f} withdrawals/s",
        contenders=(OURS,),
        goals=(
            Goal(text="p99 at most 1 s", ours=Figure(job="F", contender=OURS, metric="p99_ms"), limit=1000, lower_is_better=True),
            Goal(text="none untold in any round", ours=Figure(job="F", contender=OURS, metric="told_share", of="low"), limit=1.0),
        ),
        why_missed="a withdrawal goes first everywhere, and still stands behind what is under way: chunks of 500 that the server and the workers have begun",
        run=run_f,
        chart="p99_ms",
    ),
)
