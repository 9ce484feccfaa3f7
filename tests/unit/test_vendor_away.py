"""A vendor that is away while it is compared: nobody is passed by unseen, it is asked ever more seldom, and a person is told; one whom it cannot be asked about holds up nobody."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import redis

from pipeline.expectation import Drift
from pipeline.vendors.base import Rate
from tests.support.comparing import AskedVendor, ComparingRelay, asked_adapter, asked_destination, only
from tests.support.relay import routing

ALWAYS = 10_000


class MoodyVendor(AskedVendor):
    """Answers 503 about some people, or about everybody."""

    def receive(self, body: bytes) -> Any:
        about = json.loads(body)
        if isinstance(about, dict) and (self.is_away or set(about["ask"]) & self.poisoned):
            self.ask_answers = [503]
        return super().receive(body)


def relay_of(client: redis.Redis, count: int, *, rate: Rate | None = None, share: float = 1.0) -> tuple[ComparingRelay, MoodyVendor]:
    relay = ComparingRelay(client, routing([asked_destination("crm", asked_adapter(), rate=rate or Rate(concurrent=1))]), share=share)
    vendor = MoodyVendor()
    vendor.is_away, vendor.poisoned = False, set()
    relay.vendors["crm"] = relay.exchange.vendors["crm"] = vendor
    for number in range(count):
        relay.event("withdrawn", 1, email=person(number))
    relay.drain()
    while sum(relay.ledger.deliveries.figures("crm")["waiting"].values()):
        time.sleep(0.02)
        relay.again(1)
    return relay, vendor


def person(number: int) -> str:
    return f"person-{number}@example.org"


def turn(relay: ComparingRelay, *, full: bool = False) -> None:
    """One turn of the destination, as if its time had come."""
    relay.ledger.store.client.hset("cr:{d:crm}:sweep", mapping={"due": 0})
    relay.ledger.store.client.delete("cr:{a:crm}:gate")
    assert relay.reconcile.run("crm", full=full)


def alerts(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.alert for record in caplog.records if record.message == "alert"]


@pytest.mark.parametrize("seen", [False, True], ids=["never asked before", "asked before"])
def test_an_outage_is_reported_and_passes_nobody_by(client: redis.Redis, caplog: pytest.LogCaptureFixture, seen: bool) -> None:
    """A few questions for each turn, a growing wait, an alert, and no end of the sweep; when the vendor is back everybody is compared."""
    relay, vendor = relay_of(client, 40)
    if seen:
        assert relay.found() == only(Drift.IN_SYNC, 40)
    vendor.is_away, begun = True, len(vendor.asks)
    for number in range(12):
        turn(relay, full=number == 0)
        assert relay.ledger.sweeps.failures("crm") == number + 1
        assert len(vendor.asks) - begun <= 2 * (number + 1)
    figures = relay.ledger.sweeps.figures("crm")
    assert (figures.mode, figures.running) == ("full", {})
    assert figures.due_ms > relay.ledger.now_ms()
    assert alerts(caplog) == ["vendor_not_asked"]
    vendor.is_away, vendor.asks = False, []
    assert relay.found() == only(Drift.IN_SYNC, 40)
    assert {ask[0] for ask in vendor.asks} == {person(number) for number in range(40)}


def test_an_outage_in_the_middle_ends_as_if_there_had_been_none(client: redis.Redis) -> None:
    relay, vendor = relay_of(client, 40)

    def leave() -> None:
        vendor.is_away = vendor.is_away or len(vendor.asks) == 20

    vendor.on_ask = leave
    for number in range(12):
        turn(relay, full=number == 0)
    vendor.on_ask = lambda: None
    assert len(vendor.asks) <= 20 + 2 * 12
    assert relay.ledger.sweeps.figures("crm").mode == "full"
    vendor.is_away = False
    assert relay.found() == only(Drift.IN_SYNC, 40)


@pytest.mark.parametrize("rate", [Rate(concurrent=1), Rate(calls=1, per_seconds=0.02, concurrent=1), Rate(concurrent=8)], ids=["unlimited", "one call", "many"])
@pytest.mark.parametrize("count", [1, 3])
def test_who_cannot_be_asked_about_does_not_hold_up_the_others(client: redis.Redis, rate: Rate, count: int) -> None:
    """The vendor answers about others, so it is not away: he is unreadable, wherever in the order he stands."""
    relay, vendor = relay_of(client, 12, rate=rate)
    vendor.poisoned = {person(number) for number in range(count)}
    assert relay.sweep(turns=6000) == {"unreadable": count, "in_sync": 12 - count}


def test_at_the_end_of_the_order_too(client: redis.Redis) -> None:
    """Nobody comes after him whose answer would tell: who answered before is asked once more."""
    relay, vendor = relay_of(client, 5)
    relay.found()
    client.hdel("cr:{d:crm}:sweep", "full_at")
    vendor.poisoned = {vendor.asks[-1][0]}
    assert relay.sweep(turns=50) == {"unreadable": 1, "in_sync": 4}


def test_the_first_in_order_too(client: redis.Redis) -> None:
    """Nobody has answered ever: the others are asked before him."""
    relay, vendor = relay_of(client, 5)
    relay.found()
    client.delete("cr:{d:crm}:sweep")
    vendor.poisoned = {vendor.asks[0][0], vendor.asks[1][0]}
    assert relay.sweep(turns=50) == {"unreadable": 2, "in_sync": 3}
