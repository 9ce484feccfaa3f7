"""Doctor: each finding in plain words, and which of them fail it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import redis
from kombu.exceptions import OperationalError

from config.settings import SettingsError
from pipeline.desk import Desk
from pipeline.errors import ConfigurationError
from pipeline.routing import Pair, Poll, Source
from tests.support.relay import Relay, destination, routing
from workers import diagnosis


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    return Relay(client, routing([destination("mail"), destination("sms")]))


def look(relay: Relay, check: Any) -> tuple[str, str]:
    """The mark and the text of one finding."""
    desk = Desk(relay.ledger, relay.vault, lambda: relay.rules, relay.hasher)
    finding = diagnosis._finding("x", check, SimpleNamespace(ledger=relay.ledger, desk=desk, routing=relay.rules))
    assert finding.good is (finding.mark != "FAIL")
    return finding.mark, finding.text


def test_dead_withdrawals_fail_and_dead_given_are_noted(relay: Relay):
    """Counted by destination; a `given` that died needs no haste."""
    assert look(relay, diagnosis._dead_letters) == ("ok", "none")
    relay.vendors["mail"].answers = [400]
    relay.event("given", 1, email="ana@example.org")
    relay.drain()
    assert look(relay, diagnosis._dead_letters) == ("note", "no withdrawals; given: mail 1 (`consent dead list`)")
    relay.vendors["sms"].answers = [400, 400]
    for name in ("ben", "eva"):
        relay.event("withdrawn", 1, email=f"{name}@example.org")
    relay.drain()
    mark, text = look(relay, diagnosis._dead_letters)
    assert (mark, "sms 2" in text, "mail" in text) == ("FAIL", True, False)


def test_misconfigured_accounts_fail_and_open_breakers_are_noted(relay: Relay):
    """Only a person can give the right credentials; a breaker closes by itself, here not before the test is over."""
    assert look(relay, diagnosis._accounts) == ("ok", "none is held back")
    relay.vendors["sms"].answers = [503] * 5
    for n in range(5):
        relay.event("given", n, email=f"p{n}@example.org")
        relay.drain()
    assert look(relay, diagnosis._accounts) == ("note", "calls to sms are held back after failures")
    relay.vendors["mail"].answers = [401]
    relay.event("given", 9, email="ana@example.org")
    relay.drain()
    assert look(relay, diagnosis._accounts) == ("FAIL", "mail refused our credentials or settings; calls to sms are held back after failures")


def test_paused_destinations_are_noted_with_what_waits(relay: Relay):
    """Somebody wanted it so: shown, and no failure."""
    assert look(relay, diagnosis._paused) == ("ok", "none")
    relay.ledger.deliveries.pause("mail", paused=True)
    relay.event("withdrawn", 1, email="ana@example.org")
    relay.drain()
    mark, text = look(relay, diagnosis._paused)
    assert (mark, "mail 1 (" in text, "sms" in text) == ("note", True, False)


def test_keys_near_their_end_are_noted_and_past_it_fail(relay: Relay):
    """The nearest first; a key without a date is nobody's concern."""
    assert look(relay, diagnosis._keys) == ("ok", "no destination has key_expires_on")
    today = relay.ledger.now().date()

    def dated(**days: int) -> None:
        relay.rules = routing([destination(name, key_expires_on=today + timedelta(days=left)) for name, left in days.items()])

    dated(mail=31)
    assert look(relay, diagnosis._keys) == ("ok", "none expires within 30 days")
    dated(mail=31, sms=2)
    assert look(relay, diagnosis._keys) == ("note", f"the key of sms expires in 2 days ({today + timedelta(days=2)})")
    dated(mail=30, sms=0)
    mark, text = look(relay, diagnosis._keys)
    assert (mark, text) == ("FAIL", f"the key of sms has expired ({today}); the key of mail expires in 30 days ({today + timedelta(days=30)})")


def test_overdue_work_fails_unless_a_person_holds_it_back(relay: Relay):
    """Pushed long ago and never heard of."""
    relay.event("withdrawn", 1, email="ana@example.org")
    relay.step()
    assert look(relay, diagnosis._overdue) == ("ok", "nothing")
    relay.hurry(pushed=True)
    relay.ledger.deliveries.pause("sms", paused=True)
    mark, text = look(relay, diagnosis._overdue)
    assert (mark, text.startswith("deliveries to mail do not progress")) == ("FAIL", True)
    desk = Desk(relay.ledger, relay.vault, lambda: relay.rules, relay.hasher)
    assert desk.problems() == ["deliveries to mail do not progress"]


