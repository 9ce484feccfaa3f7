"""The ledger's identity and durability: a wrong, empty or forgetful ledger is refused before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import fakeredis
import pytest
import redis

from pipeline.errors import ConfigurationError, LedgerMismatch, LedgerUnavailable
from pipeline.identifiers import Hasher
from pipeline.ledger import Ledger, identity
from pipeline.ledger.guard import Guard
from pipeline.ledger.keys import META
from pipeline.ledger.store import Durability, Store, _refuse_unconfirmed
from tests.support.parts import HASHER, new_event, open_ledger
from tests.support.servers import valkey_server


@pytest.fixture
def fake() -> Iterator[redis.Redis]:
    with fakeredis.FakeRedis() as client:
        yield client


def reopen(client: redis.Redis, **options):
    return open_ledger(client, durability="none", **options)


def test_same_ledger_is_recognised(fake: redis.Redis):
    """A second process finds the id the first one gave."""
    first = reopen(fake).identity
    assert reopen(fake).identity == first
    assert reopen(fake, expected_id=first.ledger_id).identity == first


def test_other_pepper_is_refused(fake: redis.Redis):
    """With another pepper every standing would be orphaned: refused, and the text does not show either fingerprint."""
    reopen(fake)
    other = Hasher(b"another-pepper")
    with pytest.raises(LedgerMismatch, match="CONSENT_SUBJECT_PEPPER") as caught:
        reopen(fake, hasher=other)
    assert other.fingerprint() not in str(caught.value)


def test_other_partitions_are_refused(fake: redis.Redis):
    """With another number of partitions nothing would be found again."""
    reopen(fake)
    with pytest.raises(ConfigurationError, match="4 partitions"):
        reopen(fake, partitions=8)


def test_unexpectedly_empty_ledger_is_refused_and_stays_empty(fake: redis.Redis):
    """A ledger that was wiped does not quietly begin anew: nothing is written to it."""
    with pytest.raises(LedgerMismatch, match="consent ledger accept"):
        reopen(fake, expected_id="0123456789abcdef")
    assert fake.keys("*") == []


def test_other_ledger_is_refused(fake: redis.Redis):
    """Pointing at somebody else's ledger is noticed."""
    reopen(fake)
    with pytest.raises(LedgerMismatch, match="CONSENT_REDIS_URL"):
        reopen(fake, expected_id="0123456789abcdef")


@pytest.mark.parametrize("schema", [0, 3])
def test_other_schema_is_refused(fake: redis.Redis, schema: int):
    """An older or newer schema is not worked on."""
    reopen(fake)
    fake.hset(META, "schema", schema)
    with pytest.raises(LedgerMismatch, match="schema"):
        reopen(fake)


def test_server_that_lost_everything_while_we_run_is_refused(client: redis.Redis):
    """If the server comes back empty under a running process, the next write is refused rather than begun anew."""
    ledger = open_ledger(client)
    ledger.events.commit([new_event("a" * 24)], ledger.durability)
    client.flushall()
    client.script_flush()
    with pytest.raises(LedgerMismatch, match="empty"):
        ledger.events.commit([new_event("b" * 24)], ledger.durability)
    assert client.keys("*") == []


def look_again(ledger: Ledger) -> None:
    """As if a second had passed since the ledger was looked at."""
    ledger.store._guard._next_at = float("-inf")


def test_a_server_that_was_emptied_while_it_ran_is_noticed_within_a_second(client: redis.Redis):
    """It still knows our scripts; the next look refuses all work, reading and writing, and nothing is written to it."""
    ledger = open_ledger(client)
    client.flushall()
    look_again(ledger)
    for call in (lambda: ledger.events.commit([new_event("b" * 24)], ledger.durability), ledger.beat, lambda: ledger.events.take_due(10), ledger.ping) * 2:
        with pytest.raises(LedgerMismatch, match="empty"):
            call()
    assert client.keys("*") == []


