"""Fan-out: repeated it does nothing twice, cut short anywhere it heals, and a link learned later reaches back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import redis

from pipeline.domain import State, Subject, Word
from pipeline.errors import LedgerUnavailable
from pipeline.ledger.deliveries import Owed
from pipeline.routing import Conditions, Source, Trigger
from pipeline.vault import Vault
from tests.support.relay import Relay, adapter, destination, routing

ANA, BEN, PHONE = "ana@example.org", "ben@example.org", "+5511987654321"
SOURCES = (Source(name="web"), Source(name="list", links=False))


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    return Relay(client, routing([destination("mail"), destination("sms", adapter(identifiers=("phone",)))], sources=SOURCES))


def standing(relay: Relay, purpose: str = "news", **subject: str):
    return relay.ledger.standings.reach([relay.hasher.identifier_keys(Subject(**subject)).values()], depth=0)[0].newest(purpose)


def delivered(relay: Relay) -> list[tuple[str, str, int]]:
    return [(values[0], values[1], len(values[2])) for kind, values in relay.queue.messages if kind == "deliver"]


def test_plans_each_destination_and_lane(relay: Relay):
    """One chunk becomes one message for each destination and lane, carrying ids only."""
    events = [relay.event("withdrawn" if n == 0 else "given", n, email=f"p{n}@example.org", phone=f"+551198765432{n}") for n in range(3)]
    relay.queue.messages.clear()
    assert relay.fan_out.run(events) == 6
    assert sorted(delivered(relay)) == [("mail", "given", 2), ("mail", "withdrawn", 1), ("sms", "given", 2), ("sms", "withdrawn", 1)]
    assert relay.deliveries(events[0]) == {"mail": ("waiting", None), "sms": ("waiting", None)}


def test_repeated_it_does_nothing_twice(relay: Relay):
    """The same message again, before and after the deliveries ended, plans nothing and tells nothing."""
    event = relay.event("given", 1, email=ANA)
    relay.queue.messages.clear()
    assert [relay.fan_out.run([event]) for _ in range(3)] == [2, 0, 0]
    relay.drain()
    assert relay.fan_out.run([event]) == 0
    assert relay.queue.messages == []
    assert len(relay.vendors["mail"].calls) == 1
    assert relay.figures().unaccounted == 0


def test_event_that_was_told_since_it_was_read_is_not_planned_again(relay: Relay, monkeypatch: pytest.MonkeyPatch):
    """Two tasks read the same event; one plans it and it is told and noted before the other comes to plan: nothing is told twice."""
    event = relay.event("given", 1, email=ANA)
    read = relay.ledger.events.load([event])
    relay.drain()
    told = {name: len(vendor.calls) for name, vendor in relay.vendors.items()}
    assert sum(told.values()) > 0
    with monkeypatch.context() as patched:
        patched.setattr(relay.ledger.events, "load", lambda *_args, **_options: read)
        assert relay.fan_out.run([event]) == 0
    relay.drain()
    assert {name: len(vendor.calls) for name, vendor in relay.vendors.items()} == told
    assert relay.ledger.events.load([event])[0].complete


def test_unknown_events_are_ignored(relay: Relay):
    """A message that names events nobody accepted does nothing."""
    assert relay.fan_out.run(["a" * 24, "b" * 24]) == 0
    assert relay.queue.messages == []


@pytest.mark.parametrize(
    "harm",
    [
        lambda client, record: client.delete(record),
        lambda client, record: client.hdel(record, "p:news"),
        lambda client, record: client.hset(record, "p:news", Word(order_us=1, event_id="f" * 24, state=State.WITHDRAWN).encode()),
        lambda client, record: client.hdel(record, "v"),
        lambda client, record: client.hset(record, "v", Vault([b"o" * 32]).seal(b"x", "sealed by a key of before")),
        lambda client, record: client.hdel(record, *[name for name in client.hkeys(record) if name.startswith(b"l:")]),
    ],
    ids=["nothing", "no word", "an older word", "no value", "a value of an older key", "no link"],
)
def test_what_the_commit_did_not_merge_is_merged(relay: Relay, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, harm):
    """Cut short after the commit, an identifier's record lacks what the event says of it."""
    event = relay.event("given", 5, email=ANA, phone=PHONE)
    key = relay.hasher.identifier_key("phone", PHONE)
    record = relay.ledger.keys.identifier(key)
    whole = client.hgetall(record)
    harm(client, record)
    assert client.hgetall(record) != whole
    merge, merged = relay.ledger.standings.merge_and_read, []
    monkeypatch.setattr(relay.ledger.standings, "merge_and_read", lambda *each: merged.append(each) or merge(*each))
    relay.fan_out.run([event])
    assert merged
    healed = client.hgetall(record)
    assert relay.vault.open(healed.pop(b"v"), key) == PHONE.encode()
    assert healed == {name: value for name, value in whole.items() if name != b"v"}


