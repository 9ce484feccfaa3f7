"""Deliveries in the ledger: each unfinished one stands in exactly one index, leased to one worker at most, and a lost lease changes nothing."""

from __future__ import annotations

import time

import pytest
import redis

from pipeline.domain import DeliveryStatus
from pipeline.figures import unaccounted
from pipeline.ledger import Ledger
from pipeline.ledger.deliveries import Planned, Row, Settlement, Verb
from tests.support.parts import dead, final, open_ledger, waits

LANE = "withdrawn"
IDS = [letter * 24 for letter in "abcd"]
A = IDS[0]


@pytest.fixture
def ledger(client: redis.Redis) -> Ledger:
    return open_ledger(client)


def plan(ledger: Ledger, *event_ids: str, lane: str = LANE) -> list[bool]:
    return ledger.deliveries.plan("mail", lane, [(event_id, 1000) for event_id in event_ids])


def claim(ledger: Ledger, token: str, *event_ids: str, lease_ms: int = 1000, lane: str = LANE) -> list[str]:
    return [leased.event_id for leased in ledger.deliveries.claim("mail", lane, token, lease_ms, list(event_ids))]


def settle(ledger: Ledger, token: str, *settlements: Settlement, lane: str = LANE) -> list[bool]:
    return ledger.deliveries.settle("mail", lane, token, list(settlements))


def lost(ledger: Ledger) -> int:
    """The part of the gauge that concerns this destination."""
    figures = ledger.deliveries.figures("mail")
    return unaccounted({"accepted": 0, "finished": 0, "open": 0}, {"mail": (figures["counters"], figures["waiting"])})


def test_planning_twice_makes_one_delivery(ledger: Ledger):
    """Planned again, whether pushed, waiting, dead or just ended, a delivery stays as it is."""
    assert plan(ledger, *IDS) == [True] * 4
    claim(ledger, "w1", *IDS)
    settle(ledger, "w1", waits(IDS[1], 60_000), dead(IDS[2]), final(IDS[3]))
    assert plan(ledger, *IDS) == [False] * 4
    assert lost(ledger) == 0
    assert ledger.deliveries.known_destinations() == ["mail"]


def test_lease_excludes_everybody_else(ledger: Ledger):
    """A doubled message leases nothing: not for another worker and not while the first works."""
    plan(ledger, *IDS)
    assert claim(ledger, "w1", *IDS[:3]) == IDS[:3]
    assert claim(ledger, "w2", *IDS) == [IDS[3]]
    assert claim(ledger, "w3", *IDS) == []


def test_lease_runs_out(ledger: Ledger):
    """When a worker dies, its lease ends by itself and the next message gets the delivery."""
    plan(ledger, A)
    claim(ledger, "w1", A, lease_ms=100)
    assert claim(ledger, "w2", A) == []
    time.sleep(0.11)
    assert claim(ledger, "w2", A) == [A]


def test_renewed_lease_lasts(ledger: Ledger):
    """Renewing extends what is still held and names what is lost."""
    plan(ledger, *IDS[:2])
    claim(ledger, "w1", A, lease_ms=30)
    claim(ledger, "w2", IDS[1])
    assert ledger.deliveries.renew("mail", LANE, "w1", 1000, IDS[:2]) == {IDS[1]}
    time.sleep(0.04)
    assert claim(ledger, "w3", A) == []


def test_unknown_and_waiting_are_not_leased(ledger: Ledger):
    """A stray message leases neither what was never planned nor what must still wait."""
    plan(ledger, A)
    claim(ledger, "w1", A)
    settle(ledger, "w1", waits(A, -60_000))
    assert claim(ledger, "w2", A, IDS[1]) == []


def test_early_message_for_what_is_due_is_served(ledger: Ledger):
    """A waiting delivery whose time has come may be leased by any message, with its history."""
    plan(ledger, A)
    claim(ledger, "w1", A)
    settle(ledger, "w1", waits(A, 1, attempts=3, reason="timed_out"))
    leased = ledger.deliveries.claim("mail", LANE, "w2", 1000, [A])
    assert (leased[0].row.attempts, leased[0].row.reason) == (3, "timed_out")
    assert lost(ledger) == 0


