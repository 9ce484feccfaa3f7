"""One person whom a vendor answers 401 or 403, as a firewall in front of it may: he holds up nobody else once others are let in; while nobody is, all stays as it is with bad credentials."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import orjson
import pytest
import redis

from pipeline.routing import RetryPolicy
from pipeline.vendors.base import VendorResponse
from tests.support.relay import PlainAdapter, Relay, Vendor, adapter, destination, routing

ANA, BEN, EVA = "ana@example.org", "ben@example.org", "eva@example.org"
TEN_YEARS = timedelta(days=3653)
WAITS = (0.01, 0.01)


class Firewalled(Vendor):
    """Answers 401 to every call that names one whom its firewall dislikes, or to everybody."""

    disliked: frozenset[str] = frozenset({ANA})
    is_shut = False

    def receive(self, body: bytes) -> VendorResponse | None:
        named = {value for told in orjson.loads(body) for value in told["to"].values()}
        self.answers = [401] if self.is_shut or named & self.disliked else []
        return super().receive(body)


def relay_of(client: redis.Redis, kind: type[PlainAdapter] = PlainAdapter, *, give_up_after_seconds: float = 3600.0) -> tuple[Relay, Firewalled]:
    policy = RetryPolicy(waits_seconds=WAITS, give_up_after_seconds=give_up_after_seconds)
    relay = Relay(client, routing([destination("mail", kind, retry=policy)]), limits={"breaker_failures": 2})
    relay.vendors["mail"] = relay.exchange.vendors["mail"] = vendor = Firewalled()
    return relay, vendor


def probe_time_is_over(relay: Relay) -> None:
    relay.ledger.store.client.hset("cr:{a:mail}:gate", "until", 1)


def delivery(relay: Relay, event: str) -> tuple[Any, ...]:
    """Status, outcome, reason and attempts of one event."""
    view = relay.ledger.event(event)
    assert view is not None
    (each,) = view["deliveries"]
    return each["status"], each["outcome"], each["reason"], each["attempts"]


def refused_before(relay: Relay, state: str = "withdrawn") -> str:
    """Ana was refused, which closed the gate; Ben was let in since, which opened it."""
    event = relay.event(state, 1, email=ANA)
    relay.drain()
    assert relay.figures().breaker_open == {"mail": True}
    assert delivery(relay, event) == ("waiting", "misconfigured", "http_401", 0)
    relay.event("withdrawn", 1, email=BEN)
    probe_time_is_over(relay)
    relay.drain()
    assert relay.vendors["mail"].held[BEN, "news"] == "withdrawn"
    assert relay.figures().breaker_open == {"mail": False}
    return event


def alerts(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.alert for record in caplog.records if record.message == "alert" and record.name == "pipeline.settler"]


def test_who_is_refused_alone_holds_up_nobody(client: redis.Redis, caplog: pytest.LogCaptureFixture):
    """Once somebody else was let in, each further refusal is an attempt of that delivery alone: the gate stays open, the breaker too, and no alert blames the credentials."""
    relay, vendor = relay_of(client)
    refused = refused_before(relay)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        for attempts in range(1, 5):
            relay.again()
            assert delivery(relay, refused) == ("waiting", "misconfigured", "http_401", attempts)
            assert relay.figures().breaker_open == {"mail": False}
    other = relay.event("withdrawn", 1, email=EVA)
    relay.drain()
    assert delivery(relay, other)[0] == "delivered"
    assert alerts(caplog) == []
    assert [record for record in caplog.records if record.message == "account_gate"] == []
    vendor.disliked = frozenset()
    relay.again()
    assert delivery(relay, refused)[0] == "delivered"
    assert relay.figures().unaccounted == 0


def test_a_given_that_is_refused_alone_dies_in_the_end(client: redis.Redis):
    """However old it is, it is tried on the whole schedule first, since what it waited with everybody else is not held against it; then it is a dead letter with its reason."""
    relay, _ = relay_of(client)
    relay.clock_offset = -TEN_YEARS
    refused = refused_before(relay, "given")
    relay.clock_offset = timedelta()
    for attempts in range(1, len(WAITS)):
        relay.again()
        assert delivery(relay, refused) == ("waiting", "misconfigured", "http_401", attempts)
    relay.again()
    assert delivery(relay, refused) == ("dead", "misconfigured", "http_401", len(WAITS))
    assert relay.queue.dead == [("mail", "http_401", (f"{refused}.mail",))]
    assert relay.figures().unaccounted == 0


def test_a_withdrawal_that_is_refused_alone_is_tried_for_ever(client: redis.Redis, caplog: pytest.LogCaptureFixture):
    """It never dies: it raises the alert of late withdrawals, and is told as soon as it is let in."""
    relay, vendor = relay_of(client, give_up_after_seconds=0.0)
    refused = refused_before(relay)
    caplog.clear()
    relay.again(5)
    assert delivery(relay, refused) == ("waiting", "misconfigured", "http_401", 5)
    assert alerts(caplog) == ["withdrawal_overdue"] * 5
    vendor.disliked = frozenset()
    relay.again()
    assert vendor.held[ANA, "news"] == "withdrawn"


def test_while_nobody_is_let_in_nothing_is_counted(client: redis.Redis, caplog: pytest.LogCaptureFixture):
    """Bad credentials: one probe at a time, no attempt counted, nothing given up however old, the alert each time."""
    relay, vendor = relay_of(client, give_up_after_seconds=0.0)
    vendor.is_shut = True
    events = [relay.event(state, 1, email=email) for state, email in (("given", ANA), ("given", BEN), ("withdrawn", EVA))]
    for probes in range(1, 10):
        relay.again()
        assert len(vendor.calls) == probes
        assert relay.figures().breaker_open == {"mail": True}
        probe_time_is_over(relay)
    assert {delivery(relay, event)[::3] for event in events} == {("waiting", 0)}
    assert set(alerts(caplog)) == {"withdrawal_held_up"}
    vendor.is_shut = False
    relay.again(3)
    assert set(vendor.held) == {(BEN, "news"), (EVA, "news")}


def test_one_refused_for_the_first_time_closes_the_gate(client: redis.Redis):
    """Credentials that end while somebody is refused alone: whoever was let in until then closes the gate, and from then on nothing is counted against anybody."""
    relay, vendor = relay_of(client)
    refused = refused_before(relay, "given")
    relay.again()
    assert delivery(relay, refused)[3] == 1
    vendor.is_shut = True
    relay.event("given", 1, email=EVA)
    relay.drain()
    assert relay.figures().breaker_open == {"mail": True}
    for _ in range(3):
        probe_time_is_over(relay)
        relay.again()
    assert delivery(relay, refused) == ("waiting", "misconfigured", "http_401", 1)


def test_a_missing_list_is_never_personal(client: redis.Redis):
    """A reason that names what is wrong with our settings closes the gate each time."""

    class Listless(PlainAdapter):
        def tell(self, instructions):
            results = yield from super().tell(instructions)
            return [result if result.outcome == "applied" else type(result)(outcome=result.outcome, reason="list_not_found") for result in results]

    relay, _ = relay_of(client, Listless)
    event = relay.event("withdrawn", 1, email=ANA)
    relay.drain()
    relay.event("withdrawn", 1, email=BEN)
    probe_time_is_over(relay)
    relay.drain()
    assert relay.figures().breaker_open == {"mail": False}
    relay.again()
    assert delivery(relay, event) == ("waiting", "misconfigured", "list_not_found", 0)
    assert relay.figures().breaker_open == {"mail": True}


@pytest.mark.parametrize("state", ["given", "withdrawn"])
def test_others_of_a_batch_are_told(client: redis.Redis, state: str):
    """A batch with him in it is refused as a whole: one person at a time is the probe, the first to be let in opens the gate, and whoever joins a batch later does not share his."""
    relay, vendor = relay_of(client, adapter(batch_size=50))
    sizes: list[int] = []
    relay.exchange.before = lambda work: sizes.append(work.size)
    people = [ANA, *(f"person-{number}@example.org" for number in range(5))]
    events = together(relay, state, people)
    assert (sizes, vendor.held) == ([6], {})
    for _ in people:
        probe_time_is_over(relay)
        relay.again()
    assert set(vendor.held) == {(person, "news") for person in people[1:]}
    assert set(sizes[1:3]) == {1}
    relay.again()
    attempts = delivery(relay, events[0])[3]
    assert attempts > 0
    late = together(relay, state, [BEN, EVA], and_due=True)
    assert {delivery(relay, event)[0] for event in late} == {"delivered"}
    assert delivery(relay, events[0])[::3] == ("waiting", attempts + 1)
    assert relay.figures().breaker_open == {"mail": False}


def together(relay: Relay, state: str, people: Sequence[str], *, and_due: bool = False) -> list[str]:
    """Say that of all of them and deliver it in one message; with `and_due` beside what is due."""
    events = [relay.event(state, 1, email=person) for person in people]
    relay.queue.messages.clear()
    relay.fan_out.run(events)
    if and_due:
        relay.hurry()
        relay.beat()
        ids = [event_id for _, values in relay.queue.messages for event_id in values[2]]
        relay.queue.messages[:] = [("deliver", ("mail", state, tuple(ids), 1))]
    relay.drain()
    return events
