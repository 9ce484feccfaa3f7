"""Backfill and replay: what is told anew has the whole patience of the schedule, however old the event is."""

from __future__ import annotations

from datetime import timedelta

import pytest
import redis

from pipeline.backfill import Backfill, BackfillReport
from pipeline.desk import Desk
from pipeline.routing import Source
from tests.support.relay import Relay, destination, routing


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    """A relay that knew of one destination ten days ago, and knows of a second one now."""
    relay = Relay(client, routing([destination("mail"), destination("fresh")]))
    both = relay.rules
    relay.rules = routing([both.destinations["mail"]])
    relay.clock_offset = timedelta(days=-10)
    relay.event("given", 1, email="stays@example.org")
    relay.event("given", 1, email="goes@example.org")
    relay.event("withdrawn", 2, email="goes@example.org")
    relay.drain()
    relay.clock_offset = timedelta()
    relay.rules = both
    return relay


def backfill(relay: Relay, *, dry_run: bool = False) -> BackfillReport:
    return Backfill(relay.ledger, relay.vault, lambda: relay.rules).run("fresh", dry_run)


def test_new_destination_is_told_the_newest_word_of_each_once(relay: Relay):
    """One withdrawal, then one `given`; nothing counts as rescued or as owed for ten days, and a second run plans nothing."""
    assert backfill(relay, dry_run=True) == BackfillReport(withdrawn=1, given=1)
    assert relay.queue.messages == []
    assert backfill(relay) == BackfillReport(withdrawn=1, given=1)
    assert relay.figures().oldest_untold_withdrawal_seconds["fresh"] < 60
    relay.beat()
    relay.drain()
    assert [call["state"] for call in relay.vendors["fresh"].calls] == ["withdrawn", "given"]
    assert backfill(relay) == BackfillReport(known_already=2)
    figures = relay.figures()
    assert (figures.unaccounted, figures.rescued_total) == (0, 0)


@pytest.mark.parametrize("gone", ["cr:{e*}:p:*", "cr:{e*}:[ep]:*"], ids=["payload", "payload and record"])
def test_a_standing_whose_event_has_expired_is_told_from_what_is_left(relay: Relay, gone: str):
    """Withdrawal and consent are told by the identifiers that the standings hold, and all adds up afterwards."""
    client = relay.ledger.store.client
    for name in client.scan_iter(match=gone):
        client.delete(name)
    assert backfill(relay) == BackfillReport(withdrawn=1, given=1)
    relay.beat()
    relay.drain()
    assert relay.vendors["fresh"].held == {("goes@example.org", "news"): "withdrawn", ("stays@example.org", "news"): "given"}
    assert relay.figures().unaccounted == 0
    assert backfill(relay) == BackfillReport(known_already=2)


def test_a_standing_of_a_source_that_teaches_nothing_cannot_be_told_once_its_event_has_expired(client: redis.Redis):
    """Where no identifier is kept there is nothing to tell by: the report says how much of it there is."""
    relay = Relay(client, routing([destination("mail"), destination("fresh")], sources=[Source(name="web", links=False)]))
    both = relay.rules
    relay.rules = routing([both.destinations["mail"]], sources=[Source(name="web", links=False)])
    relay.event("withdrawn", 1, email="ana@example.org")
    relay.drain()
    relay.rules = both
    for name in client.scan_iter(match="cr:{e*}:p:*"):
        client.delete(name)
    assert backfill(relay) == BackfillReport(unreadable=1)
    relay.beat()
    relay.drain()
    assert relay.vendors["fresh"].calls == []


def test_backfilled_given_outlives_an_outage(relay: Relay):
    """An event older than the schedule's patience is not dead at the first failure: the patience counts from the backfill."""
    relay.vendors["fresh"].answers = [503, 503]
    backfill(relay)
    relay.beat()
    relay.drain()
    assert relay.queue.dead == []
    assert relay.figures().dead_letters == []


def test_replayed_given_outlives_an_outage(client: redis.Redis):
    """A `given` that died of a long outage and is replayed waits again when the vendor fails once more."""
    relay = Relay(client, routing([destination("mail")]))
    relay.clock_offset = timedelta(days=-10)
    event_id = relay.event("given", 1, email="stays@example.org")
    relay.vendors["mail"].answers = [503, 503]
    relay.drain()
    assert len(relay.queue.dead) == 1
    report = Desk(relay.ledger, relay.vault, lambda: relay.rules, relay.hasher).replay([f"{event_id}.mail"])
    assert report.replayed == [f"{event_id}.mail"]
    relay.beat()
    relay.drain()
    assert len(relay.vendors["mail"].calls) == 2
    assert len(relay.queue.dead) == 1
    assert relay.figures().dead_letters == []