def test_what_the_commit_merged_is_not_merged_again(relay: Relay, monkeypatch: pytest.MonkeyPatch):
    event = relay.event("given", 1, email=ANA, phone=PHONE)
    monkeypatch.setattr(relay.ledger.standings, "merge_and_read", None)
    assert relay.fan_out.run([event]) == 2


def test_crash_between_plan_and_mark_heals(relay: Relay):
    """Cut short after the plan, nothing was published; the rescue fans out again, plans nothing twice, and every destination is told once."""
    event = relay.event("withdrawn", 1, email=ANA, phone=PHONE)
    store = relay.ledger.store
    in_order = store.run_in_order

    def first_stage(stages: Sequence[Sequence[Any]], **options: Any) -> None:
        """As on a cluster, where it is a round trip of its own."""
        store.run(stages[0], **options)
        raise LedgerUnavailable("away")

    store.run_in_order = first_stage
    with pytest.raises(LedgerUnavailable):
        relay.step()
    assert relay.queue.messages == []
    store.run_in_order = in_order
    relay.hurry(pushed=True)
    relay.beat()
    relay.drain()
    assert relay.deliveries(event) == {"mail": ("delivered", ""), "sms": ("delivered", "")} or relay.deliveries(event) == {
        "mail": ("delivered", None),
        "sms": ("delivered", None),
    }
    assert [len(vendor.calls) for vendor in relay.vendors.values()] == [1, 1]
    assert relay.figures().unaccounted == 0


def test_crash_between_destinations_heals(relay: Relay, monkeypatch: pytest.MonkeyPatch):
    """Cut short between two destinations' slots, the second is planned by the repetition."""
    relay.event("withdrawn", 1, email=ANA, phone=PHONE)
    store, ledger = relay.ledger.store, relay.ledger
    planned: list[int] = []

    def one_of_them(wanted: Owed, _plans: Any, _leases: Any) -> None:
        planned.extend(store.run(ledger.deliveries.plan_commands(wanted)[:2], replicated=True)[1])
        raise LedgerUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(ledger, "plan", one_of_them)
        with pytest.raises(LedgerUnavailable):
            relay.step()
    assert planned == [1]
    relay.hurry(pushed=True)
    relay.beat()
    relay.drain()
    assert [len(vendor.calls) for vendor in relay.vendors.values()] == [1, 1]
    assert relay.figures().unaccounted == 0


def test_event_that_concerns_nobody_is_complete(client: redis.Redis):
    """An event that no trigger matches ends at once, without a message."""
    rules = routing([destination("mail")], triggers=[Trigger(deliver_to=("mail",), when=Conditions(source=frozenset({"other"})))])
    relay = Relay(client, rules)
    event = relay.event("withdrawn", 1, email=ANA)
    relay.drain()
    assert relay.ledger.event(event)["complete"] is True
    assert relay.vendors["mail"].calls == []
    assert relay.figures().unaccounted == 0


def test_overtaken_event_goes_nowhere(relay: Relay):
    """A `given` that a newer withdrawal overtook is not planned anywhere, and its record names the withdrawal."""
    withdrawal = relay.event("withdrawn", 5, email=ANA)
    older = relay.event("given", 1, email=ANA)
    relay.drain()
    view = relay.ledger.event(older)
    assert (view["status"], view["superseded_by"], view["complete"], view["deliveries"]) == ("superseded", withdrawal, True, [])
    assert [call["state"] for call in relay.vendors["mail"].calls] == ["withdrawn"]


