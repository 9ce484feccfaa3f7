"""A test of one destination: told outside the ledger, and never against what the ledger knows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import redis

from pipeline.domain import IncomingEvent, Outcome, Polled, State, Subject
from pipeline.exchange import Work, WorkResult
from pipeline.limits import traffic_of
from pipeline.routing import Pair, Poll, Routing, Source, with_partners
from pipeline.trial import Trial, TrialRefused, TrialReport
from pipeline.vendors.base import Rate
from tests.support.relay import BASE_TIME, DirectExchange, PlainAdapter, Relay, adapter, destination, routing
from tests.unit.test_listen import PolledAdapter, sighting

ANA = {"email": "ana@example.org"}
SOURCE = Source(name="web")


class WaitingExchange(DirectExchange):
    """One that can be waited for, as the real one can."""

    def run(self, work: Work) -> WorkResult:
        found: list[WorkResult] = []
        self.start(work, lambda _, result: found.append(result))
        return found[0]


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    return build(client)


def build(client: redis.Redis, kind: Any = None, **values: Any) -> Relay:
    relay = Relay(client, routing([destination("mail", kind or adapter(identifiers=("email", "phone")), **values), destination("other")]), seconds=1.0)
    relay.exchange = WaitingExchange(relay.vendors)
    relay.deliver.worker._exchange = relay.exchange  # type: ignore[assignment]
    return relay


def trial(relay: Relay, *, with_ledger: bool = True) -> Trial:
    built = Trial(relay.exchange, relay.rules, relay.hasher, relay.limits)  # type: ignore[arg-type]
    if with_ledger:
        built.ask_first(relay.ledger, relay.vault)
    return built


def tell(relay: Relay, state: str = "given", *, with_ledger: bool = True, purpose: str = "news", minute: float = 60, **subject: Any) -> TrialReport:
    """Test `mail` with an event that was said an hour after everything else."""
    incoming = IncomingEvent(subject=Subject(**(subject or ANA)), purpose=purpose, state=State(state), event_time=BASE_TIME + timedelta(minutes=minute))
    test = trial(relay, with_ledger=with_ledger)
    return test.tell(relay.rules.destinations["mail"], test.event_of(SOURCE, incoming))


def calls(relay: Relay) -> list[str]:
    return [call["state"] for call in relay.vendors["mail"].calls]


def test_one_destination_is_told_and_the_ledger_knows_nothing_of_it(relay: Relay) -> None:
    """One call there, none elsewhere; no event, no standing, no delivery, and nothing left of claim or mark."""
    report = tell(relay)
    assert (report.is_taken, report.operations, report.calls, report.result.outcome) == (True, ("tell",), 1, Outcome.APPLIED)
    assert relay.vendors["mail"].held == {("ana@example.org", "news"): "given"}
    assert relay.vendors["other"].calls == []
    assert relay.ledger.events.counts() == {"accepted": 0, "finished": 0, "rescued": 0, "duplicates": 0, "open": 0}
    assert list(relay.ledger.standings.scan()) == []
    assert relay.ledger.deliveries.known_destinations() == []
    assert list(relay.ledger.store.client.scan_iter(match="cr:{a:mail}:[cm]:*")) == []
    assert "ana@example.org" not in repr(report)


def test_a_test_is_another_delivery_than_the_real_one(relay: Relay) -> None:
    """A receiver that tells repeats by the id must not take the real event for one."""
    tell(relay)
    tell(relay)
    event_id = relay.event("given", 1, **ANA)
    relay.drain()
    ids = [call["id"] for call in relay.vendors["mail"].calls]
    assert (len(set(ids)), ids[2], [each[:5] for each in ids[:2]]) == (3, event_id, ["test-", "test-"])


@pytest.mark.parametrize("said", [ANA, {"email": "ana@example.org", "phone": "+5511912345678"}], ids=["own", "with a link"])
def test_who_stands_withdrawn_is_not_told_given(relay: Relay, said: dict[str, str]) -> None:
    """However late the test says it was said; nothing is sent, and the contact is free again at once."""
    relay.event("withdrawn", 1, **said)
    relay.drain()
    before = calls(relay)
    with pytest.raises(TrialRefused, match="stands withdrawn for news"):
        tell(relay)
    assert calls(relay) == before
    assert list(relay.ledger.store.client.scan_iter(match="cr:{a:mail}:[cm]:*")) == []
    assert relay.ledger.stale_sends() == 0


def test_a_link_carries_the_withdrawal(relay: Relay) -> None:
    """Withdrawn by phone and only just accepted, tested by the e-mail that was once named with it."""
    relay.event("given", 1, email="ana@example.org", phone="+5511912345678")
    relay.drain()
    relay.event("withdrawn", 2, phone="+5511912345678")
    with pytest.raises(TrialRefused, match="stands withdrawn"):
        tell(relay)
    assert calls(relay) == ["given"]


def test_a_later_consent_by_another_identifier_does_not_lift_it(relay: Relay) -> None:
    """Given again by phone alone says nothing for the e-mail, which stands withdrawn."""
    relay.event("given", 1, email="ana@example.org", phone="+5511912345678")
    relay.drain()
    relay.event("withdrawn", 2, email="ana@example.org")
    relay.drain()
    relay.event("given", 3, phone="+5511912345678")
    relay.drain()
    before = calls(relay)
    with pytest.raises(TrialRefused, match="stands withdrawn"):
        tell(relay)
    assert calls(relay) == before
    assert tell(relay, phone="+5511912345678").is_taken


def test_a_withdrawal_of_another_purpose_counts_where_the_contact_is_shared(client: redis.Redis) -> None:
    """One state for the whole contact: `given` for news would undo the withdrawal of sms. Where each purpose has its own it does not."""
    shared = build(client, adapter(scope="contact"))
    shared.event("withdrawn", 1, purpose="sms", **ANA)
    shared.drain()
    with pytest.raises(TrialRefused, match="stands withdrawn for sms"):
        tell(shared)
    assert calls(shared) == ["withdrawn"]
    client.flushall()
    apart = build(client)
    apart.event("withdrawn", 1, purpose="sms", **ANA)
    apart.drain()
    assert tell(apart).is_taken


def test_who_stands_given_is_not_told_withdrawn(relay: Relay) -> None:
    """A withdrawal that is meant goes to everybody; one of somebody unknown is a fair test."""
    relay.event("given", 1, **ANA)
    relay.drain()
    with pytest.raises(TrialRefused, match="stands given for news"):
        tell(relay, "withdrawn")
    assert calls(relay) == ["given"]
    assert tell(relay, "withdrawn", email="bruno@example.org").is_taken


def test_what_the_vendor_cannot_be_told_is_refused(client: redis.Redis) -> None:
    """A state it cannot express, and a person it could not find; also without a ledger."""
    relay = build(client, adapter(states=frozenset({State.GIVEN})))
    for with_ledger in (True, False):
        with pytest.raises(TrialRefused, match="cannot be told of `withdrawn`, only of `given`"):
            tell(relay, "withdrawn", with_ledger=with_ledger)
        with pytest.raises(TrialRefused, match="it needs one of email"):
            tell(relay, external_id="person-4711", with_ledger=with_ledger)
    assert calls(relay) == []


def test_a_paused_destination_is_not_tested(relay: Relay) -> None:
    """A person said that it is told nothing."""
    relay.ledger.deliveries.pause("mail", paused=True)
    with pytest.raises(TrialRefused, match="mail is paused"):
        tell(relay)
    relay.ledger.deliveries.pause("mail", paused=False)
    assert tell(relay).is_taken
    assert calls(relay) == ["given"]


def test_a_contact_that_a_worker_talks_about_is_left_alone(relay: Relay) -> None:
    """Two never talk to one destination about one person at once."""
    mail = relay.rules.destinations["mail"]
    key = relay.hasher.identifier_key("email", "ana@example.org")
    busy = traffic_of(mail, "given", relay.limits)
    relay.ledger.accounts.admit(busy, "given", "worker", 0, [[key]])
    with pytest.raises(TrialRefused, match="a worker is telling mail about this person right now"):
        tell(relay)
    assert calls(relay) == []


def test_the_accounts_limit_holds_for_a_test(client: redis.Redis) -> None:
    """Two calls a minute: the third is refused and not sent."""
    relay = build(client, rate=Rate(calls=2, per_seconds=60, concurrent=8))
    assert [tell(relay).is_taken, tell(relay).is_taken] == [True, True]
    with pytest.raises(TrialRefused, match=r"takes no call now \(rate\)"):
        tell(relay)
    assert calls(relay) == ["given", "given"]


def test_an_answer_moves_the_accounts_gate(relay: Relay) -> None:
    """`Too many calls` holds the account back for everybody, as it does from a worker."""
    relay.vendors["mail"].answers = [(429, {"retry-after": "60"})]
    report = tell(relay)
    assert (report.is_taken, report.result.outcome, report.result.reason) == (False, Outcome.THROTTLED, "http_429")
    with pytest.raises(TrialRefused, match=r"takes no call now \(retry_after\)"):
        tell(relay)
    assert calls(relay) == ["given"]


def test_a_withdrawal_accepted_during_a_test_is_told_last(relay: Relay) -> None:
    """It waits for the claim, then goes out; the overtaken `given` is counted as a stale send."""
    ids: list[str] = []

    def withdraw(_: Work) -> None:
        relay.exchange.before = lambda _: None
        ids.append(relay.event("withdrawn", 1, **ANA))
        relay.drain()

    relay.exchange.before = withdraw
    assert tell(relay).is_taken
    assert (calls(relay), relay.ledger.stale_sends()) == (["given"], 1)
    relay.again()
    assert calls(relay) == ["given", "withdrawn"]
    assert relay.deliveries(ids[0])["mail"][0] == "delivered"
    assert relay.vendors["mail"].held == {("ana@example.org", "news"): "withdrawn"}


def test_a_test_without_an_answer_has_a_later_withdrawal_told_twice(relay: Relay) -> None:
    """The `given` may still arrive: the mark stands, and the withdrawal is told again once it cannot any more."""
    relay.vendors["mail"].answers = ["late"]
    report = tell(relay)
    assert (report.is_taken, report.result.reason, report.result.definite) == (False, "timed_out", False)
    event_id = relay.event("withdrawn", 1, **ANA)
    relay.drain()
    relay.vendors["mail"].act_late()
    assert relay.vendors["mail"].held == {("ana@example.org", "news"): "given"}
    until = time.monotonic() + 30
    while relay.deliveries(event_id)["mail"] != ("delivered", None) and time.monotonic() < until:
        relay.again()
        time.sleep(0.02)
    assert relay.vendors["mail"].held == {("ana@example.org", "news"): "withdrawn"}
    assert relay.deliveries(event_id)["mail"] == ("delivered", None)


def test_a_claim_that_was_outlived_has_the_newer_word_told_again(relay: Relay) -> None:
    """A process that stood still in its call: the withdrawal told meanwhile is told once more."""

    def stand_still(_: Work) -> None:
        relay.exchange.before = lambda _: None
        for name in relay.ledger.store.client.scan_iter(match="cr:{a:mail}:c:*"):
            relay.ledger.store.client.delete(name)
        relay.event("withdrawn", 1, **ANA)
        relay.drain()
        assert calls(relay) == ["withdrawn"]

    relay.exchange.before = stand_still
    tell(relay)
    assert calls(relay) == ["withdrawn", "given"]
    relay.again(3)
    assert relay.vendors["mail"].held == {("ana@example.org", "news"): "withdrawn"}


def test_an_interrupted_test_leaves_the_mark_of_a_call_that_may_arrive(relay: Relay) -> None:
    """Ctrl-C while the vendor is silent: claim and place are handed back, the mark stands."""

    def interrupt(_: Work) -> None:
        raise KeyboardInterrupt

    relay.exchange.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        tell(relay)
    client = relay.ledger.store.client
    assert (list(client.scan_iter(match="cr:{a:mail}:c:*")), len(list(client.scan_iter(match="cr:{a:mail}:m:*")))) == ([], 1)


class MarkingAdapter(PlainAdapter):
    """A vendor at which a source tells our writes from others' by a mark."""

    def marks_own_writes(self, options: Mapping[str, Any]) -> bool:
        return bool(options.get("marks", True))


