"""Release: withdrawals first, never more than the queue may hold, whatever was lost comes back, and what does not add up is mended aloud."""

from __future__ import annotations

import logging
import time

import pytest
import redis

import pipeline.ledger.events
import pipeline.release
from pipeline.metrics import render_metrics
from pipeline.release import QUEUE_MESSAGES, RESCUE_DEPTH, Release
from pipeline.vendors.base import Rate
from tests.support.parts import close_gate, traffic
from tests.support.relay import Relay, adapter, destination, routing


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    return Relay(client, routing([destination("mail"), destination("sms")]), seconds=30)  # what is overdue is made so by `hurry`, not by a slow machine


def plan(relay: Relay, count: int, *, state: str = "given", first: int = 0) -> list[str]:
    """Events planned for every destination, whose deliver messages are lost and which are due now."""
    events = [relay.event(state, n, email=f"p{first + n}@example.org") for n in range(count)]
    relay.queue.messages.clear()
    relay.fan_out.run(events)
    relay.queue.messages.clear()
    return events


def make_due(relay: Relay, lanes: tuple[str, ...] = ("withdrawn", "given")) -> None:
    """Move every pushed delivery into the waiting index, due now."""
    for name in relay.rules.destinations:
        for lane in lanes:
            event_ids = [member.decode() for member in relay.ledger.store.client.zrange(f"cr:{{d:{name}}}:out:{lane}", 0, -1)]
            relay.deliver._give_back(name, lane, 1, event_ids)
    relay.hurry()


def pushed(relay: Relay) -> list[tuple[str, str, int, int]]:
    return [(values[0], values[1], len(values[2]), values[3]) for kind, values in relay.queue.messages if kind == "deliver"]


def test_withdrawals_are_pushed_first(relay: Relay):
    """Of everything due the withdrawals of all destinations go before any `given`."""
    plan(relay, 2)
    plan(relay, 2, state="withdrawn", first=5)
    make_due(relay)
    assert relay.release.run() == 8
    assert [(name, lane, count) for name, lane, count, _ in pushed(relay)] == [
        ("mail", "withdrawn", 2),
        ("sms", "withdrawn", 2),
        ("mail", "given", 2),
        ("sms", "given", 2),
    ]


def test_running_twice_pushes_once(relay: Relay):
    """Two beats at once are harmless."""
    plan(relay, 3)
    make_due(relay)
    assert relay.release.run() == 6
    assert relay.release.run() == 0


def test_queue_is_not_multiplied(client: redis.Redis):
    """No more is pushed than the destination's queue may still hold; a full queue gets nothing."""
    relay = Relay(client, routing([destination("mail")]), chunk_size=2)
    plan(relay, 50)
    make_due(relay)
    relay.queue.messages = [("deliver", ("mail", "given", (), 1))] * (QUEUE_MESSAGES - 3)
    assert relay.release.run() == 6
    assert relay.release.run() == 0
    relay.queue.messages.clear()
    assert relay.release.run() == 2 * QUEUE_MESSAGES
    assert all(count == 2 for _, _, count, _ in pushed(relay))


def test_full_queue_of_given_does_not_hold_back_withdrawals(client: redis.Redis):
    """Each lane has its own queue: a backlog of `given` takes no room from withdrawals."""
    relay = Relay(client, routing([destination("mail")]), chunk_size=2)
    plan(relay, 2, state="withdrawn")
    make_due(relay)
    relay.queue.messages = [("deliver", ("mail", "given", (), 1))] * QUEUE_MESSAGES
    assert relay.release.run() == 2


def test_only_what_the_account_could_take(client: redis.Redis):
    """A rate of three calls pushes about three calls' worth, and nothing while the account is paused."""
    relay = Relay(client, routing([destination("mail", adapter(batch_size=2), rate=Rate(calls=3, per_seconds=60, concurrent=8))]))
    plan(relay, 20)
    make_due(relay)
    relay.ledger.accounts.leave(traffic(account="mail"), "w", [], [], gate="paused", pause_ms=60_000)
    assert relay.release.run() == 0
    close_gate(relay.ledger, "mail")
    assert relay.release.run() == 6