def test_a_beat_that_never_was_is_missed_half_a_minute_after_the_ledger_was_made(relay: Relay):
    """Whoever starts has that long; a beat that once was says its age instead."""
    desk = Desk(relay.ledger, relay.vault, lambda: relay.rules, relay.hasher)
    assert desk.problems() == []
    relay.ledger.identity = replace(relay.ledger.identity, created_seconds=relay.ledger.identity.created_seconds - 31)
    with patch.object(relay.ledger, "check"):
        assert desk.problems() == ["beat has never released due work: are `consent beat` and a worker running?"]
        relay.ledger.beat()
        assert desk.problems() == []


@pytest.mark.parametrize(
    "error,text",
    [
        (diagnosis.NotWell("no worker answers"), "no worker answers"),
        (SettingsError("CONSENT_REDIS_URL is not set"), "CONSENT_REDIS_URL is not set"),
        (OperationalError("redis://:hush@h"), "the broker cannot be reached (CONSENT_BROKER_URL; by default the server of CONSENT_REDIS_URL)"),
        (KeyError("hush"), "could not be looked at: builtins.KeyError"),
    ],
)
def test_findings_are_words(relay: Relay, error: Exception, text: str):
    """No class of ours or of a library where words will do, and never another's text."""

    def check(_parts: Any) -> str:
        raise error

    assert look(relay, check) == ("FAIL", text)


def test_sources_that_cannot_be_heard_fail(client: redis.Redis):
    """A polled source is well within its first minute, fails when nothing was heard for long, and is noted where its pair rests."""
    hub = destination("hub")
    source = Source(name="hub-changes", origin=("hub",), poll=Poll(asked=hub, every_seconds=1))
    relay = Relay(client, routing([hub, destination("send")], sources=(Source(name="web"), source)))
    assert look(Relay(client, routing([hub])), diagnosis._sources) == ("ok", "none is polled")
    assert look(relay, diagnosis._sources) == ("ok", "heard: hub-changes")
    relay.ledger.store.client.hset("cr:{s:hub-changes}:poll", "heard", relay.ledger.now_ms() - 90_000)
    assert look(relay, diagnosis._sources) == ("FAIL", "cannot be heard: hub-changes (not for 90 seconds); the log says why (`source_not_heard`, `not_heard`)")
    relay.rules = replace(relay.rules, pairs={"both": Pair(name="both", contacthub="hub", contactsend="send", enabled=False)})
    assert look(relay, diagnosis._sources) == ("note", "not polled, as a pair of theirs is not enabled: hub-changes")


def examined(relay: Relay, read_routing: Any) -> dict[str, tuple[str, str]]:
    """Mark and text by name of everything that is looked at, by the checks that need neither broker nor workers."""
    desk = Desk(relay.ledger, relay.vault, lambda: parts.routing, relay.hasher)
    settings = SimpleNamespace(routing_path=lambda: "routing.yaml", pepper=lambda: "", keys_of_vault=lambda: ["one"], evidence_url=lambda: None)
    parts = SimpleNamespace(ledger=relay.ledger, desk=desk, settings=settings, read_routing=read_routing)
    with patch.object(diagnosis, "_broker", lambda _: "answers"), patch.object(diagnosis, "_workers", lambda _: "one"):
        return {each.name: (each.mark, each.text) for each in diagnosis.examine(parts, ask_vendors=True)}


def test_a_wrong_routing_file_keeps_back_no_check_that_can_do_without(relay: Relay) -> None:
    """The relay may run on by the old file, and just then something may be wrong; what goes by the file is named."""
    relay.vendors["mail"].answers = [400]
    relay.event("withdrawn", 1, email="ana@example.org")
    relay.drain()

    def wrong() -> Any:
        raise ConfigurationError("routing.yaml:3: is wrong\nrouting.yaml:7: too")

    found = examined(relay, wrong)
    assert found["routing"] == ("FAIL", "routing.yaml:3: is wrong; routing.yaml:7: too")
    assert found["dead letters"] == ("FAIL", "withdrawals that nobody will tell unless you act: mail 1 (`consent dead list --state withdrawn`)")
    assert found["accounts, overdue, sources, keys, vendors"] == ("note", "not looked at, as the routing file is wrong")
    assert set(found) >= {"settings", "secrets", "ledger", "broker", "worker", "beat", "paused", "evidence"}
