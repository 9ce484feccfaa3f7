"""Limits: what an account is allowed, and how much of a worker process one destination may hold."""

from __future__ import annotations

import pytest

from pipeline.limits import Bulkhead, LimitOptions, traffic_of
from pipeline.vendors.base import Rate
from tests.support.relay import PlainAdapter, adapter, destination


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


NO_RATE = Rate()


def traffic(rate: Rate = NO_RATE, kind: type[PlainAdapter] = PlainAdapter, lane: str = "given", **options: float):
    return traffic_of(destination("mail", kind, rate=rate, account="shop"), lane, LimitOptions(**options))


def test_limits_belong_to_the_account():
    """Two destinations of one account ask for the same limits under one name."""
    one, other = (traffic_of(destination(name, account="shop"), "given", LimitOptions()) for name in ("a", "b"))
    assert one == other
    assert one.account == "shop"


def test_claim_outlives_the_longest_dialogue():
    """A claim lasts for the time in which requests may start, one whole request, and a margin; a vendor's own timeout counts."""
    slow = type("Adapter", (PlainAdapter,), {"timeout_seconds": 60.0})
    options = {"total_timeout_seconds": 20.0, "start_window_seconds": 10.0, "claim_margin_seconds": 5.0}
    assert traffic(**options).claim_ms == 35_000
    assert traffic(kind=slow, **options).claim_ms == 75_000


def test_claim_of_a_dead_process_ends_when_it_can_start_nothing_more():
    """Unrenewed, a claim ends after the time in which requests may start and a margin, however long a request may take; never before a lease does."""
    slow = type("Adapter", (PlainAdapter,), {"timeout_seconds": 60.0})
    options = {"total_timeout_seconds": 20.0, "start_window_seconds": 10.0, "claim_margin_seconds": 5.0}
    assert traffic(kind=slow, **options).hold_ms == 15_000
    assert traffic(kind=slow, **options, lease_seconds=18.0).hold_ms == 18_000
    assert traffic(**options, lease_seconds=90.0).hold_ms == 35_000


@pytest.mark.parametrize(
    "rate, capabilities, expected",
    [
        (Rate(calls=None), {}, (0, 1, 0)),
        (Rate(calls=100), {}, (100, 1, 10)),
        (Rate(calls=3), {}, (3, 1, 0)),  # too few to keep any back
        (Rate(calls=5), {}, (5, 1, 1)),  # a share of one call is still one
        (Rate(calls=60), {"max_calls": 3}, (60, 3, 6)),
        (Rate(calls=60), {"max_calls": 1, "signs_in": True}, (60, 3, 6)),
    ],
)
def test_calls_of_a_dialogue_and_the_share_for_withdrawals(rate: Rate, capabilities: dict, expected: tuple[int, int, int]):
    """Calls, calls of a dialogue (signing in included) and what is kept for withdrawals."""
    limits = traffic(rate, adapter(**capabilities), withdrawal_reserve_share=0.1)
    assert (limits.calls, limits.calls_per_dialogue, limits.reserved_calls) == expected


def test_each_lane_has_its_own_dialogues():
    """A vendor that takes consents in bulk and withdrawals one by one is asked for room as each lane needs it, and keeps room for a withdrawal."""

    class Bulky(PlainAdapter):
        def batch_size(self, state):
            return 100 if state == "given" else 1

        def max_calls(self, state):
            return 8 if state == "given" else 2

    lanes = [traffic(Rate(calls=10), Bulky, lane) for lane in ("given", "withdrawn")]
    assert [(limits.batch_size, limits.calls_per_dialogue, limits.reserved_calls) for limits in lanes] == [(100, 8, 2), (1, 2, 2)]


def test_one_connection_is_kept_for_withdrawals_where_there_are_several():
    """With four connections one is kept, with fewer none, so that `given` still goes."""
    assert traffic(Rate(concurrent=4)).reserved_dialogues == 1
    assert traffic(Rate(concurrent=3)).reserved_dialogues == 0


def test_times_are_milliseconds():
    """Seconds of the settings become the milliseconds of the script."""
    limits = traffic(Rate(calls=5, per_seconds=0.2), breaker_wait_seconds=1.5, breaker_wait_max_seconds=9.0, late_write_seconds=2.5)
    assert (limits.per_ms, limits.breaker_wait_ms, limits.breaker_wait_max_ms, limits.late_write_ms) == (200, 1500, 9000, 2500)


def test_quick_destination_may_use_the_whole_process():
    """A destination whose chunks are young may hold all threads but those reserved for withdrawals."""
    bulkhead = Bulkhead(8, 2, clock=Clock())
    assert [bulkhead.enter("mail", "given") is not None for _ in range(8)] == [True] * 6 + [False] * 2
    assert [bulkhead.enter("mail", "withdrawn") is not None for _ in range(2)] == [True] * 2


def test_slow_destination_gets_its_share_only():
    """Once its oldest chunk is slow a destination gets no more than a quarter of the threads; others go on."""
    clock = Clock()
    bulkhead = Bulkhead(8, 2, slow_seconds=2.0, clock=clock)
    tickets = [bulkhead.enter("slow", "given") for _ in range(2)]
    clock.now = 2.1
    assert bulkhead.enter("slow", "given") is None
    assert bulkhead.enter("quick", "given") is not None
    assert bulkhead.enter("slow", "withdrawn") is not None  # lanes do not wait for each other
    bulkhead.leave("slow", "given", tickets[0])
    assert bulkhead.enter("slow", "given") is not None


def test_leaving_makes_room():
    """A thread that comes back may be used again."""
    bulkhead = Bulkhead(2, 1, clock=Clock())
    ticket = bulkhead.enter("mail", "given")
    assert bulkhead.enter("mail", "given") is None
    bulkhead.leave("mail", "given", ticket)
    assert bulkhead.enter("mail", "given") is not None


def test_smallest_process_still_works():
    """One thread serves both lanes."""
    bulkhead = Bulkhead(1, 1, clock=Clock())
    assert bulkhead.enter("mail", "given") is not None
    assert bulkhead.enter("mail", "withdrawn") is not None