def test_an_empty_ledger_is_worked_with_once_it_was_accepted(client: redis.Redis):
    """In the place of the one that is missed: the running process goes on, one that starts later too, and another ledger's process does not."""
    ledger = open_ledger(client)
    missed = ledger.identity.ledger_id
    ledger.events.commit([new_event("a" * 24)], ledger.durability)
    client.flushall()
    taken = identity.accept(Store(client), partitions=4, pepper_fingerprint=HASHER.fingerprint(), instead_of=[missed])
    look_again(ledger)
    assert ledger.events.commit([new_event("b" * 24)], ledger.durability) == [True]
    assert ledger.identity == taken
    assert taken.ledger_id != missed
    assert [each.reason for each in (ledger.quarantine, open_ledger(client).quarantine)] == ["accepted", "accepted"]
    assert open_ledger(client, expected_id=missed).identity == open_ledger(client, expected_id=taken.ledger_id).identity == taken
    with pytest.raises(LedgerMismatch, match="0123456789abcdef was expected"):
        open_ledger(client, expected_id="0123456789abcdef")


def test_another_ledger_may_be_accepted_and_keeps_what_it_holds(client: redis.Redis):
    """A ledger that was moved or restored under another id; accepting it twice, or for a second missed one, adds up."""
    ledger = open_ledger(client)
    ledger.events.commit([new_event("a" * 24)], ledger.durability)
    for missed in ("0123456789abcdef", "0123456789abcdef", "fedcba9876543210", ledger.identity.ledger_id):
        identity.accept(Store(client), partitions=0, pepper_fingerprint=HASHER.fingerprint(), instead_of=[missed])
    again = open_ledger(client, expected_id="0123456789abcdef")
    assert again.identity == replace(ledger.identity, replaces=("0123456789abcdef", "fedcba9876543210"))
    assert again.events.counts()["accepted"] == 1


def test_what_no_word_of_a_person_makes_ours_is_not_accepted(client: redis.Redis):
    """Another pepper would orphan every standing, whoever says yes; nothing changes."""
    before = open_ledger(client).identity
    with pytest.raises(LedgerMismatch, match="CONSENT_SUBJECT_PEPPER"):
        identity.accept(Store(client), partitions=0, pepper_fingerprint=Hasher(b"another-pepper").fingerprint(), instead_of=["0123456789abcdef"])
    assert identity.read(Store(client)) == before


def test_a_process_does_not_take_over_a_ledger_cut_otherwise(client: redis.Redis):
    """One accepted with another number of partitions needs processes that begin anew: they would look in the wrong places."""
    ledger = open_ledger(client, partitions=0)
    client.flushall()
    identity.accept(Store(client), partitions=2, pepper_fingerprint=HASHER.fingerprint(), instead_of=[ledger.identity.ledger_id])
    with pytest.raises(LedgerMismatch, match="start it again"):
        ledger.check()


def test_who_only_looks_makes_no_ledger(client: redis.Redis):
    """A command that looks into an emptied server must not be what makes it a ledger again."""
    with pytest.raises(LedgerMismatch, match="empty"):
        open_ledger(client, may_make=False)
    assert client.keys("*") == []


def test_the_guard_looks_once_a_second_and_each_time_while_something_is_wrong():
    """One look a second while all is well; none of the calls gets past a look that failed."""
    clock, looks, wrong = [0.0], [], []

    def check() -> None:
        looks.append(clock[0])
        if wrong:
            raise LedgerUnavailable("away")

    guard = Guard(check, clock=lambda: clock[0])
    for clock[0] in (0.0, 0.5, 0.99, 1.0, 1.5):
        guard.look()
    assert looks == [0.0, 1.0]
    guard.look(now=True)
    assert looks == [0.0, 1.0, 1.5]
    wrong.append(True)
    for clock[0] in (2.6, 2.7, 2.8):
        with pytest.raises(LedgerUnavailable):
            guard.look()
    wrong.clear()
    for clock[0] in (2.9, 3.0):
        guard.look()
    assert looks == [0.0, 1.0, 1.5, 2.6, 2.7, 2.8, 2.9]


