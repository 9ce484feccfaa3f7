"""Migrations: broken off and repeated, one at a time, refused while older processes live; and the one there is, on a ledger that the older release left at work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from pipeline.errors import LedgerMismatch, LedgerUnavailable
from pipeline.ledger import snapshot
from pipeline.ledger.keys import META, OLD_STALE
from pipeline.ledger.migrations import Step, migrate, note_process
from tests.support.parts import open_ledger
from tests.support.relay import Relay, destination, routing
from workers.backups import read_commands

OLD_LEDGER = Path(__file__).parent / "data" / "ledger-schema-1.resp.gz"
"""A ledger that a release of schema 1 made and left with work at every stage (tests/support/old_ledger.py says how)."""


def in_pieces(done: list[str], *, breaks_at: str = "") -> Step:
    def run(_store, _keys, cursor: str) -> Iterator[str]:
        for piece in "abcd":
            if piece > cursor:
                done.append(piece)
                if piece == breaks_at:
                    raise ConnectionError
                yield piece

    return Step(to=3, title="in pieces", run=run)


def test_a_step_that_was_broken_off_goes_on_where_it_was(client: redis.Redis):
    """The piece under way is repeated, those before it are not, and the schema is raised at the end only."""
    ledger, done = open_ledger(client), []
    with pytest.raises(ConnectionError):
        migrate(ledger.store, ledger.keys, 2, steps=[in_pieces(done, breaks_at="c")])
    assert client.hget(META, "schema") == b"2"
    client.delete(f"{META}:migrating")
    assert migrate(ledger.store, ledger.keys, 2, steps=[in_pieces(done)]) == 3
    assert done == ["a", "b", "c", "c", "d"]
    assert client.hget(META, "schema") == b"3"
    assert not [name for name in client.hkeys(META) if name.startswith(b"step")]


def test_one_migrates_at_a_time(client: redis.Redis):
    """Who comes second is told so, and changes nothing."""
    ledger, done = open_ledger(client), []
    client.set(f"{META}:migrating", "somebody", px=60_000)
    with pytest.raises(LedgerUnavailable, match="somebody else"):
        migrate(ledger.store, ledger.keys, 2, steps=[in_pieces(done)])
    assert done == []


def test_it_is_refused_while_older_processes_live(client: redis.Redis):
    """Those that note themselves, and those that the caller names; one that ended a while ago is none."""
    ledger, done = open_ledger(client), []
    note_process(ledger.store, "worker-1@old", 2, ledger.now_ms())
    note_process(ledger.store, "worker-2@gone", 2, ledger.now_ms() - 60_000)
    note_process(ledger.store, "worker-3@new", 3, ledger.now_ms())
    with pytest.raises(LedgerMismatch, match="run: worker-1@old, worker-9@older;"):
        migrate(ledger.store, ledger.keys, 2, steps=[in_pieces(done)], others=["worker-9@older"])
    assert done == []
    client.delete("cr:{meta}:processes")
    assert migrate(ledger.store, ledger.keys, 2, steps=[in_pieces(done)]) == 3


def test_an_older_program_refuses_a_newer_ledger(client: redis.Redis):
    """With the reason and what to do."""
    open_ledger(client)
    client.hset(META, "schema", 3)
    with pytest.raises(LedgerMismatch, match="schema 3, this release works with 1 to 2: a newer one migrated it"):
        open_ledger(client)


@pytest.fixture
def old(client: redis.Redis) -> redis.Redis:
    for group in read_commands(OLD_LEDGER):
        for command in group:
            client.execute_command(*command)
    return client


RULES = routing([destination("mail"), destination("crm")])


def test_the_ledger_of_an_older_release_is_worked_with_and_migrated(old: redis.Redis):
    """What was accepted, planned, waiting, dead and under way there is told here, before and after the migration; the count goes on."""
    relay = Relay(old, RULES)
    assert relay.ledger.identity.schema_version == 1
    assert relay.ledger.stale_sends() == 3
    assert relay.figures().unaccounted == 0
    before = relay.ledger.events.counts()
    assert (before["accepted"], before["open"]) == (8, 6)
    relay.ledger.note_stale(1)
    assert relay.ledger.stale_sends() == 4
    assert b"t" not in old.hgetall(relay.ledger.keys.record(relay.event("given", 9, key="new-9", email="p9@example.org")))  # older programs read it
    relay.hurry(pushed=True)
    relay.beat()
    relay.step()
    assert relay.ledger.upkeep.migrate() == 2
    assert relay.ledger.stale_sends() == 4
    assert old.exists(OLD_STALE) == 0
    assert relay.ledger.upkeep.migrate() == 2
    assert relay.ledger.stale_sends() == 4
    later = Relay(old, RULES)
    assert later.ledger.identity.schema_version == 2
    assert b"t" in old.hgetall(later.ledger.keys.record(later.event("given", 10, key="new-10", email="p10@example.org")))
    later.again(4, pushed=True)
    assert later.figures().unaccounted == 0
    assert later.figures().dead_letters == [("mail", "withdrawn", "http_400", 1)]
    assert later.ledger.events.counts()["open"] == 0
    told = {(call["to"]["email"], call["state"]) for name in ("mail", "crm") for call in [*relay.vendors[name].calls, *later.vendors[name].calls]}
    assert {(f"p{n}@example.org", "withdrawn" if n % 2 else "given") for n in (4, 5, 6, 7)} <= told


def test_a_restore_of_an_older_ledger_can_be_migrated(client: redis.Redis):
    """It is quarantined like any other, and then brought to this schema."""
    client.flushall()
    snapshot.restore(client, read_commands(OLD_LEDGER), at_ms=100_000, sha256="x")
    ledger = Relay(client, RULES).ledger
    assert ledger.upkeep.migrate() == 2
    assert ledger.quarantine is not None
    assert ledger.quarantine.from_ms == 40_000