def test_older_withdrawal_with_the_same_word_is_still_planned(client: redis.Redis):
    """A newer event of the same state that is not routed to a destination does not take the older one's delivery from it."""
    triggers = [Trigger(deliver_to=("mail",), when=Conditions(source=frozenset({"web"}))), Trigger(deliver_to=("sms",))]
    relay = Relay(client, routing([destination("mail"), destination("sms")], triggers=triggers, sources=SOURCES))
    older = relay.event("withdrawn", 1, email=ANA)
    newer = relay.event("withdrawn", 5, email=ANA, source="list")
    relay.drain()
    assert relay.deliveries(older)["mail"][0] == "delivered"
    assert relay.deliveries(older)["sms"] == ("superseded", "told_by_newer_event")
    assert list(relay.deliveries(newer)) == ["sms"]
    assert relay.vendors["mail"].held == {(ANA, "news"): "withdrawn"}


def test_link_learned_merges_both_ways(relay: Relay):
    """When one event names e-mail and phone together, earlier words of each reach the other."""
    relay.event("withdrawn", 5, email=ANA)
    relay.event("withdrawn", 6, purpose="sms", phone=PHONE)
    relay.drain()
    assert standing(relay, phone=PHONE) is None
    relay.event("given", 1, email=ANA, phone=PHONE)
    relay.drain()
    assert standing(relay, phone=PHONE).state is State.WITHDRAWN
    assert standing(relay, "sms", email=ANA).state is State.WITHDRAWN


def test_source_that_may_not_link_teaches_no_link(relay: Relay):
    """An event of a source without `links` brings no standing across and completes no withdrawal."""
    relay.event("withdrawn", 5, phone=PHONE)
    relay.drain()
    relay.event("given", 1, email=ANA, phone=PHONE, purpose="sms", source="list")
    relay.drain()
    assert standing(relay, email=ANA) is None
    assert relay.vendors["mail"].held == {(ANA, "sms"): "given"}


def test_withdrawal_is_merged_into_who_it_completes(relay: Relay):
    """A withdrawal by phone also stands for the e-mail that was named with that phone, before anything is sent."""
    relay.event("given", 1, email=ANA, phone=PHONE)
    relay.drain()
    withdrawal = relay.event("withdrawn", 5, phone=PHONE)
    relay.step()
    assert standing(relay, email=ANA).event_id == withdrawal
    assert relay.event("given", 4, email=ANA)  # late, older, by e-mail alone
    relay.drain()
    assert relay.vendors["mail"].held[ANA, "news"] == "withdrawn"


def test_given_is_not_merged_into_others(relay: Relay):
    """A `given` by phone is not written to the e-mail that was named with it, and the mail vendor is not told of it."""
    relay.event("withdrawn", 1, email=ANA, phone=PHONE)
    relay.drain()
    event = relay.event("given", 5, phone=PHONE)
    relay.drain()
    assert relay.deliveries(event) == {"mail": ("skipped", "missing_identifier"), "sms": ("delivered", None)}
    assert standing(relay, email=ANA).state is State.WITHDRAWN
    assert relay.vendors["mail"].held == {(ANA, "news"): "withdrawn"}


def test_missing_identifier_is_dead_until_a_link_is_learned(relay: Relay):
    """A withdrawal by phone alone is dead at the mail vendor; the moment an event names the e-mail with it, it is told by itself."""
    withdrawal = relay.event("withdrawn", 5, phone=PHONE)
    relay.drain()
    assert relay.deliveries(withdrawal) == {"mail": ("dead", "missing_identifier"), "sms": ("delivered", None)}
    assert relay.vendors["mail"].calls == []
    relay.event("given", 1, email=ANA, phone=PHONE)
    relay.drain()
    relay.again()
    assert relay.deliveries(withdrawal)["mail"][0] == "delivered"
    assert relay.vendors["mail"].held == {(ANA, "news"): "withdrawn"}
    assert relay.figures().unaccounted == 0
    assert relay.figures().dead_letters == []


def test_link_two_steps_away_revives(relay: Relay):
    """The link that helps may be learned between two others: phone with account first, account with e-mail later."""
    relay.event("given", 1, phone=PHONE, external_id="7", purpose="sms")
    withdrawal = relay.event("withdrawn", 5, phone=PHONE)
    relay.drain()
    assert relay.deliveries(withdrawal)["mail"] == ("dead", "missing_identifier")
    relay.event("given", 1, email=ANA, external_id="7", purpose="sms")
    relay.drain()
    relay.again()
    assert relay.deliveries(withdrawal)["mail"][0] == "delivered"
    assert relay.vendors["mail"].held[ANA, "news"] == "withdrawn"


