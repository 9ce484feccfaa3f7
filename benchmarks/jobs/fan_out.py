"""Jobs A and B: events in, three vendors told of each, one call for each delivery or many in one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from benchmarks.figures import Figure, Figures, Goal
from benchmarks.jobs.base import BATCH, Job, limit_backlog, peer_end_to_end, relay_backlog, relay_end_to_end
from benchmarks.measure import Context, in_turn
from benchmarks.peers.catalogue import LIMITS, PEERS
from benchmarks.stub import Stub, running_stub

SINGLE: Final = "ours, single posts"
BATCHES: Final = "ours, batches"
BACKLOG: Final = "ours, backlog"
EVERYSEC: Final = ", everysec"
LOOPS: Final = ("bare asyncio loop", "bare libcurl loop")
BULK_LOOP: Final = "bare libcurl loop, 100 a call"
QUEUES: Final = ("celery", "dramatiq", "taskiq", "saq")
BULK_SIZE: Final = 500
METRIC: Final = "deliveries_per_second"


def run_a(context: Context) -> Figures:
    """Everybody in turn on one stub, then the queues on a server that syncs every second only."""
    with running_stub(context.folder) as stub:
        names = [name for name in JOBS[0].names(is_quick=context.is_quick) if not name.endswith(EVERYSEC)]
        figures = in_turn(context, names, lambda name: measure_a(context, stub, name))
        if not context.is_quick:
            figures |= in_turn(context, [name + EVERYSEC for name in QUEUES], lambda name: measure_a(context, stub, name))
    return figures


def measure_a(context: Context, stub: Stub, name: str) -> Mapping[str, float]:
    """One round of one contender."""
    if name == BACKLOG:
        return relay_backlog(context, stub, name)
    if name in (SINGLE, BATCHES):
        return relay_end_to_end(context, stub, name, batch=BATCH if name == BATCHES else 1)
    if name in LIMITS:
        return limit_backlog(context, stub, name)
    return peer_end_to_end(context, stub, name.removesuffix(EVERYSEC), everysec=name.endswith(EVERYSEC))


def run_b(context: Context) -> Figures:
    """Vendors that take many events in a call, on the stub that counts the events in a body."""
    with running_stub(context.folder, own=True) as stub:

        def measure(name: str) -> Mapping[str, float]:
            if name in LIMITS:
                return limit_backlog(context, stub, name)
            return relay_end_to_end(context, stub, name, batch=BATCH, batch_size=BULK_SIZE)

        return in_turn(context, (BATCHES, BULK_LOOP), measure)


def _a(contender: str) -> Figure:
    return Figure(job="A", contender=contender, metric=METRIC)


_OURS_B = Figure(job="B", contender=BATCHES, metric=METRIC)
JOBS: Final = (
    Job(
        letter="A",
        title="fan-out, one call for each delivery, 3 destinations",
        measured="deliveries/s from the first event to the last call; CPU ms for 1,000",
        contenders=(SINGLE, BATCHES, BACKLOG, *PEERS, *LOOPS, *(name + EVERYSEC for name in QUEUES)),
        goals=(
            Goal(text="at least 20 x plain Celery with events, both taking events one by one", ours=_a(SINGLE), against=(_a("celery"),), factor=20),
            Goal(
                text="at least 5 x the best Python queue, both taking events one by one",
                ours=_a(SINGLE),
                against=tuple(_a(name) for name in QUEUES if name != "celery"),
                factor=5,
            ),
            Goal(text="at least the bare asyncio loop's draining, ours with the intake of batches", ours=_a(BATCHES), against=(_a(LOOPS[0]),), factor=1.0),
            Goal(text="at least 0.3 x the bare libcurl loop, both draining a ready backlog", ours=_a(BACKLOG), against=(_a(LOOPS[1]),), factor=0.3),
        ),
        run=run_a,
        columns=(METRIC, "cpu_ms", "producing_share"),
        remark=(
            "of a round, events still came in for the producing share. `everysec`: the queues on a server that syncs every second only (`appendfsync everysec`), so that a crash of it loses up to a second; "
            "no goal is held against them"
        ),
        left_out=("dramatiq", "saq", *(name + EVERYSEC for name in QUEUES)),
        why_missed=(
            "an event costs ours a third of the CPU that it costs the best queue, and a thirteenth of Celery's: five times the best queue would take a fifth, and twenty times Celery, which keeps 1.2 of the two cores busy where ours keeps 1.6, a fourteenth. What is idle meanwhile waits for the disk, or for a thread that has not been woken yet. The bare loops pop an event and post it: "
            "no claim, no look for a newer word, no limit, no record of what came of it, and a crash loses what was popped. Ours does all of that, durably; what it costs is spread over many small things, "
            "of which none takes more than a few percent and which compiled code does no faster"
        ),
    ),
    Job(
        letter="B",
        title=f"fan-out, {BULK_SIZE} events in a call",
        measured="deliveries/s from the first batch of 1,000 to the last call",
        contenders=(BATCHES, BULK_LOOP),
        goals=(
            Goal(text="at least 3 x our own A with the same intake", ours=_OURS_B, against=(_a(BATCHES),), factor=3),
            Goal(
                text="at least 0.3 x a bare loop posting 100 at a time from a ready backlog",
                ours=_OURS_B,
                against=(Figure(job="B", contender=BULK_LOOP, metric=METRIC),),
                factor=0.3,
            ),
        ),
        run=run_b,
        columns=(METRIC, "cpu_ms"),
        why_missed=(
            "a call for 500 events costs next to nothing, so what is left is what each event costs the ledger and Python: accepting, planning, claiming, judging and settling it. "
            "That is half to five sixths of what a call for each delivery costs (A), by the run, since the machine changes its pace; the rest is all that there is to spare"
        ),
    ),
)
