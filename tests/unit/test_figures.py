"""Figures: every number comes from the ledger, and `unaccounted` is zero after everything and not zero when something is lost."""

from __future__ import annotations

import time

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.figures import unaccounted
from pipeline.metrics import render_metrics
from tests.support.parts import CANARY, CANARY_PHONE, close_gate
from tests.support.relay import Relay, adapter, destination, routing


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    return Relay(client, routing([destination("mail"), destination("sms", adapter(identifiers=("phone",)))]))


def test_zero_at_every_stage(relay: Relay):
    """Accepted, planned, waiting, dead, replayed, told and discarded: the books balance after each step."""
    relay.vendors["mail"].answers = [503, 400, 429, "lost"]
    seen = [relay.figures().unaccounted]
    for n in range(4):
        relay.event("withdrawn" if n % 2 else "given", n, email=f"p{n}@example.org", phone=f"+551198765432{n}")
        seen.append(relay.figures().unaccounted)
    while relay.queue.messages:
        relay.step()
        seen.append(relay.figures().unaccounted)
    for _ in range(4):
        relay.hurry(pushed=True)
        relay.beat()
        while relay.queue.messages:
            relay.step()
            seen.append(relay.figures().unaccounted)
    assert set(seen) == {0}
    assert len(seen) > 15


@pytest.mark.parametrize(
    "index, member",
    [
        ("cr:{d:mail}:out:withdrawn", "withdrawn"),
        ("cr:{d:mail}:out:given", "given"),
        ("open", "withdrawn"),
    ],
)
def test_lost_entry_is_seen(relay: Relay, index: str, member: str):
    """Whichever index loses an entry, the gauge shows exactly it."""
    events = {state: relay.event(state, 1, email=f"{state}@example.org") for state in ("given", "withdrawn")}
    relay.step()
    relay.step()
    assert relay.figures().unaccounted == 0
    name = relay.ledger.keys.event(relay.ledger.keys.partition(events[member]), "open") if index == "open" else index
    assert relay.ledger.store.client.zrem(name, events[member]) == 1
    assert relay.figures().unaccounted == 1


def test_lost_waiting_entry_is_seen(relay: Relay):
    """A delivery that vanishes while it waits is seen too."""
    relay.vendors["mail"].answers = [503]
    event = relay.event("withdrawn", 1, email="ana@example.org")
    relay.drain()
    assert relay.ledger.store.client.zrem("cr:{d:mail}:due:withdrawn", event) == 1
    assert relay.figures().unaccounted == 1


def test_losses_do_not_cancel_out():
    """One event too many and one delivery too few are two, not none."""
    events = {"accepted": 5, "finished": 3, "open": 1}
    assert unaccounted(events, {"a": ({"planned": 2, "done": 1}, {"given": 2, "withdrawn": 0}), "b": ({"planned": 3, "done": 1}, {"given": 1})}) == 3
    assert unaccounted({"accepted": 5, "finished": 3, "open": 2}, {"a": ({}, {"given": 0})}) == 0


def test_oldest_untold_withdrawal_grows_until_told(relay: Relay):
    """Its age is counted from receipt, whatever it waits for, and is zero once it is told; a `given` does not count."""
    relay.event("given", 1, email="ben@example.org")
    relay.vendors["mail"].answers = [200, 503]
    relay.drain()
    assert relay.figures().oldest_untold_withdrawal_seconds == {"mail": 0.0, "sms": 0.0}
    relay.event("withdrawn", 1, email="ana@example.org")
    relay.drain()
    time.sleep(0.02)
    assert 0.02 <= relay.figures().oldest_untold_withdrawal_seconds["mail"] < 5
    relay.again()
    assert relay.figures().oldest_untold_withdrawal_seconds["mail"] == 0.0


