"""Compaction: while a destination takes nothing, its backlog keeps only what is still to be told, without a call and without much work."""

from __future__ import annotations

import time

import pytest
import redis

import pipeline.compaction
from pipeline.ledger.deliveries import Row
from pipeline.prepare import Preparer
from pipeline.routing import Trigger
from tests.support.parts import close_gate, traffic
from tests.support.relay import Relay, adapter, destination, routing

ANA, BEN, PHONE = "ana@example.org", "ben@example.org", "+5511987654321"


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    return Relay(client, routing([destination("mail"), destination("sms")]))


def shut(relay: Relay, name: str = "mail") -> None:
    """The account's gate stays closed for a minute."""
    relay.ledger.accounts.leave(traffic(account=name), "w", [], [], gate="paused", pause_ms=60_000)


def said(relay: Relay, state: str, minute: float, **subject: str) -> str:
    """One event that has come as far as it can: its own delivery waits, and it has looked at no other."""
    event = relay.event(state, minute, **subject)
    relay.drain()
    return event


def standing(relay: Relay, events: list[str], name: str = "mail") -> list[tuple[str, str | None]]:
    return [relay.deliveries(event)[name] for event in events]


def test_backlog_of_a_closed_account_keeps_the_newest_word_only(relay: Relay):
    """Of a person's words only the newest waits; the others name the one that overtook them, nobody was called, and it is told once the account opens."""
    shut(relay)
    events = [said(relay, state, minute, email=ANA) for minute, state in enumerate(["given", "withdrawn", "given", "given"])]
    other = said(relay, "withdrawn", 1, email=BEN)
    assert relay.figures().waiting[:2] == [("mail", "withdrawn", 2), ("mail", "given", 3)]
    assert relay.compaction.run() == 3
    assert standing(relay, [*events, other]) == [
        ("superseded", "told_by_newer_event"),
        ("superseded", "newer_word"),
        ("superseded", "told_by_newer_event"),
        ("waiting", None),
        ("waiting", None),
    ]
    assert relay.ledger.event(events[1])["deliveries"][0]["vendor_reference"] == events[3]
    assert relay.vendors["mail"].calls == []
    figures = relay.figures()
    assert (figures.unaccounted, figures.waiting[:2]) == (0, [("mail", "withdrawn", 1), ("mail", "given", 1)])
    assert ("mail", "superseded", "given", 2) in figures.deliveries
    assert ("mail", "superseded", "withdrawn", 1) in figures.deliveries
    close_gate(relay.ledger, "mail")
    relay.again()
    assert [(call["id"], call["state"]) for call in relay.vendors["mail"].calls] == [(other, "withdrawn"), (events[3], "given")]
    assert relay.figures().unaccounted == 0


def test_destination_that_works_is_left_alone(relay: Relay):
    """Where the gate is open, what waits ends in its turn."""
    relay.vendors["mail"].answers = [503]
    first = relay.event("given", 1, email=ANA)
    relay.drain()
    relay.event("withdrawn", 2, email=ANA)
    assert relay.compaction.run() == 0
    assert standing(relay, [first])[0][0] == "waiting"


@pytest.mark.parametrize("held", ["paused", "disabled", "breaker"])
def test_every_way_of_taking_nothing_counts(relay: Relay, held: str):
    """A destination that a person paused, one that is disabled and one whose breaker is open are compacted like one that asked to be left alone."""
    if held == "breaker":
        for _ in range(5):
            relay.ledger.accounts.leave(traffic(account="mail", breaker_wait_ms=60_000, breaker_wait_max_ms=60_000), "w", [], [], gate="failed")
    if held == "disabled":
        relay.rules = routing([destination("mail", enabled=False), destination("sms")])
    relay.ledger.deliveries.pause("mail", paused=held == "paused")
    events = [said(relay, "given", 1, email=ANA), said(relay, "withdrawn", 2, email=ANA)]
    assert relay.compaction.run() == 1
    assert [status for status, _ in standing(relay, events)] == ["superseded", "waiting"]
    assert relay.figures().unaccounted == 0


def test_what_awaits_confirmation_is_left_alone(client: redis.Redis):
    """A consent that a person was asked to confirm is looked at in its own way."""
    relay = Relay(client, routing([destination("mail", adapter(double_opt_in=True))]))
    shut(relay)
    first = said(relay, "given", 1, email=ANA)
    client.hset("cr:{d:mail}:row", first, Row(attempts=1, outcome="pending_confirmation", awaiting=True).encode())
    relay.event("withdrawn", 2, email=ANA)
    assert relay.compaction.run() == 0


def test_what_a_worker_has_in_hand_is_left_alone(relay: Relay):
    """A delivery that is leased while it is judged is not ended behind its worker's back."""
    shut(relay)
    first = relay.event("given", 1, email=ANA)
    relay.drain()
    relay.event("withdrawn", 2, email=ANA)
    look = relay.ledger.backlog.look

    def meanwhile(*values: object):
        found = look(*values)  # type: ignore[arg-type]
        relay.hurry()
        relay.ledger.deliveries.claim("mail", "given", "t", 60_000, [first])
        return found

    relay.ledger.backlog.look = meanwhile  # type: ignore[method-assign]
    assert relay.compaction.run() == 0
    assert standing(relay, [first])[0][0] == "sending"
    assert relay.figures().unaccounted == 0