def test_scripts_are_loaded_again_after_a_restart(client: redis.Redis):
    """A server that forgot our scripts but kept the data gets them again, within the same call and for each command of it."""
    ledger = open_ledger(client)
    client.script_flush()
    names = [f"{n:024d}" for n in range(12)]
    assert ledger.events.commit([new_event(name) for name in names], ledger.durability) == [True] * 12
    assert ledger.events.counts()["accepted"] == 12


def test_server_that_is_away_is_one_error():
    """However the server is away, callers see LedgerUnavailable."""
    with valkey_server() as url:
        client = redis.Redis.from_url(url, retry=None)
        ledger = open_ledger(client)
    for call in (ledger.ping, ledger.now_ms, lambda: ledger.events.load(["a" * 24, "b" * 24])):
        with pytest.raises(LedgerUnavailable):
            call()
    client.close()


def test_server_that_syncs_always_needs_no_wait(client: redis.Redis):
    """With `appendfsync always` the answer is the confirmation; asking for it by name works as well."""
    assert open_ledger(client).durability == Durability("fsync")
    assert open_ledger(client, durability="fsync").durability.mode == "fsync"


def test_server_that_syncs_each_second_is_asked_to_wait():
    """With `everysec` every commit waits until it is on disk, and `fsync` by name is refused."""
    with valkey_server("--appendfsync", "everysec") as url, redis.Redis.from_url(url) as client:
        ledger = open_ledger(client, wait_aof_milliseconds=2000)
        assert ledger.durability.mode == "waitaof"
        assert ledger.events.commit([new_event("a" * 24), new_event("b" * 24)], ledger.durability) == [True, True]
        with pytest.raises(ConfigurationError, match="appendfsync"):
            open_ledger(client, durability="fsync")


def test_unconfirmed_write_is_not_accepted():
    """If the disk does not confirm in time the caller is told to try again; a confirmed one passes."""
    wait = ("WAITAOF", 1, 0, 1)
    for reply in ([0, 0], None, []):
        with pytest.raises(LedgerUnavailable, match="on disk"):
            _refuse_unconfirmed(wait, reply)
    _refuse_unconfirmed(wait, [1, 0])


def test_write_that_a_replica_lacks_is_not_accepted():
    """Each replica that may take over has to have it, and on its disk where that was asked for."""
    for wait, reply in ((("WAIT", 2, 1), 1), (("WAITAOF", 1, 2, 1), [1, 1])):
        with pytest.raises(LedgerUnavailable, match="1 of 2 replicas"):
            _refuse_unconfirmed(wait, reply)
    _refuse_unconfirmed(("WAIT", 2, 1), 2)
    _refuse_unconfirmed(("WAITAOF", 1, 2, 1), [1, 3])


def test_server_without_append_only_file_is_refused():
    """A server that keeps nothing on disk is refused, unless that is wanted in writing."""
    with valkey_server("--appendonly", "no") as url, redis.Redis.from_url(url) as client:
        with pytest.raises(ConfigurationError, match="appendonly"):
            open_ledger(client)
        assert open_ledger(client, durability="none").durability.mode == "none"


def test_server_that_evicts_is_refused():
    """A server that may evict keys is refused, whatever durability is wanted."""
    with valkey_server("--maxmemory-policy", "allkeys-lru") as url, redis.Redis.from_url(url) as client:
        for wanted in ("auto", "none"):
            with pytest.raises(ConfigurationError, match="noeviction"):
                open_ledger(client, durability=wanted)


def test_server_that_does_not_sync_while_it_rewrites_is_refused():
    """Each backup and each rewriting of its file would be a time in which a power cut loses what was answered 202."""
    with valkey_server("--no-appendfsync-on-rewrite", "yes") as url, redis.Redis.from_url(url) as client, pytest.raises(ConfigurationError, match="on-rewrite"):
        open_ledger(client)


