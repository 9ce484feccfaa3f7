"""Backups: of one moment however the ledger moves, whole or not at all, private, and put back quarantined."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from pipeline.errors import ConfigurationError, LedgerMismatch
from pipeline.ledger import snapshot
from pipeline.ledger.keys import META, Keys
from tests.support.parts import CANARY, everything_stored
from tests.support.relay import Relay, destination, routing
from tests.support.servers import valkey_server
from workers.backups import BackupFailed, Manifest, Progress, back_up, manifest_path, read_commands, read_manifest

RULES = routing([destination("mail"), destination("crm")])


@pytest.fixture
def other() -> Iterator[redis.Redis]:
    """Another server, empty."""
    with valkey_server() as url, redis.Redis.from_url(url) as client:
        yield client


def put_back(client: redis.Redis, path: Path) -> Manifest:
    manifest = read_manifest(path)
    snapshot.restore(client, read_commands(path), at_ms=manifest.taken_at_ms, sha256=manifest.sha256)
    return manifest


def unfinished_relay(client: redis.Redis, *, evidence: bool = False) -> Relay:
    """A ledger with work at every stage."""
    relay = Relay(client, RULES, evidence=evidence)
    relay.vendors["mail"].answers = [200, 503, 400]
    for n in range(6):
        relay.event("withdrawn" if n % 2 else "given", n, email=f"p{n}.{CANARY}")
        if n < 3:
            relay.drain()
    relay.step()
    relay.ledger.trays.take("given", "a task", wait_seconds=0.01, says_so=True)  # what lies on a tray is copied with the rest
    relay.event("given", 7, email=f"p7.{CANARY}")
    for name in (Keys.attended("given"), Keys.tray("given")):
        assert client.pexpire(name, 60_000)  # longer than a test on a slow machine
    return relay


def test_what_is_put_back_is_what_was_there(client: redis.Redis, other: redis.Redis, tmp_path: Path):
    """Every key, value, score and time of expiry; only the ledger's own record says that it is quarantined, and from when on."""
    relay = unfinished_relay(client)
    bytes_seen, keys_seen = [], []
    path = tmp_path / "b.resp.gz"
    progress = Progress(on_bytes=lambda came, all_: bytes_seen.append((came, all_)), on_keys=lambda done, all_: keys_seen.append(done))
    manifest = back_up(client, 0, path, progress)
    before, before_ms = everything_stored(client), relay.ledger.now_ms()
    put_back(other, path)
    after = everything_stored(other)
    record = after.pop(META.encode())
    assert before.pop(META.encode()).items() <= record.items()
    assert after == before
    for name in before:
        assert abs(other.pexpiretime(name) - client.pexpiretime(name)) <= 1
    assert bytes_seen[-1][0] == bytes_seen[-1][1] > 0
    assert sum(keys_seen) == manifest.counts["keys"] - 1
    assert manifest.counts["events_accepted"] == 7
    assert manifest.counts["events_unfinished"] == relay.ledger.events.counts()["open"]
    restored = Relay(other, RULES)
    found = restored.ledger.quarantine
    assert found is not None
    assert (found.reason, found.from_ms) == ("restored", manifest.taken_at_ms - 60_000)
    assert found.since_ms >= before_ms - 1000
    assert restored.figures().unaccounted == 0


def test_a_restored_ledger_goes_on_where_it_was(client: redis.Redis, other: redis.Redis, tmp_path: Path):
    """Withdrawals are told at once, `given` when it was brought forward; a withdrawal from after the backup, posted again, is told, and the older `given` never."""
    relay = unfinished_relay(client)
    back_up(client, 0, tmp_path / "b.resp.gz", Progress())
    relay.event("withdrawn", 50, email=f"p4.{CANARY}", key="later")
    put_back(other, tmp_path / "b.resp.gz")
    again = Relay(other, RULES)
    again.again(3, pushed=True)
    states = {(call["to"]["email"], call["state"]) for name in ("mail", "crm") for call in again.vendors[name].calls}
    assert {state for _, state in states} == {"withdrawn"}
    assert (f"p5.{CANARY}", "withdrawn") in states
    again.event("withdrawn", 50, email=f"p4.{CANARY}", key="later")
    again.drain()
    again.ledger.lift(again.ledger.quarantine, again.ledger.now_ms())
    again.again(3, pushed=True)
    assert again.vendors["crm"].held[f"p4.{CANARY}", "news"] == "withdrawn"
    assert not any(call["state"] == "given" and call["to"]["email"].startswith("p4") for call in again.vendors["crm"].calls)
    assert again.figures().unaccounted == 0


