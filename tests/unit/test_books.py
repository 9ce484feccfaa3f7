"""The ledger's own books: every event and delivery by state, what is late, stuck or dead, and by id whatever does not add up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
import redis

from pipeline import books
from pipeline.books import LEFT_OVER, LOST, NOT_DEAD, TWICE, UNKNOWN, Bookkeeper, Books
from pipeline.routing import Purpose, RetryPolicy
from tests.support.relay import Relay, destination, routing

ANA, BEN = "ana@example.org", "ben@example.org"


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    return Relay(client, routing([destination("mail", retry=RetryPolicy(waits_seconds=(600.0,))), destination("crm")]))


def made(relay: Relay, wait: Callable[[float], None] = lambda _: None) -> Books:
    return Bookkeeper(relay.ledger, lambda: relay.rules, wait).run()


def with_goal(relay: Relay, seconds: float) -> None:
    relay.rules = replace(relay.rules, purposes={name: Purpose(name=name, title=name, tell_within_seconds=seconds) for name in relay.rules.purposes})


def test_everything_is_counted_by_state(relay: Relay) -> None:
    """What is told, what waits, what is not fanned out yet; nothing is wrong with any of it."""
    relay.event("given", 1, email=ANA)
    relay.drain()
    relay.vendors["mail"].answers = [503]
    relay.event("withdrawn", 2, email=BEN)
    relay.drain()
    relay.event("given", 3, email=BEN)
    found = made(relay)
    assert dict(found.events) == {("given", "complete"): 1, ("withdrawn", "being told"): 1, ("given", "accepted, not fanned out"): 1}
    assert dict(found.deliveries) == {("mail", "delivered"): 1, ("crm", "delivered"): 2, ("mail", "waiting"): 1}
    assert found.is_good
    assert (found.unaccounted, found.unexplained.count) == (0, 0)


def test_it_is_read_in_pages(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, no more than a page is in memory, and the sum is right."""
    monkeypatch.setattr(books, "EVENTS_AT_ONCE", 10)
    for number in range(45):
        relay.event("given", 1, email=f"person-{number}@example.org")
    relay.drain()
    pages: list[int] = []
    seen = Bookkeeper(relay.ledger, lambda: relay.rules, lambda _: None).run(pages.append)
    assert len(pages) > 3
    assert seen.events["given", "complete"] >= 45
    assert seen.is_good


def test_what_is_owed_beyond_the_goal_of_its_purpose_is_late(relay: Relay) -> None:
    relay.vendors["mail"].answers = [503]
    event = relay.event("withdrawn", 1, email=ANA)
    relay.drain()
    assert made(relay).late.count == 0
    with_goal(relay, 0.0001)
    found = made(relay)
    assert [each.id for each in found.late.named] == [f"{event}.mail"]
    assert "the goal is 0.0001 s" in found.late.named[0].what
    assert not found.is_good
    assert found.told_late == {"news": 1}


def test_a_dead_withdrawal_is_named_and_a_dead_consent_only_counted(relay: Relay) -> None:
    for state, email in (("withdrawn", ANA), ("given", BEN)):
        relay.vendors["mail"].answers = [400]
        event = relay.event(state, 1, email=email)
        relay.drain()
        dead = made(relay).dead
        assert dead.count == 1
    assert event not in dead.named[0].id
    assert made(relay).deliveries["mail", "dead"] == 2


def test_what_was_pushed_long_ago_is_stuck_unless_it_is_held_back(relay: Relay, client: redis.Redis) -> None:
    """Nobody claimed it and nobody rescued it: a paused destination is no reason to worry."""
    event = relay.event("withdrawn", 1, email=ANA)
    relay.step()
    client.zadd("cr:{d:mail}:out:withdrawn", {event: 1})
    assert [each.id for each in made(relay).stuck.named] == [f"{event}.mail"]
    relay.ledger.deliveries.pause("mail", paused=True)
    assert made(relay).stuck.count == 0


def test_an_event_that_nobody_fans_out_is_stuck(relay: Relay, client: redis.Redis) -> None:
    event = relay.event("given", 1, email=ANA)
    for name in client.scan_iter(match="cr:{e*}:open"):
        client.zadd(name, {event: 1}, xx=True)
    assert [each.id for each in made(relay).stuck.named] == [event]


def test_what_waits_for_a_destination_that_is_gone_is_stuck(relay: Relay) -> None:
    relay.vendors["mail"].answers = [503]
    event = relay.event("given", 1, email=ANA)
    relay.drain()
    relay.rules = replace(relay.rules, destinations={"crm": relay.rules.destinations["crm"]})
    assert [each.id for each in made(relay).stuck.named] == [f"{event}.mail"]


def test_a_destination_whose_secrets_are_not_set_here_is_not_gone(relay: Relay) -> None:
    """The file was read for looking only, and left it out."""
    relay.vendors["mail"].answers = [503]
    relay.event("given", 1, email=ANA)
    relay.drain()
    relay.rules = replace(relay.rules, destinations={"crm": relay.rules.destinations["crm"]}, unset=("consent.yaml:9: the environment variable X is not set",))
    assert made(relay).stuck.count == 0


# What does not add up


