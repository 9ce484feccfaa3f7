"""A chunk under way while the ledger, or a part of it, is away, or an answer of it is lost: nothing is told or counted twice, and nothing is left lying."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis

import pipeline.chunk
import pipeline.in_hand
from pipeline.errors import LedgerUnavailable
from pipeline.vendors.base import Rate
from tests.support.relay import Relay, destination, routing

ANA, BEN = "ana@example.org", "ben@example.org"
Command = tuple[Any, ...]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.chunk, "HOLD_LOOK_SECONDS", 0.01)


def one_at_a_time(client: redis.Redis, *, seconds: float = 5.0) -> Relay:
    return Relay(client, routing([destination("mail", rate=Rate(concurrent=1))]), seconds=seconds)


def planned(relay: Relay, *events: str) -> None:
    """One message for all of them."""
    relay.fan_out.run(events)
    relay.queue.messages = [("deliver", ("mail", "given", events, 1))]


def troubled(relay: Relay, monkeypatch: pytest.MonkeyPatch, is_meant: Callable[[Sequence[Command]], bool], *, is_run: bool) -> None:
    """Round trips that are meant fail, after they were carried out or before."""
    run = relay.ledger.store.round_trip

    def fails(commands: Sequence[Command], **options: Any) -> list[Any]:
        meant = is_meant(commands)
        if meant and not is_run:
            raise LedgerUnavailable("away")
        answers = run(commands, **options)
        if meant:
            raise LedgerUnavailable("no answer in time")
        return answers

    monkeypatch.setattr(relay.ledger.store, "round_trip", fails)


def carrying(relay: Relay, *scripts: str, times: int) -> Callable[[Sequence[Command]], bool]:
    """So many round trips that carry all of these scripts."""
    shas, left = [relay.ledger.store._scripts[name].sha for name in scripts], [times]

    def is_meant(commands: Sequence[Command]) -> bool:
        if left[0] and all(any(sha in command for command in commands) for sha in shas):
            left[0] -= 1
            return True
        return False

    return is_meant


def outcomes(relay: Relay, *events: str) -> list[str]:
    return [relay.deliveries(event)["mail"][0] for event in events]


def test_lost_answer_to_a_goodbye_does_not_have_a_withdrawal_told_again(client: redis.Redis, monkeypatch: pytest.MonkeyPatch):
    """Said once more, the goodbye is answered as the first time: the claim had lasted."""
    relay = one_at_a_time(client)
    event = relay.event("withdrawn", 1, email=ANA)
    relay.step()
    troubled(relay, monkeypatch, carrying(relay, "leave", times=2), is_run=True)
    relay.step()
    assert outcomes(relay, event) == ["delivered"]
    assert len(relay.vendors["mail"].calls) == 1


def test_lost_answer_to_a_goodbye_counts_one_failure(client: redis.Redis, monkeypatch: pytest.MonkeyPatch):
    """A vendor that failed once has failed once, however often that had to be said."""
    relay = one_at_a_time(client)
    relay.vendors["mail"].answers = [503]
    relay.event("withdrawn", 1, email=ANA)
    relay.step()
    troubled(relay, monkeypatch, carrying(relay, "leave", times=2), is_run=True)
    relay.step()
    assert client.hget(relay.ledger.keys.account("mail", "gate"), "failures") == b"1"


def test_leases_last_while_identifiers_are_away(client: redis.Redis, monkeypatch: pytest.MonkeyPatch):
    """Three times a lease long nobody can say whether a newer word came: what was told stays ours, and is told once."""
    relay = one_at_a_time(client, seconds=0.3)
    event = relay.event("given", 1, email=ANA)
    relay.step()
    until = time.monotonic() + 1.0
    sha = relay.ledger.store._scripts["newer"].sha
    troubled(relay, monkeypatch, lambda commands: time.monotonic() < until and any(sha in command for command in commands), is_run=False)
    (message,) = relay.queue.messages
    relay.queue.messages.clear()
    task = threading.Thread(target=relay.carry_out, args=message)
    task.start()
    time.sleep(0.1)
    while time.monotonic() < until:
        assert not relay.ledger.deliveries.overdue("mail", 0)
        time.sleep(0.02)
    task.join(10)
    assert outcomes(relay, event) == ["delivered"]
    assert len(relay.vendors["mail"].calls) == 1


def test_what_could_not_be_judged_is_put_back(client: redis.Redis, monkeypatch: pytest.MonkeyPatch):
    """The ledger goes away between admission and start: the delivery is free again at once, and so is its contact."""
    relay = one_at_a_time(client)
    events = relay.event("given", 1, email=ANA), relay.event("given", 2, email=BEN)
    planned(relay, *events)
    judge = relay.deliver.worker._judge
    endings, asked = judge.endings, []

    def away_for_ben(*values: Any) -> Any:
        asked.append(values)
        if len(asked) == 2:
            raise LedgerUnavailable("away")
        return endings(*values)

    monkeypatch.setattr(judge, "endings", away_for_ben)
    relay.step()
    relay.again()
    assert outcomes(relay, *events) == ["delivered", "delivered"]


def test_what_was_admitted_without_an_answer_is_put_back(client: redis.Redis, monkeypatch: pytest.MonkeyPatch):
    """The answer to an admission is lost: what it granted is returned, so that the next worker finds the contact free."""
    relay = one_at_a_time(client)
    events = relay.event("given", 1, email=ANA), relay.event("given", 2, email=BEN)
    planned(relay, *events)
    troubled(relay, monkeypatch, carrying(relay, "leave", "admit", times=1), is_run=True)
    relay.step()
    relay.again()
    assert outcomes(relay, *events) == ["delivered", "delivered"]
    assert len(relay.vendors["mail"].calls) == 2


def test_correction_that_fails_is_made_later_and_leaves_nothing_lying(client: redis.Redis, monkeypatch: pytest.MonkeyPatch):
    """What was told too late is corrected once that can be written down; what was admitted meanwhile is told."""
    relay = one_at_a_time(client)
    events = relay.event("given", 1, email=ANA), relay.event("given", 2, email=BEN)
    planned(relay, *events)
    newer: list[str] = []

    def withdraw(_work: Any) -> None:
        if not newer:
            newer.append(relay.event("withdrawn", 5, email=ANA))

    relay.exchange.before = withdraw
    note, tried = relay.ledger.note_stale, []

    def away_once(count: int) -> None:
        tried.append(count)
        if len(tried) == 1:
            raise LedgerUnavailable("away")
        note(count)

    monkeypatch.setattr(relay.ledger, "note_stale", away_once)
    relay.step()
    relay.drain()
    assert outcomes(relay, *events, newer[0]) == ["delivered", "delivered", "delivered"]
    assert relay.figures().stale_sends_total == 1
    assert relay.vendors["mail"].held[ANA, "news"] == "withdrawn"


def test_a_stale_send_is_counted_although_nothing_else_is_left_to_do(client: redis.Redis, monkeypatch: pytest.MonkeyPatch):
    """The only delivery is settled, and the ledger goes away before it can be noted that a withdrawal had come meanwhile."""
    relay = one_at_a_time(client)
    event, newer = relay.event("given", 1, email=ANA), []
    planned(relay, event)
    relay.exchange.before = lambda _: newer or newer.append(relay.event("withdrawn", 5, email=ANA))
    note, tried = relay.ledger.note_stale, []

    def away_twice(count: int) -> None:
        tried.append(count)
        if len(tried) < 3:
            raise LedgerUnavailable("away")
        note(count)

    monkeypatch.setattr(relay.ledger, "note_stale", away_twice)
    relay.step()
    assert (len(tried), relay.figures().stale_sends_total) == (3, 1)


@pytest.mark.parametrize("fails", [1, 3])
def test_what_waits_is_returned_when_nobody_says_what_time_it_is(client: redis.Redis, monkeypatch: pytest.MonkeyPatch, fails: int):
    """The clock is asked for the time of a settlement: what is leased and was not told is not dropped, and needs no rescue."""
    relay = one_at_a_time(client)
    events = relay.event("given", 1, email=ANA), relay.event("given", 2, email=BEN)
    planned(relay, *events)
    clock, asked = relay.ledger.clock_ms, []

    def away() -> int:
        asked.append(1)
        if len(asked) <= fails:
            raise LedgerUnavailable("away")
        return clock()

    relay.exchange.before = lambda _: asked or monkeypatch.setattr(relay.ledger, "clock_ms", away)
    relay.step()
    relay.again()
    assert outcomes(relay, *events) == ["delivered", "delivered"]
    assert (len(asked) > fails, relay.figures().rescued_total) == (True, 0)


@pytest.mark.parametrize("answer, outcome, told", [(200, "applied", 1), (503, "unavailable", 0)])
def test_lost_answer_to_a_settlement_counts_once(client: redis.Redis, monkeypatch: pytest.MonkeyPatch, answer: int, outcome: str, told: int):
    """Settled, but that was not heard, or another node could not copy the results: done once more, it changes no figure."""
    relay = one_at_a_time(client)
    relay.vendors["mail"].answers = [answer]
    relay.event("withdrawn", 1, email=ANA)
    relay.step()
    troubled(relay, monkeypatch, carrying(relay, "settle", times=3), is_run=True)
    relay.step()
    assert relay.figures().deliveries == [("mail", outcome, "withdrawn", 1)]
    assert relay.figures().accept_to_told.count == told
    assert relay.figures().unaccounted == 0


@pytest.mark.parametrize("away", [3, 8, 20])
def test_groups_that_land_while_the_ledger_is_away_are_kept(client: redis.Redis, monkeypatch: pytest.MonkeyPatch, away: int):
    """A vendor slow enough for groups: some dialogues land before a turn fails, others after it; all that was told is written down, and nothing else was started."""
    monkeypatch.setattr(pipeline.in_hand.Chunk, "groups", 3)
    relay = Relay(client, routing([destination("mail", rate=Rate(concurrent=8))]), seconds=30.0)
    events = [relay.event("given", minute, email=f"p{minute}@example.org") for minute in range(40)]
    planned(relay, *events)
    start = relay.exchange.start

    def slowly(work: Any, on_done: Any) -> None:
        threading.Timer(0.01 + 0.004 * (len(relay.vendors["mail"].calls) % 7), start, (work, on_done)).start()

    monkeypatch.setattr(relay.exchange, "start", slowly)
    begun, trips = carrying(relay, "admit", "leave", times=1), iter(range(away))
    is_away: list[bool] = []

    def goes_away(commands: Sequence[Command]) -> bool:
        """For some round trips in a row, from the first turn on that lands and starts."""
        if not is_away and begun(commands):
            is_away.append(True)
        return bool(is_away) and next(trips, None) is not None

    troubled(relay, monkeypatch, goes_away, is_run=False)
    relay.step()
    told = [call["id"] for call in relay.vendors["mail"].calls]
    assert is_away
    assert len(told) >= 7  # one of the eight connections is kept for withdrawals
    assert outcomes(relay, *told) == ["delivered"] * len(told)
    assert len(set(told)) == len(told)
