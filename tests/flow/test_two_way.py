"""Contacthub and Contactsend, told and heard by the relay while their own connector copies between them: everything comes to rest, equal, and never at a stale consent."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.domain import State
from tests.sandboxes import SandboxHandle
from tests.support.two_way import CODE, EMAIL, TwoWay, both_sandboxes

GIVEN, WITHDRAWN = State.GIVEN, State.WITHDRAWN
DELAY_SECONDS = 0.02


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[SandboxHandle]:
    with both_sandboxes() as handle:
        yield handle


@pytest.fixture
def both(client: redis.Redis, sandboxes: SandboxHandle) -> Iterator[TwoWay]:
    two = TwoWay(client, sandboxes, delay_seconds=DELAY_SECONDS)
    yield two
    two.exchange.close()


@pytest.mark.parametrize("where", ["web", "hub", "send"])
@pytest.mark.parametrize("state", list(State))
def test_a_word_said_anywhere_arrives_everywhere(both: TwoWay, where: str, state: State) -> None:
    """Whoever hears it first, all three hold it in the end."""
    both.work()  # the first sweep has been made
    both.say(where, state)
    both.settle()
    assert both.states() == (state.value,) * 3


@pytest.mark.parametrize("where", ["hub", "send"])
def test_a_withdrawal_is_not_written_where_it_was_said(both: TwoWay, where: str) -> None:
    """The relay only reads there, and at the other side only if the connector has not been quicker."""
    both.say("web", GIVEN)
    both.settle()
    before = both.our_calls()
    both.say(where, WITHDRAWN)
    both.settle()
    assert both.states() == ("withdrawn",) * 3
    assert both.our_calls() - before <= 1


def test_without_the_connector_the_relay_keeps_both_equal(client: redis.Redis, sandboxes: SandboxHandle) -> None:
    """What is said at one side is written at the other by the relay alone."""
    two = TwoWay(client, sandboxes, delay_seconds=0.001, natively=False)
    two.work()
    two.say("hub", GIVEN)
    two.settle()
    assert two.states() == ("given",) * 3
    two.say("send", WITHDRAWN)
    two.settle()
    assert two.states() == ("withdrawn",) * 3
    two.exchange.close()


@pytest.fixture
def alone(client: redis.Redis, sandboxes: SandboxHandle) -> Iterator[TwoWay]:
    """Both systems without their connector, after the first sweep."""
    two = TwoWay(client, sandboxes, delay_seconds=0.001, natively=False)
    two.work()
    yield two
    two.exchange.close()


def names(two: TwoWay) -> tuple[list[tuple[str | None, str | None]], list[tuple[str | None, str | None]]]:
    """First and last names of everybody at Contacthub and at Contactsend."""
    customers, subscribers = two.sandboxes.state("contacthub")["customers"], two.sandboxes.state("contactsend")["subscribers"]
    hub = [(one["base"].get("firstName"), one["base"].get("lastName")) for one in customers.values()]
    return hub, [(one.get("NOME"), one.get("COGNOME")) for one in subscribers.values()]


def test_a_name_at_contacthub_arrives_at_contactsend(alone: TwoWay) -> None:
    """Somebody who subscribes there is added here with the mapped attributes."""
    alone.say("hub", GIVEN, first_name="Ana", last_name="Placeholder")
    alone.settle()
    assert alone.states() == ("given",) * 3
    assert names(alone) == ([("Ana", "Placeholder")],) * 2


def test_a_name_at_contactsend_arrives_at_contacthub(alone: TwoWay) -> None:
    """And the other way round."""
    alone.say("send", GIVEN, first_name="Ana", last_name="Placeholder")
    alone.settle()
    assert alone.states() == ("given",) * 3
    assert names(alone) == ([("Ana", "Placeholder")],) * 2


def test_a_withdrawal_carries_no_name(alone: TwoWay) -> None:
    """Who is added because of it is added by address alone."""
    alone.say("hub", WITHDRAWN, first_name="Ana", last_name="Placeholder")
    alone.settle()
    assert alone.states() == ("withdrawn",) * 3
    assert names(alone) == ([("Ana", "Placeholder")], [(None, None)])


def test_what_a_record_says_already_is_not_overwritten(alone: TwoWay) -> None:
    """Another name on the other side stays; Contacthub is given what it lacks, Contactsend's record is left as it is."""
    alone.say("hub", WITHDRAWN, first_name="Anna")
    alone.settle()
    alone.relay.acceptor._echo_seconds = 0.0
    alone.say("send", GIVEN, first_name="Ana", last_name="Placeholder")
    alone.settle()
    assert alone.states() == ("given",) * 3
    assert names(alone) == ([("Anna", "Placeholder")], [("Ana", "Placeholder")])
    alone.say("hub", WITHDRAWN)
    alone.settle()
    alone.say("hub", GIVEN, first_name="Hanna")
    alone.settle()
    assert alone.states() == ("given",) * 3
    assert names(alone) == ([("Hanna", "Placeholder")], [("Ana", "Placeholder")])


