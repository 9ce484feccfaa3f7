"""Deliver: the fence right before sending, one talk about one person at a time, and every way a write may be late."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
import redis

import pipeline.chunk
import pipeline.patience
from pipeline.crew import Crew
from pipeline.domain import Outcome, State, VendorResult
from pipeline.errors import LedgerUnavailable
from pipeline.exchange import Work, WorkResult
from pipeline.fanout import FanOut
from pipeline.landing import gate_word
from pipeline.ledger.letters import LetterFilter
from pipeline.limits import Bulkhead
from pipeline.routing import RetryPolicy, Source
from pipeline.vendors.base import Held, Rate, VendorRequest
from tests.support.parts import everything_stored
from tests.support.relay import PlainAdapter, Relay, adapter, destination, routing

ANA, BEN, PHONE = "ana@example.org", "ben@example.org", "+5511987654321"


@pytest.fixture
def relay(client: redis.Redis, request: pytest.FixtureRequest) -> Relay:
    return Relay(client, routing([destination("mail")]), seconds=getattr(request, "param", 30.0))


BRIEFLY = pytest.mark.parametrize("relay", [0.03], indirect=True, ids=["brief"])
"""Leases, claims and marks end while the test looks on."""


def states(relay: Relay, vendor: str = "mail") -> list[str]:
    return [call["state"] for call in relay.vendors[vendor].calls]


def outcome(relay: Relay, event: str, name: str = "mail") -> tuple[str, str | None]:
    return relay.deliveries(event)[name]


def sound(relay: Relay) -> bool:
    return relay.figures().unaccounted == 0


def test_who_is_told_to_stop_ends_what_is_under_way_and_gives_back_the_rest(relay: Relay):
    """What waits in memory takes longer than a worker is given to stop; another one tells it, and needs no rescue for that."""
    events = [relay.event("given", 1, email=f"p{number}@example.org") for number in range(30)]
    for _ in events:
        relay.step()
    relay.queue.messages.clear()
    vendor = relay.vendors["mail"]
    stopping = relay.worker(is_stopping=lambda: bool(vendor.calls))
    stopping.run("mail", "given", events)
    told = len(vendor.calls)
    assert 0 < told < len(events)
    stopping.run("mail", "given", events)
    assert len(vendor.calls) == told
    relay.again()
    assert len(vendor.calls) == len(events)
    assert relay.figures().rescued_total == 0


# The fence


def test_superseded_right_before_sending(relay: Relay):
    """A withdrawal accepted after the `given` was planned stops it before it is sent; its ending names the withdrawal."""
    event = relay.event("given", 1, email=ANA)
    relay.step()
    withdrawal = relay.event("withdrawn", 5, email=ANA)
    relay.step()
    assert relay.vendors["mail"].calls == []
    view = relay.ledger.event(event)["deliveries"][0]
    assert (view["status"], view["reason"], view["vendor_reference"], view["attempts"]) == ("superseded", "newer_word", withdrawal, 0)
    relay.drain()
    assert states(relay) == ["withdrawn"]


def test_superseded_on_retry(relay: Relay):
    """A `given` that waits for its retry is not sent again once it was withdrawn."""
    event = relay.event("given", 1, email=ANA)
    relay.vendors["mail"].answers = [503]
    relay.drain()
    relay.event("withdrawn", 5, email=ANA)
    relay.drain()
    relay.again()
    assert states(relay) == ["given", "withdrawn", *states(relay)[2:]]
    assert set(states(relay)[2:]) <= {"withdrawn"}
    assert outcome(relay, event) == ("superseded", "newer_word")


def test_superseded_on_replay(relay: Relay):
    """A dead `given` that is replayed after a withdrawal is not sent."""
    event = relay.event("given", 1, email=ANA)
    relay.vendors["mail"].answers = [400]
    relay.drain()
    assert outcome(relay, event) == ("dead", "http_400")
    relay.event("withdrawn", 5, email=ANA)
    relay.drain()
    assert len(relay.ledger.letters.reopen(relay.ledger.letters.find(LetterFilter()))) == 1
    relay.again()
    assert states(relay) == ["given", "withdrawn"]
    assert outcome(relay, event) == ("superseded", "newer_word")
    assert sound(relay)


def test_linked_alias_fences(relay: Relay):
    """A withdrawal by another identifier of the same person stops a `given` by e-mail."""
    relay.event("given", 1, email=ANA, phone=PHONE, purpose="sms")
    relay.drain()
    relay.vendors["mail"].calls.clear()
    event = relay.event("given", 2, email=ANA)
    relay.step()
    relay.event("withdrawn", 5, phone=PHONE)
    relay.step()
    assert relay.vendors["mail"].calls == []
    assert outcome(relay, event) == ("superseded", "newer_word")


def test_backlog_tells_only_the_newest(relay: Relay):
    """Of many words saying the same about one contact only the newest is told; the others name it."""
    events = [relay.event("given", minute, email=ANA) for minute in range(4)]
    relay.drain()
    assert len(relay.vendors["mail"].calls) == 1
    assert relay.vendors["mail"].calls[0]["id"] == events[3]
    assert [outcome(relay, event) for event in events[:3]] == [("superseded", "told_by_newer_event")] * 3


def test_withdrawal_is_not_left_to_one_that_nobody_hears(relay: Relay):
    """A withdrawal by e-mail is told although a newer one by a shared phone stands, since that one points to nobody and dies."""
    relay.event("given", 1, email=ANA, phone=PHONE, purpose="sms")
    relay.event("given", 1, email=BEN, phone=PHONE, purpose="sms")
    relay.drain()
    own = relay.event("withdrawn", 2, email=ANA)
    relay.step()
    shared = relay.event("withdrawn", 5, phone=PHONE)
    relay.step(1)  # both are planned before either is told
    relay.drain()
    assert outcome(relay, shared) == ("dead", "ambiguous_subject")
    assert outcome(relay, own) == ("delivered", None)
    assert relay.vendors["mail"].held[ANA, "news"] == "withdrawn"


def test_given_is_not_left_to_one_without_identifier(relay: Relay):
    """A `given` by e-mail is told although a newer `given` by phone stands, which the mail vendor cannot be told of."""
    relay.event("given", 1, email=ANA, phone=PHONE, purpose="sms")
    relay.drain()
    own = relay.event("given", 2, email=ANA)
    other = relay.event("given", 5, phone=PHONE)
    relay.drain()
    assert outcome(relay, other) == ("skipped", "missing_identifier")
    assert outcome(relay, own) == ("delivered", None)


def test_older_withdrawal_than_given_is_not_told(relay: Relay):
    """A `given` newer than a withdrawal supersedes it: the newest word wins in both directions."""
    withdrawal = relay.event("withdrawn", 1, email=ANA)
    relay.step()
    relay.event("given", 5, email=ANA)
    relay.drain()
    assert states(relay) == ["given"]
    assert outcome(relay, withdrawal) == ("superseded", "newer_word")


# Messages are hints


def test_doubled_message_tells_once(relay: Relay):
    """Every deliver message twice: every person told once."""
    for n in range(5):
        relay.event("given", n, email=f"p{n}@example.org")
    while any(kind == "fan_out" for kind, _ in relay.queue.messages):
        relay.step()
    relay.queue.messages += list(relay.queue.messages)
    relay.drain()
    assert len(relay.vendors["mail"].calls) == 5
    assert sound(relay)


def test_message_of_an_unknown_destination_is_harmless(relay: Relay):
    """A message for a destination that is gone or an event nobody knows does nothing."""
    relay.deliver.run("gone", "given", ["a" * 24])
    relay.deliver.run("mail", "given", ["a" * 24])
    assert relay.vendors["mail"].calls == []


def test_destination_removed_keeps_its_deliveries(relay: Relay):
    """If a destination disappears from the routing its planned deliveries go back to wait, nothing is sent."""
    event = relay.event("withdrawn", 1, email=ANA)
    relay.step()
    relay.rules = routing([])
    relay.drain()
    assert outcome(relay, event) == ("waiting", None)
    assert relay.vendors["mail"].calls == []
    relay.rules = routing([destination("mail")])
    relay.again()
    assert outcome(relay, event) == ("delivered", None)


def test_whole_queue_lost(relay: Relay):
    """Losing every message at every stage loses nothing: all are told after the rescues, and the rescues are counted."""
    for n in range(3):
        relay.event("withdrawn", n, email=f"p{n}@example.org")
    for _ in range(2):  # the fan-out hints, then the deliver hints
        relay.queue.messages.clear()
        relay.hurry(pushed=True)
        relay.beat()
    while any(kind == "fan_out" for kind, _ in relay.queue.messages):
        relay.step()
    relay.queue.messages.clear()
    relay.hurry(pushed=True)
    relay.beat()
    relay.drain()
    assert set(relay.vendors["mail"].held.values()) == {"withdrawn"}
    assert len(relay.vendors["mail"].held) == 3
    assert relay.figures().rescued_total >= 6
    assert sound(relay)


# One person, one talk


def test_nobody_talks_about_the_same_person_at_once(client: redis.Redis):
    """While one worker tells a `given`, the withdrawal of another worker waits and follows; it is not lost."""
    relay = Relay(client, routing([destination("mail")]), seconds=0.3)
    event = relay.event("given", 1, email=ANA)
    relay.step()
    withdrawal: list[str] = []

    def meanwhile(_):
        if not withdrawal:
            withdrawal.append(relay.event("withdrawn", 5, email=ANA))
            relay.step()
            relay.step()
            assert relay.vendors["mail"].calls == []
            assert outcome(relay, withdrawal[0]) == ("waiting", None)

    relay.exchange.before = meanwhile
    relay.step()
    assert outcome(relay, event) == ("delivered", None)
    assert relay.figures().stale_sends_total == 1  # sent while a newer withdrawal was accepted
    relay.again()
    assert states(relay) == ["given", "withdrawn"]
    assert relay.vendors["mail"].held == {(ANA, "news"): "withdrawn"}
    assert sound(relay)


def test_purposes_of_one_person_in_one_chunk(relay: Relay):
    """Two purposes of one contact in one chunk are both told, one after the other."""
    under_way: list[int] = []

    def count(_):
        under_way.append(relay.ledger.store.client.zcard("cr:{a:mail}:flight"))

    relay.exchange.before = count
    events = [relay.event("given", 1, email=ANA, purpose=purpose) for purpose in ("news", "sms")]
    while any(kind == "fan_out" for kind, _ in relay.queue.messages):
        relay.step()
    relay.queue.messages = [("deliver", ("mail", "given", tuple(events), 1))]
    relay.drain()
    assert relay.vendors["mail"].held == {(ANA, "news"): "given", (ANA, "sms"): "given"}
    assert under_way == [1, 1]


def test_full_bulkhead_gives_the_chunk_back(relay: Relay):
    """When this process has no thread to spare for a lane, the deliveries go back to the ledger untouched."""
    relay.deliver._bulkhead = Bulkhead(2, 1)
    assert relay.deliver._bulkhead.enter("other", "given") is not None
    event = relay.event("given", 1, email=ANA)
    relay.drain()
    assert outcome(relay, event) == ("waiting", None)
    assert relay.vendors["mail"].calls == []
    relay.deliver._bulkhead = Bulkhead(4, 1)
    relay.again()
    assert outcome(relay, event) == ("delivered", None)


# Late writes


def test_lost_answer_is_told_again(relay: Relay):
    """A `given` whose answer was lost is told again with the same id; the vendor ends as told."""
    event = relay.event("given", 1, email=ANA)
    relay.vendors["mail"].answers = ["lost"]
    relay.drain()
    assert outcome(relay, event) == ("waiting", "timed_out")
    relay.again()
    assert outcome(relay, event) == ("delivered", None)
    assert [call["id"] for call in relay.vendors["mail"].calls] == [event, event]


def test_withdrawal_after_an_unanswered_given_is_told_twice(client: redis.Redis):
    """While a late `given` may still land, a told withdrawal is not final: it is told again afterwards, and only then delivered."""
    relay = Relay(client, routing([destination("mail")]), seconds=0.15)
    vendor = relay.vendors["mail"]
    relay.event("given", 1, email=ANA)
    vendor.answers = ["late"]
    relay.drain()
    withdrawal = relay.event("withdrawn", 5, email=ANA)
    relay.drain()
    assert states(relay) == ["given", "withdrawn"]
    assert outcome(relay, withdrawal)[0] == "waiting"
    assert relay.figures().oldest_untold_withdrawal_seconds["mail"] > 0
    vendor.act_late()
    assert vendor.held == {(ANA, "news"): "given"}  # the late write has undone it
    time.sleep(0.4)
    relay.again(2)
    assert states(relay) == ["given", "withdrawn", "withdrawn"]
    assert vendor.held == {(ANA, "news"): "withdrawn"}
    assert outcome(relay, withdrawal) == ("delivered", None)
    assert relay.figures().accept_to_told.count == 1  # the first telling counts for the latency, the second does not
    assert sound(relay)


def test_given_that_lands_while_the_withdrawal_is_being_told_is_corrected(relay: Relay):
    """The withdrawal has taken effect and its answer is under way when a paused worker's stale `given` lands: that answer is no longer the last word."""
    relay.event("given", 1, email=ANA)
    relay.step()
    given = relay.queue.messages.pop()
    direct, role = relay.exchange.start, threading.local()
    given_judged, given_may_go, told, answer_may_come = (threading.Event() for _ in range(4))

    def start(work, on_done):
        name, role.name = getattr(role, "name", ""), ""
        if name == "given":
            given_judged.set()
            given_may_go.wait(10)
        if name != "withdrawn":
            direct(work, on_done)
            return
        answers = []
        direct(work, lambda *answer: answers.append(answer))
        told.set()
        answer_may_come.wait(10)
        on_done(*answers[0])

    def run(name, message):
        role.name = name
        relay.carry_out(*message)

    relay.exchange.start = start
    slow = threading.Thread(target=run, args=("given", given))
    slow.start()
    given_judged.wait(10)
    time.sleep(0.15)  # longer than claim, mark and lease
    withdrawal = relay.event("withdrawn", 5, email=ANA)
    relay.step()
    teller = threading.Thread(target=run, args=("withdrawn", relay.queue.messages.pop()))
    teller.start()
    told.wait(10)
    given_may_go.set()
    slow.join()
    answer_may_come.set()
    teller.join()
    relay.again(3)
    assert relay.vendors["mail"].held == {(ANA, "news"): "withdrawn"}
    assert outcome(relay, withdrawal) == ("delivered", None)
    assert relay.figures().stale_sends_total == 1
    relay.hurry(pushed=True)
    relay.again()
    assert sound(relay)


