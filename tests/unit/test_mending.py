"""A step back of the server's clock: nothing waits for it to come round again, and what protects a vendor lasts as long as it would have."""

from __future__ import annotations

import logging
import time

import pytest
import redis

from pipeline.ledger.accounts import Traffic
from pipeline.ledger.clock import NOTED
from pipeline.limits import traffic_of
from pipeline.settle import Ending
from pipeline.vendors.base import Rate
from tests.support.crashes import SHIFT
from tests.support.relay import Relay, destination, routing
from tests.support.stack import wait_until

ANA, HOUR_MS = "ana@example.org", 3_600_000
NOTICED_MS = 10_000
"""How long after the last tick a busy machine may take to put the clock back: times come out later by so much."""


def limits_of(relay: Relay) -> Traffic:
    return traffic_of(relay.rules.destinations["mail"], "given", relay.limits)


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    made = Relay(client, routing([destination("mail", rate=Rate(calls=10, per_seconds=300, concurrent=4))]), seconds=60.0)
    made.release.run()
    return made


def put_back(relay: Relay, milliseconds: int = HOUR_MS) -> None:
    """The server's clock says so much less than a moment ago: every time it has written lies so much further ahead."""
    client = relay.ledger.store.client
    client.register_script(SHIFT)(args=[-milliseconds])
    for name in client.scan_iter("cr:{a:*}:gate"):
        if written := client.hget(name, "at"):
            client.hset(name, "at", int(written) + milliseconds)
    for name in client.scan_iter("cr:{a:*}:m:*"):
        if (value := client.get(name)).startswith(b"kept "):
            client.set(name, b"kept %d" % (int(value[5:]) + milliseconds), keepttl=True)
    client.hincrby(NOTED, "server", milliseconds)
    client.hincrby(NOTED, "high", milliseconds)


def ahead_ms(relay: Relay, name: str) -> list[float]:
    """How far the entries of an index lie ahead."""
    now_ms = relay.ledger.now_ms()
    return [score - now_ms for _, score in relay.ledger.store.client.zrange(name, 0, -1, withscores=True)]


def test_waits_go_on_as_they_were(relay: Relay, caplog: pytest.LogCaptureFixture):
    """A retry, a pushed delivery and an event that is not fanned out are due when they were to be, not an hour later; it is said aloud, once."""
    retry, pushed, accepted = (relay.event("given", 1, email=f"{name}@example.org") for name in ("retry", "pushed", "accepted"))
    relay.fan_out.run([retry, pushed])
    leased = relay.ledger.deliveries.claim("mail", "given", "t", 1, [retry])
    time.sleep(0.01)  # the lease of a millisecond is over
    relay.deliver._give_back("mail", "given", 400_000, [each.event_id for each in leased])
    relay.queue.messages.clear()
    put_back(relay)
    with caplog.at_level(logging.ERROR):
        relay.release.run()
        relay.release.run()
    assert [(record.alert, record.seconds) for record in caplog.records if record.message == "alert"] == [("clock_put_back", pytest.approx(3600, abs=10))]
    assert 0 < ahead_ms(relay, "cr:{d:mail}:due:given")[0] <= 400_000 + NOTICED_MS
    assert 30_000 < ahead_ms(relay, "cr:{d:mail}:out:given")[0] <= 60_000
    partition = relay.ledger.keys.partition(accepted)
    assert all(ahead <= 60_000 + NOTICED_MS for ahead in ahead_ms(relay, f"cr:{{e{partition}}}:open"))


def test_what_was_overdue_is_due_at_once(relay: Relay):
    """What should have been pushed before the step is pushed as soon as it is noticed."""
    event = relay.event("withdrawn", 1, email=ANA)
    relay.step()
    relay.deliver._give_back("mail", "withdrawn", 1, [event])
    relay.queue.messages.clear()
    put_back(relay)
    relay.release.run()
    wait_until(lambda: bool(relay.queue.messages) or relay.release.run() == 1, NOTICED_MS / 1000)
    relay.drain()
    assert relay.deliveries(event)["mail"] == ("delivered", None)


def test_account_is_free_again_as_soon_as_it_would_have_been(relay: Relay):
    """Rate window, connections of a dead worker, breaker, claims and late-write marks end as if nothing had been, not before and not an hour later."""
    client, limits = relay.ledger.store.client, limits_of(relay)
    relay.ledger.accounts.admit(limits, "given", "dead", 0, [("e1",), ("e2",)])
    relay.ledger.accounts.admit(limits, "given", "lost", 0, [("e3",)])
    relay.ledger.accounts.leave(limits, "lost", [(0, 1)], [], gate="paused", pause_ms=300_000)
    put_back(relay)
    relay.release.run()
    window = sorted(ahead_ms(relay, "cr:{a:mail}:window"))
    assert 270_000 < window[0] <= 300_000 + NOTICED_MS
    assert [330_000 < ahead <= limits.claim_ms + limits.per_ms for ahead in window[1:]] == [True, True]
    assert [limits.hold_ms - 30_000 < ahead <= limits.hold_ms for ahead in ahead_ms(relay, "cr:{a:mail}:flight")] == [True, True]
    assert 270_000 < int(client.hget("cr:{a:mail}:gate", "until")) - relay.ledger.now_ms() <= 300_000 + NOTICED_MS
    assert all(limits.hold_ms - 30_000 < client.pttl(f"cr:{{a:mail}}:c:{key}") <= limits.hold_ms for key in ("e1", "e2", "e3"))
    assert all(limits.claim_ms < client.pttl(f"cr:{{a:mail}}:m:{key}") <= limits.claim_ms + limits.late_write_ms for key in ("e1", "e2", "e3"))


