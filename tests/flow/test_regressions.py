"""Faults that the search over interleavings found, each in the few events it takes."""

from __future__ import annotations

import redis

from pipeline.routing import Source
from tests.support.relay import Relay, adapter, destination, routing

EVERY_KIND = ("external_id", "email", "phone")
NOT_LINKING = (Source(name="web", links=False),)


def test_a_withdrawal_is_not_left_to_a_newer_one_that_names_somebody_else(client: redis.Redis) -> None:
    """A newer withdrawal by e-mail alone does not speak for the account that the older one names with it."""
    relay = Relay(client, routing([destination("hook", adapter(identifiers=EVERY_KIND))]))
    relay.event("withdrawn", 2, email="ana@x.example")
    relay.drain()
    older = relay.event("withdrawn", 1, email="ana@x.example", external_id="ana")
    relay.drain()
    assert relay.vendors["hook"].held == {("ana@x.example", "news"): "withdrawn", ("ana", "news"): "withdrawn"}
    assert relay.deliveries(older) == {"hook": ("delivered", None)}


def test_a_withdrawal_reaches_every_identifier_that_a_vendor_may_know(client: redis.Redis) -> None:
    """A vendor that finds people by several identifiers is told of the linked ones too, though one would have been enough to be told at all."""
    relay = Relay(client, routing([destination("hook", adapter(identifiers=EVERY_KIND))]))
    relay.event("given", 1, email="ana@x.example", external_id="ana")
    relay.event("withdrawn", 2, email="ana@x.example")
    relay.drain()
    assert relay.vendors["hook"].held == {("ana@x.example", "news"): "withdrawn", ("ana", "news"): "withdrawn"}


def test_what_one_identifier_gave_later_does_not_lift_the_withdrawal_of_another(client: redis.Redis) -> None:
    """An older `given` that names an e-mail withdrawn since is not sent because the phone beside it gave again still later."""
    relay = Relay(client, routing([destination("mail", adapter(identifiers=("email",)))], sources=NOT_LINKING))
    withdrawal = relay.event("withdrawn", 2, email="ana@x.example")
    relay.drain()
    relay.event("given", 3, phone="+5511")
    late = relay.event("given", 1, email="ana@x.example", phone="+5511")
    relay.drain()
    assert [call["state"] for call in relay.vendors["mail"].calls] == ["withdrawn"]
    assert relay.deliveries(late) == {"mail": ("superseded", "newer_word")}
    view = relay.ledger.event(late)
    assert view is not None
    assert view["deliveries"][0]["vendor_reference"] == withdrawal


def test_the_withdrawal_of_a_contact_is_not_lifted_by_its_phone(client: redis.Redis) -> None:
    """Where one state stops everything, another purpose withdrawn by e-mail still holds though the phone beside it gave that purpose later."""
    relay = Relay(client, routing([destination("stop", adapter(identifiers=("email",), scope="contact"))], sources=NOT_LINKING))
    relay.event("withdrawn", 1, email="ana@x.example")
    relay.event("given", 2, phone="+5511")
    relay.drain()
    held_back = relay.event("given", 3, purpose="sms", email="ana@x.example", phone="+5511")
    relay.drain()
    assert [call["state"] for call in relay.vendors["stop"].calls] == ["withdrawn"]
    assert relay.deliveries(held_back) == {"stop": ("skipped", "contact_withdrawn")}
