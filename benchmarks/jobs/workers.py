"""Job J: one worker process against two, emptying the same backlog."""

from __future__ import annotations

from typing import Final

from benchmarks.figures import Figure, Figures, Goal
from benchmarks.jobs.base import Job, relay_backlog
from benchmarks.measure import Context, in_turn
from benchmarks.stub import running_stub

ONE: Final = "ours, 1 worker process"
TWO: Final = "ours, 2 worker processes"


def run(context: Context) -> Figures:
    """The figures include the CPU time of every part, which says what two processes share their cores with."""
    with running_stub(context.folder) as stub:
        return in_turn(context, (ONE, TWO), lambda name: relay_backlog(context, stub, name, worker_processes=1 if name == ONE else 2))


def _j(contender: str) -> Figure:
    return Figure(job="J", contender=contender, metric="deliveries_per_second")


JOBS: Final = (
    Job(
        letter="J",
        title="one worker process against two",
        measured="deliveries/s from a backlog, one call each; nothing comes in meanwhile",
        contenders=(ONE, TWO),
        goals=(Goal(text="two at least 1.7 x one", ours=_j(TWO), against=(_j(ONE),), factor=1.7),),
        run=run,
        columns=("deliveries_per_second", "cores_busy", "cpu_ms_worker", "cpu_ms_store", "cpu_ms_beat", "cpu_ms_stub"),
        why_missed=(
            "one worker, the server, the stub and beat keep 1.3 cores busy: 1.7 times as much would take 2.2, and there are two. With two workers a third of a core is left; the server, one thread, "
            "waits for the disk an eighth of the time (performance.md has the profile)"
        ),
    ),
)