def test_a_backup_under_load_is_of_one_moment(client: redis.Redis, other: redis.Redis, tmp_path: Path):
    """While events are accepted, planned and told, the books of every backup balance, and what was accepted before its moment is in it."""
    relay = Relay(client, RULES, seconds=0.1)  # of one moment are also the claims of dialogues under way: they are to end soon
    accepted: list[tuple[int, str]] = []
    ended = threading.Event()

    def load() -> None:
        n = 0
        while not ended.is_set() and n < 3000:
            n += 1
            event_id = relay.event("withdrawn" if n % 3 else "given", n, email=f"p{n % 50}@example.org")
            accepted.append((relay.ledger.now_ms(), event_id))
            while len(relay.queue.messages) > 5:
                relay.step()

    thread = threading.Thread(target=load)
    thread.start()
    try:
        while thread.is_alive() and not accepted:
            time.sleep(0.005)
        manifests = [back_up(client, 0, tmp_path / f"{n}.resp.gz", Progress()) for n in range(3)]
    finally:
        ended.set()
        thread.join()
    assert manifests[-1].counts["events_accepted"] > manifests[0].counts["events_accepted"] > 0
    for manifest in manifests:
        other.flushall()
        put_back(other, tmp_path / manifest.file)
        restored = Relay(other, RULES)
        assert restored.figures().unaccounted == 0
        before = [event_id for at_ms, event_id in accepted if at_ms < manifest.taken_at_ms]
        assert None not in restored.ledger.events.load(before)
        restored.ledger.lift(restored.ledger.quarantine, restored.ledger.now_ms())
        until = time.monotonic() + 20
        while restored.ledger.events.counts()["open"] and time.monotonic() < until:
            restored.again(pushed=True)
        assert restored.ledger.events.counts()["open"] == 0
        assert restored.figures().unaccounted == 0


def test_nothing_personal_and_no_secret_is_in_it(client: redis.Redis, tmp_path: Path):
    """Sealed values stay sealed, and files are for their owner only."""
    relay = unfinished_relay(client)
    manifest = back_up(client, 0, tmp_path / "b.resp.gz", Progress())
    content = b"".join(bytes(part) for group in read_commands(tmp_path / "b.resp.gz") for command in group for part in command)
    beside = manifest_path(tmp_path / "b.resp.gz")
    for secret in (CANARY.encode(), b"k" * 32, b"pepper-for-tests"):
        assert secret not in content
        assert secret not in beside.read_bytes()
    assert relay.ledger.identity.ledger_id.encode() in content
    assert {each.stat().st_mode & 0o777 for each in tmp_path.iterdir()} == {0o600}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["b.resp.gz", "b.resp.gz.manifest.json"]
    assert json.loads(beside.read_text())["sha256"] == manifest.sha256


def test_what_was_cut_short_or_changed_is_refused(client: redis.Redis, other: redis.Redis, tmp_path: Path):
    """By its manifest, before anything is written; a file without one is no backup, and none is overwritten."""
    unfinished_relay(client)
    path = tmp_path / "b.resp.gz"
    back_up(client, 0, path, Progress())
    with pytest.raises(BackupFailed, match="nothing is overwritten"):
        back_up(client, 0, path, Progress())
    whole = path.read_bytes()
    for broken in (whole[:-20], whole[:100] + b"x" + whole[101:]):
        path.write_bytes(broken)
        with pytest.raises(BackupFailed, match="cut short or changed"):
            put_back(other, path)
    manifest_path(path).unlink()
    with pytest.raises(BackupFailed, match="a file and its manifest"):
        put_back(other, path)
    assert other.keys("*") == []


def test_a_ledger_is_not_overwritten(client: redis.Redis, other: redis.Redis, tmp_path: Path):
    """Not by another, and not by its own backup."""
    unfinished_relay(client)
    back_up(client, 0, tmp_path / "b.resp.gz", Progress())
    before = everything_stored(client)
    with pytest.raises(LedgerMismatch, match="empty database"):
        put_back(client, tmp_path / "b.resp.gz")
    assert everything_stored(client) == before


