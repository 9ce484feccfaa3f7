"""Vault keys are changed while everything runs: old values open, new ones use the new key, and a key is removable once nothing needs it."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from pipeline.audit import Audit
from pipeline.envelope import open_event
from pipeline.errors import ConfigurationError, PayloadUnreadable
from pipeline.ledger import Ledger, LedgerOptions
from pipeline.ledger import seals as seals_module
from pipeline.reseal import Reseal, ResealReport
from pipeline.vault import Vault
from tests.support.canaries import redis_content
from tests.support.parts import HASHER
from tests.support.relay import Relay, destination, routing

OLD, NEW = b"k" * 32, b"n" * 32
OLD_ID, NEW_ID = Vault([OLD]).newest, Vault([NEW]).newest


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    """A relay with the old key, that has told one withdrawal and keeps another one for a vendor that is away, and a session."""
    whole = Relay(client, routing([destination("mail")]))
    whole.event("withdrawn", 1, email="ana@example.org", external_id="C-1")
    whole.drain()
    whole.event("withdrawn", 2, email="bo@example.org")
    whole.ledger.accounts.put("mail:login", "session-token", 600)
    return whole


def opened_with(client: redis.Redis, *keys: bytes, **options: Any) -> Ledger:
    return Ledger(client, Vault(keys), LedgerOptions(partitions=4, pepper_fingerprint=HASHER.fingerprint(), **options))


def token_of(ledger: Ledger) -> str | None:
    kept = ledger.accounts.get("mail:login")
    return kept[0] if kept else None


def sealed_by(client: redis.Redis, key_id: str) -> int:
    """How many keys of the server hold something that a key sealed; the list of keys writes ids as text."""
    return sum(bytes.fromhex(key_id) in content for content in redis_content(client, "").values())


def reseal(client: redis.Redis, *keys: bytes, **options: Any) -> ResealReport:
    return Reseal(opened_with(client, *keys, **options), Vault(keys)).run()


def test_everything_the_old_key_sealed_opens_and_new_things_use_the_new_one(client: redis.Redis, relay: Relay):
    """With the new key in front and the old one kept, what waits is told, and nothing new is sealed with the old one."""
    before = sealed_by(client, OLD_ID)
    rotated = Relay(client, relay.rules, vault=Vault([NEW, OLD]))
    rotated.hurry(pushed=True)
    rotated.again(2)
    assert token_of(rotated.ledger) == "session-token"
    event_id = rotated.event("given", 3, key="cy", email="cy@example.org")
    rotated.drain()
    assert rotated.deliveries(event_id) == {"mail": ("delivered", None)}
    assert relay.vendors["mail"].held | rotated.vendors["mail"].held == {
        ("ana@example.org", "news"): "withdrawn",
        ("bo@example.org", "news"): "withdrawn",
        ("cy@example.org", "news"): "given",
    }
    assert before == 6  # two payloads, three identifiers, a session
    assert sealed_by(client, OLD_ID) == before - 1  # who is named again is sealed anew
    (stored,) = rotated.ledger.events.load([event_id])
    assert Vault.sealed_by(stored.payload) == NEW_ID


def test_resealing_frees_the_old_key_without_touching_lifetimes(client: redis.Redis, relay: Relay):
    """Every value opens with the new key alone, is kept as long as before, and the old key is not asked for any more."""
    lifetimes = {name: client.pttl(name) for name in client.scan_iter()}
    report = reseal(client, NEW, OLD)
    assert report == ResealReport(resealed=6, removable=(OLD_ID,))
    assert sealed_by(client, OLD_ID) == 0
    for name, before in lifetimes.items():
        assert -1 <= before - client.pttl(name) <= 60_000 or before == client.pttl(name) == -1, name
    alone = opened_with(client, NEW)
    ids = [name.decode().rpartition(":")[2] for name in client.scan_iter(match="cr:{e*}:p:*")]
    assert sorted(open_event(stored, Vault([NEW])).subject.email for stored in alone.events.load(ids)) == ["ana@example.org", "bo@example.org"]
    assert sorted(alone.standings.open_value(record) for record in alone.standings.scan()) == ["C-1", "ana@example.org", "bo@example.org"]
    assert token_of(alone) == "session-token"
    assert reseal(client, NEW) == ResealReport()


def test_a_key_that_is_in_use_cannot_be_removed(client: redis.Redis, relay: Relay):
    """Without it the ledger does not open, and names it; nothing was changed, and with it everything goes on."""
    with pytest.raises(ConfigurationError, match=f"lacks the key {OLD_ID}"):
        opened_with(client, NEW)
    rotated = Relay(client, relay.rules, vault=Vault([NEW, OLD]))
    rotated.hurry(pushed=True)
    rotated.again(2)
    assert rotated.vendors["mail"].held == {("bo@example.org", "news"): "withdrawn"}


def test_a_ledger_of_an_older_release_has_no_list(client: redis.Redis, relay: Relay):
    """All that is configured when it is first opened counts as in use, until resealing shows what is not."""
    client.delete("cr:{meta}:vault")
    opened_with(client, NEW, OLD)
    with pytest.raises(ConfigurationError, match=OLD_ID):
        opened_with(client, NEW)
    assert reseal(client, NEW, OLD).removable == (OLD_ID,)
    opened_with(client, NEW)


def test_what_an_unknown_key_sealed_is_counted_and_kept(client: redis.Redis, relay: Relay):
    """Resealing without the old key changes nothing and leaves it on the list; with the key put back all is well."""
    content = redis_content(client, "")
    report = reseal(client, NEW, needs_vault_keys=False)
    assert report == ResealReport(locked={OLD_ID: 6})
    assert {name: value for name, value in redis_content(client, "").items() if not name.endswith(":vault")} == {
        name: value for name, value in content.items() if not name.endswith(":vault")
    }  # but for the list of keys in use, which names the new one too
    assert reseal(client, NEW, OLD) == ResealReport(resealed=6, removable=(OLD_ID,))


def test_a_lost_key_that_sealed_nothing_any_more_leaves_the_list(client: redis.Redis, relay: Relay):
    """Its values have expired since: nobody needs it."""
    for pattern in ("cr:{e*}:*", "cr:{i*}:*", "cr:{a:*}:session"):
        client.delete(*client.scan_iter(match=pattern))
    assert reseal(client, NEW, needs_vault_keys=False) == ResealReport()
    opened_with(client, NEW)


def test_a_damaged_value_is_counted_and_left(client: redis.Redis, relay: Relay):
    """What does not open although its key is there is neither changed nor lost, and does not hold the key back: no key opens it."""
    name = next(client.scan_iter(match="cr:{e*}:p:*"))
    broken = bytes.fromhex(OLD_ID) + b"x" * 60
    client.set(name, broken)
    assert reseal(client, NEW, OLD) == ResealReport(resealed=5, damaged=1, removable=(OLD_ID,))
    assert client.get(name) == broken


def test_a_value_that_changes_meanwhile_is_not_overwritten(client: redis.Redis, relay: Relay, monkeypatch: pytest.MonkeyPatch):
    """An event erased between reading and writing stays erased, and a fresh session is not replaced by the old one."""
    replace = seals_module.Seals.replace

    def late(seals: Any, pairs: Any) -> int:
        for old, _ in pairs:
            if ":p:" in old.name:
                client.delete(old.name)
            if old.name.endswith("session"):
                relay.ledger.accounts.put("mail:login", "fresh-token", 600)
        return replace(seals, pairs)

    monkeypatch.setattr(seals_module.Seals, "replace", late)
    report = reseal(client, NEW, OLD)
    assert (list(client.scan_iter(match="cr:{e*}:p:*")), token_of(relay.ledger)) == ([], "fresh-token")
    assert (report.resealed, report.removable, report.busy) == (3, (), (OLD_ID,))


def test_a_process_that_still_seals_with_the_old_key_keeps_it_on_the_list(client: redis.Redis, relay: Relay, caplog: pytest.LogCaptureFixture):
    """Resealing says so if it sees it; else that process's next look at the books lists the key again, and a start without it is refused."""
    assert reseal(client, NEW, OLD).removable == (OLD_ID,)
    Audit(relay.ledger, relay.vault, lambda: relay.rules, relay.settler).run()
    with pytest.raises(ConfigurationError, match=OLD_ID):
        opened_with(client, NEW)
    assert "vault_key_missing" in [getattr(record, "alert", None) for record in caplog.records]  # it lacks the new one


def test_a_value_sealed_meanwhile_by_a_newer_process_waits_without_loss(client: redis.Redis, relay: Relay):
    """A worker that does not know the new key yet tells nothing wrong and loses nothing; once it does, the withdrawal is told."""
    rotated = Relay(client, relay.rules, vault=Vault([NEW, OLD]))
    event_id = rotated.event("withdrawn", 4, key="dee", email="dee@example.org")
    relay.again(2)
    assert relay.vendors["mail"].held.get(("dee@example.org", "news")) is None
    assert relay.figures().unaccounted == 0
    rotated.hurry(pushed=True)
    rotated.again(2)
    assert rotated.deliveries(event_id) == {"mail": ("delivered", None)}
    assert rotated.vendors["mail"].held[("dee@example.org", "news")] == "withdrawn"


def test_another_place_does_not_open_what_was_sealed_anew(client: redis.Redis, relay: Relay):
    """Resealing keeps the context: a payload copied to another event stays unreadable."""
    reseal(client, NEW, OLD)
    one, other = sorted(name.decode() for name in client.scan_iter(match="cr:{e*}:p:*"))
    with pytest.raises(PayloadUnreadable):
        Vault([NEW]).open(client.get(one), other.rpartition(":")[2])
