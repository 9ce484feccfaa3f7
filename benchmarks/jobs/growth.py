"""Job H: whether A gets slower with unfinished events in the ledger."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.figures import Figure, Figures, Goal
from benchmarks.invented import VENDORS
from benchmarks.jobs.base import BATCH, Job, fill_relay, running_relay
from benchmarks.jobs.memory import planned
from benchmarks.measure import Context, end_to_end, in_turn, warm_up
from benchmarks.relay import Relay, destination, routing
from benchmarks.stub import Stub, running_stub

SIZES: Final = (0, 100_000, 1_000_000)
QUICK_SIZES: Final = (0, 5_000)
FILL_SECONDS: Final = 460.0
"""How long all the filling of one run may take; a ledger that takes events more slowly is measured with fewer, under their true number."""
PLAN_SECONDS: Final = 60.0
"""How long may then be waited until all of them are planned, and in each turn until the servers are at rest."""
REST_SECONDS: Final = 2.0
"""How long what a start sets going may still take, such as beat's first look at the ledger; nobody can see its end from outside."""
METRIC: Final = "deliveries_per_second"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """One size: a relay whose server always runs and holds so many unfinished events, and whose other processes run only in its turn."""

    relay: Relay
    held: int


def run(context: Context) -> Figures:
    """A's rate at each size in turn, each in a ledger of its own that is filled once: events for a destination that is switched off stay unfinished."""
    ledgers: dict[str, Ledger] = {}
    with running_stub(context.folder) as stub, contextlib.ExitStack() as relays:
        told = [destination(name, f"{stub.url}/{name}") for name in VENDORS]
        text = routing({"newsletter": told, "parked": [destination("resting", f"{stub.url}/resting", enabled=False)]})
        until = time.monotonic() + FILL_SECONDS
        for size in QUICK_SIZES if context.is_quick else SIZES:
            relay = relays.enter_context(running_relay(context, text))
            held = _fill(context, relay, size, until)
            ledgers[named(held)] = Ledger(relay=relay, held=held)
        return in_turn(context, ledgers, lambda name: _turn(context, stub, ledgers, name))


def named(size: int) -> str:
    """The contender of a size."""
    return f"ours, {size:,} unfinished"


def _turn(context: Context, stub: Stub, ledgers: Mapping[str, Ledger], name: str) -> Mapping[str, float]:
    """One round of one size, with no processes but servers for the others: beats and workers of those would look at their ledgers meanwhile."""
    relay, held, count = ledgers[name].relay, ledgers[name].held, context.count(name)
    try:
        relay.start()
        warm_up(stub, relay.load(count=100, run=context.run()), relay.check)
        if still := _rest(relay, [each.relay for each in ledgers.values()]):
            context.note(f"with {held:,} events, {still} when A was measured")
        time.sleep(REST_SECONDS)
        values = end_to_end(stub, relay.load(count=count, run=context.run(), batch=BATCH, connections=4), relay.processes, count, relay.check)
    finally:
        relay.stop()
    context.paces[name] = values[METRIC] / len(VENDORS)
    return {**values, "unfinished": held}


def _fill(context: Context, relay: Relay, size: int, until: float) -> int:
    """Post until `size` events are held and planned, or the time is over; returns how many there are. Only the server still runs then."""
    held = 0
    if size:
        relay.start()
    while held < size and time.monotonic() < until:
        count = min(20_000, size - held)
        context.say(f"filling, {held:,} of {size:,} unfinished")
        fill_relay(context, relay, count, purpose="parked")
        held += count
    if held < size:
        context.note(f"after {FILL_SECONDS:.0f} s of filling there were {held:,} unfinished events of {size:,}")
    if held:
        _rest(relay, [relay])
    relay.stop()
    return held


def _rest(relay: Relay, relays: Collection[Relay]) -> str:
    """Wait until this relay has nothing to do and no server rewrites its file, an idle one's neither; returns what is still going on if that takes too long."""
    patience = time.monotonic() + PLAN_SECONDS
    while (still := _going_on(relay, relays)) and time.monotonic() < patience:
        relay.check()
        time.sleep(0.5)
    return still


def _going_on(relay: Relay, relays: Collection[Relay]) -> str:
    """What keeps the machine busy, if anything; what a round that failed has left to tell would count as the next one's."""
    if left := relay.unplanned():
        return f"{left:,} messages still waited to be fanned out"
    with relay.store.client() as client:
        if left := planned(client):
            return f"{left:,} deliveries of before still waited to be told"
    return "a server still rewrote its append-only file" if any(each.store.is_rewriting() for each in relays) else ""


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
            "rounds of one size differ among themselves by a tenth to a fifth, as much as the goal allows: the run before this one, of the same morning, gave 0.93 and 0.94. "
            "In a round in which the server rewrites its append-only file, or in which open events are audited, it takes up to twice the time; else a larger ledger costs it a sixth more"
        ),
        left_out=tuple(named(size) for size in SIZES[1:]),
    ),
)
