"""What arrives one by one: nothing is lost or late, and who waits for many is not woken for each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

from pipeline.arrivals import Arrivals


def later(work: Callable[[], None], seconds: float = 0.05) -> threading.Timer:
    timer = threading.Timer(seconds, work)
    timer.start()
    return timer


def in_seconds(seconds: float) -> float:
    return time.monotonic() + seconds


def test_what_is_there_is_not_waited_for():
    arrivals = Arrivals[int]()
    for number in range(3):
        arrivals.put(number)
    assert arrivals.wait(2, in_seconds(60)) == 3
    assert (arrivals.take(2), len(arrivals), arrivals.take(2)) == ([0, 1], 1, [2])


def test_the_last_of_those_waited_for_wakes():
    """Long before the time is over."""
    arrivals = Arrivals[int]()
    later(lambda: [arrivals.put(number) for number in range(2)])
    later(lambda: arrivals.put(2), 0.15)
    began = time.monotonic()
    assert arrivals.wait(3, in_seconds(60)) == 3
    assert 0.1 < time.monotonic() - began < 30


def test_too_few_are_waited_for_until_the_time_is_over():
    arrivals = Arrivals[int]()
    arrivals.put(1)
    began = time.monotonic()
    assert arrivals.wait(2, in_seconds(0.05)) == 1
    assert time.monotonic() - began >= 0.05
    assert arrivals.wait(2, began) == 1


def test_a_bell_of_before_does_not_end_the_next_wait():
    """What came in the moment in which the time was over has rung; who waits for more goes on waiting."""
    arrivals = Arrivals[int]()
    arrivals.put(1)
    arrivals._bell.put(None)
    later(lambda: arrivals.put(2))
    assert arrivals.wait(2, in_seconds(60)) == 2


def test_few_bells_for_many():
    """A hundred that come while somebody waits for all of them wake him once."""
    arrivals = Arrivals[int]()
    rung, bell = [0], arrivals._bell

    def ring(_: None) -> None:
        rung[0] += 1
        bell.put(None)

    arrivals._bell = SimpleNamespace(put=ring, get=bell.get)  # type: ignore[assignment]
    thread = later(lambda: [arrivals.put(number) for number in range(100)])
    assert arrivals.wait(100, in_seconds(60)) == 100
    thread.join()
    assert rung == [1]


def test_threads_that_put_at_once_lose_nothing():
    arrivals = Arrivals[int]()
    threads = [threading.Thread(target=lambda: [arrivals.put(number) for number in range(2000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    taken: list[int] = []
    while len(taken) < 8000:
        assert arrivals.wait(min(64, 8000 - len(taken)), in_seconds(30)) > 0
        taken += arrivals.take(64)
    assert sorted(taken) == sorted(list(range(2000)) * 4)
