"""A source may keep its idempotency keys for another time, and may have what is personal erased as soon as it is told."""

from __future__ import annotations

import time

import redis

from pipeline.desk import Desk
from pipeline.domain import Outcome, Subject, VendorResult
from pipeline.ledger.erasures import Erasure
from pipeline.quiet import Quiet
from pipeline.routing import Source
from pipeline.vendors.base import VendorRequest
from tests.support.relay import BASE_TIME, PlainAdapter, Relay, destination, routing

DAY_MS = 86_400_000


def test_forward_and_delete_erases_the_payload_when_all_are_told(client: redis.Redis) -> None:
    """Until the last destination is told the payload stays; then it is gone, and so is every sealed identifier; the standing stays."""
    relay = Relay(client, routing([destination("mail"), destination("news")], sources=[Source(name="web", retention="forward_and_delete")]))
    relay.vendors["news"].answers = [400]
    first = relay.event("given", 0, email="ana@example.org", phone="+5551900000001")
    assert client.exists(relay.ledger.keys.payload(first))
    relay.drain()
    assert relay.deliveries(first) == {"mail": ("delivered", None), "news": ("dead", "http_400")}
    assert client.exists(relay.ledger.keys.payload(first)), "a dead letter may still be replayed"
    second = relay.event("withdrawn", 1, email="ana@example.org", phone="+5551900000001")
    relay.drain()
    assert not client.exists(relay.ledger.keys.payload(second))
    for name in client.keys("cr:{i*}:i:*"):
        assert {field[:2] for field in client.hkeys(name)} == {b"p:"}


def test_a_person_decides_when_a_dead_letter_is_erased(client: redis.Redis) -> None:
    """What died is kept until it is replayed and told, or discarded; then it is erased, and says so."""
    relay = Relay(client, routing([destination("mail")], sources=[Source(name="web", retention="forward_and_delete")]))
    desk = Desk(relay.ledger, relay.vault, lambda: relay.rules, relay.hasher)
    relay.vendors["mail"].answers = [400, 400]
    replayed, discarded = (relay.event("given", 0, email=f"{name}@example.org") for name in ("ana", "bia"))
    relay.drain()
    assert [desk.event(each)["status"] for each in (replayed, discarded)] == ["accepted", "accepted"]
    assert desk.discard([f"{discarded}.mail"], "asked by phone") == [f"{discarded}.mail"]
    assert desk.replay([f"{replayed}.mail"]).replayed == [f"{replayed}.mail"]
    relay.again()
    assert relay.deliveries(replayed) == {"mail": ("delivered", None)}
    for each in (replayed, discarded):
        assert (desk.event(each)["status"], desk.event(each)["complete"]) == ("erased", True)
        assert not client.exists(relay.ledger.keys.payload(each))


def test_an_erased_withdrawal_still_fences(client: redis.Redis) -> None:
    """The keyed hash of the forgotten person keeps an older consent, from whatever source, from being told."""
    forgetting = Source(name="web", retention="forward_and_delete")
    relay = Relay(client, routing([destination("mail")], sources=[forgetting, Source(name="other")]))
    withdrawal = relay.event("withdrawn", 5, email="ana@example.org")
    relay.drain()
    view = relay.ledger.event(withdrawal)
    assert view is not None
    assert (view["status"], view["complete"]) == ("erased", True)
    older = relay.accept("given", 4, email="ana@example.org", source="other")
    relay.drain()
    assert (older.status, relay.deliveries(older.event_id)) == ("superseded", {})
    assert [call["state"] for call in relay.vendors["mail"].calls] == ["withdrawn"]


class Unconfirmed(PlainAdapter):
    """A vendor whose people do not confirm."""

    def tell(self, instructions):
        yield VendorRequest(operation="tell", path="/tell", body=b"[]")
        return [VendorResult(outcome=Outcome.PENDING_CONFIRMATION)] * len(instructions)


def test_who_never_confirms_is_forgotten(client: redis.Redis) -> None:
    """After confirmation_days the delivery ends as not confirmed and the payload goes, although this vendor cannot be asked."""
    waits = destination("mail", Unconfirmed, confirmation_days=0.4 / 86_400)
    relay = Relay(client, routing([waits], sources=[Source(name="web", retention="forward_and_delete")]))
    event = relay.event("given", 0, email="ana@example.org")
    relay.drain()
    assert relay.deliveries(event) == {"mail": ("awaiting_confirmation", None)}
    relay.again()
    assert client.exists(relay.ledger.keys.payload(event))
    time.sleep(0.5)
    relay.again()
    assert relay.deliveries(event) == {"mail": ("skipped", "not_confirmed")}
    assert not client.exists(relay.ledger.keys.payload(event))


def test_a_source_keeps_its_idempotency_keys_as_long_as_it_says(client: redis.Redis) -> None:
    """dedup_days of the source overrides the ledger's."""
    relay = Relay(client, routing([destination("mail")], sources=[Source(name="web", dedup_days=2), Source(name="other")]))
    mine = relay.event("given", 0, email="ana@example.org")
    other = relay.event("given", 0, email="bob@example.org", source="other")
    relay.drain()
    assert 1.9 * DAY_MS < client.pttl(relay.ledger.keys.record(mine)) <= 2 * DAY_MS
    assert 89 * DAY_MS < client.pttl(relay.ledger.keys.record(other)) <= 90 * DAY_MS