def test_link_learned_while_the_withdrawal_dies_revives(relay: Relay):
    """A link learned after the worker looked and before it noted the death is not missed."""
    withdrawal = relay.event("withdrawn", 5, phone=PHONE)
    relay.step()
    relay.queue.messages = [message for message in relay.queue.messages if message[1][0] == "mail"]
    settle = relay.settler.settle

    def late_settle(*values):
        relay.settler.settle = settle
        link = relay.event("given", 1, email=ANA, phone=PHONE)
        relay.queue.messages.remove(("fan_out", ("given", (link,))))
        relay.fan_out.run([link])
        settle(*values)

    relay.settler.settle = late_settle
    relay.drain()
    relay.again()
    relay.again()
    assert relay.deliveries(withdrawal)["mail"][0] == "delivered"
    assert relay.vendors["mail"].held[ANA, "news"] == "withdrawn"


def test_look_without_a_link_keeps_the_note(relay: Relay):
    """An event by the same phone that teaches no link does not make the relay forget what waits for one."""
    withdrawal = relay.event("withdrawn", 5, phone=PHONE)
    relay.drain()
    relay.event("withdrawn", 4, phone=PHONE, purpose="sms")
    relay.drain()
    relay.again()
    assert relay.deliveries(withdrawal)["mail"] == ("dead", "missing_identifier")
    relay.event("given", 1, email=ANA, phone=PHONE)
    relay.drain()
    relay.again()
    assert relay.deliveries(withdrawal)["mail"][0] == "delivered"


def test_ambiguous_subject_is_dead_and_healed_by_nobody(relay: Relay, caplog: pytest.LogCaptureFixture):
    """A phone named with two e-mails points to nobody: dead with an alert, nothing sent."""
    relay.event("given", 1, email=ANA, phone=PHONE)
    relay.event("given", 2, email=BEN, phone=PHONE)
    relay.drain()
    relay.vendors["mail"].calls.clear()
    withdrawal = relay.event("withdrawn", 5, phone=PHONE)
    with caplog.at_level(logging.ERROR):
        relay.drain()
    assert relay.deliveries(withdrawal)["mail"] == ("dead", "ambiguous_subject")
    assert [(record.alert, record.reason) for record in caplog.records if record.message == "alert"] == [("withdrawal_dead", "ambiguous_subject")]
    assert relay.vendors["mail"].calls == []


def test_disabled_destination_is_planned_and_not_pushed(client: redis.Redis):
    """Deliveries to a disabled destination are planned and wait; nothing is sent until it is enabled."""
    relay = Relay(client, routing([destination("mail", enabled=False)]))
    event = relay.event("withdrawn", 1, email=ANA)
    relay.drain()
    relay.hurry(pushed=True)
    relay.again()
    assert relay.vendors["mail"].calls == []
    assert relay.deliveries(event) == {"mail": ("waiting", None)}
    relay.rules = routing([destination("mail")])
    relay.hurry(pushed=True)
    relay.again()
    assert relay.deliveries(event)["mail"][0] == "delivered"


def test_unreadable_payload_waits_with_an_alert(relay: Relay, caplog: pytest.LogCaptureFixture):
    """An event whose payload cannot be opened is neither planned nor finished: it alerts and is looked at again."""
    event = relay.event("withdrawn", 1, email=ANA)
    key = relay.ledger.keys.payload(event)
    sealed = relay.ledger.store.client.getset(key, b"garbage")
    with caplog.at_level(logging.ERROR):
        relay.drain()
    assert [record.alert for record in caplog.records if record.message == "alert"] == ["payload_unreadable"]
    assert relay.ledger.event(event)["complete"] is False
    relay.ledger.store.client.set(key, sealed)
    relay.hurry(pushed=True)
    relay.beat()
    relay.drain()
    assert relay.vendors["mail"].held == {(ANA, "news"): "withdrawn"}


def _away(*_: object, **__: object) -> None:
    raise LedgerUnavailable("away")