def test_given_that_outlived_its_claim_does_not_lift_the_withdrawal_of_another_purpose(client: redis.Redis):
    """Where one state stops everything, a stale `given` undoes the withdrawal of any purpose: it is counted, and that withdrawal is told again."""
    relay = Relay(client, routing([destination("stop", adapter(scope="contact"))]), seconds=0.03)
    relay.event("given", 1, purpose="news", email=ANA)
    relay.step()
    withdrawal: list[str] = []

    def paused(_):
        if not withdrawal:
            time.sleep(0.1)  # longer than claim, mark and lease
            withdrawal.append(relay.event("withdrawn", 5, purpose="sms", email=ANA))
            relay.step()
            relay.step()
            assert relay.deliveries(withdrawal[0]) == {"stop": ("delivered", None)}

    relay.exchange.before = paused
    relay.drain()
    assert relay.figures().stale_sends_total == 1
    relay.again()
    assert [(call["purpose"], call["state"]) for call in relay.vendors["stop"].calls] == [("sms", "withdrawn"), ("news", "given"), ("sms", "withdrawn")]


@BRIEFLY
def test_given_that_outlived_its_claim_is_corrected(relay: Relay):
    """A worker paused past claim and mark sends a stale `given`: it is counted, and the withdrawal that was final is told again."""
    event = relay.event("given", 1, email=ANA)
    relay.step()
    withdrawal: list[str] = []

    def paused(_):
        if not withdrawal:
            time.sleep(0.1)  # longer than claim, mark and lease
            withdrawal.append(relay.event("withdrawn", 5, email=ANA))
            relay.step()
            relay.step()
            assert outcome(relay, withdrawal[0]) == ("delivered", None)

    relay.exchange.before = paused
    relay.drain()
    assert relay.vendors["mail"].held == {(ANA, "news"): "given"}
    assert relay.figures().stale_sends_total == 1
    view = relay.ledger.event(withdrawal[0])
    assert (view["complete"], view["deliveries"][0]["status"], view["deliveries"][0]["reason"]) == (False, "waiting", "late_write")
    relay.again()
    assert relay.vendors["mail"].held == {(ANA, "news"): "withdrawn"}
    assert relay.ledger.event(withdrawal[0])["complete"] is True
    assert states(relay) == ["withdrawn", "given", "withdrawn"]
    relay.hurry(pushed=True)
    relay.again()
    assert outcome(relay, event)[0] in ("delivered", "superseded")
    assert sound(relay)