def test_the_shortest_time_of_source_purpose_and_ledger_counts(client: redis.Redis) -> None:
    """payload_days of a source or a purpose shorten the ledger's 30 days and never lengthen them; a payload does not outlive its record."""
    sources = [
        Source(name="plain"),
        Source(name="short", payload_days=3),
        Source(name="long", payload_days=300),
        Source(name="both", payload_days=3, payload_days_by_purpose={"news": 2, "sms": 5}),
        Source(name="forgets-keys", dedup_days=1),
    ]
    relay = Relay(client, routing([destination("mail")], sources=sources))
    wanted = {("plain", "news"): 30, ("short", "news"): 3, ("long", "news"): 30, ("both", "news"): 2, ("both", "sms"): 3, ("forgets-keys", "news"): 1}
    for (source, purpose), days in wanted.items():
        event_id = relay.event("given", 0, source=source, purpose=purpose, email="ana@example.org", key=f"{source} {purpose}")
        relay.drain()
        left = client.pttl(relay.ledger.keys.payload(event_id))
        assert (days - 0.1) * DAY_MS < left <= days * DAY_MS, source
        assert client.pexpiretime(relay.ledger.keys.record(event_id)) >= client.pexpiretime(relay.ledger.keys.payload(event_id)) - 1


def test_a_payload_ends_by_itself_and_its_standing_stays(client: redis.Redis) -> None:
    """After its time, with nobody at work: the event says `erased`, and its withdrawal still fences."""
    relay = Relay(client, routing([destination("mail")], sources=[Source(name="web", payload_days_by_purpose={"news": 0.3 / 86_400})]))
    withdrawal = relay.event("withdrawn", 5, email="ana@example.org")
    relay.drain()
    assert relay.ledger.event(withdrawal)["status"] == "accepted"
    time.sleep(0.4)
    assert relay.ledger.event(withdrawal)["status"] == "erased"
    older = relay.accept("given", 4, email="ana@example.org")
    relay.drain()
    assert (older.status, [call["state"] for call in relay.vendors["mail"].calls]) == ("superseded", ["withdrawn"])


def personal(client: redis.Redis, email: str, relay: Relay) -> set[bytes]:
    return {field[:2] for field in client.hkeys(relay.ledger.keys.identifier(relay.hasher.identifier_keys(Subject(email=email))["email"]))} & {b"v", b"l:"}


def test_quiet_persons_lose_values_and_links_and_keep_their_words(client: redis.Redis) -> None:
    """After so many days without a word by any linked identifier; others keep theirs, and a later word teaches anew."""
    relay = Relay(client, routing([destination("mail")]))
    relay.event("given", 1, email="ana@example.org", phone="+5551900000001")
    relay.event("withdrawn", 2, phone="+5551900000001")
    relay.event("given", 1, email="ben@example.org", phone="+5551900000002")
    relay.drain()
    days = (relay.ledger.now() - BASE_TIME).total_seconds() / 86_400
    assert Quiet(relay.ledger, days=0).run() == Quiet(relay.ledger, days=days + 1).run() == 0
    relay.event("given", 60 * 24, email="ben@example.org")
    relay.drain()
    assert sum(Quiet(relay.ledger, days=days - 0.5).run() for _ in range(3)) == 2
    assert (personal(client, "ana@example.org", relay), personal(client, "ben@example.org", relay)) == (set(), {b"v", b"l:"})
    calls = len(relay.vendors["mail"].calls)
    for subject in ({"email": "ana@example.org"}, {"phone": "+5551900000001"}):
        assert relay.accept("given", 1.5, **subject).status == "superseded"
        relay.accept("given", 3, purpose="sms", **subject)
    relay.drain()
    assert (len(relay.vendors["mail"].calls), personal(client, "ana@example.org", relay)) == (calls, set())
    relay.event("given", 60 * 24 * 2, email="ana@example.org", phone="+5551900000001")
    relay.drain()
    assert (relay.vendors["mail"].held["ana@example.org", "news"], personal(client, "ana@example.org", relay)) == ("given", {b"v", b"l:"})
    assert relay.figures().unaccounted == 0


def test_whoever_is_still_to_be_told_of_is_not_quiet(client: redis.Redis) -> None:
    """A dead withdrawal that a link may revive, and one that waits, keep what they need."""
    relay = Relay(client, routing([destination("mail")]))
    relay.vendors["mail"].answers = [400, 503]
    relay.event("withdrawn", 1, email="ana@example.org")
    relay.event("withdrawn", 1, email="ben@example.org")
    relay.drain()
    days = (relay.ledger.now() - BASE_TIME).total_seconds() / 86_400 - 1
    assert sum(Quiet(relay.ledger, days=days).run() for _ in range(2)) == 0
    relay.again()
    assert sum(Quiet(relay.ledger, days=days).run() for _ in range(2)) == 1


def test_a_word_in_between_saves_an_identifier(client: redis.Redis) -> None:
    """Said between the look and the taking: value and links stay."""
    relay = Relay(client, routing([destination("mail")]))
    relay.event("withdrawn", 1, email="ana@example.org", phone="+5551900000001")
    relay.drain()
    forbid = relay.ledger.erasures.forbid
    days = (relay.ledger.now() - BASE_TIME).total_seconds() / 86_400 - 1

    def meanwhile(erasure: Erasure) -> None:
        relay.event("given", 60 * 24 * 2, key="since", email="ana@example.org", phone="+5551900000001")
        forbid(erasure)

    relay.ledger.erasures.forbid = meanwhile
    assert Quiet(relay.ledger, days=days).run() == 0
    assert personal(client, "ana@example.org", relay) == {b"v", b"l:"}
