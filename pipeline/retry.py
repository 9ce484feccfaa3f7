"""When to try again: the schedule is data, the jitter full, and a withdrawal never gives up."""

from __future__ import annotations

from random import Random

from pipeline.domain import State
from pipeline.routing import RetryPolicy

SHORTEST_WAIT_SECONDS = 0.2
"""Full jitter may draw almost nothing; this keeps a failing destination from being hammered."""


def wait_seconds(policy: RetryPolicy, attempts: int, random: Random) -> float:
    """How long to wait after that many attempts: a random part of the schedule's entry, whose last one repeats.

    Full jitter (uniform between nothing and the entry) spreads a crowd best: AWS Architecture Blog, "Exponential Backoff And Jitter" (2015).
    """
    longest = policy.waits_seconds[min(attempts, len(policy.waits_seconds)) - 1]
    return max(SHORTEST_WAIT_SECONDS, random.uniform(0.0, longest))


def gives_up(policy: RetryPolicy, state: State, age_seconds: float) -> bool:
    """Whether a delivery that keeps failing is dead now; only a `given` ever is."""
    return state is State.GIVEN and is_overdue(policy, age_seconds)


def is_overdue(policy: RetryPolicy, age_seconds: float) -> bool:
    """Whether somebody should be told that a delivery is taking too long."""
    return age_seconds >= policy.give_up_after_seconds
