"""Makes a ledger with work at every stage, for the tests of migrations: run it in the checkout of the older release, then back the ledger up with this one.

    git worktree add /tmp/old COMMIT
    PYTHONPATH=/tmp/old python -P tests/support/old_ledger.py redis://127.0.0.1:6379/0

It uses nothing that any release so far lacks.
"""

from __future__ import annotations

import sys

import redis

from tests.support.relay import Relay, destination, routing


def fill(client: redis.Redis) -> None:
    """Events told, dead, waiting, planned with their message lost, leased by a worker that died, accepted and not fanned out; three stale sends counted."""
    relay = Relay(client, routing([destination("mail"), destination("crm")]))
    relay.vendors["mail"].answers = [200, 400, 503, 503]
    for n in range(4):  # told, dead at mail, waiting at mail
        relay.event("withdrawn" if n % 2 else "given", n, email=f"p{n}@example.org")
        relay.drain()
    relay.event("given", 4, email="p4@example.org")
    relay.event("withdrawn", 5, email="p5@example.org")
    while any(kind == "fan_out" for kind, _ in relay.queue.messages):
        relay.step(next(n for n, (kind, _) in enumerate(relay.queue.messages) if kind == "fan_out"))
    event_id = relay.queue.messages[0][1][2][0]
    relay.ledger.deliveries.claim("mail", "given", "dead-worker", 30_000, [event_id])
    relay.event("given", 6, email="p6@example.org")
    relay.event("withdrawn", 7, email="p7@example.org")
    relay.ledger.note_stale(3)


if __name__ == "__main__":
    with redis.Redis.from_url(sys.argv[1]) as connected:
        fill(connected)