def test_settling_with_a_lost_lease_changes_nothing(ledger: Ledger):
    """A worker that was paused past its lease cannot end, kill, delay or give back what another works on."""
    plan(ledger, A)
    claim(ledger, "w1", A, lease_ms=5)
    time.sleep(0.01)
    claim(ledger, "w2", A)
    for settlement in (final(A), dead(A), waits(A, 1), Settlement(event_id=A, verb=Verb.GIVE_BACK, at_ms=1)):
        assert settle(ledger, "w1", settlement) == [False]
    assert ledger.deliveries.look_up(A, ["mail"])["mail"][0] is DeliveryStatus.SENDING
    assert ledger.deliveries.results("mail", 10) == []
    assert ledger.deliveries.find_dead("mail", [A]) == []
    assert settle(ledger, "w2", final(A)) == [True]
    assert lost(ledger) == 0


def test_dropped_lease_still_takes_a_final_answer(ledger: Ledger):
    """If a delivery was rescued but nobody has leased it again, the first worker's final answer counts; its wait does not."""
    plan(ledger, A)
    claim(ledger, "w1", A, lease_ms=5)
    time.sleep(0.01)
    assert ledger.deliveries.release("mail", LANE, 10, rescue_after_ms=0) == ([], [A])
    assert settle(ledger, "w1", waits(A, -60_000)) == [False]
    assert settle(ledger, "w1", final(A)) == [True]
    assert claim(ledger, "w2", A) == []
    assert lost(ledger) == 0


def test_settling_repeated_is_settled(ledger: Ledger):
    """A settle whose answer was lost may be sent again: it answers settled and counts once."""
    plan(ledger, *IDS[:2])
    claim(ledger, "w1", *IDS[:2])
    for _ in range(2):
        assert settle(ledger, "w1", final(A), dead(IDS[1])) == [True, True]
    assert ledger.deliveries.figures("mail")["counters"]["done"] == 2
    assert lost(ledger) == 0


def test_release_takes_only_what_is_due(ledger: Ledger):
    """Due deliveries come out with their rows, at most as many as asked; what waits stays."""
    plan(ledger, *IDS)
    claim(ledger, "w1", *IDS)
    settle(ledger, "w1", waits(IDS[0], 1, attempts=2), waits(IDS[1], 2), waits(IDS[2], 3), waits(IDS[3], -60_000))
    due, rescued = ledger.deliveries.release("mail", LANE, 2, rescue_after_ms=0)
    assert [(each.event_id, each.row.attempts) for each in due] == [(IDS[0], 2), (IDS[1], 0)]
    assert rescued == []
    assert [each.event_id for each in ledger.deliveries.release("mail", LANE, 10, rescue_after_ms=0)[0]] == [IDS[2]]
    assert lost(ledger) == 0


def test_release_twice_pushes_once(ledger: Ledger):
    """Two beats at once do not push the same delivery twice."""
    plan(ledger, A)
    claim(ledger, "w1", A)
    settle(ledger, "w1", waits(A, 1))
    assert len(ledger.deliveries.release("mail", LANE, 10, rescue_after_ms=0)[0]) == 1
    assert ledger.deliveries.release("mail", LANE, 10, rescue_after_ms=0) == ([], [])


def test_lost_messages_and_dead_workers_are_rescued_and_counted(ledger: Ledger):
    """What was pushed and never leased, and what a dead worker leased, comes back after its time, and is counted."""
    plan(ledger, *IDS[:2])
    claim(ledger, "dead", A, lease_ms=100)
    assert ledger.deliveries.release("mail", LANE, 10, rescue_after_ms=0) == ([], [])
    time.sleep(0.11)
    assert ledger.deliveries.release("mail", LANE, 10, rescue_after_ms=None) == ([], [])
    assert sorted(ledger.deliveries.release("mail", LANE, 10, rescue_after_ms=0)[1]) == IDS[:2]
    assert ledger.deliveries.figures("mail")["counters"]["rescued"] == 2
    assert claim(ledger, "w2", *IDS[:2]) == IDS[:2]