def test_server_that_forbids_config_still_says_whether_it_evicts():
    """A managed service tells by INFO."""
    with valkey_server("--maxmemory-policy", "allkeys-lru") as url, redis.Redis.from_url(url) as admin:
        admin.acl_setuser("default", enabled=True, nopass=True, commands=["+@all", "-config"], keys=["*"])
        with redis.Redis.from_url(url) as client, pytest.raises(ConfigurationError, match="noeviction"):
            open_ledger(client)


def test_server_that_was_set_up_anew_is_noticed_while_we_run():
    """One that no longer syncs always is asked to wait from then on; one that evicts or keeps nothing is refused, until it is set up well again."""
    with valkey_server() as url, redis.Redis.from_url(url) as client:
        ledger = open_ledger(client, wait_aof_milliseconds=2000)
        client.config_set("appendfsync", "everysec")
        look_again(ledger)
        ledger.ping()
        assert ledger.durability.mode == "waitaof"
        for name, unsafe, good in (
            ("maxmemory-policy", "allkeys-lru", "noeviction"),
            ("appendonly", "no", "yes"),
            ("appendfsync", "no", "always"),
            ("no-appendfsync-on-rewrite", "yes", "no"),
        ):
            client.config_set(name, unsafe)
            look_again(ledger)
            for number in range(2):
                with pytest.raises(LedgerUnavailable, match=name):
                    ledger.events.commit([new_event(f"{number:024d}")], ledger.durability)
            client.config_set(name, good)
            ledger.ping()
        assert ledger.durability.mode == "fsync"
        assert ledger.events.counts()["accepted"] == 0


def test_server_that_may_not_write_is_unavailable(client: redis.Redis):
    """Too few replicas is an outage, alone and in a pipeline, and nothing is written."""
    ledger = open_ledger(client)
    client.config_set("min-replicas-to-write", 1)
    try:
        for call in (ledger.ping, lambda: ledger.events.commit([new_event(f"{n:024d}") for n in range(12)], ledger.durability)):
            with pytest.raises(LedgerUnavailable, match="NOREPLICAS"):
                call()
    finally:
        client.config_set("min-replicas-to-write", 0)
    assert ledger.events.counts()["accepted"] == 0


def test_beat_and_periodic_work(client: redis.Redis):
    """The age of the last beat is known once there was one, and periodic work is done by one caller at a time."""
    ledger = open_ledger(client)
    assert ledger.last_beat_seconds() is None
    ledger.beat()
    assert 0 <= ledger.last_beat_seconds() < 5
    assert [ledger.once("audit", 10_000) for _ in range(3)] == [True, False, False]
    assert ledger.once("other", 10_000) is True


def test_clock_follows_the_server(client: redis.Redis):
    """The clock that is not asked each time agrees with the server's to a few milliseconds."""
    ledger = open_ledger(client)
    assert abs(ledger.clock_ms() - ledger.now_ms()) <= 20
    assert ledger.now().tzinfo is not None


@pytest.mark.parametrize(
    "error,words",
    [
        (redis.exceptions.ConnectionError("hush"), "no connection"),
        (ConnectionResetError("hush"), "no connection"),
        (redis.exceptions.AuthenticationError("hush"), "it refuses our password"),
        (redis.exceptions.BusyLoadingError("hush"), "it is still loading its data"),
        (redis.exceptions.TimeoutError("hush"), "no answer in time"),
        (redis.exceptions.ResponseError("Script attempted to access a non local key in a cluster node, hush"), "a slot is moving to another node"),
    ],
)
def test_a_ledger_that_is_away_is_told_in_words(error: Exception, words: str):
    """Neither a class nor the library's text, which may quote an address."""
    assert str(Store._translated(error)) == f"the ledger cannot be reached or written: {words}"
