"""Retry: the schedule is data, the jitter full, and a withdrawal never gives up."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain import State
from pipeline.retry import SHORTEST_WAIT_SECONDS, gives_up, is_overdue, wait_seconds
from pipeline.routing import RetryPolicy

POLICY = RetryPolicy(waits_seconds=(5.0, 30.0, 120.0), give_up_after_seconds=600.0)


@given(st.integers(1, 50), st.integers())
def test_jitter_stays_within_the_schedule(attempts: int, seed: int):
    """A wait is never longer than its entry, never shorter than the shortest; the last entry repeats."""
    longest = POLICY.waits_seconds[min(attempts, 3) - 1]
    assert SHORTEST_WAIT_SECONDS <= wait_seconds(POLICY, attempts, Random(seed)) <= longest


def test_jitter_is_full():
    """Waits spread over the whole entry, so that a crowd does not come back at once."""
    random = Random(3)
    waits = [wait_seconds(POLICY, 2, random) for _ in range(1000)]
    assert min(waits) < 1.5
    assert max(waits) > 28.5
    assert 13 < sum(waits) / len(waits) < 17


def test_a_schedule_of_nothing_does_not_hammer():
    """Even a schedule of zeros waits a little."""
    assert wait_seconds(RetryPolicy(waits_seconds=(0.0,)), 1, Random(1)) == SHORTEST_WAIT_SECONDS


@pytest.mark.parametrize("age, overdue", [(0, False), (599.9, False), (600, True), (1e9, True)])
def test_only_a_given_gives_up(age: float, overdue: bool):
    """At the limit both are overdue; only the `given` is given up."""
    assert is_overdue(POLICY, age) is overdue
    assert gives_up(POLICY, State.GIVEN, age) is overdue
    assert gives_up(POLICY, State.WITHDRAWN, age) is False