def test_pause_holds_back_and_resume_lets_go(ledger: Ledger):
    """A paused destination leases nothing; its deliveries wait in the ledger and go on after resuming, none lost."""
    plan(ledger, *IDS[:2])
    ledger.deliveries.pause("mail", paused=True)
    assert claim(ledger, "w1", *IDS[:2]) == []
    assert ledger.deliveries.release("mail", LANE, 10, rescue_after_ms=0) == ([], [])
    assert ledger.deliveries.figures("mail")["paused"] is True
    assert ledger.deliveries.figures("mail")["waiting"] == {"withdrawn": 2, "given": 0}
    status, row, at_ms = ledger.deliveries.look_up(A, ["mail"])["mail"]
    assert (status, row.reason, at_ms) == (DeliveryStatus.WAITING, "paused", None)
    ledger.deliveries.pause("mail", paused=False)
    assert ledger.deliveries.look_up(A, ["mail"])["mail"][1].reason == ""
    assert sorted(each.event_id for each in ledger.deliveries.release("mail", LANE, 10, rescue_after_ms=0)[0]) == IDS[:2]
    assert claim(ledger, "w1", *IDS[:2]) == IDS[:2]
    assert lost(ledger) == 0


def test_pause_does_not_take_a_live_lease(ledger: Ledger):
    """Pausing while a worker talks does not free its delivery for another; its answer still counts."""
    plan(ledger, A)
    claim(ledger, "w1", A)
    ledger.deliveries.pause("mail", paused=True)
    assert claim(ledger, "w2", A) == []
    assert ledger.deliveries.look_up(A, ["mail"])["mail"][0] is DeliveryStatus.SENDING
    assert settle(ledger, "w1", final(A)) == [True]


def test_give_back_keeps_the_history(ledger: Ledger):
    """A delivery given back untouched keeps its attempts; one that waits gets the new row."""
    plan(ledger, A)
    claim(ledger, "w1", A)
    settle(ledger, "w1", waits(A, 1, attempts=4))
    claim(ledger, "w1", A)
    settle(ledger, "w1", Settlement(event_id=A, verb=Verb.GIVE_BACK, at_ms=-60_000, row=Row(attempts=9)))
    status, row, at_ms = ledger.deliveries.look_up(A, ["mail"])["mail"]
    assert (status, row.attempts) == (DeliveryStatus.WAITING, 4)
    assert 59_000 < at_ms - ledger.now_ms() <= 60_000


def test_untold_withdrawals_are_known_by_age(ledger: Ledger):
    """The oldest untold withdrawal is told by receipt: waiting and dead ones count, told and discarded ones do not, a `given` never."""
    ledger.deliveries.plan("mail", LANE, [(IDS[0], 1000), (IDS[1], 2000)])
    ledger.deliveries.plan("mail", "given", [(IDS[2], 1)])
    assert ledger.deliveries.figures("mail")["oldest_untold_ms"] == 1000
    claim(ledger, "w1", *IDS[:2])
    settle(ledger, "w1", dead(IDS[0]), final(IDS[1]))
    assert ledger.deliveries.figures("mail")["oldest_untold_ms"] == 1000
    letters = ledger.deliveries.find_dead("mail", IDS)
    ledger.deliveries.discard("mail", letters, final(A).result, "discarded")
    assert ledger.deliveries.figures("mail")["oldest_untold_ms"] is None


def test_gauge_sees_a_delivery_that_vanished(ledger: Ledger):
    """If an index entry is lost, the gauge is not zero: it can fail."""
    plan(ledger, *IDS)
    assert lost(ledger) == 0
    ledger.store.client.zrem(ledger.keys.destination("mail", "out:withdrawn"), A)
    assert lost(ledger) == 1


def test_reopening_what_is_unfinished_does_nothing(ledger: Ledger):
    """A delivery that still waits is not reopened, so nothing is counted twice."""
    plan(ledger, A)
    for only_dead in (True, False):
        assert ledger.deliveries.reopen("mail", LANE, [(A, 1000, "")], Row(state=LANE), only_dead=only_dead) == [False]
    assert lost(ledger) == 0


