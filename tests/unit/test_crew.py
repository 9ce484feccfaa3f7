"""The crew of a process: one task works at a destination and takes along what others bring, without losing or keeping any of it for ever."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from pipeline.crew import Crew, Inbox


def test_what_another_task_brings_is_taken_along() -> None:
    """The first task runs, the next ones hand over and are done; other lanes and destinations have their own."""
    crew = Crew[str]()
    first = crew.join("mail", "given", ["a", "b"])
    assert first is not None
    assert crew.join("mail", "given", ["c"]) is None
    assert crew.join("mail", "withdrawn", ["d"]) is not None
    assert crew.join("sms", "given", ["e"]) is not None
    assert crew.take(first, 2) == ["a", "b"]
    assert crew.take(first, 9) == ["c"]


def test_who_only_waits_for_more_does_not_work() -> None:
    """A task works until it stays idle, and again when it is brought something."""
    crew = Crew[str](most_idle=1)
    assert crew.is_working is False
    inbox = crew.join("mail", "given", ["a"])
    assert inbox is not None
    assert crew.is_working is True
    crew.take(inbox, 1)
    waiting = threading.Thread(target=crew.stay, args=(inbox, 5.0))
    waiting.start()
    while crew.idle == 0:
        waiting.join(0.001)
    assert crew.is_working is False
    assert crew.join("mail", "given", ["b"]) is None
    waiting.join()
    assert crew.is_working is True


def test_a_full_inbox_starts_one_more_task() -> None:
    """What would wait too long in memory is worked on by another task."""
    crew = Crew[str](most_handed=3)
    assert crew.join("mail", "given", ["a", "b"]) is not None
    assert crew.join("mail", "given", ["c", "d"]) is not None
    assert crew.join("mail", "given", ["e"]) is None


def turn_of(crew: Crew[str], inbox: Inbox[str] | None) -> tuple[threading.Thread, list[bool]]:
    """A task that waits for its turn, and what it is told."""
    assert inbox is not None
    said: list[bool] = []
    waiting = threading.Thread(target=lambda: said.append(crew.take_turn(inbox)))
    waiting.start()
    return waiting, said


def test_what_is_brought_to_a_task_that_waits_goes_at_once_to_the_one_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is about to bring something keeps a task waiting behind another; what it brings waits for nobody to look again."""
    monkeypatch.setattr("pipeline.crew.LOOK_SECONDS", 60.0)
    crew = Crew[str](most_handed=2, stay_seconds=60.0)
    at_work = crew.join("mail", "given", ["a", "b"])
    behind = crew.join("mail", "given", ["c"])
    assert at_work is not None
    assert crew.reserve("mail", "given", 1) is behind
    waiting, said = turn_of(crew, behind)
    assert crew.take(at_work, 2) == ["a", "b"]
    while not crew.waiting(at_work):
        waiting.join(0.001)
    assert crew.take(at_work, 2) == ["c"]
    time.sleep(0.05)  # the task behind waits once more, since somebody still holds room there
    assert behind is not None
    assert crew.bring(behind, ["d"], 1)
    waiting.join(5.0)
    assert (said, crew.waiting(at_work)) == ([False], ["d"])


def test_a_task_behind_a_full_inbox_waits_until_there_is_room_and_ends() -> None:
    """Two at one place would share its connections: what it has goes to the one that is at work, as soon as that has room."""
    crew = Crew[str](most_handed=3)
    first, second = crew.join("mail", "given", ["a", "b"]), crew.join("mail", "given", ["c", "d"])
    assert first is not None
    assert crew.take_turn(first) is True
    waiting, said = turn_of(crew, second)
    waiting.join(0.05)
    assert said == []
    assert crew.take(first, 1) == ["a"]
    waiting.join(10)
    assert said == [False]
    assert crew.take(first, 9) == ["b", "c", "d"]
    assert crew.leave_empty(first) is True
    assert crew.is_working is False


def test_what_comes_while_a_task_waits_stands_behind_it() -> None:
    """Nothing overtakes what it has, and no more tasks wait than one for each full inbox; what one has goes over as there is room for it."""
    crew = Crew[str](most_handed=3)
    first, second = crew.join("mail", "given", ["a", "b"]), crew.join("mail", "given", ["c", "d"])
    assert first is not None
    assert second is not None
    assert crew.take(first, 1) == ["a"]
    assert crew.join("mail", "given", ["e"]) is None
    third = crew.join("mail", "given", ["f"])
    assert third is not None
    waiting, said = turn_of(crew, second)
    while len(second.items) > 1:
        waiting.join(0.01)
    assert crew.take(first, 9) == ["b", "c", "d"]
    waiting.join(10)
    assert said == [False]
    assert crew.take_turn(third) is False
    assert crew.take(first, 9) == ["e", "f"]