def test_an_event_that_teaches_nothing_revives_nothing(client):
    """A dead withdrawal stays dead, and raises no second alert, when its own identifier is merely named again."""
    relay = Relay(client, routing([destination("crm", adapter(identifiers=("external_id",)))]))
    withdrawn = relay.event("withdrawn", 1, email="ana@example.org")
    relay.drain()
    relay.event("withdrawn", 2, purpose="sms", email="ana@example.org")
    relay.drain()
    relay.beat()
    assert relay.queue.messages == []
    assert relay.deliveries(withdrawn) == {"crm": ("dead", "missing_identifier")}
    assert [name for _, _, names in relay.queue.dead for name in names].count(f"{withdrawn}.crm") == 1


def test_a_chain_of_links_learned_one_by_one_revives(client):
    """A withdrawal by phone dies for want of an account; phone and e-mail are linked, then e-mail and account: it is told."""
    relay = Relay(client, routing([destination("crm", adapter(identifiers=("external_id",)))]))
    withdrawn = relay.event("withdrawn", 5, phone="+5551900000001")
    relay.drain()
    relay.event("given", 1, purpose="sms", email="ana@example.org", phone="+5551900000001")
    relay.drain()
    assert relay.deliveries(withdrawn) == {"crm": ("dead", "missing_identifier")}
    relay.event("given", 2, purpose="sms", email="ana@example.org", external_id="S-1")
    relay.drain()
    relay.again()
    assert relay.deliveries(withdrawn) == {"crm": ("delivered", None)}
    assert relay.vendors["crm"].held["S-1", "news"] == "withdrawn"


def test_a_link_learned_after_the_withdrawal_was_told_has_it_told_for_the_other_identifier_too(client):
    """The vendor knows a person by e-mail and by account; the account withdrew, and only later it shows whose it is."""
    relay = Relay(client, routing([destination("hook", adapter(identifiers=("external_id", "email")))]))
    relay.event("given", 1, email="ana@example.org")
    withdrawn = relay.event("withdrawn", 5, external_id="S-1")
    relay.drain()
    assert relay.vendors["hook"].held["ana@example.org", "news"] == "given"
    relay.event("given", 2, purpose="sms", email="ana@example.org", external_id="S-1")
    relay.drain()
    relay.again()
    assert relay.vendors["hook"].held["ana@example.org", "news"] == "withdrawn"
    assert relay.deliveries(withdrawn) == {"hook": ("delivered", None)}
    assert relay.figures().unaccounted == 0


def conditional(client):
    """A relay whose CRM is told of people in Brazil only."""
    everywhere, brazil = destination("mail"), destination("crm")
    triggers = [Trigger(deliver_to=("mail",)), Trigger(deliver_to=("crm",), when=Conditions(country=frozenset({"BR"}), source=frozenset({"web"})))]
    return Relay(client, routing([everywhere, brazil], triggers=triggers, sources=[Source(name="web"), Source(name="portal")]))


def test_a_withdrawal_follows_its_consent_whatever_it_says_of_itself(client):
    """Given in Brazil on the web, withdrawn by the portal from Portugal: the CRM that was told of the one is told of the other."""
    relay = conditional(client)
    relay.event("given", 1, email="ana@example.org", country="BR")
    relay.drain()
    withdrawn = relay.event("withdrawn", 2, email="ana@example.org", country="PT", source="portal")
    relay.drain()
    assert relay.deliveries(withdrawn) == {"crm": ("delivered", None), "mail": ("delivered", None)}
    assert relay.vendors["crm"].held["ana@example.org", "news"] == "withdrawn"


def test_a_withdrawal_of_somebody_else_does_not_follow(client):
    """Where nobody was told `given`, the condition holds for withdrawals as it is written."""
    relay = conditional(client)
    relay.event("given", 1, email="ana@example.org", country="BR")
    relay.drain()
    withdrawn = relay.event("withdrawn", 2, email="bob@example.org", country="PT", source="portal")
    relay.drain()
    assert relay.deliveries(withdrawn) == {"mail": ("delivered", None)}


def test_nothing_is_remembered_where_every_withdrawal_goes_anyway(client):
    """A destination without conditions costs no memory."""
    relay = conditional(client)
    relay.event("given", 1, email="ana@example.org", country="US")
    relay.drain()
    assert [field for name in client.keys("cr:{i*}:i:*") for field in client.hkeys(name) if field.startswith(b"t:")] == []
