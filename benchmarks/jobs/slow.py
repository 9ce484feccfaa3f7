"""Job G: a vendor that takes 100 ms to answer and allows 50 connections, told by one worker process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from benchmarks.figures import Figure, Figures, Goal
from benchmarks.jobs.base import Job, drained, running_relay
from benchmarks.measure import Context, in_turn
from benchmarks.relay import destination, routing
from benchmarks.stub import Stub, running_stub
from benchmarks.stub_server import SLOW_SECONDS

OURS: Final = "ours"
CONNECTIONS: Final = 50
MOST_PER_SECOND: Final = CONNECTIONS / SLOW_SECONDS


def run(context: Context) -> Figures:
    """One destination with 50 connections."""
    with running_stub(context.folder, own=True) as stub:
        return in_turn(context, (OURS,), lambda _: measure(context, stub))


def measure(context: Context, stub: Stub) -> Mapping[str, float]:
    """A round: a backlog, then the time from the first call to the last."""
    text = routing({"newsletter": [destination("slow", f"{stub.url}/slow/one", concurrent=CONNECTIONS)]})
    with running_relay(context, text, worker_processes=1) as relay:
        return drained(context, stub, relay, int(MOST_PER_SECOND * context.seconds * 1.5), 1)


JOBS: Final = (
    Job(
        letter="G",
        title=f"a vendor that takes {SLOW_SECONDS * 1000:.0f} ms to answer, {CONNECTIONS} connections allowed",
        measured="deliveries/s with one worker process",
        contenders=(OURS,),
        goals=(
            Goal(
                text=f"at least 0.9 x ({CONNECTIONS} / {SLOW_SECONDS:g} s)",
                ours=Figure(job="G", contender=OURS, metric="deliveries_per_second"),
                limit=MOST_PER_SECOND,
                factor=0.9,
            ),
        ),
        run=run,
        why_missed="between a vendor's answer and the next call on its connection lie the gathering of answers that come together and one round trip; where the machine is slow they take longer",
    ),
)
