"""The crew of a process: one task works at a destination and takes along what others bring, without losing or keeping any of it for ever."""

from __future__ import annotations

import threading
from collections import Counter

from pipeline.crew import Crew


def test_what_another_task_brings_is_taken_along() -> None:
    """The first task runs, the next ones hand over and are done; other lanes and destinations have their own."""
    crew = Crew()
    first = crew.join("mail", "given", ["a", "b"])
    assert first is not None
    assert crew.join("mail", "given", ["c"]) is None
    assert crew.join("mail", "withdrawn", ["d"]) is not None
    assert crew.join("sms", "given", ["e"]) is not None
    assert crew.take(first, 2) == ["a", "b"]
    assert crew.take(first, 9) == ["c"]


def test_a_full_inbox_starts_one_more_task() -> None:
    """What would wait too long in memory is worked on by another task."""
    crew = Crew(most_handed=3)
    assert crew.join("mail", "given", ["a", "b"]) is not None
    assert crew.join("mail", "given", ["c", "d"]) is not None
    assert crew.join("mail", "given", ["e"]) is None


def test_a_task_that_stayed_long_takes_no_more_along() -> None:
    """It ends with what it has, and the next one takes over."""
    now = [0.0]
    crew = Crew(stay_seconds=5, clock=lambda: now[0])
    assert crew.join("mail", "given", ["a"]) is not None
    now[0] = 5.0
    assert crew.join("mail", "given", ["b"]) is not None


def test_nobody_leaves_with_something_in_hand() -> None:
    """A task that wants to end is told that somebody has just brought more; once it has left, others run themselves."""
    crew = Crew()
    inbox = crew.join("mail", "given", ["a"])
    assert inbox is not None
    assert crew.leave_empty("mail", "given", inbox) is False
    assert crew.take(inbox, 9) == ["a"]
    assert crew.leave_empty("mail", "given", inbox) is True
    assert crew.join("mail", "given", ["b"]) is not None


def test_who_leaves_early_hands_back_what_nobody_took() -> None:
    """It goes back to the ledger; leaving twice does no harm."""
    crew = Crew()
    inbox = crew.join("mail", "given", ["a", "b", "c"])
    assert inbox is not None
    assert crew.take(inbox, 1) == ["a"]
    assert crew.leave("mail", "given", inbox) == ["b", "c"]
    assert crew.leave("mail", "given", inbox) == ["b", "c"]
    assert crew.join("mail", "given", ["d"]) is not None


def test_many_threads_lose_and_double_nothing() -> None:
    """Whatever the order of joining, taking and leaving, each delivery is taken exactly once."""
    crew, taken = Crew(most_handed=20), Counter[str]()

    def work(number: int) -> None:
        for turn in range(200):
            inbox = crew.join("mail", "given", [f"{number}.{turn}"])
            if inbox is None:
                continue
            while True:
                if event_ids := crew.take(inbox, 7):
                    taken.update(event_ids)
                elif crew.leave_empty("mail", "given", inbox):
                    break

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(taken) == 1600
    assert set(taken.values()) == {1}