def test_a_task_that_waits_does_not_end_while_room_is_held_at_it() -> None:
    """Fan-out may bring it ids; it goes once they have come."""
    crew = Crew[str](most_handed=2)
    first, second = crew.join("mail", "given", ["a", "b"]), crew.join("mail", "given", ["c"])
    assert first is not None
    assert second is not None
    assert crew.reserve("mail", "given", 1) is second
    waiting, said = turn_of(crew, second)
    assert crew.take(first, 2) == ["a", "b"]
    waiting.join(0.05)
    assert said == []
    assert crew.bring(second, ["d"], 1) is True
    crew.take(first, 9)
    waiting.join(10)
    assert said == [False]


def test_what_a_failed_task_has_not_leased_goes_to_another_at_its_place() -> None:
    """To one that waits, or to one that goes on beside it; to nobody of another place, or with other settings."""
    now = [0.0]
    crew = Crew[str | int](most_handed=3, stay_seconds=5, clock=lambda: now[0])
    first = crew.join("mail", "given", ["a", 1, "b"])
    assert first is not None
    other, changed = crew.join("sms", "given", ["x"]), crew.join("mail", "given", ["y"], object())
    waits = crew.join("mail", "given", ["c"])
    crew.hand_on(first)
    assert waits is not None
    assert crew.take_turn(waits) is True
    assert crew.take(waits, 9) == ["c", "a", "b"]
    now[0] = 9.0
    heir = crew.join("mail", "given", ["d"])
    assert heir is not None
    assert crew.take_turn(heir) is True
    crew.hand_on(heir)
    assert crew.take(waits, 9) == ["d"]
    crew.hand_on(waits)
    assert other is not None
    assert changed is not None
    assert (crew.take(other, 9), crew.take(changed, 9)) == (["x"], ["y"])


def test_the_next_task_inherits_what_is_not_leased() -> None:
    """One that stayed long enough leaves what waits to the next, but for what is leased for itself; with its own time before it, that is brought more."""
    now = [0.0]
    crew = Crew[str | int](most_handed=4, stay_seconds=5, clock=lambda: now[0])
    first = crew.join("mail", "given", ["a", 1, "b"])
    assert first is not None
    assert crew.take_turn(first) is True
    now[0] = 5.0
    second = crew.join("mail", "given", ["c"])
    assert second is not None
    now[0] = 9.0
    assert crew.take_turn(second) is True
    assert crew.take(first, 9) == [1]
    now[0] = 13.0
    assert crew.join("mail", "given", ["d"]) is None
    assert crew.take(second, 9) == ["a", "b", "c", "d"]


def test_the_next_task_begins_when_the_first_has_gone_or_its_time_is_over() -> None:
    """However it ends, whoever waits for it is told at once, one after the other; one that hangs is waited for until its time is over."""
    crew = Crew[str](most_handed=1)
    first, second, third = (crew.join("mail", "given", [name]) for name in "abc")
    assert first is not None
    assert second is not None
    waiting, said = turn_of(crew, second)
    last, told = turn_of(crew, third)
    assert crew.leave(first) == ["a"]
    waiting.join(10)
    assert said == [True]
    last.join(0.05)
    assert told == []
    assert crew.take(second, 1) == ["b"]
    last.join(10)
    assert told == [False]
    hanging = Crew[str](most_handed=1, stay_seconds=0.1)
    stuck = hanging.join("mail", "given", ["a"])
    waiting, said = turn_of(hanging, hanging.join("mail", "given", ["b"]))
    waiting.join(10)
    assert said == [True]
    assert stuck is not None
    assert hanging.take(stuck, 1) == []


def test_a_task_with_other_settings_waits_for_none() -> None:
    """What was read anew is told by it at once; the old one gives back what it has."""
    crew, old, new = Crew[str](most_handed=1), object(), object()
    assert crew.join("mail", "given", ["a"], old) is not None
    fresh = crew.join("mail", "given", ["b"], new)
    assert fresh is not None
    assert crew.take_turn(fresh) is True
    assert list(fresh.items) == ["b"]


def test_a_task_that_stayed_long_takes_no_more_along() -> None:
    """It ends with what it has, and the next one takes over."""
    now = [0.0]
    crew = Crew[str](stay_seconds=5, clock=lambda: now[0])
    assert crew.join("mail", "given", ["a"]) is not None
    now[0] = 5.0
    assert crew.join("mail", "given", ["b"]) is not None


def test_nobody_leaves_with_something_in_hand() -> None:
    """A task that wants to end is told that somebody has just brought more; once it has left, others run themselves."""
    crew = Crew[str]()
    inbox = crew.join("mail", "given", ["a"])
    assert inbox is not None
    assert crew.leave_empty(inbox) is False
    assert crew.take(inbox, 9) == ["a"]
    assert crew.leave_empty(inbox) is True
    assert crew.join("mail", "given", ["b"]) is not None


def test_who_leaves_early_hands_back_what_nobody_took() -> None:
    """It goes back to the ledger; leaving twice does no harm."""
    crew = Crew[str]()
    inbox = crew.join("mail", "given", ["a", "b", "c"])
    assert inbox is not None
    assert crew.take(inbox, 1) == ["a"]
    assert crew.leave(inbox) == ["b", "c"]
    assert crew.leave(inbox) == ["b", "c"]
    assert crew.join("mail", "given", ["d"]) is not None