def waiting(relay: Relay) -> str:
    relay.vendors["mail"].answers = [503]
    event = relay.event("withdrawn", 1, email=ANA)
    relay.drain()
    return event


def explained(relay: Relay) -> list[tuple[str, str]]:
    found = made(relay)
    assert not found.is_good
    return [(each.id, each.what) for each in found.unexplained.named]


def test_a_delivery_in_no_index_is_named(relay: Relay, client: redis.Redis) -> None:
    event = waiting(relay)
    client.zrem("cr:{d:mail}:due:withdrawn", event)
    assert explained(relay) == [(f"{event}.mail", LOST)]
    assert made(relay).unaccounted == 1


def test_an_event_in_no_index_is_named(relay: Relay, client: redis.Redis) -> None:
    event = waiting(relay)
    for name in client.scan_iter(match="cr:{e*}:open"):
        client.zrem(name, event)
    assert explained(relay) == [(event, LOST)]


def test_a_delivery_in_two_indexes_is_named(relay: Relay, client: redis.Redis) -> None:
    event = waiting(relay)
    client.zadd("cr:{d:mail}:out:withdrawn", {event: 9e12})
    assert explained(relay) == [(f"{event}.mail", TWICE)]


def test_a_delivery_that_has_ended_and_still_waits_is_named(relay: Relay, client: redis.Redis) -> None:
    event = waiting(relay)
    client.zadd("cr:{d:crm}:due:withdrawn", {event: 9e12})
    assert explained(relay) == [(f"{event}.crm", LEFT_OVER)]


def test_an_entry_of_no_event_is_named(relay: Relay, client: redis.Redis) -> None:
    waiting(relay)
    client.zadd("cr:{d:mail}:due:given", {"b" * 24: 9e12})
    assert explained(relay) == [(f"{'b' * 24}.mail", UNKNOWN)]


def test_a_dead_letter_that_is_gone_is_named(relay: Relay, client: redis.Redis) -> None:
    relay.vendors["mail"].answers = [400]
    event = relay.event("withdrawn", 1, email=ANA)
    relay.drain()
    client.zrem("cr:{d:mail}:dead", event)
    assert explained(relay) == [(f"{event}.mail", NOT_DEAD)]


def test_a_wrong_counter_is_named_as_that(relay: Relay, client: redis.Redis) -> None:
    """Everything has its place, so nothing is lost: only the counting is wrong."""
    waiting(relay)
    client.hincrby("cr:{d:mail}:n", "planned", 2)
    assert explained(relay) == [("deliveries to mail", "the counters say that 3 are unfinished, the indexes have 1")]


def test_what_moved_between_two_looks_is_not_reported(relay: Relay, client: redis.Redis) -> None:
    """A delivery between two indexes at the first look has its place at the second."""
    event = waiting(relay)
    score = client.zscore("cr:{d:mail}:due:withdrawn", event)
    client.zrem("cr:{d:mail}:due:withdrawn", event)
    found = made(relay, lambda _: client.zadd("cr:{d:mail}:due:withdrawn", {event: score}) and None)
    assert (found.unexplained.count, found.is_good) == (0, True)


def test_a_real_loss_among_many_that_only_moved_is_reported(relay: Relay, client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many look wrong at the first look, every one of them is looked at again."""
    monkeypatch.setattr(books, "MOST_SHOWN", 5)
    relay.vendors["mail"].answers = [503] * 100
    for number in range(40):
        relay.event("withdrawn", 1, email=f"person-{number}@example.org")
    relay.drain()
    key = "cr:{d:mail}:due:withdrawn"
    scores = dict(client.zrange(key, 0, -1, withscores=True))
    lost = list(scores)[-1]
    client.delete(key)
    found = made(relay, lambda _: client.zadd(key, {name: score for name, score in scores.items() if name != lost}) and None)
    assert [(each.id, each.what) for each in found.unexplained.named] == [(f"{lost.decode()}.mail", LOST)]


@pytest.mark.parametrize("at_once", [5000, 7])
def test_a_loss_of_many_is_counted_whole_and_only_some_are_named(relay: Relay, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """In portions, too; entries without an event are counted like events without an entry."""
    monkeypatch.setattr(books, "MOST_SHOWN", 5)
    monkeypatch.setattr(books, "SUSPECTS_AT_ONCE", at_once)
    relay.vendors["mail"].answers = [503] * 100
    for number in range(40):
        relay.event("withdrawn", 1, email=f"person-{number}@example.org")
    relay.drain()
    client.delete("cr:{d:mail}:due:withdrawn")
    client.zadd("cr:{d:mail}:due:given", {f"{number:b<24}": 9e12 for number in range(10, 30)})
    found = made(relay)
    assert (found.unexplained.count, len(found.unexplained.named)) == (60, 5)


def test_the_report_for_programs_has_everything(relay: Relay) -> None:
    relay.clock_offset = timedelta(hours=-2)
    event = waiting(relay)
    shown = made(relay).as_json()
    assert shown["good"] is False
    assert shown["late"]["count"] == 1
    assert shown["late"]["items"][0]["id"] == f"{event}.mail"
    assert {"destination": "mail", "status": "waiting", "count": 1} in shown["deliveries"]
    assert {"state": "withdrawn", "status": "being told", "count": 1} in shown["events"]
    assert shown["unaccounted"] == 0