def test_a_restore_that_was_broken_off_is_refused_until_it_is_finished(client: redis.Redis, other: redis.Redis, tmp_path: Path):
    """No process works with half a ledger, or begins another in its place; the same command finishes it."""
    relay = unfinished_relay(client)
    path = tmp_path / "b.resp.gz"
    manifest = back_up(client, 0, path, Progress())

    def breaks() -> Iterator[list[tuple[object, ...]]]:
        groups = read_commands(path)
        yield next(groups)
        yield next(groups)[:5]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        snapshot.restore(other, breaks(), at_ms=manifest.taken_at_ms, sha256=manifest.sha256)
    with pytest.raises(LedgerMismatch, match="being restored"):
        Relay(other, RULES)
    with pytest.raises(LedgerMismatch, match="another backup"):
        snapshot.restore(other, read_commands(path), at_ms=1, sha256="other")
    put_back(other, path)
    assert Relay(other, RULES).ledger.events.counts() == relay.ledger.events.counts()


def test_a_restore_that_was_broken_off_anywhere_can_be_repeated(client: redis.Redis, other: redis.Redis, tmp_path: Path):
    """Streams of evidence among what it had put back: they refuse the same entry twice."""
    unfinished_relay(client, evidence=True)
    path = tmp_path / "b.resp.gz"
    manifest = back_up(client, 0, path, Progress())

    def breaks() -> Iterator[list[tuple[object, ...]]]:
        yield from read_commands(path)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        snapshot.restore(other, breaks(), at_ms=manifest.taken_at_ms, sha256=manifest.sha256)
    assert any(other.type(name) == b"stream" for name in other.scan_iter("*"))
    put_back(other, path)
    before, after = everything_stored(client), everything_stored(other)
    assert before.pop(META.encode()).items() <= after.pop(META.encode()).items()
    assert after == before


def test_a_snapshot_made_by_other_means_will_do(client: redis.Redis, other: redis.Redis, tmp_path: Path):
    """A managed service's own, or a BGSAVE; its header says when it was made. What is none is refused."""
    relay = unfinished_relay(client)
    client.save()
    rdb = Path(client.config_get("dir")["dir"]) / client.config_get("dbfilename")["dbfilename"]
    manifest = back_up(client, 0, tmp_path / "b.resp.gz", Progress(), rdb=rdb)
    assert abs(manifest.taken_at_ms - relay.ledger.now_ms()) < 30_000
    put_back(other, tmp_path / "b.resp.gz")
    assert Relay(other, RULES).ledger.events.counts() == relay.ledger.events.counts()
    (tmp_path / "none").write_bytes(b"no snapshot")
    with pytest.raises(BackupFailed, match="no snapshot"):
        back_up(client, 0, tmp_path / "c.resp.gz", Progress(), rdb=tmp_path / "none")
    rdb.unlink()


def test_a_server_that_gives_no_snapshot_is_named(client: redis.Redis, tmp_path: Path):
    """Where SYNC is forbidden the text says what else to do, and nothing is left."""
    unfinished_relay(client)
    client.acl_setuser("limited", enabled=True, passwords=["+test-password"], keys=["*"], commands=["+@all", "-sync"])
    try:
        host = client.connection_pool.connection_kwargs
        with (
            redis.Redis(port=host["port"], username="limited", password="test-password") as limited,
            pytest.raises(ConfigurationError, match="--rdb"),
        ):
            back_up(limited, 0, tmp_path / "b.resp.gz", Progress())
    finally:
        client.acl_deluser("limited")
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_that_was_begun_for_somebody_else_is_not_taken(client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It may be of a moment before ours: the token shows it, and another one is asked for."""
    unfinished_relay(client)
    received = []
    real = snapshot.receive

    def receive(client, file, on_bytes):
        received.append(1)
        if len(received) == 1:
            cut = client.hget(META, "cut")
            client.hdel(META, "cut")
            real(client, file, on_bytes)
            client.hset(META, "cut", cut)
        else:
            real(client, file, on_bytes)

    monkeypatch.setattr(snapshot, "receive", receive)
    back_up(client, 0, tmp_path / "b.resp.gz", Progress())
    assert len(received) == 2


def test_evidence_that_waits_is_put_back(client: redis.Redis, other: redis.Redis, tmp_path: Path):
    """What is not archived yet stands in streams: entry by entry, with the ids by which the archiver goes on."""
    relay = Relay(client, RULES, evidence=True)
    for n in range(3):
        relay.event("withdrawn", n, email=f"p{n}@example.org")
    relay.drain()
    streams = {name: client.xrange(name) for name in client.scan_iter("cr:*:evidence")}
    assert sum(map(len, streams.values())) > 3
    back_up(client, 0, tmp_path / "b.resp.gz", Progress())
    put_back(other, tmp_path / "b.resp.gz")
    assert {name: other.xrange(name) for name in other.scan_iter("cr:*:evidence")} == streams
