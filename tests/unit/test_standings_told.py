"""A vendor that asks for it is told what stands for its other purposes, as it is right before sending, and never by the way."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import redis

from pipeline.routing import Conditions, Trigger
from pipeline.vendors.base import Capabilities
from tests.support.relay import PlainAdapter, Relay, destination, routing

ANA = "ana@example.org"


class Beholder(PlainAdapter):
    """Keeps what it was shown."""

    capabilities: ClassVar = Capabilities(sees_standings=True)
    seen: ClassVar[list[Any]] = []

    def tell(self, instructions):
        self.seen.extend((each.purpose, [(other.purpose, other.state.value, dict(other.options)) for other in each.standings]) for each in instructions)
        return (yield from super().tell(instructions))


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    Beholder.seen.clear()
    mail = destination("mail", Beholder, options_by_purpose={"sms": {"of": "sms"}})
    only_from_here = Trigger(deliver_to=("mail",), purposes=frozenset({"sms"}), when=Conditions(country=frozenset({"BR"})))
    return Relay(client, routing([mail], triggers=[Trigger(deliver_to=("mail",), purposes=frozenset({"news"})), only_from_here]))


def test_what_stands_is_shown(relay: Relay):
    """The other purpose, its newest word, and its options; nothing where nothing was said."""
    relay.event("given", 1, purpose="sms", email=ANA, country="BR")
    relay.event("given", 2, email=ANA)
    relay.drain()
    relay.event("withdrawn", 3, purpose="sms", email=ANA)
    relay.event("given", 4, email=ANA, key="again")
    relay.drain()
    told = [others for purpose, others in Beholder.seen if purpose == "news"]
    assert told == [[("sms", "given", {"of": "sms"})], [("sms", "withdrawn", {"of": "sms"})]]
    assert next(others for purpose, others in Beholder.seen if purpose == "sms") == [("news", "given", {})]


@pytest.mark.parametrize("subject", [{"email": ANA, "country": "AR"}, {"external_id": "a-1"}])
def test_a_given_that_is_not_for_this_contact_is_not_shown(relay: Relay, subject: dict[str, str]):
    """One that the routing keeps from this destination, or that does not name the address itself, is no consent to what is sent there."""
    relay.event("given", 0, purpose="news", email=ANA, external_id="a-1")
    relay.event("given", 1, purpose="sms", **{"country": "BR", **subject})
    relay.drain()
    Beholder.seen.clear()
    relay.event("given", 2, email=ANA, external_id="a-1")
    relay.drain()
    assert Beholder.seen == [("news", [])]


def test_it_costs_nothing_where_nobody_asks(client: redis.Redis):
    """A vendor that does not ask is handed none."""
    Beholder.seen.clear()
    plain = type("Adapter", (Beholder,), {"capabilities": Capabilities()})
    relay = Relay(client, routing([destination("mail", plain)]))
    relay.event("given", 1, purpose="sms", email=ANA)
    relay.event("given", 2, email=ANA)
    relay.drain()
    assert sorted(Beholder.seen) == [("news", []), ("sms", [])]