@BRIEFLY
def test_lost_lease_ends_nothing(relay: Relay, caplog: pytest.LogCaptureFixture):
    """If another worker took the delivery while we talked, our answer is dropped and theirs counts."""
    event = relay.event("withdrawn", 1, email=ANA)
    relay.step()
    relay.vendors["mail"].answers = [200, 400]
    taken: list[int] = []

    def meanwhile(_):
        if not taken:
            taken.append(1)
            time.sleep(0.08)  # claim and lease run out
            relay.hurry(pushed=True)
            relay.beat()
            this, relay.deliver = relay.deliver, relay.worker()
            relay.drain()  # another worker: answered 200
            relay.deliver = this

    relay.exchange.before = meanwhile
    relay.step()  # this one is answered 400, too late
    assert outcome(relay, event) == ("delivered", None)
    assert relay.queue.dead == []
    assert sound(relay)


@BRIEFLY
def test_killed_worker_is_rescued(relay: Relay):
    """A worker that dies in the middle of a dialogue leaves everything to the next one; a `given` it may have sent is told again."""
    event = relay.event("withdrawn", 1, email=ANA)
    relay.step()

    def die(_):
        raise SystemExit

    relay.exchange.before = die
    with pytest.raises(SystemExit):
        relay.step()
    relay.exchange.before = lambda _: None
    time.sleep(0.08)
    relay.hurry(pushed=True)
    relay.beat()
    relay.drain()
    relay.again()
    assert outcome(relay, event) == ("delivered", None)
    assert relay.figures().rescued_total == 1
    assert sound(relay)