def test_told_delivery_comes_back_only_when_allowed(ledger: Ledger):
    """A replay brings back dead ones only; the correction of a late write brings back a told one as well, untold again."""
    plan(ledger, A)
    claim(ledger, "w1", A)
    settle(ledger, "w1", final(A))
    ledger.deliveries.unfold("mail", ledger.deliveries.results("mail", 10))
    assert ledger.deliveries.reopen("mail", LANE, [(A, 1000, "")], Row(state=LANE), only_dead=True) == [False]
    assert ledger.deliveries.reopen("mail", LANE, [(A, 1000, "")], Row(state=LANE), only_dead=False) == [True]
    assert claim(ledger, "w2", A) == [A]
    assert ledger.deliveries.figures("mail")["oldest_untold_ms"] == 1000
    assert lost(ledger) == 0


def test_lookup_tells_each_stage(ledger: Ledger):
    """Pushed, leased, waiting and awaiting confirmation are told apart."""
    plan(ledger, *IDS)
    claim(ledger, "w1", *IDS[1:])
    settle(ledger, "w1", waits(IDS[2], -60_000), waits(IDS[3], -60_000, awaiting=True))
    stages = [ledger.deliveries.look_up(event_id, ["mail"])["mail"][0] for event_id in IDS]
    assert stages == ["waiting", "sending", "waiting", "awaiting_confirmation"]


def test_is_known_wherever_it_stands(ledger: Ledger):
    """A delivery is known in either lane, dead, or ended but not yet copied; once copied or never planned it is not."""
    plan(ledger, *IDS[:3])
    plan(ledger, IDS[3], lane="given")
    claim(ledger, "w1", *IDS[:3])
    settle(ledger, "w1", final(IDS[0]), dead(IDS[1]))
    assert ledger.deliveries.is_known("mail", [*IDS, "e" * 24]) == [True, True, True, True, False]
    results = ledger.deliveries.results("mail", 10)
    ledger.deliveries.unfold("mail", results)
    assert ledger.deliveries.is_known("mail", IDS) == [False, True, True, True]


def test_unfold_keeps_what_changed_meanwhile(ledger: Ledger):
    """A result that was replaced while the old one was copied is not dropped."""
    plan(ledger, A)
    claim(ledger, "w1", A)
    settle(ledger, "w1", final(A, updated_ms=5))
    ledger.deliveries.unfold("mail", [(A, final(A, updated_ms=4).result.encode())])
    assert len(ledger.deliveries.results("mail", 10)) == 1


# Planned for a task that is there


def plan_leased(ledger: Ledger, token: str, *event_ids: str, lease_ms: int = 60_000) -> list[Planned]:
    place = ("mail", LANE)
    return ledger.plan({place: [(event_id, 1000) for event_id in event_ids]}, [], {place: (token, lease_ms)})[0]


def test_what_is_planned_for_a_task_is_leased_to_it(ledger: Ledger):
    """Nobody else gets it, the task settles it, and what is known already is left to whoever has it."""
    plan(ledger, A)
    assert plan_leased(ledger, "w1", *IDS[:3], IDS[1]) == [Planned.KNOWN, Planned.LEASED, Planned.LEASED, Planned.KNOWN]
    assert claim(ledger, "w2", *IDS[:3]) == [A]
    assert settle(ledger, "w2", final(IDS[1])) == [False]
    assert settle(ledger, "w1", final(IDS[1]), final(A)) == [True, False]
    assert ledger.deliveries.look_up(IDS[2], ["mail"])["mail"][0] is DeliveryStatus.SENDING
    assert lost(ledger) == 0


def test_a_task_that_dies_with_it_keeps_it_no_longer_than_its_lease(ledger: Ledger):
    """It is rescued like any other lease that ran out, and the task that comes back settles nothing."""
    assert plan_leased(ledger, "w1", A, lease_ms=1) == [Planned.LEASED]
    time.sleep(0.01)
    assert ledger.deliveries.release("mail", LANE, 10, rescue_after_ms=0)[1] == [A]
    assert claim(ledger, "w2", A) == [A]
    assert settle(ledger, "w1", final(A)) == [False]


def test_nothing_is_leased_for_a_destination_that_is_paused(ledger: Ledger):
    """It is planned, and whoever claims it finds the pause."""
    ledger.deliveries.pause("mail", paused=True)
    assert plan_leased(ledger, "w1", A) == [Planned.PUSHED]
    assert claim(ledger, "w1", A) == []
    ledger.deliveries.pause("mail", paused=False)
    assert claim(ledger, "w2", A) == [A]
