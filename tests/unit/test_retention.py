"""A source may keep its idempotency keys for another time, and may have what is personal erased as soon as it is told."""

from __future__ import annotations

import redis

from pipeline.routing import Source
from tests.support.relay import Relay, destination, routing

DAY_MS = 86_400_000


def test_forward_and_delete_erases_the_payload_when_all_are_told(client: redis.Redis) -> None:
    """Until the last destination is told the payload stays; then it is gone, and so is every sealed identifier; the standing stays."""
    relay = Relay(client, routing([destination("mail"), destination("news")], sources=[Source(name="web", retention="forward_and_delete")]))
    relay.vendors["news"].answers = [400]
    first = relay.event("given", 0, email="ana@example.org", phone="+5551900000001")
    assert client.exists(relay.ledger.keys.payload(first))
    relay.drain()
    assert relay.deliveries(first) == {"mail": ("delivered", None), "news": ("dead", "http_400")}
    assert client.exists(relay.ledger.keys.payload(first)), "a dead letter may still be replayed"
    second = relay.event("withdrawn", 1, email="ana@example.org", phone="+5551900000001")
    relay.drain()
    assert not client.exists(relay.ledger.keys.payload(second))
    for name in client.keys("cr:{i*}:i:*"):
        assert {field[:2] for field in client.hkeys(name)} == {b"p:"}


def test_a_source_keeps_its_idempotency_keys_as_long_as_it_says(client: redis.Redis) -> None:
    """dedup_days of the source overrides the ledger's."""
    relay = Relay(client, routing([destination("mail")], sources=[Source(name="web", dedup_days=2), Source(name="other")]))
    mine = relay.event("given", 0, email="ana@example.org")
    other = relay.event("given", 0, email="bob@example.org", source="other")
    relay.drain()
    assert 1.9 * DAY_MS < client.pttl(relay.ledger.keys.record(mine)) <= 2 * DAY_MS
    assert 89 * DAY_MS < client.pttl(relay.ledger.keys.record(other)) <= 90 * DAY_MS