HEARD = Source(name="hooks", kind="plain", url_keys=("ab" * 32,), origin=("mail",))


def spoken_for(client: redis.Redis, *sources: Source, kind: type[PlainAdapter] = PlainAdapter, **values: Any) -> Relay:
    """`mail` is told, and these sources hear something."""
    relay = build(client, kind, **values)
    relay.rules = replace(relay.rules, sources={"web": SOURCE, **{each.name: each for each in sources}})
    return relay


@pytest.mark.parametrize("with_ledger", [True, False])
def test_a_consent_that_would_come_back_is_not_tried(client: redis.Redis, *, with_ledger: bool) -> None:
    """Its echo would be a consent for every destination: refused with who would hear it, and nothing is sent, also where no ledger is asked."""
    relay = spoken_for(client, HEARD, Source(name="others", kind="plain", url_keys=("cd" * 32,), origin=("other",)))
    with pytest.raises(TrialRefused) as refused:
        tell(relay, with_ledger=with_ledger)
    assert str(refused.value) == (
        "hooks would hear this from mail as the person's own consent, and everybody would be told: "
        "test a destination of its own, which no source hears, or let that source rest until the person is out of the list again"
    )
    assert calls(relay) == []


def test_a_withdrawal_may_be_tried_although_it_comes_back(client: redis.Redis) -> None:
    """What is heard of it stops more than was meant, and never less."""
    relay = spoken_for(client, HEARD)
    assert tell(relay, "withdrawn").is_taken
    assert calls(relay) == ["withdrawn"]