def test_attempt_number_travels(relay: Relay):
    """Retried work is pushed apart from fresh work, each with its attempt number."""
    events = plan(relay, 2)
    relay.vendors["mail"].answers = [503]
    relay.deliver.run("mail", "given", events[:1])
    make_due(relay, ("given",))
    relay.release.run()
    assert sorted(each for each in pushed(relay) if each[0] == "mail") == [("mail", "given", 1, 1), ("mail", "given", 1, 2)]


def age(relay: Relay, seconds: float) -> None:
    """What was pushed is overdue for so long."""
    client = relay.ledger.store.client
    for name in client.scan_iter(match="cr:{d:*}:out:*"):
        client.zadd(name, dict.fromkeys(client.zrange(name, 0, -1), relay.ledger.clock_ms() - seconds * 1000), xx=True)


def test_lost_messages_are_rescued_while_the_queue_is_short(relay: Relay):
    """What was pushed and never heard of is pushed again, but not while the queue may still hold it; rescues are counted."""
    plan(relay, 3)
    age(relay, 60)
    relay.queue.messages = [("deliver", (name, "given", (), 1)) for name in ("mail", "sms") for _ in range(RESCUE_DEPTH + 1)]
    relay.release.run()
    assert relay.figures().rescued_total == 0
    relay.queue.messages.clear()
    relay.release.run()
    assert pushed(relay) == [("mail", "given", 3, 1), ("sms", "given", 3, 1)]
    assert relay.figures().rescued_total == 6


def test_what_is_long_overdue_is_rescued_from_behind_any_backlog(relay: Relay, monkeypatch: pytest.MonkeyPatch):
    """A queue that stays long, and a backlog that is due and would fill it, do not keep what a dead worker had for ever: it goes first."""
    events = plan(relay, 3)
    make_due(relay, ("given",))
    monkeypatch.setattr(pipeline.release, "QUEUE_MESSAGES", RESCUE_DEPTH + 2)
    relay.release = Release(relay.ledger, relay.queue, lambda: relay.rules, relay.limits, chunk_size=1)
    overdue = events[-1]
    relay.ledger.deliveries.claim("mail", "given", "dead", 1, [overdue])
    age(relay, 121)
    relay.queue.messages = [("deliver", ("mail", "given", (), 1))] * (RESCUE_DEPTH + 1)
    relay.release.run()
    assert relay.queue.messages[RESCUE_DEPTH + 1] == ("deliver", ("mail", "given", (overdue,), 1))


def test_a_fan_out_that_is_long_overdue_is_asked_for_again_from_behind_any_queue(relay: Relay, monkeypatch: pytest.MonkeyPatch):
    """And then, as it may be in the queue all the same, no sooner than after as long again."""
    event = relay.event("given", 1, email="given@example.org")
    behind = [("fan_out", ("given", ()))] * (RESCUE_DEPTH + 1)
    monkeypatch.setattr(pipeline.release, "OVERDUE_MS", 0)
    monkeypatch.setattr(pipeline.ledger.events, "OVERDUE_MS", 0)
    time.sleep(0.02)
    for _ in range(2):
        relay.queue.messages = list(behind)
        relay.hurry(pushed=True)
        relay.release.run()
        assert relay.queue.messages == [*behind, ("fan_out", ("given", (event,)))]
    assert relay.figures().rescued_total == 2


def test_lost_fan_out_is_rescued_in_its_lane(relay: Relay, caplog: pytest.LogCaptureFixture):
    """Events whose fan-out was lost are fanned out again, withdrawals in their own lane and first, and counted."""
    events = {state: relay.event(state, 1, email=f"{state}@example.org") for state in ("given", "withdrawn")}
    relay.queue.messages.clear()
    relay.hurry(pushed=True)
    with caplog.at_level(logging.WARNING):
        relay.release.run()
    assert relay.queue.messages == [("fan_out", ("withdrawn", (events["withdrawn"],))), ("fan_out", ("given", (events["given"],)))]
    assert relay.figures().rescued_total == 2
    assert {record.stage for record in caplog.records if record.message == "rescued"} == {"fan_out"}