def test_another_name_is_no_other_consent(alone: TwoWay) -> None:
    """A customer who is renamed shows the old consent again: it is a duplicate, and nothing is told."""
    alone.say("hub", GIVEN, first_name="Ana")
    alone.settle()
    calls, accepted = alone.our_calls(), alone.relay.ledger.events.counts()["accepted"]
    alone.sandboxes.place("contacthub", email=EMAIL, more={"base": {"firstName": "Anna"}})
    alone.settle()
    assert (alone.our_calls(), alone.relay.ledger.events.counts()["accepted"]) == (calls, accepted)


def test_a_consent_that_the_connector_copies_late_does_not_outlive_the_withdrawal(client: redis.Redis, sandboxes: SandboxHandle) -> None:
    """Given on the form, told to one side, and withdrawn before the copy turns up at the other, where it looks newer than it is: the person has withdrawn, everywhere."""
    two = TwoWay(client, sandboxes, delay_seconds=0.3)
    two.work()
    two.say("web", GIVEN)
    two.relay.step()  # fan out
    two.relay.queue.messages = [message for message in two.relay.queue.messages if message[1][0] == "hub"]  # Contactsend is not told yet
    two.relay.drain()
    two.say("web", WITHDRAWN)
    untold, two.relay.queue.messages = two.relay.queue.messages, []
    two.poll("send-changes")
    assert two.sandboxes.states("contactsend") == {}
    time.sleep(0.4)
    assert two.sandboxes.states("contactsend") == {f"{EMAIL}/{CODE}": "given"}
    two.poll("send-changes")
    two.relay.queue.messages += untold
    two.settle()
    assert two.states() == ("withdrawn",) * 3
    two.exchange.close()


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["web", "hub", "send"]), st.sampled_from([GIVEN, WITHDRAWN]), st.sampled_from(["", "work", "settle"])), min_size=1, max_size=6
)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=ACTIONS)
def test_there_is_no_ping_pong(client: redis.Redis, sandboxes: SandboxHandle, actions: list[tuple[str, State, str]]) -> None:
    """Whatever a person says, wherever and however quickly: writing ends, all three are equal, the last withdrawal holds, and a consent is never older than it."""
    client.flushall()
    two = TwoWay(client, sandboxes, delay_seconds=DELAY_SECONDS)
    try:
        two.work()
        for where, state, then in actions:
            two.say(where, state)
            if then:
                two.work() if then == "work" else two.settle()
        two.settle()
        hub, send, relay = two.states()
        assert hub == send == relay
        assert relay in allowed(actions)
        assert two.writes() <= 8 * len(actions) + 4
    finally:
        two.exchange.close()


def allowed(actions: list[tuple[str, State, str]]) -> set[str | None]:
    """What all three may hold in the end."""
    where, state, _ = actions[-1]
    earlier = actions[:-1]
    if state is WITHDRAWN:
        return {"withdrawn"}
    if WITHDRAWN not in {said for _, said, _ in earlier}:
        return {"given"}
    if where == "web" and all(then == "settle" for _, _, then in earlier):
        return {"given"}
    # Within the echo's time of a withdrawal, or while a copy of it is under way, the stricter word may win.
    return {"given", "withdrawn"}