def test_a_consent_is_tried_where_our_own_write_is_known(client: redis.Redis) -> None:
    """A mark lets the source pass it by; where the options leave none, it is refused."""
    relay = spoken_for(client, HEARD, kind=MarkingAdapter)
    assert tell(relay).is_taken
    unmarked = spoken_for(client, HEARD, kind=MarkingAdapter, options={"marks": False})
    with pytest.raises(TrialRefused, match="hooks would hear this from mail"):
        tell(unmarked)
    assert (calls(relay), calls(unmarked)) == (["given"], [])


def paired(rules: Routing, *, enabled: bool) -> Routing:
    """`mail` is kept equal with `other`, which is polled."""
    polled = Source(name="other-changes", kind="plain", origin=("other",), poll=Poll(asked=rules.destinations["other"], every_seconds=60))
    pair = Pair(name="both", contacthub="mail", contactsend="other", enabled=enabled)
    return with_partners(replace(rules, sources={"web": SOURCE, polled.name: polled}, pairs={"both": pair}))


def test_a_mark_does_not_travel_to_the_other_side_of_a_pair(client: redis.Redis) -> None:
    """The copy there bears none, so the source of that side would hear it; while the pair is disabled nobody does."""
    relay = build(client, MarkingAdapter)
    relay.rules = paired(relay.rules, enabled=True)
    with pytest.raises(TrialRefused, match="other-changes would hear this from mail"):
        tell(relay)
    assert calls(relay) == []
    relay.rules = paired(relay.rules, enabled=False)
    assert tell(relay).is_taken


def test_a_source_by_which_nothing_can_come_does_not_stand_in_the_way(client: redis.Redis) -> None:
    """Its keys were taken out while somebody tests."""
    relay = spoken_for(client, replace(HEARD, url_keys=()))
    assert tell(relay).is_taken


def test_a_poll_sees_no_news_in_what_was_tried(client: redis.Redis) -> None:
    """The state that a tried withdrawal left there is known as ours, so nobody is told of it."""
    relay = build(client, PolledAdapter, is_polled=True)
    mail = relay.rules.destinations["mail"]
    relay.rules = replace(
        relay.rules, sources={"web": SOURCE, "mail-changes": Source(name="mail-changes", origin=("mail",), poll=Poll(asked=mail, every_seconds=60))}
    )
    relay.vendors["mail"].answers = [(200, {"reference": "77"})]
    assert tell(relay, "withdrawn").is_taken
    assert isinstance(mail.adapter, PolledAdapter)
    mail.adapter.pages = [Polled(position="1", sightings=[sighting("withdrawn")])]
    assert relay.listen.run("mail-changes") == 0
    relay.drain()
    assert (mail.adapter.asked, relay.vendors["other"].calls) == ([""], [])