@pytest.mark.parametrize("stay_seconds", [5.0, 0.001])
def test_many_threads_lose_and_double_nothing(stay_seconds: float) -> None:
    """Whatever the order of joining, taking, waiting, inheriting and leaving, each delivery is taken exactly once."""
    crew, taken = Crew[str](most_handed=20, stay_seconds=stay_seconds), Counter[str]()

    def work(number: int) -> None:
        for turn in range(200):
            inbox = crew.join("mail", "given", [f"{number}.{turn}"])
            if inbox is None or not crew.take_turn(inbox):
                continue
            while True:
                if event_ids := crew.take(inbox, 7):
                    taken.update(event_ids)
                elif crew.leave_empty(inbox):
                    break

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(taken) == 1600
    assert set(taken.values()) == {1}


def test_room_is_at_a_running_task_or_nowhere() -> None:
    """Fan-out brings what a task takes along; otherwise it sends a message."""
    now = [0.0]
    crew = Crew[str](most_handed=3, stay_seconds=5, clock=lambda: now[0])
    assert crew.reserve("mail", "given", 1) is None
    inbox = crew.join("mail", "given", ["b"])
    assert inbox is not None
    assert crew.reserve("mail", "withdrawn", 1) is None
    assert crew.reserve("mail", "given", 1) is inbox
    assert crew.reserve("mail", "given", 2) is None  # two are there, if one of them is still on its way
    assert crew.bring(inbox, ["d"], 1) is True
    assert crew.reserve("mail", "given", 1) is inbox
    assert crew.bring(inbox, [], 1) is True
    assert crew.take(inbox, 9) == ["b", "d"]
    now[0] = 5.0
    assert crew.reserve("mail", "given", 1) is None  # it ends soon
    assert crew.leave_empty(inbox) is True


def test_a_task_does_not_end_while_room_is_held() -> None:
    """What was leased for it must not come too late, whether its time is over or too many are idle; who is forced to end brings the other to give back."""
    now = [0.0]
    crew = Crew[str](most_idle=0, stay_seconds=5, clock=lambda: now[0])
    inbox = crew.join("mail", "given", [])
    assert inbox is not None
    assert crew.reserve("mail", "given", 1) is inbox
    now[0] = 9.0
    assert crew.stay(inbox, 30) is False  # after a moment: it looks again
    assert crew.leave_empty(inbox) is False
    assert crew.bring(inbox, ["a"], 1) is True
    assert crew.stay(inbox, 30) is True
    assert crew.take(inbox, 9) == ["a"]
    now[0] = 0.0
    assert crew.reserve("mail", "given", 1) is inbox
    assert crew.leave(inbox) == []
    assert crew.bring(inbox, ["b"], 1) is False


def test_every_task_has_a_name_of_its_own() -> None:
    """Its leases are no other's."""
    inboxes = [Crew[str]().join("mail", "given", ["a"]) for _ in range(2)] + [crew.join(name, "given", ["a"]) for crew in [Crew[str]()] for name in ("m", "s")]
    assert len({inbox.token for inbox in inboxes if inbox is not None}) == 4


def test_a_task_stays_until_more_is_brought() -> None:
    """It waits without turning round, and goes on at once."""
    crew = Crew[str](most_idle=1)
    inbox = crew.join("mail", "given", ["a"])
    assert inbox is not None
    assert crew.take(inbox, 9) == ["a"]
    assert crew.stay(inbox, 0.01) is False
    bringing = threading.Timer(0.05, crew.join, ("mail", "given", ["b"]))
    bringing.start()
    assert crew.stay(inbox, 30) is True
    assert crew.take(inbox, 9) == ["b"]
    bringing.join()


def test_what_came_before_it_stays_is_not_waited_for() -> None:
    """Brought between the last look and the staying."""
    crew = Crew[str](most_idle=1)
    inbox = crew.join("mail", "given", ["a"])
    assert inbox is not None
    assert crew.stay(inbox, 30) is True


def test_no_more_stay_than_are_allowed_and_none_beyond_its_time() -> None:
    """Each of them holds a thread that other work may need."""
    now = [0.0]
    crew = Crew[str](most_idle=1, stay_seconds=5, clock=lambda: now[0])
    first, second = crew.join("mail", "given", []), crew.join("sms", "given", [])
    assert first is not None
    assert second is not None
    staying = threading.Thread(target=crew.stay, args=(first, 30))
    staying.start()
    while crew.idle == 0:
        pass
    assert crew.stay(second, 30) is False
    assert crew.join("mail", "given", ["a"]) is None
    staying.join(timeout=10)
    assert crew.idle == 0
    now[0] = 5.0
    assert crew.stay(second, 30) is False


def test_who_began_with_other_settings_is_brought_nothing() -> None:
    """After a reading of the routing file, what is planned by it must not be told by the old one."""
    crew, old, new = Crew[str](), object(), object()
    assert crew.join("mail", "given", ["a"], old) is not None
    assert crew.reserve("mail", "given", 1, new) is None
    assert crew.join("mail", "given", ["b"], new) is not None
    assert crew.reserve("mail", "given", 1, new) is not None