def test_figures_name_all_that_operators_watch(relay: Relay):
    """Outcomes, dead letters, lanes, duplicates and breakers, for configured and for former destinations."""
    relay.vendors["mail"].answers = [200, 400]
    relay.event("given", 1, email="ana@example.org", phone="+5511987654321", key="k")
    relay.event("given", 1, email="ana@example.org", phone="+5511987654321", key="k")
    relay.event("withdrawn", 1, email="ben@example.org")
    relay.drain()
    relay.rules = routing([destination("mail")])
    figures = relay.figures()
    assert figures.events == {"accepted": 2, "duplicate": 1}
    assert figures.dead_letters == [("mail", "withdrawn", "http_400", 1), ("sms", "withdrawn", "missing_identifier", 1)]
    assert figures.deliveries == [
        ("mail", "applied", "given", 1),
        ("mail", "rejected", "withdrawn", 1),
        ("sms", "applied", "given", 1),
        ("sms", "not_applicable", "withdrawn", 1),
    ]
    assert figures.waiting == [(name, lane, 0) for name in ("mail", "sms") for lane in ("withdrawn", "given")]
    assert figures.breaker_open == {"mail": False}


def test_a_disabled_destination_shows_as_paused(relay: Relay):
    """Whoever holds it back, a command or the routing file; a former destination is held back by nobody."""
    relay.event("given", 1, email="ana@example.org")
    relay.drain()
    relay.rules = routing([destination("mail", enabled=False)])
    assert relay.figures().paused == {"mail": True, "sms": False}


def test_latency_buckets_are_cumulative(relay: Relay):
    """Each bucket holds all that were faster, the last all that were told within it; the sum fits."""
    for n in range(3):
        relay.event("given", n, email=f"p{n}@example.org")
        time.sleep(0.012 * n)
        relay.drain()
    told = relay.figures().accept_to_told
    counts = [count for _, count in told.buckets]
    assert counts == sorted(counts)
    assert (told.count, counts[-1]) == (3, 3)
    assert 0.03 <= told.sum_seconds < 3


def test_metrics_name_nobody(relay: Relay):
    """The exposed text shows no personal value and no subject key."""
    relay.event("withdrawn", 1, email=CANARY, phone=CANARY_PHONE)
    relay.drain()
    text = render_metrics(relay.figures()).decode()
    assert "consent_unaccounted 0.0" in text
    assert CANARY not in text
    assert CANARY_PHONE not in text
    assert relay.hasher.identifier_key("email", CANARY) not in text


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.sampled_from(["given", "withdrawn"]), st.integers(0, 3), st.integers(0, 2)),
        st.tuples(st.just("step"), st.integers(0, 5)),
        st.tuples(st.just("double"), st.integers(0, 5)),
        st.tuples(st.just("lose")),
        st.tuples(st.just("beat")),
        st.tuples(st.just("answer"), st.sampled_from([503, 400, 429, "lost"])),
    ),
    max_size=18,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_books_balance_whatever_happens(client: redis.Redis, steps):
    """Any mix of events, lost and doubled messages, refusals and beats keeps the books balanced and ends with the newest word at the vendor."""
    client.flushdb()
    relay = Relay(client, routing([destination("mail")]), limits={"breaker_failures": 1000})
    said: dict[str, tuple[int, str]] = {}
    for step in steps:
        messages = relay.queue.messages
        match step:
            case ("say", state, minute, person):
                email = f"p{person}@example.org"
                relay.event(state, minute, email=email)
                said[email] = max(said.get(email, (-1, "")), (minute, state))
            case ("step", position) if messages:
                relay.step(position % len(messages))
            case ("double", position) if messages:
                messages.append(messages[position % len(messages)])
            case ("lose",):
                messages.clear()
            case ("beat",):
                relay.hurry(pushed=True)
                relay.beat()
            case ("answer", answer):
                relay.vendors["mail"].answers.append(answer)
        assert relay.figures().unaccounted == 0
    relay.vendors["mail"].answers.clear()
    refused = {item["event_id"] for item in relay.ledger.letters.page(_any()).items}
    relay.ledger.letters.reopen(relay.ledger.letters.find(_any()))
    for _ in range(5):
        close_gate(relay.ledger, "mail")
        _forget_claims(client)
        relay.hurry(pushed=True)
        relay.beat()
        relay.drain()
    assert relay.figures().unaccounted == 0
    assert {email: state for (email, _), state in relay.vendors["mail"].held.items()} == {email: state for email, (_, state) in said.items()}, refused


def _any():
    from pipeline.ledger.letters import LetterFilter

    return LetterFilter()


def _forget_claims(client: redis.Redis) -> None:
    """Let claims and late-write marks end at once, as time would."""
    for name in [*client.keys("cr:{a:*}:c:*"), *client.keys("cr:{a:*}:m:*")]:
        client.delete(name)