def away_for(relay: Relay, monkeypatch: pytest.MonkeyPatch, times: int, script: str) -> None:
    """So many round trips that carry a script fail as if the ledger were away."""
    run, sha, left = relay.ledger.store.round_trip, relay.ledger.store._scripts[script].sha, [times]

    def away(commands: Sequence[tuple[Any, ...]], **options: Any) -> list[Any]:
        if left[0] and any(sha in command for command in commands):
            left[0] -= 1
            raise LedgerUnavailable("away")
        return run(commands, **options)

    monkeypatch.setattr(relay.ledger.store, "round_trip", away)
    monkeypatch.setattr(pipeline.chunk, "HOLD_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(pipeline.patience, "LOOK_SECONDS", 0.01)


@pytest.mark.parametrize("script", ["leave", "settle", "fold"])
@pytest.mark.parametrize("state", ["given", "withdrawn"])
def test_what_was_told_is_written_down_once_the_ledger_is_there_again(client: redis.Redis, monkeypatch: pytest.MonkeyPatch, state: str, script: str):
    """Whatever is being written down when the ledger goes away: the worker keeps it, and nobody is told twice or counted twice."""
    relay = Relay(client, routing([destination("mail")]), seconds=5)
    event = relay.event(state, 1, email=ANA)
    relay.step()
    away_for(relay, monkeypatch, 5, script)
    relay.step()
    assert outcome(relay, event) == ("delivered", None)
    assert len(relay.vendors["mail"].calls) == 1
    assert [count for _, outcome, _, count in relay.figures().deliveries if outcome == "applied"] == [1]
    assert sound(relay)


def test_nothing_is_started_while_the_ledger_is_away(client: redis.Redis, monkeypatch: pytest.MonkeyPatch):
    """What was leased and not told yet goes back, for whoever is there first, and is not told by a worker that may have lost it meanwhile."""
    relay = Relay(client, routing([destination("mail", rate=Rate(concurrent=1))]), seconds=5)
    events = [relay.event("given", 1, email=email) for email in (ANA, BEN)]
    relay.step()
    relay.step()
    away_for(relay, monkeypatch, 2, "leave")
    relay.step()
    assert len(relay.vendors["mail"].calls) == 1
    assert sorted(outcome(relay, event)[0] for event in events) == ["delivered", "waiting"]
    relay.again()
    assert len(relay.vendors["mail"].calls) == 2
    assert [outcome(relay, event) for event in events] == [("delivered", None)] * 2
    assert sound(relay)


def test_ledger_away_for_long_after_the_answer_repeats_safely(relay: Relay, monkeypatch: pytest.MonkeyPatch):
    """If the ledger stays away longer than a worker keeps what it told, the delivery is told again with the same id and ends once."""
    event = relay.event("withdrawn", 1, email=ANA)
    relay.step()
    with monkeypatch.context() as patched:
        patched.setattr(pipeline.chunk, "HOLD_ON_SECONDS", 0.0)
        away_for(relay, patched, 1, "settle")
        with pytest.raises(LedgerUnavailable):
            relay.step()
    time.sleep(0.04)
    for claim in relay.ledger.store.client.scan_iter(match="cr:{a:*}:c:*"):  # they run out like leases
        relay.ledger.store.client.delete(claim)
    relay.hurry(pushed=True)
    relay.beat()
    relay.drain()
    assert outcome(relay, event) == ("delivered", None)
    assert len({call["id"] for call in relay.vendors["mail"].calls}) == 1
    assert sound(relay)


def test_what_was_told_is_written_down_although_memory_is_full(relay: Relay, client: redis.Redis):
    """A full server takes no event and plans none, but forgets nothing that a vendor was told: neither its look at the ledger nor scripts that it forgot stand in the way."""
    relay.ledger.upkeep.live_as("worker-1@here process 1")
    told = relay.event("withdrawn", 1, email=ANA)
    relay.step()
    relay.vendors["mail"].answers = [200]
    before = relay.exchange.before

    def fill(_: object) -> None:
        client.config_set("maxmemory", 1)
        client.script_flush()

    relay.exchange.before = fill
    try:
        relay.step()
        relay.ledger.look()
        assert len(relay.vendors["mail"].calls) == 1
        assert relay.ledger.store.client.info("memory")["used_memory"] > 1
        with pytest.raises(LedgerUnavailable, match="memory is full"):
            relay.event("given", 5, email=BEN)
        stored = everything_stored(client)
        with pytest.raises(LedgerUnavailable, match="memory is full"):
            relay.event("withdrawn", 5, email=BEN)
        assert everything_stored(client) == stored
    finally:
        client.config_set("maxmemory", 0)
        relay.exchange.before = before
    relay.drain()
    relay.again()
    assert outcome(relay, told) == ("delivered", None)
    assert len(relay.vendors["mail"].calls) == 1
    assert sound(relay)


# Accounts


def test_retry_after_pauses_every_destination_of_the_account(client: redis.Redis):
    """A 429 with Retry-After holds back the whole account, counts no attempt, and everything goes on afterwards."""
    relay = Relay(client, routing([destination("a", account="shop"), destination("b", account="shop")]))
    vendor = relay.vendors["shop"]
    vendor.answers = [(429, {"retry-after": "0.3"})]
    event = relay.event("withdrawn", 1, email=ANA)
    relay.drain()
    relay.again()
    assert len(vendor.calls) == 1
    first = next(each for each in relay.ledger.event(event)["deliveries"] if each["outcome"])
    assert (first["outcome"], first["reason"], first["attempts"]) == ("throttled", "http_429", 0)
    time.sleep(0.32)
    relay.again()
    assert len(vendor.calls) == 3
    assert relay.ledger.event(event)["complete"] is True


def test_bad_credentials_pause_probe_and_resume(client: redis.Redis, caplog: pytest.LogCaptureFixture):
    """401 pauses the account with an alert, one delivery probes at a time, and all go on by themselves once it is let in."""
    relay = Relay(client, routing([destination("mail")]), seconds=0.2)
    vendor = relay.vendors["mail"]
    vendor.answers = [401, 401]
    events = [relay.event("withdrawn", n, email=f"p{n}@example.org") for n in range(3)]
    with caplog.at_level(logging.INFO):
        for _ in range(4):  # three times fan-out, then the first delivery
            relay.step()
        assert len(vendor.calls) == 1
        assert relay.figures().breaker_open == {"mail": True}
        relay.drain()
        relay.again()
        assert len(vendor.calls) == 1
        time.sleep(0.22)
        relay.again()
        assert len(vendor.calls) == 2  # one probe, refused again
        time.sleep(0.22)
        relay.again(3)
    assert [outcome(relay, event) for event in events] == [("delivered", None)] * 3
    alerts = [record.alert for record in caplog.records if record.message == "alert"]
    assert alerts == ["withdrawal_held_up", "withdrawal_held_up"]
    gates = [(record.gate, record.levelname) for record in caplog.records if record.message == "account_gate"]
    assert gates == [("misconfigured", "ERROR"), ("ok", "INFO")]
    assert relay.figures().breaker_open == {"mail": False}


def test_breaker_spares_a_vendor_that_is_down(client: redis.Redis):
    """After the failures that open the breaker the vendor is left alone, then probed by one, then told everything."""
    relay = Relay(client, routing([destination("mail", rate=Rate(concurrent=1))]), seconds=1.0, limits={"breaker_failures": 3, "breaker_wait_max_seconds": 1.0})
    vendor = relay.vendors["mail"]
    vendor.answers = [503] * 4
    events = [relay.event("withdrawn", n, email=f"p{n}@example.org") for n in range(10)]
    relay.drain()
    assert len(vendor.calls) == 3
    time.sleep(1.1)
    relay.again()
    assert len(vendor.calls) == 4  # the probe, refused
    time.sleep(1.1)
    relay.again(4)
    assert len(vendor.held) == 10
    assert all(outcome(relay, event) == ("delivered", None) for event in events)
    assert sound(relay)


def test_rate_used_up_is_no_failure(client: redis.Redis):
    """When our own limit is reached the rest waits with a time, no attempt counted, and follows."""
    relay = Relay(client, routing([destination("mail", rate=Rate(calls=2, per_seconds=600, concurrent=8))]), limits={"withdrawal_reserve_share": 0.0})
    events = [relay.event("withdrawn", n, email=f"p{n}@example.org") for n in range(4)]
    relay.drain()
    assert len(relay.vendors["mail"].calls) == 2
    waiting = [relay.ledger.event(event)["deliveries"][0] for event in events if outcome(relay, event)[0] == "waiting"]
    assert [(each["attempts"], each["outcome"]) for each in waiting] == [(0, None), (0, None)]
    assert all(each["next_attempt_at"] for each in waiting)
    relay.again()
    assert len(relay.vendors["mail"].calls) == 2
    client.delete("cr:{a:mail}:window")  # ten minutes later
    relay.again()
    assert len(relay.vendors["mail"].calls) == 4


def test_batches_are_one_call(client: redis.Redis):
    """A vendor that takes many at once is told in batches, each delivery with its own result."""
    relay = Relay(client, routing([destination("mail", adapter(batch_size=3))]))
    sizes: list[int] = []
    relay.exchange.before = lambda work: sizes.append(work.size)
    for n in range(7):
        relay.event("given", n, email=f"p{n}@example.org")
    messages = [ids for _, (_, ids) in relay.queue.messages]
    relay.queue.messages.clear()
    relay.fan_out.run([event for ids in messages for event in ids])
    relay.drain()
    assert sizes == [3, 3, 1]
    assert len(relay.vendors["mail"].held) == 7


def test_overtaken_part_of_a_batch_is_left_out(client: redis.Redis):
    """Of a batch only what still holds is sent."""
    relay = Relay(client, routing([destination("mail", adapter(batch_size=3))]))
    events = [relay.event("given", n, email=f"p{n}@example.org") for n in range(3)]
    relay.queue.messages.clear()
    relay.fan_out.run(events)
    relay.event("withdrawn", 9, email="p1@example.org")
    relay.step()
    assert [call["id"] for call in relay.vendors["mail"].calls] == [events[0], events[2]]


# Awaiting confirmation


class Asking(PlainAdapter):
    """A vendor that confirms later and can be asked."""

    capabilities = adapter(reads_back=True).capabilities
    told: Sequence[str] = ()
    held: State | None = None

    def tell(self, instructions):
        yield VendorRequest(operation="tell", path="/tell", body=b"[]")
        return [VendorResult(outcome=Outcome.PENDING_CONFIRMATION, reason="double_opt_in")] * len(instructions)

    def ask(self, subject, options):
        yield VendorRequest(operation="ask", path="/ask", body=b"[]")
        return Held(state=type(self).held)


def test_confirmation_is_asked_for_not_told_again(client: redis.Redis):
    """What awaits confirmation is asked about; it ends as delivered when the vendor holds what was told, not before."""
    Asking.held = None
    relay = Relay(client, routing([destination("mail", Asking)]))
    event = relay.event("given", 1, email=ANA)
    relay.drain()
    assert outcome(relay, event) == ("awaiting_confirmation", "double_opt_in")
    relay.again()
    assert outcome(relay, event) == ("awaiting_confirmation", "not_confirmed_yet")
    Asking.held = State.GIVEN
    relay.again()
    assert outcome(relay, event) == ("delivered", None)
    assert sound(relay)


def test_withdrawn_while_awaiting_confirmation(client: redis.Redis):
    """A `given` that awaits confirmation ends as superseded once it is withdrawn."""
    Asking.held = None
    relay = Relay(client, routing([destination("mail", Asking)]))
    event = relay.event("given", 1, email=ANA)
    relay.drain()
    relay.event("withdrawn", 5, email=ANA)
    relay.drain()
    relay.again()
    assert outcome(relay, event) == ("superseded", "newer_word")


def test_given_up_given_dies_and_withdrawal_goes_on(client: redis.Redis, caplog: pytest.LogCaptureFixture):
    """Past `give_up_after_seconds` a `given` is dead; a withdrawal raises the alert and is tried on."""
    policy = RetryPolicy(waits_seconds=(0.01,), give_up_after_seconds=0.0)
    relay = Relay(client, routing([destination("mail", retry=policy)]), limits={"breaker_failures": 100})
    relay.vendors["mail"].answers = [503, 503, 503]
    dead, alive = relay.event("given", 1, email=ANA), relay.event("withdrawn", 1, email=BEN)
    with caplog.at_level(logging.ERROR):
        relay.drain()
        relay.again()
    assert outcome(relay, dead) == ("dead", "http_503")
    assert outcome(relay, alive) == ("waiting", "http_503")
    alerts = [(record.alert, record.delivery_id) for record in caplog.records if record.message == "alert" and record.name == "pipeline.settler"]
    assert alerts == [("withdrawal_overdue", f"{alive}.mail")] * 2
    relay.again()
    assert outcome(relay, alive) == ("delivered", None)
    assert relay.queue.dead == [("mail", "http_503", (f"{dead}.mail",))]


@pytest.mark.parametrize(
    "results, expected",
    [
        ([], ("", 0.0)),
        ([VendorResult(outcome=Outcome.APPLIED)], ("ok", 0.0)),
        ([VendorResult(outcome=Outcome.REJECTED), VendorResult(outcome=Outcome.UNAVAILABLE)], ("ok", 0.0)),
        ([VendorResult(outcome=Outcome.UNAVAILABLE)], ("failed", 0.0)),
        ([VendorResult(outcome=Outcome.THROTTLED)], ("paused", 1.0)),
        ([VendorResult(outcome=Outcome.THROTTLED, retry_after_seconds=0.0)], ("paused", 0.0)),
        ([VendorResult(outcome=Outcome.THROTTLED, retry_after_seconds=9.0), VendorResult(outcome=Outcome.APPLIED)], ("paused", 9.0)),
        ([VendorResult(outcome=Outcome.THROTTLED, reason="deadline_passed")], ("", 0.0)),
        ([VendorResult(outcome=Outcome.APPLIED), VendorResult(outcome=Outcome.THROTTLED, reason="next_dialogue", retry_after_seconds=0.0)], ("ok", 0.0)),
        ([VendorResult(outcome=Outcome.MISCONFIGURED), VendorResult(outcome=Outcome.THROTTLED, retry_after_seconds=9.0)], ("misconfigured", 180.0)),
    ],
)
def test_what_answers_say_of_the_account(results: list[VendorResult], expected: tuple[str, float]):
    """Bad credentials weigh most, then a pause (the longest), then any answer at all, then failure; our own deadline says nothing."""
    assert gate_word(results, 180.0) == expected


def test_sources_do_not_matter_to_the_fence(client: redis.Redis):
    """A withdrawal of one source stops a `given` of another."""
    relay = Relay(client, routing([destination("mail")], sources=(Source(name="web"), Source(name="crm"))))
    relay.event("given", 1, email=ANA)
    relay.step()
    relay.event("withdrawn", 5, email=ANA, source="crm")
    relay.drain()
    assert states(relay) == ["withdrawn"]


@BRIEFLY
def test_a_withdrawal_that_outlived_its_claim_does_not_undo_a_newer_given(relay: Relay):
    """A paused worker's old withdrawal lands after a newer `given` was told: that `given` is told again, and nothing counts as stale."""
    withdrawn = relay.event("withdrawn", 1, email=ANA)
    relay.step()
    newer: list[str] = []

    def pause(_work):
        if not newer:
            time.sleep(0.1)  # longer than claim, mark and lease
            newer.append(relay.event("given", 2, email=ANA))
            relay.step()
            relay.step()
            assert relay.vendors["mail"].held[ANA, "news"] == "given"

    relay.exchange.before = pause
    relay.drain()
    assert relay.vendors["mail"].held[ANA, "news"] == "withdrawn"
    relay.again()
    relay.again()
    assert relay.vendors["mail"].held[ANA, "news"] == "given"
    assert relay.deliveries(newer[0])["mail"] == ("delivered", None)
    assert relay.deliveries(withdrawn)["mail"][0] == "superseded"
    assert relay.figures().stale_sends_total == 0


# One task a process, which stays for more


def test_a_task_that_stays_is_brought_what_fan_out_plans(relay: Relay):
    """It needs no message; once it has left, fan-out sends one again."""
    deliver = relay.worker(idle_seconds=2.0, most_idle=1)
    fan_out = FanOut(relay.ledger, relay.vault, relay.queue, lambda: relay.rules, chunk_size=100, hands=deliver)

    def plan(minute: int) -> list[str]:
        event = relay.event("given", minute, email=f"p{minute}@example.org")
        relay.queue.messages.clear()
        assert fan_out.run([event]) == 1
        return [kind for kind, _ in relay.queue.messages]

    assert plan(1) == ["deliver"]
    _, (destination, lane, event_ids, _) = relay.queue.messages.pop()
    task = threading.Thread(target=deliver.run, args=(destination, lane, event_ids))
    task.start()
    wait_until(lambda: len(relay.vendors["mail"].calls) == 1)
    assert plan(2) == []
    wait_until(lambda: len(relay.vendors["mail"].calls) == 2)
    task.join(timeout=30)
    assert plan(3) == ["deliver"]


@pytest.mark.parametrize("answer", [200, 503])
def test_a_hint_that_comes_twice_is_told_once(client: redis.Redis, answer: int):
    """Brought again while its own call is under way: neither told twice, nor past the wait of its retry."""
    relay = Relay(client, routing([destination("mail")]), seconds=10.0)
    deliver = relay.worker(idle_seconds=0.3, most_idle=1)
    event, other = relay.event("given", 1, email=ANA), relay.event("given", 2, email=BEN)
    relay.fan_out.run([event, other])
    relay.queue.messages.clear()
    waiting = Waiting(relay.exchange)
    deliver.worker._exchange = waiting  # type: ignore[assignment]
    relay.vendors["mail"].answers = [answer]
    mail = relay.rules.destinations["mail"]
    task = threading.Thread(target=deliver.run, args=("mail", "given", [event]))
    task.start()
    wait_until(lambda: waiting.held == 1)
    with deliver.reserve(mail, "given", 3) as room:
        room.bring([], [event, event, other])
    wait_until(lambda: waiting.held == 2)  # the other one was taken along
    waiting.let_go()
    task.join(timeout=30)
    assert [call["to"]["email"] for call in relay.vendors["mail"].calls].count(ANA) == 1
    assert outcome(relay, event)[0] == ("delivered" if answer == 200 else "waiting")
    assert outcome(relay, other)[0] == "delivered"


def test_what_is_planned_by_a_new_routing_file_is_told_by_it(relay: Relay):
    """A task that began with the old one is brought nothing, and gives back what it has not begun."""
    deliver = relay.worker(idle_seconds=5.0, most_idle=1)
    event = relay.event("given", 1, email=ANA)
    relay.fan_out.run([event])
    task = threading.Thread(target=deliver.run, args=("mail", "given", [event]))
    task.start()
    wait_until(lambda: deliver._crew.idle == 1)
    old, relay.rules = relay.rules.destinations["mail"], routing([destination("mail")])
    assert deliver.reserve(relay.rules.destinations["mail"], "given", 1) is None
    later = relay.event("given", 2, email=BEN)
    relay.fan_out.run([later])
    with deliver.reserve(old, "given", 1) as room:  # by who has not heard of it yet
        room.bring([], [later])
    task.join(timeout=30)
    assert [call["to"]["email"] for call in relay.vendors["mail"].calls] == [ANA]
    assert outcome(relay, later)[0] == "waiting"


def test_an_outage_at_the_turn_of_a_task_loses_nothing_of_what_waits(client: redis.Redis, monkeypatch: pytest.MonkeyPatch):
    """One that inherits what waits and cannot lease it hands it back to the task that holds on, which tells it without a rescue."""
    relay = Relay(client, routing([destination("mail", rate=Rate(concurrent=1))]), seconds=30.0)
    deliver = relay.worker(idle_seconds=0.05, most_idle=1)
    deliver._crew = Crew(most_idle=1, most_handed=1, stay_seconds=3.0)
    deliver.worker._exchange = waiting = Waiting(relay.exchange)  # type: ignore[assignment]
    events = [relay.event("given", minute, email=f"p{minute}@example.org") for minute in range(4)]
    relay.fan_out.run(events)

    def task(event: str) -> threading.Thread:
        thread = threading.Thread(target=run, args=(event,))
        thread.start()
        return thread

    def run(event: str) -> None:
        with suppress(LedgerUnavailable):
            deliver.run("mail", "given", [event])

    first = task(events[0])
    wait_until(lambda: waiting.held == 1)
    (inbox,) = deliver._crew._running["mail", "given"]
    deliver.run("mail", "given", [events[1]])
    wait_until(lambda: not inbox.items)  # it is pending behind the one under way
    deliver.run("mail", "given", [events[2]])
    away_for(relay, monkeypatch, 1, "claim")
    task(events[3]).join(timeout=30)
    assert list(inbox.items) == [events[2], events[3]]
    waiting.let_go()
    first.join(timeout=30)
    assert {call["to"]["email"] for call in relay.vendors["mail"].calls} == {f"p{minute}@example.org" for minute in range(4)}


def test_who_says_much_leaves_room_for_others(client: redis.Redis):
    """Of a person with many deliveries one is asked for at a time, so that a call for several is filled with others."""
    relay = Relay(client, routing([destination("mail", adapter(batch_size=3), rate=Rate(concurrent=1))]))
    people = [ANA, ANA, ANA, BEN, "cem@example.org"]
    events = [relay.event("given", minute, purpose=f"news-{minute}", email=who) for minute, who in enumerate(people)]
    relay.fan_out.run(events)
    relay.deliver.run("mail", "given", events)
    assert sorted(call["to"]["email"] for call in relay.vendors["mail"].calls[:3]) == [ANA, BEN, "cem@example.org"]
    assert len(relay.vendors["mail"].calls) == 5


class Waiting:
    """An exchange whose dialogues end only when they are let go, in the order in which they began."""

    def __init__(self, inner: Any) -> None:
        self._inner, self._begun, self._is_open = inner, [], False

    @property
    def held(self) -> int:
        return len(self._begun)

    def let_go(self) -> None:
        self._is_open = True
        for work, on_done in self._begun:
            self._inner.start(work, on_done)

    def start(self, work: Work, on_done: Callable[[Work, WorkResult], None]) -> None:
        if self._is_open:
            self._inner.start(work, on_done)
        else:
            self._begun.append((work, on_done))


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)
