"""Job H: whether A gets slower with unfinished events in the ledger."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from benchmarks.figures import Figure, Figures, Goal, add
from benchmarks.invented import VENDORS
from benchmarks.jobs.base import BATCH, Job, running_relay
from benchmarks.measure import Context, end_to_end, warm_up
from benchmarks.processes import Failed
from benchmarks.relay import Relay, destination, routing
from benchmarks.stub import Stub, running_stub

SIZES: Final = (0, 100_000, 1_000_000)
QUICK_SIZES: Final = (0, 5_000)
FILL_SECONDS: Final = 420.0
"""How long all the filling of one run may take; a ledger that takes events more slowly is measured with fewer, under their true number."""
PLAN_SECONDS: Final = 60.0
"""How long may then be waited until all of them are planned."""
REST_SECONDS: Final = 3.0
"""How long the last of them, which workers have in hand, may still take; nobody can see their end from outside."""
METRIC: Final = "deliveries_per_second"


def run(context: Context) -> Figures:
    """A's rate at each size, on one ledger that grows: events for a destination that is switched off stay unfinished."""
    figures: Figures = {}
    with running_stub(context.folder) as stub:
        told = [destination(name, f"{stub.url}/{name}") for name in VENDORS]
        text = routing({"newsletter": told, "parked": [destination("resting", f"{stub.url}/resting", enabled=False)]})
        with running_relay(context, text) as relay:
            relay.start()
            warm_up(stub, relay.load(count=100, run=context.run()), relay.check)
            until, held = time.monotonic() + FILL_SECONDS, 0
            for size in QUICK_SIZES if context.is_quick else SIZES:
                held = _fill(context, relay, held, size, until)
                for round_number in range(context.rounds):
                    context.say(f"{held:,} unfinished, round {round_number + 1}")
                    add(figures, named(held), {**_measure(context, stub, relay), "unfinished": held})
    return figures


def named(size: int) -> str:
    """The contender of a size."""
    return f"ours, {size:,} unfinished"


def _measure(context: Context, stub: Stub, relay: Relay) -> Mapping[str, float]:
    count = context.count("H")
    values = end_to_end(stub, relay.load(count=count, run=context.run(), batch=BATCH, connections=4), relay.processes, count, relay.check)
    context.paces["H"] = values[METRIC] / len(VENDORS)
    return values


def _fill(context: Context, relay: Relay, held: int, size: int, until: float) -> int:
    """Post until `size` events are held and all of them planned, or the time is over; returns how many there are."""
    while held < size and time.monotonic() < until:
        count = min(20_000, size - held)
        context.say(f"filling, {held:,} of {size:,} unfinished")
        producer = relay.load(count=count, run=context.run(), batch=BATCH, connections=4, purpose="parked")
        producer.begin()
        if producer.report()["accepted"] != count:
            raise Failed("the filling was not accepted")
        held += count
    if held < size:
        context.note(f"H: after {FILL_SECONDS:.0f} s of filling there were {held:,} unfinished events of {size:,}")
    patience = time.monotonic() + PLAN_SECONDS
    while ((left := relay.unplanned()) or relay.store.is_rewriting()) and time.monotonic() < patience:
        relay.check()
        time.sleep(0.5)
    time.sleep(REST_SECONDS if held else 0)
    if left:
        context.note(f"H: with {held:,} events, {left:,} messages still waited to be fanned out while A was measured")
    return held


def _h(size: int) -> Figure:
    return Figure(job="H", contender=named(size), metric=METRIC)


JOBS: Final = (
    Job(
        letter="H",
        title="growth: A's rate with unfinished events in the ledger",
        measured="deliveries/s of batches of 1,000, from the first post to the last call",
        contenders=tuple(named(size) for size in (*SIZES, *QUICK_SIZES[1:])),
        goals=tuple(Goal(text=f"with {size:,} at least 0.9 x the empty rate", ours=_h(size), against=(_h(0),), factor=0.9) for size in SIZES[1:]),
        run=run,
        columns=(METRIC, "unfinished"),
        why_missed=(
            "rounds of one size differ among themselves by up to a third, more than the tenth that the goal allows; the runs of a day gave 0.62 to 1.03, two of five of them more with a million than with 100,000: sizes are measured one after the other, and the machine has slow minutes. "
            "In a round in which the server rewrites its append-only file, or in which open events are audited, it takes up to twice the time; else a larger ledger costs it a sixth more"
        ),
        left_out=tuple(named(size) for size in SIZES[1:]),
    ),
)