def test_events_in_a_long_queue_are_not_counted_as_rescued(relay: Relay):
    """While the fan-out queue may still hold what seems lost, nothing is pushed and nothing counted."""
    event = relay.event("given", 1, email="given@example.org")
    relay.queue.messages = [("fan_out", ("given", ()))] * (RESCUE_DEPTH + 1)
    relay.hurry(pushed=True)
    relay.release.run()
    assert relay.queue.messages == [("fan_out", ("given", ()))] * (RESCUE_DEPTH + 1)
    assert relay.figures().rescued_total == 0
    relay.queue.messages.clear()
    relay.hurry(pushed=True)
    relay.release.run()
    assert relay.queue.messages == [("fan_out", ("given", (event,)))]
    assert relay.figures().rescued_total == 1


def test_disabled_destination_gets_nothing(relay: Relay):
    """A disabled destination is neither pushed to nor rescued; the other goes on."""
    plan(relay, 2)
    relay.hurry(pushed=True)
    relay.rules = routing([destination("mail", enabled=False), destination("sms")])
    relay.release.run()
    assert {name for name, *_ in pushed(relay)} == {"sms"}


def test_paused_destination_waits_in_the_ledger(relay: Relay):
    """Deliveries of a paused destination stay, and all of them go on after it is resumed."""
    plan(relay, 2, state="withdrawn")
    relay.ledger.deliveries.pause("mail", paused=True)
    relay.hurry(pushed=True)
    relay.beat()
    relay.drain()
    assert relay.vendors["mail"].calls == []
    assert len(relay.vendors["sms"].calls) == 2
    assert relay.figures().paused == {"mail": True, "sms": False}
    assert b'consent_paused{destination="mail"} 1.0' in render_metrics(relay.figures())
    relay.ledger.deliveries.pause("mail", paused=False)
    relay.hurry(pushed=True)
    relay.beat()
    relay.drain()
    assert len(relay.vendors["mail"].calls) == 2
    assert relay.figures().unaccounted == 0


def test_lost_plan_is_mended_aloud(relay: Relay, caplog: pytest.LogCaptureFixture):
    """If a destination's whole slot was lost after the plan, the audit plans its deliveries again and says so."""
    event = plan(relay, 1, state="withdrawn")[0]
    client = relay.ledger.store.client
    client.delete(*client.keys("cr:{d:mail}:*"))
    relay.hurry(pushed=True)
    with caplog.at_level(logging.ERROR):
        relay.release.run()
    alerts = [(record.alert, record.destination, record.deliveries) for record in caplog.records if record.message == "alert"]
    assert alerts == [("unaccounted", "mail", 1)]
    relay.hurry(pushed=True)
    relay.release.run()
    relay.drain()
    assert relay.ledger.event(event)["complete"] is True
    assert len(relay.vendors["mail"].calls) == 1
    assert relay.figures().unaccounted == 0


def test_audit_of_sound_books_does_nothing(relay: Relay):
    """Waiting, leased, dead and ended deliveries are all in their place: nothing is planned again."""
    events = plan(relay, 4)
    relay.vendors["mail"].answers = [503, 400]
    for event in events[:3]:
        relay.deliver.run("mail", "given", [event])
    relay.ledger.deliveries.claim("mail", "given", "t", 1000, events[3:])
    assert relay.release.audit(events) == 0
    assert relay.figures().unaccounted == 0


def test_delivery_that_ends_during_the_audit_is_not_planned_again(relay: Relay):
    """A delivery that is told between the audit's two looks is not taken for lost: it is told once and nobody is alarmed."""
    event = plan(relay, 1)[0]
    is_known = relay.ledger.deliveries.is_known

    def meanwhile(name: str, event_ids: list[str]):
        relay.deliver.run(name, "given", event_ids)
        return is_known(name, event_ids)

    relay.ledger.deliveries.is_known = meanwhile
    assert relay.release.audit([event]) == 0
    relay.ledger.deliveries.is_known = is_known
    relay.hurry(pushed=True)
    relay.release.run()
    relay.drain()
    assert len(relay.vendors["mail"].calls) == 1
    assert relay.ledger.event(event)["complete"] is True


def test_beat_is_noted(relay: Relay):
    """Every round notes its time, so that a beat that stopped is seen."""
    assert relay.figures().last_beat_seconds is None
    relay.release.run()
    assert relay.figures().last_beat_seconds < 5
