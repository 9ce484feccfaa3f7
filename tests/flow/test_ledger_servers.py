"""A ledger behind Sentinel and on a cluster, on real servers: what is answered 202 is where it has to be, and what cannot keep that is refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from config.settings import load_settings
from pipeline.errors import ConfigurationError, LedgerMismatch, LedgerUnavailable
from pipeline.ledger import Ledger, LedgerOptions
from pipeline.ledger.cluster import slot_of
from pipeline.ledger.standings import Merge
from tests.support.cluster import ClusterSet, valkey_cluster
from tests.support.parts import HASHER, VAULT, new_event, word
from tests.support.sentinel import SERVICE, SentinelSet, behind_sentinel
from tests.support.stack import wait_until
from workers.servers import ledger_servers


@contextmanager
def opened(url: str, *, waits_ms: int = 2000) -> Iterator[Ledger]:
    servers = ledger_servers(load_settings({"CONSENT_REDIS_URL": url}))
    options = LedgerOptions(partitions=0, pepper_fingerprint=HASHER.fingerprint(), wait_aof_milliseconds=waits_ms)
    yield Ledger(servers, VAULT, options)
    servers.close()


@pytest.fixture(scope="module")
def watched() -> Iterator[SentinelSet]:
    with behind_sentinel() as servers:
        yield servers


@pytest.fixture(scope="module")
def spread() -> Iterator[ClusterSet]:
    with valkey_cluster() as servers:
        yield servers


def test_accept_waits_for_every_replica_that_could_be_promoted(watched: SentinelSet) -> None:
    """One of two that stands still is enough for 503, and for no dialogue to begin; once it goes on, the same event is known and safe."""
    with opened(watched.url, waits_ms=300) as ledger:
        assert ledger.events.commit([new_event("a" * 24)], ledger.durability) == [True]
        lagging = next(server for server in watched.servers if server is not watched.primary())
        lagging.freeze()
        try:
            with pytest.raises(LedgerUnavailable, match="1 of 2 replicas"):
                ledger.events.commit([new_event("b" * 24)], ledger.durability)
            with pytest.raises(LedgerUnavailable, match="1 of 2 replicas"):
                ledger.standings.merge([Merge(identifier_key="e1", purpose="news", word=word(1).encode())])
        finally:
            lagging.thaw()
        wait_until(lambda: _is_accepted(ledger, "b" * 24), 20)


def test_a_minority_of_sentinels_lets_no_replica_be_forgotten() -> None:
    """Cut off with one of three Sentinels and one of two replicas, nothing is accepted: the others may be promoting the other one. A process that starts there accepts nothing either."""
    with behind_sentinel() as watched, opened(watched.url, waits_ms=300) as ledger:  # a Sentinel that stood still mistrusts its clock for half a minute
        assert ledger.events.commit([new_event("a" * 24)], ledger.durability)
        left, *others = watched.sentinels
        cut_off = next(server for server in watched.servers if server is not watched.primary())
        for server in (*others, cut_off):
            server.freeze()
        try:
            wait_until(lambda: any(each["is_sdown"] for each in left.client.sentinel_slaves(SERVICE)), 20)
            for _ in range(3):
                with pytest.raises(LedgerUnavailable, match="1 of 2 replicas"):
                    ledger.events.commit([new_event("c" * 24)], ledger.durability)
                time.sleep(0.7)
            with pytest.raises(LedgerUnavailable, match="1 of 2 replicas"), opened(watched.url, waits_ms=300) as late:
                late.events.commit([new_event("d" * 24)], late.durability)
        finally:
            for server in (*others, cut_off):
                server.thaw()
        wait_until(lambda: _is_accepted(ledger, "c" * 24), 20)


def test_what_was_accepted_is_at_the_new_primary(watched: SentinelSet) -> None:
    """The primary is gone for good while events come in: every one that was accepted is known, and it is no older ledger."""
    with opened(watched.url) as ledger:
        accepted = [f"{number:024d}" for number in range(200) if _is_accepted(ledger, f"{number:024d}")]
        killed = watched.kill_primary()
        wait_until(lambda: _is_accepted(ledger, "f" * 24), 30)
        assert len(accepted) == 200
        assert all(ledger.events.load(accepted))
        assert ledger.quarantine is None
        killed.start()
        wait_until(lambda: ledger.store.nodes.replicas_wanted(ledger.store.client) == 2, 30)


def test_evidence_is_read_once_every_replica_has_it(watched: SentinelSet) -> None:
    """What only the primary has may be forgotten with it, done again, and then be on record twice."""
    with opened(watched.url, waits_ms=300) as ledger:
        replicas = [server for server in watched.servers if server is not watched.primary()]
        for server in replicas:
            server.freeze()
        try:
            watched.primary().client.xadd("cr:{e0}:evidence", {"s": '{"kind":"planned","rows":[]}', "p": ""})
            with pytest.raises(LedgerUnavailable, match="0 of 2 replicas"):
                ledger.outbox.read("e0", "", 10)
        finally:
            for server in replicas:
                server.thaw()
        wait_until(lambda: _is_accepted(ledger, "d" * 24), 20)
        assert [entry.kind for entry in ledger.outbox.read("e0", "", 10)] == ["planned"]


def test_sentinel_without_what_it_takes_is_refused(watched: SentinelSet) -> None:
    """No replica, an unknown service, a replica that keeps nothing on disk."""
    with behind_sentinel(replicas=0) as alone, pytest.raises(ConfigurationError, match="Sentinel knows 0 replicas"):
        ledger_servers(load_settings({"CONSENT_REDIS_URL": alone.url}))
    with pytest.raises(ConfigurationError, match="no Sentinel of those named answers for that service"):
        ledger_servers(load_settings({"CONSENT_REDIS_URL": watched.url.replace("/consent/", "/another/")}))
    replica = next(server for server in watched.servers if server is not watched.primary())
    replica.client.config_set("appendonly", "no")
    try:
        with pytest.raises(ConfigurationError, match="or a replica of it, keeps no append-only file"), opened(watched.url):
            pass
    finally:
        replica.client.config_set("appendonly", "yes")


def test_commands_are_split_by_node_and_answers_keep_their_order(spread: ClusterSet) -> None:
    """Many partitions, all nodes in use; scans and counts see all of them, and a script that one node has forgotten is loaded there again."""
    with opened(spread.url) as ledger:
        event_ids = [f"{number:024x}" for number in range(60)]
        assert ledger.events.commit([new_event(event_id) for event_id in event_ids], ledger.durability) == [True] * 60
        spread.servers[1].client.script_flush()
        assert [event.event_id for event in ledger.events.load(event_ids) if event] == event_ids
        assert ledger.events.counts()["accepted"] == 60
        keys = [f"e{number:024x}" for number in range(30)]
        merged = ledger.standings.merge([Merge(identifier_key=key, purpose="news", word=word(number + 1).encode()) for number, key in enumerate(keys)])
        assert [each.newest.order_us // 60_000_000 for each in merged if each.newest] == list(range(1, 31))
        assert {record.key for record in ledger.standings.scan()} == set(keys)
        page, seen = ledger.walks.identifiers(0, 10), set[str]()
        while True:
            seen |= set(page.names)
            if page.cursor < 0:
                break
            page = ledger.walks.identifiers(page.cursor, 10)
        assert seen == set(keys)
        assert len({id(client) for client, _ in ledger.store.nodes.split([("GET", ledger.keys.identifier(key)) for key in keys])}) == 3


def test_a_node_whose_clock_leaves_the_others_is_noticed_while_we_run(spread: ClusterSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits there would wait for the length of the step; it goes on by itself once the clocks agree again."""
    with opened(spread.url) as ledger:
        ledger.look()
        other = ledger.store.nodes.primaries()[1]
        with monkeypatch.context() as patched:
            patched.setattr(other, "time", lambda: (int(time.time()) - 600, 0))
            with pytest.raises(LedgerUnavailable, match="600 seconds apart"):
                ledger.look()
        ledger.look()