def test_late_write_mark_with_an_end_is_moved_with_it(relay: Relay):
    """A withdrawal that must be told again once a lost `given` can land no more is final after that time, not an hour later."""
    relay.event("given", 1, email=ANA)
    relay.vendors["mail"].answers = ["lost"]
    relay.drain()
    put_back(relay)
    relay.release.run()
    withdrawal = relay.event("withdrawn", 2, email=ANA)
    relay.drain()
    due = ahead_ms(relay, "cr:{d:mail}:due:withdrawn")
    assert relay.deliveries(withdrawal)["mail"][0] == "waiting"
    assert 0 < due[0] <= 160_000


def test_limits_written_since_the_step_are_not_shortened(relay: Relay):
    """Within the moment until beat notices, calls are made and a vendor asks to be left alone: both count in full."""
    limits = limits_of(relay)
    put_back(relay)
    relay.ledger.accounts.admit(limits, "given", "new", 0, [("e1",), ("e2",)])
    relay.ledger.accounts.leave(limits, "new", [(0, 1)], [], gate="paused", pause_ms=300_000)
    relay.release.run()
    windows = sorted(ahead_ms(relay, "cr:{a:mail}:window"))
    assert (270_000 < windows[0] <= 300_000, 330_000 < windows[1] <= 390_000) == (True, True)
    assert 270_000 < int(relay.ledger.store.client.hget("cr:{a:mail}:gate", "until")) - relay.ledger.now_ms() <= 300_000
    assert relay.ledger.store.client.pttl("cr:{a:mail}:c:e2") > 30_000


def test_pause_from_before_the_step_does_not_outlive_it_by_a_second_one(relay: Relay):
    """A pause that a vendor asked for after the step is not lengthened by the rest of an older one, counted by a clock that was ahead."""
    limits = limits_of(relay)
    relay.ledger.accounts.leave(limits, "w", [], [], gate="paused", pause_ms=200_000)
    put_back(relay)
    relay.ledger.accounts.leave(limits, "w", [], [], gate="paused", pause_ms=1000)
    relay.release.run()
    assert int(relay.ledger.store.client.hget("cr:{a:mail}:gate", "until")) - relay.ledger.now_ms() <= 200_000 + NOTICED_MS


def test_what_a_worker_gives_back_afterwards_does_not_wait_for_the_clock(relay: Relay):
    """A worker was told before the step to come back at a time of the old clock, and writes it down after beat has mended: the next round brings it forward."""
    event = relay.event("withdrawn", 1, email=ANA)
    relay.step()
    told_ms = relay.ledger.now_ms() + HOUR_MS
    put_back(relay)
    relay.release.run()
    [leased] = relay.ledger.deliveries.claim("mail", "withdrawn", "t", 60_000, [event])
    relay.deliver._settler.give_back("mail", "withdrawn", "t", [Ending(event=None, event_id=event, row=leased.row, back_at_ms=told_ms)])
    assert ahead_ms(relay, "cr:{d:mail}:due:withdrawn")[0] > HOUR_MS - NOTICED_MS
    relay.release.run()
    relay.release.run()
    assert sum(1 for ahead in ahead_ms(relay, "cr:{d:mail}:due:withdrawn") if ahead > NOTICED_MS) == 0


def test_long_indexes_are_brought_forward_whole(relay: Relay):
    """More entries than one slice, some of them due, some not: all keep their order and their distance."""
    client, now_ms = relay.ledger.store.client, relay.ledger.now_ms()
    client.zadd("cr:{d:mail}:due:given", {f"e{n:05d}": now_ms - 500_000 + n * 1000 for n in range(2500)})
    put_back(relay)
    relay.release.run()
    names = client.zrange("cr:{d:mail}:due:given", 0, -1)
    assert len(names) + client.zcard("cr:{d:mail}:out:given") == 2500
    assert names == sorted(names)
    assert max(ahead_ms(relay, "cr:{d:mail}:due:given")) == pytest.approx(1_999_000, abs=NOTICED_MS)
    assert min(ahead_ms(relay, "cr:{d:mail}:due:given")) < NOTICED_MS
