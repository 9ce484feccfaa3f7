"""A ledger that may have forgotten withdrawals is noticed, tells withdrawals only, and goes on when a person says that it is complete again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis

from pipeline.errors import LedgerMismatch
from pipeline.ledger.identity import accept
from pipeline.ledger.keys import META
from pipeline.ledger.lookout import Mark, Quarantine, quarantine_now
from pipeline.ledger.nodes import OneServer
from pipeline.metrics import render_metrics
from tests.support.parts import new_event, open_ledger
from tests.support.relay import Relay, adapter, destination, routing
from tests.support.servers import valkey_server
from tests.support.stack import wait_until
from workers.marks import MarksFile


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    return Relay(client, routing([destination("mail")]))


def told(relay: Relay) -> list[tuple[str, str]]:
    return [(call["to"]["email"], call["state"]) for call in relay.vendors["mail"].calls]


def quarantine(relay: Relay) -> Quarantine:
    found = quarantine_now(relay.ledger.store, reason="restored", from_ms=1_000, era=0)
    relay.ledger.look()
    return found


def test_a_quarantined_ledger_tells_withdrawals_only(relay: Relay):
    """Both are accepted; the `given` waits and says why; once lifted it is told."""
    found = quarantine(relay)
    given = relay.event("given", 1, email="ana@example.org")
    withdrawn = relay.event("withdrawn", 1, email="ben@example.org")
    relay.drain()
    relay.again(2)
    assert told(relay) == [("ben@example.org", "withdrawn")]
    assert relay.deliveries(withdrawn)["mail"][0] == "delivered"
    assert relay.deliveries(given) == {"mail": ("waiting", "quarantined")}
    assert relay.figures().quarantined is True
    assert b"consent_quarantined 1.0" in render_metrics(relay.figures())
    assert relay.figures().unaccounted == 0
    assert relay.ledger.lift(found, 2_000) is True
    relay.again()
    assert told(relay)[1:] == [("ana@example.org", "given")]
    assert relay.ledger.quarantine is None


def test_given_that_were_leased_or_pushed_before_are_held_too(relay: Relay):
    """A message under way, and a `given` that waited for its next attempt, meet the quarantine."""
    relay.vendors["mail"].answers = [503]
    relay.event("given", 1, email="ana@example.org")
    relay.drain()
    relay.event("given", 1, email="ben@example.org")
    relay.step()
    quarantine(relay)
    before = len(told(relay))
    relay.drain()
    relay.again(2)
    assert len(told(relay)) == before
    relay.ledger.lift(relay.ledger.quarantine, 2_000)
    relay.again(2)
    assert sorted(told(relay)[before:]) == [("ana@example.org", "given"), ("ben@example.org", "given")]


def test_a_running_chunk_starts_no_more_given(relay: Relay):
    """The quarantine is seen between the dialogues of one chunk, not only before it."""
    relay.rules = routing([destination("mail", rate=destination("x").rate.__class__(concurrent=1))])
    event_ids = [relay.event("given", n, email=f"p{n}@example.org") for n in range(4)]
    relay.fan_out.run(event_ids)
    relay.exchange.before = lambda _: quarantine(relay)
    relay.deliver.run("mail", "given", event_ids)
    assert len(told(relay)) == 1
    assert relay.figures().unaccounted == 0


def test_beat_pushes_no_given_of_a_quarantined_ledger(relay: Relay):
    """However many wait, none of them goes round and round."""
    relay.vendors["mail"].answers = [503, 503]
    for state in ("given", "withdrawn"):
        relay.event(state, 1, email=f"{state}@example.org")
    relay.drain()
    quarantine(relay)
    relay.hurry()
    relay.beat()
    assert [values[1] for kind, values in relay.queue.messages if kind == "deliver"] == ["withdrawn"]


def test_a_message_about_a_given_gives_it_back_untouched(relay: Relay):
    """Whoever is asked to tell it puts it back to wait, without a call and without counting an attempt."""
    event_id = relay.event("given", 1, email="ana@example.org")
    relay.fan_out.run([event_id])
    quarantine(relay)
    relay.deliver.run("mail", "given", [event_id])
    assert relay.ledger.deliveries.figures("mail")["waiting"]["given"] == 1
    assert relay.ledger.store.client.zscore("cr:{d:mail}:due:given", event_id) is not None
    assert relay.ledger.event(event_id)["deliveries"][0]["attempts"] == 0


def test_a_withdrawal_posted_again_overtakes_the_given_that_waited(relay: Relay):
    """What the quarantine is for: the forgotten withdrawal comes again, and the older `given` is never told."""
    found = quarantine(relay)
    relay.event("given", 1, email="ana@example.org")
    relay.drain()
    relay.event("withdrawn", 2, email="ana@example.org")
    relay.drain()
    relay.ledger.lift(found, 2_000)
    relay.again(2)
    assert told(relay) == [("ana@example.org", "withdrawn")]


def test_standings_of_other_purposes_are_not_shown_while_quarantined(client: redis.Redis):
    """A vendor that is told all standings with a withdrawal is not told a `given` by the way."""
    shown = []

    class Sees(adapter(sees_standings=True)):
        def tell(self, instructions):
            shown.append([standing.state.value for each in instructions for standing in each.standings])
            return super().tell(instructions)

    relay = Relay(client, routing([destination("mail", Sees)]))
    relay.event("given", 1, email="ana@example.org", purpose="sms")
    relay.drain()
    quarantine(relay)
    relay.event("withdrawn", 1, email="ana@example.org", purpose="news")
    relay.drain()
    assert shown[-1] == []
    relay.ledger.lift(relay.ledger.quarantine, 2_000)
    relay.event("withdrawn", 5, email="ana@example.org", purpose="news")
    relay.drain()
    assert shown[-1] == ["given"]


def test_a_ledger_that_came_back_older_is_noticed_by_who_wrote_to_it(client: redis.Redis):
    """The process that was answered knows its own write; the ledger that lost it is quarantined from the last sure look on, and goes on after being lifted."""
    ledger = open_ledger(client)
    ledger.events.commit([new_event("a" * 24)], ledger.durability)
    ledger.look()
    sure_ms = ledger.now_ms()
    saved = {name: client.dump(name) for name in client.scan_iter("*")}
    ledger.events.commit([new_event("b" * 24)], ledger.durability)
    client.flushall()
    for name, value in saved.items():
        client.restore(name, 0, value)
    client.script_flush()
    ledger.events.load(["a" * 24])
    found = ledger.quarantine
    assert found is not None
    assert found.reason == "older"
    assert sure_ms - 62_000 <= found.from_ms <= sure_ms - 59_000
    ledger.look()
    assert ledger.quarantine == found
    assert open_ledger(client).quarantine == found
    assert ledger.lift(found, ledger.now_ms()) is True
    ledger.look()
    assert ledger.quarantine is None
    ledger.events.commit([new_event("b" * 24)], ledger.durability)
    ledger.look()
    assert ledger.quarantine is None


def test_a_failover_to_a_replica_that_lagged_is_noticed(client: redis.Redis):
    """A replica that had not yet heard of a 202 becomes the ledger: its first script call finds that out, before anything is written there."""
    with valkey_server() as url, redis.Redis.from_url(url) as replica:
        address = client.connection_pool.connection_kwargs
        ledger = open_ledger(client)
        replica.replicaof("127.0.0.1", address["port"])
        ledger.events.commit([new_event("a" * 24)], ledger.durability)
        wait_until(lambda: replica.exists(ledger.keys.record("a" * 24)) == 1, 20)
        replica.replicaof("NO", "ONE")
        ledger.events.commit([new_event("b" * 24)], ledger.durability)
        assert ledger.quarantine is None
        ledger.store.nodes = ledger._looking.nodes = OneServer(replica)
        assert ledger.events.commit([new_event("c" * 24)], ledger.durability) == [True]
        assert ledger.quarantine is not None
        assert (ledger.quarantine.reason, ledger.holds("given"), ledger.holds("withdrawn")) == ("older", True, False)


def test_another_process_and_a_restart_know_it_from_the_file(client: redis.Redis, tmp_path: Path):
    """What one process saw, one that starts later compares the ledger with; in a folder of its own it sees nothing wrong."""
    first = open_ledger(client, marks=MarksFile(tmp_path))
    saved = {name: client.dump(name) for name in client.scan_iter("*")}
    first.events.commit([new_event("a" * 24)], first.durability)
    first.look()
    assert MarksFile(tmp_path).newest() == first.identity.ledger_id
    assert (tmp_path / "ledger_seen.json").stat().st_mode & 0o777 == 0o600
    client.flushall()
    for name, value in saved.items():
        client.restore(name, 0, value)
    assert open_ledger(client, marks=MarksFile(tmp_path / "other")).quarantine is None
    assert open_ledger(client, marks=MarksFile(tmp_path)).quarantine.reason == "older"


def test_an_emptied_server_is_no_new_ledger_for_a_process_that_starts_later(client: redis.Redis, tmp_path: Path):
    """Whoever has the file of those who saw a ledger refuses an empty server, until a person has accepted it; somewhere else it is a new one."""
    first = open_ledger(client, marks=MarksFile(tmp_path))
    first.look()
    client.flushall()
    with pytest.raises(LedgerMismatch, match=f"the ledger is empty, but ledger {first.identity.ledger_id} was expected"):
        open_ledger(client, marks=MarksFile(tmp_path))
    assert client.dbsize() == 0
    accept(first.store, partitions=first.identity.partitions, pepper_fingerprint=first.identity.pepper_fingerprint, instead_of=[first.identity.ledger_id])
    assert open_ledger(client, marks=MarksFile(tmp_path)).identity.answers_to(first.identity.ledger_id)


def test_a_person_may_say_that_words_are_missing(relay: Relay):
    """Where nothing can be seen from outside: withdrawals are told and `given` wait, until it is lifted; said again, the earlier time counts."""
    ledger = relay.ledger
    first = ledger.quarantine_by_hand(9_000)
    assert (first.reason, first.from_ms, ledger.holds("given"), ledger.holds("withdrawn")) == ("restored", 9_000, True, False)
    ledger.look()
    assert ledger.quarantine == first
    assert ledger.quarantine_by_hand(5_000).from_ms == 5_000
    assert ledger.lift(ledger.quarantine, ledger.now_ms())
    assert ledger.quarantine is None


def test_two_that_notice_begin_one_era(client: redis.Redis):
    """Who comes second with the same mark changes nothing; a mark of the era that was lost fits no more."""
    store = open_ledger(client).store
    first = quarantine_now(store, reason="older", from_ms=5_000, era=0)
    assert quarantine_now(store, reason="older", from_ms=9_000, era=0) == first
    assert client.hget(META, "era") == b"1"
    wider = quarantine_now(store, reason="older", from_ms=2_000, era=4)
    assert (wider.from_ms, client.hget(META, "era")) == (2_000, b"5")


def test_a_quarantine_that_changed_is_not_lifted(client: redis.Redis):
    """Who looked at one quarantine lifts no other."""
    ledger = open_ledger(client)
    first = quarantine_now(ledger.store, reason="older", from_ms=5_000, era=0)
    quarantine_now(ledger.store, reason="older", from_ms=2_000, era=4)
    assert ledger.lift(first, 10_000) is False
    assert ledger.quarantine is not None


def test_marks_of_months_stay_few():
    """A look a second for a day, then one each hour for a year: a few hundred are kept, none older than a sixteenth more than it must be."""
    mark, at_ms = Mark(ledger_id="x", accepted=(0,)), 0
    for step_ms in [1_000] * 20_000 + [3_600_000] * 3_000:
        at_ms += step_ms
        mark = mark.joined(Mark(ledger_id="x", accepted=(at_ms,), past=((at_ms, (at_ms,)),)))
    assert len(mark.past) < 300
    for age_ms in (10_000_000, 3_000_000_000):
        sure = mark.sure_until_ms((at_ms - age_ms,))
        assert sure is not None
        assert at_ms - age_ms - max(7_200_000, age_ms // 8) <= sure <= at_ms - age_ms


def test_a_folder_that_cannot_be_written_stops_nothing(client: redis.Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Then each process remembers for itself, and says so once."""
    (tmp_path / "file").write_text("no folder")
    ledger = open_ledger(client, marks=MarksFile(tmp_path / "file"))
    ledger.events.commit([new_event("a" * 24)], ledger.durability)
    ledger.look()
    assert [record.message for record in caplog.records].count("marks_not_kept") == 1
    (tmp_path / "ledger_seen.json").write_text(json.dumps({"x": 1}))
    assert MarksFile(tmp_path).recall("x") is None