def test_commands_of_one_turn_are_sent_stage_by_stage(spread: ClusterSet) -> None:
    """What begins a stage is only sent when the stage before it is answered, whatever nodes the keys are on."""
    with opened(spread.url) as ledger:
        sent, run = [], ledger.store.run
        ledger.store.run = lambda commands, **options: (sent.append([command[1] for command in commands]), run(commands, **options))[1]  # type: ignore[method-assign]
        assert ledger.store.run_in_order([[("SET", "{a}", 1)], [], [("GET", "{a}"), ("GET", "{b}")], [("SET", "{c}", 2)]]) == [True, b"1", None, True]
        assert sent == [["{a}"], [], ["{a}", "{b}"], ["{c}"]]


def test_a_slot_that_moved_is_followed(spread: ClusterSet) -> None:
    """The first command to it after the move is sent to its new node, and nothing is lost or done twice."""
    with opened(spread.url) as ledger:
        name = "{moving}"
        slot = slot_of(("INCR", name))
        old, new = (next(server for server in spread.servers if (server.port == _owner(spread, slot)) is is_old) for is_old in (True, False))
        ids = {server.port: server.client.execute_command("CLUSTER", "MYID") for server in spread.servers}
        ledger.store.run([("DEL", name)])
        for server in spread.servers:
            server.client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[new.port])
        assert ledger.store.run([("INCR", name), ("GET", name)]) == [1, b"1"]
        assert new.client.get(name) == b"1"
        assert old.port != new.port


def test_a_node_that_comes_back_empty_is_noticed(spread: ClusterSet) -> None:
    """Its slots would answer as if nothing had ever been said."""
    with opened(spread.url) as ledger:
        ledger.check()
        victim = next(server for server in spread.servers if server.port != _owner(spread, slot_of(("TIME",))))
        victim.kill()
        with pytest.raises(LedgerUnavailable):
            ledger.events.commit([new_event(f"9{number:023x}") for number in range(100)], ledger.durability)
        victim.empty()
        victim.start()
        wait_until(spread.is_well, 30)
        with pytest.raises(LedgerMismatch, match="came back without its data"):
            ledger.check()


def _is_accepted(ledger: Ledger, event_id: str) -> bool:
    try:
        return ledger.events.commit([new_event(event_id)], ledger.durability)[0] is not False
    except LedgerUnavailable:
        return False


def _owner(spread: ClusterSet, slot: int) -> int:
    ranges = spread.servers[0].client.execute_command("CLUSTER", "SLOTS")
    return int(next(entry[2][1] for entry in ranges if entry[0] <= slot <= entry[1]))
