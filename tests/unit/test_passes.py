"""A comparing that a person asked for: it never asks whom it must not, ends with the reason where the vendor cannot be asked, and a mere look changes nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import click
import pytest
import redis

from pipeline.vendors.base import Rate
from tests.support.comparing import ComparingRelay, asked_adapter, asked_destination, crm
from tests.support.relay import destination, routing
from workers.commands import reconcile as command
from workers.passes import Pass, standing

ANA = "ana@example.org"


@pytest.fixture
def relay(client: redis.Redis) -> ComparingRelay:
    made = ComparingRelay(client, routing([asked_destination("crm", asked_adapter(), rate=Rate(concurrent=1)), destination("mail")]))
    for number in range(3):
        made.event("withdrawn", 1, email=f"person-{number}@example.org")
    made.drain()
    return made


def parts(relay: ComparingRelay) -> Any:
    return SimpleNamespace(ledger=relay.ledger, routing=relay.rules, settings=SimpleNamespace(reconcile=SimpleNamespace(sample_size=10)))


def made(relay: ComparingRelay, **values: Any) -> Pass:
    return Pass(parts(relay), relay.reconcile, "crm", **{"full": False, "dry_run": False, "sample": 10, **values})


def to_its_end(relay: ComparingRelay, one: Pass, *, most: int = 30) -> dict[str, Any]:
    """As if every wait were over at once."""
    for _ in range(most):
        relay.ledger.store.client.hset("cr:{d:crm}:sweep", mapping={"due": 0})
        relay.ledger.store.client.delete("cr:{a:crm}:gate")
        one.go_on()
        if one.has_ended:
            return one.row()
    raise AssertionError("it does not end")


WAYS = [{"full": False}, {"full": True}, {"full": True, "dry_run": True}]


@pytest.mark.parametrize("how", WAYS, ids=["sample", "full", "full dry run"])
def test_it_compares(relay: ComparingRelay, how: dict[str, bool]) -> None:
    row = to_its_end(relay, made(relay, **how))
    assert (row["in_sync"], row["problem"], row["good"]) == (3, None, True)


def test_a_sample_that_a_person_made_is_what_was_found_last(relay: ComparingRelay) -> None:
    """It is shown from then on, in the place of the one before; a full sweep's result stays beside it."""
    for _ in range(2):
        to_its_end(relay, made(relay))
        assert standing(parts(relay), "crm")["last"]["sample"]["in_sync"] == 3
    to_its_end(relay, made(relay, full=True))
    assert {mode: found["in_sync"] for mode, found in standing(parts(relay), "crm")["last"].items()} == {"full": 3, "sample": 3}


@pytest.mark.parametrize("how", WAYS, ids=["sample", "full", "full dry run"])
def test_one_that_is_paused_meanwhile_is_not_asked_any_more(relay: ComparingRelay, how: dict[str, bool]) -> None:
    one = made(relay, **how)
    relay.ledger.deliveries.pause("crm", paused=True)
    row = to_its_end(relay, one, most=1)
    assert "consent destination resume crm" in row["problem"]
    assert (row["good"], crm(relay).asks) == (False, [])


def test_a_ledger_that_turns_out_to_be_older_ends_a_full_sweep(relay: ComparingRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    one = made(relay, full=True)
    monkeypatch.setattr(type(relay.ledger), "quarantine", property(lambda _: object()))
    assert "older" in to_its_end(relay, one, most=1)["problem"]
    assert crm(relay).asks == []


@pytest.mark.parametrize("how", WAYS, ids=["sample", "full", "full dry run"])
def test_refused_credentials_end_it_with_the_reason(relay: ComparingRelay, how: dict[str, bool]) -> None:
    crm(relay).ask_answers = [401] * 50
    row = to_its_end(relay, made(relay, **how), most=1)
    assert (row["problem"], row["good"]) == ("http_401", False)


@pytest.mark.parametrize("how", WAYS, ids=["sample", "full", "full dry run"])
def test_a_vendor_that_stays_away_ends_it_with_the_reason(relay: ComparingRelay, how: dict[str, bool]) -> None:
    crm(relay).ask_answers = [503] * 50
    row = to_its_end(relay, made(relay, **how), most=6)
    assert (row["problem"], row["good"]) == ("http_503", False)
    assert len(crm(relay).asks) <= 10


def test_failures_before_it_began_do_not_end_it(relay: ComparingRelay) -> None:
    """The vendor was away, and is back."""
    crm(relay).ask_answers = [503] * 6
    to_its_end(relay, made(relay, full=True))
    crm(relay).ask_answers = []
    row = to_its_end(relay, made(relay, full=True))
    assert (row["in_sync"], row["problem"]) == (3, None)


def test_a_mere_look_changes_nothing(relay: ComparingRelay, client: redis.Redis) -> None:
    """Neither what is refused for good is noted, nor what was told since forgotten, nor anything counted."""
    crm(relay).sets("person-0@example.org", "given")
    relay.sweep()
    crm(relay).answers = [400]
    relay.again()
    before = {name: client.dump(name) for name in client.keys("cr:{d:*}:*") if b":parked" in name or b":sweep" in name or b":drift" in name}
    one = made(relay, full=True, dry_run=True)
    while not one.has_ended:
        one.go_on()
    assert {name: client.dump(name) for name in client.keys("cr:{d:*}:*") if b":parked" in name or b":sweep" in name or b":drift" in name} == before


def test_a_paused_destination_is_left_out_and_refused_by_name(relay: ComparingRelay, capsys: pytest.CaptureFixture[str]) -> None:
    """What is left out is said, with what to do; one that no vendor can be asked about is not worth a word."""
    assert command._chosen(parts(relay), relay.reconcile, ()) == ["crm"]
    assert capsys.readouterr().err == ""
    relay.ledger.deliveries.pause("crm", paused=True)
    assert command._chosen(parts(relay), relay.reconcile, ()) == []
    assert "crm is not asked: it is paused; `consent destination resume crm` first" in capsys.readouterr().err
    with pytest.raises(click.UsageError, match="consent destination resume crm"):
        command._chosen(parts(relay), relay.reconcile, ("crm",))