def test_what_a_dead_worker_had_in_hand_counts(relay: Relay):
    """While an account is closed nothing of it is rescued: what a dead worker leased, or a lost message carried, is compacted where it stands."""
    first, second = relay.event("given", 1, email=ANA), relay.event("given", 1, email=BEN)
    relay.fan_out.run([first, second])
    relay.queue.messages.clear()
    relay.ledger.deliveries.claim("mail", "given", "t", 1, [first])
    shut(relay)
    relay.event("withdrawn", 2, email=ANA)
    relay.event("withdrawn", 2, email=BEN)
    relay.queue.messages.clear()
    time.sleep(0.005)
    assert relay.compaction.run() == 2
    assert standing(relay, [first, second]) == [("superseded", "newer_word")] * 2
    assert relay.figures().unaccounted == 0


def test_withdrawal_that_must_be_completed_is_not_left_to_a_newer_one(client: redis.Redis):
    """A withdrawal by phone names no contact of a mail vendor yet: a newer one that names nobody either does not tell it instead, a newer consent does overtake it."""
    relay = Relay(client, routing([destination("mail", adapter(identifiers=("email",)))]))
    shut(relay)
    first = relay.event("withdrawn", 1, phone=PHONE)
    relay.step()
    relay.deliver._give_back("mail", "withdrawn", 60_000, [first])
    relay.queue.messages.clear()
    said(relay, "withdrawn", 2, phone=PHONE)
    assert relay.compaction.run() == 0
    said(relay, "given", 3, phone=PHONE)
    assert relay.compaction.run() == 1
    assert standing(relay, [first]) == [("superseded", "newer_word")]


def test_newer_word_that_is_not_told_there_overtakes_too(client: redis.Redis):
    """A withdrawal that is not routed to the destination stops an older consent there all the same."""
    trigger = Trigger(deliver_to=("mail",), states=frozenset({"given"}))
    relay = Relay(client, routing([destination("mail")], triggers=[trigger]))
    shut(relay)
    first = relay.event("given", 1, email=ANA)
    relay.drain()
    relay.event("withdrawn", 2, email=ANA)
    assert relay.compaction.run() == 1
    assert standing(relay, [first]) == [("superseded", "newer_word")]


def test_nothing_said_costs_nothing(relay: Relay, monkeypatch: pytest.MonkeyPatch):
    """A pass is not repeated while nothing new is accepted, but for one a minute; a word that comes begins the next."""
    shut(relay)
    relay.event("given", 1, email=ANA)
    relay.drain()
    looks: list[object] = []
    look = relay.ledger.backlog.look
    monkeypatch.setattr(relay.ledger.backlog, "look", lambda *values: looks.append(values) or look(*values))
    relay.compaction.run()
    assert len(looks) == 4
    relay.compaction.run()
    assert len(looks) == 4
    relay.event("withdrawn", 2, email=ANA)
    assert relay.compaction.run() == 1
    assert len(looks) == 8
    monkeypatch.setattr(pipeline.compaction, "LOOK_AGAIN_MS", 0)
    relay.compaction.run()
    assert len(looks) == 12


def test_long_backlog_is_worked_off_in_rounds(relay: Relay, monkeypatch: pytest.MonkeyPatch):
    """A round that has used up its time goes on where it stopped, in whichever process the next one runs, and misses nothing."""
    monkeypatch.setattr(pipeline.compaction, "AT_ONCE", 20)
    monkeypatch.setattr(pipeline.compaction, "BUDGET_SECONDS", 0.0)
    shut(relay)
    for n in range(150):
        relay.event("given", 1, email=f"p{n}@example.org")
    relay.drain()
    for n in range(150):
        relay.event("withdrawn", 2, email=f"p{n}@example.org")
    rounds = [relay.compaction.run()]
    while sum(rounds) < 150:
        rounds.append(relay.compaction.run())
        assert len(rounds) < 200
    assert max(rounds) <= 100
    assert relay.figures().waiting[1] == ("mail", "given", 0)
    assert relay.figures().unaccounted == 0


def test_audit_compacts(relay: Relay):
    """Beat's audit runs it: nobody has to ask for it."""
    shut(relay)
    events = [said(relay, "given", 1, email=ANA), said(relay, "withdrawn", 2, email=ANA)]
    relay.audit.run()
    assert standing(relay, events)[0] == ("superseded", "newer_word")


def test_while_others_are_told_little_time_is_spent(relay: Relay, monkeypatch: pytest.MonkeyPatch):
    """A fifth of the time, and the next round goes on where this one stopped."""
    spent = []
    monkeypatch.setattr(pipeline.compaction.Compaction, "_pass", lambda *arguments: spent.append(arguments[-1]) or 0)
    shut(relay)
    busy = [False]
    compaction = pipeline.compaction.Compaction(
        relay.ledger, Preparer(relay.ledger, relay.vault, lambda: relay.rules), relay.settler, lambda: relay.rules, is_working=lambda: busy[0]
    )
    compaction.run()
    busy[0] = True
    compaction.run()
    assert (sum(spent[:4]), sum(spent[4:])) == (pytest.approx(pipeline.compaction.BUDGET_SECONDS), pytest.approx(pipeline.compaction.WORKING_SECONDS))
