"""Listen: whose turn it is, what is news, and that a page is heard twice rather than skipped."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from pipeline.domain import IncomingEvent, Outcome, Polled, Sighting, State, Subject, VendorResult
from pipeline.errors import FieldError, InvalidInput, LedgerUnavailable
from pipeline.listen import ListenOptions
from pipeline.routing import Poll, Source
from pipeline.vendors.base import PollDialogue, Rate, SourceSettings, VendorRequest
from tests.support.relay import BASE_TIME, PlainAdapter, Relay, destination, routing

ANA, BEN = "ana@example.org", "ben@example.org"


class PolledAdapter(PlainAdapter):
    """A vendor that is polled: hands out the pages that a test has put there, and notes from where each was asked for."""

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.pages: list[Polled | VendorResult] = []
        self.asked: list[str] = []

    def poll(self, position: str, source: SourceSettings, received_at: datetime) -> PollDialogue:
        self.asked.append(position)
        yield VendorRequest(operation="poll", body=b"[]")
        return self.pages.pop(0) if self.pages else Polled(position=position)


def polled_relay(client: redis.Redis, **values: Any) -> Relay:
    """`crm` is polled by the source `crm-changes` and told by it too; `mail` is told as well."""
    crm = destination("crm", PolledAdapter, is_polled=True, **values)
    sources = (Source(name="web"), Source(name="crm-changes", origin=("crm",), poll=Poll(asked=crm, every_seconds=60)))
    return Relay(client, routing([crm, destination("mail")], sources=sources))


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    return polled_relay(client)


def vendor(relay: Relay) -> PolledAdapter:
    adapter = relay.rules.destinations["crm"].adapter
    assert isinstance(adapter, PolledAdapter)
    return adapter


def word(state: str, minute: float, email: str = ANA) -> IncomingEvent:
    return IncomingEvent(subject=Subject(email=email), purpose="news", state=State(state), event_time=BASE_TIME + timedelta(minutes=minute))


def sighting(state: str, email: str = ANA, reference: str = "77") -> Sighting:
    return Sighting(place="", reference=reference, subject=Subject(email=email), purpose="news", state=State(state))


def come_due(relay: Relay) -> None:
    """The next turn of every source comes now."""
    relay.ledger.store.client.hset("cr:{s:crm-changes}:poll", mapping={"due": 0, "until": 0})


def heard(relay: Relay, *pages: Polled | VendorResult) -> int:
    """Poll once, when it is time, and work off what came of it."""
    vendor(relay).pages = list(pages)
    come_due(relay)
    count = relay.listen.run("crm-changes")
    relay.drain()
    return count


def told(relay: Relay, name: str) -> list[str]:
    return [call["state"] for call in relay.vendors[name].calls]


def test_what_is_heard_is_told_to_the_others_and_not_to_its_origin(relay: Relay) -> None:
    """A consent heard from the CRM reaches the mailing tool; the CRM, which said it, is told nothing."""
    assert heard(relay, Polled(position="5", events=[word("given", 1)])) == 1
    assert (told(relay, "mail"), told(relay, "crm")) == (["given"], [])


def test_a_turn_goes_on_where_the_last_one_ended(relay: Relay) -> None:
    """Pages are asked for one after another until there is no more, and the next turn begins there."""
    heard(relay, Polled(position="2", more=True), Polled(position="3"))
    heard(relay)
    assert vendor(relay).asked == ["", "2", "3"]


def test_a_source_is_polled_when_it_is_due_and_by_one_alone(relay: Relay) -> None:
    """After a turn the source is left alone until its time comes, and a turn that somebody has is not given twice."""
    assert relay.listen.push_due() == ["crm-changes"]
    heard(relay)
    assert (relay.listen.push_due(), relay.listen.run("crm-changes"), vendor(relay).asked) == ([], 0, [""])
    come_due(relay)
    assert relay.ledger.polls.take("crm-changes", "somebody", 60_000) is not None
    assert (relay.listen.push_due(), relay.listen.run("crm-changes"), vendor(relay).asked) == ([], 0, [""])


def test_a_turn_whose_holder_died_is_taken_again_from_the_kept_position(relay: Relay) -> None:
    """The lease of a dead worker runs out; what it had not kept is heard again."""
    heard(relay, Polled(position="4"))
    come_due(relay)
    assert relay.ledger.polls.take("crm-changes", "dead", 1) is not None
    come_due(relay)
    relay.listen.run("crm-changes")
    assert vendor(relay).asked == ["", "4"]


def test_a_position_is_not_moved_by_a_turn_that_was_lost(relay: Relay) -> None:
    """Who lost the turn to another moves nothing any more."""
    first = relay.ledger.polls.take("crm-changes", "slow", 1)
    assert first is not None
    come_due(relay)
    second = relay.ledger.polls.take("crm-changes", "quick", 60_000)
    assert second is not None
    assert relay.ledger.polls.keep(first, "99", lease_ms=1000) is False
    relay.ledger.polls.give_back(second, "7", 0)
    assert relay.ledger.polls.take("crm-changes", "next", 1000).position == "7"  # type: ignore[union-attr]


def test_a_page_that_was_not_accepted_is_asked_for_again(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    """The position moves after the events are safe: a ledger that goes away in between costs a repeat, not an event."""
    page = Polled(position="5", events=[word("withdrawn", 1)])
    with monkeypatch.context() as broken:
        broken.setattr(relay.acceptor, "accept_many", lambda _: (_ for _ in ()).throw(LedgerUnavailable("away")))
        vendor(relay).pages = [page]
        with pytest.raises(LedgerUnavailable):
            relay.listen.run("crm-changes")
    assert heard(relay, page) == 1
    assert (vendor(relay).asked, told(relay, "mail")) == (["", ""], ["withdrawn"])


def test_a_word_heard_twice_is_one_event(relay: Relay) -> None:
    """A page that is heard again says nothing new."""
    page = Polled(position="5", events=[word("withdrawn", 1)])
    heard(relay, page)
    heard(relay, page)
    assert told(relay, "mail") == ["withdrawn"]
    assert relay.ledger.events.counts()["accepted"] == 1


def test_what_cannot_be_read_does_not_hold_up_the_rest(relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong change raises an alert with its place, without its values: it may be a withdrawal. It is counted, and the others are accepted."""
    with caplog.at_level(logging.WARNING):
        count = heard(relay, Polled(position="9", events=[InvalidInput([FieldError("updates.0", "must have a date")]), word("withdrawn", 1)]))
    assert count == 1
    (record,) = [vars(each) for each in caplog.records if getattr(each, "alert", "") == "heard_unreadable"]
    assert (record["levelname"], record["source"], record["path"], record["problem"]) == ("ERROR", "crm-changes", "updates.0", "must have a date")
    assert relay.ledger.polls.unreadable(["crm-changes", "web"]) == [1, 0]


@pytest.mark.parametrize(
    "refused, wait_seconds",
    [
        (VendorResult(outcome=Outcome.MISCONFIGURED, reason="http_403"), 60),
        (VendorResult(outcome=Outcome.THROTTLED, reason="http_429", retry_after_seconds=7.0), 7),
        (VendorResult(outcome=Outcome.UNAVAILABLE, reason="http_503"), 60),
    ],
)
def test_a_vendor_that_refuses_to_be_polled_is_left_alone_and_told_all_the_same(relay: Relay, refused: VendorResult, wait_seconds: float) -> None:
    """The next turn waits as the refusal says, the position stays, and no breaker closes the way for withdrawals."""
    heard(relay, Polled(position="4"))
    heard(relay, refused)
    due = int(relay.ledger.store.client.hget("cr:{s:crm-changes}:poll", "due"))
    assert due - relay.ledger.now_ms() == pytest.approx(wait_seconds * 1000, abs=2000)
    assert not relay.ledger.accounts.gate_is_open("crm")
    assert relay.ledger.polls.take("crm-changes", "next", 1000) is None
    come_due(relay)
    assert relay.ledger.polls.take("crm-changes", "next", 1000).position == "4"  # type: ignore[union-attr]


def test_polling_takes_part_in_the_account_s_limits(client: redis.Redis) -> None:
    """Where the rate is used up, the source waits for its room and no request is made."""
    relay = polled_relay(client, rate=Rate(calls=1, per_seconds=60, concurrent=1))
    heard(relay)
    come_due(relay)
    relay.listen.run("crm-changes")
    assert vendor(relay).asked == [""]
    due = int(relay.ledger.store.client.hget("cr:{s:crm-changes}:poll", "due"))
    assert due - relay.ledger.now_ms() == pytest.approx(60_000, abs=3000)


def test_a_first_sweep_remembers_consents_and_hears_withdrawals(relay: Relay) -> None:
    """What has no date may be of any age: no consent follows from it, but a withdrawal counts."""
    assert heard(relay, Polled(position="1", sightings=[sighting("given"), sighting("withdrawn", BEN, "78")])) == 1
    assert told(relay, "mail") == ["withdrawn"]
    assert heard(relay, Polled(position="1", sightings=[sighting("given"), sighting("withdrawn", BEN, "78")])) == 0


def test_a_changed_sighting_is_a_word_said_since_the_last_full_sweep(relay: Relay) -> None:
    """A consent counts from the beginning of that time, a withdrawal at its end: neither is newer or older than it can be."""
    heard(relay, Polled(position="1", sightings=[sighting("given"), sighting("withdrawn", BEN, "78")]))
    swept = datetime.fromtimestamp(int(relay.ledger.store.client.hget("cr:{s:crm-changes}:poll", "swept")) / 1000, UTC)
    assert heard(relay, Polled(position="1", sightings=[sighting("withdrawn"), sighting("given", BEN, "78")])) == 2
    words = {record.key: record.words["news"] for record in relay.ledger.standings.scan()}
    ana, ben = (words[relay.hasher.identifier_key("email", email)] for email in (ANA, BEN))
    assert (ana.state, ben.state) == (State.WITHDRAWN, State.WITHDRAWN)  # Ben withdrew when he was first seen: that he consents again is within the echo's time
    assert ana.order_us / 1e6 >= swept.timestamp()


def test_a_sweep_that_is_cut_does_not_count_as_one(relay: Relay) -> None:
    """Until a sweep has ended, the words in it began at the last full one."""
    heard(relay, Polled(position="1", sightings=[sighting("given")]))
    first = int(relay.ledger.store.client.hget("cr:{s:crm-changes}:poll", "swept"))
    heard(relay, Polled(position="p2", more=True), VendorResult(outcome=Outcome.UNAVAILABLE, reason="http_503"))
    assert int(relay.ledger.store.client.hget("cr:{s:crm-changes}:poll", "swept")) == first
    heard(relay, Polled(position="1"))
    assert int(relay.ledger.store.client.hget("cr:{s:crm-changes}:poll", "swept")) > first


def test_a_turn_that_takes_too_long_goes_on_later_and_ends_no_sweep(relay: Relay) -> None:
    """When its time is over the turn is given back with the position, due at once, and what was not seen yet does not count as seen."""
    heard(relay, Polled(position="1", sightings=[sighting("given")]))
    first = int(relay.ledger.store.client.hget("cr:{s:crm-changes}:poll", "swept"))
    relay.listen._options = ListenOptions(turn_seconds=0.0)
    heard(relay, Polled(position="p2", more=True), Polled(position="p3", more=True))
    assert vendor(relay).asked == ["", "1"]
    assert int(relay.ledger.store.client.hget("cr:{s:crm-changes}:poll", "swept")) == first
    assert int(relay.ledger.store.client.hget("cr:{s:crm-changes}:poll", "due")) <= relay.ledger.now_ms()
    assert relay.listen.run("crm-changes") == 0
    assert vendor(relay).asked == ["", "1", "p2"]


def test_what_we_told_ourselves_is_no_news(client: redis.Redis) -> None:
    """A state that the relay wrote there is known when it is seen, so no second event comes of it."""
    relay = polled_relay(client)
    heard(relay, Polled(position="1"))
    relay.vendors["crm"].answers = [(200, {"reference": "77"})]
    relay.event("withdrawn", 3, email=ANA)
    relay.drain()
    assert heard(relay, Polled(position="1", sightings=[sighting("withdrawn")])) == 0
    assert (told(relay, "crm"), told(relay, "mail")) == (["withdrawn"], ["withdrawn"])


def test_nothing_of_a_person_is_kept_of_what_was_seen(relay: Relay) -> None:
    """The memory of sightings holds keyed hashes and states, no reference and no address."""
    heard(relay, Polled(position="1", sightings=[sighting("given", reference="subscriber-77")]))
    seen = relay.ledger.store.client.hgetall("cr:{d:crm}:seen")
    assert [value.partition(b"|")[0] for value in seen.values()] == [b"given"]
    assert not any(name == b"77" or b"subscriber" in name or b"ana" in name for name in seen)


def test_polling_needs_no_more_than_its_source(relay: Relay) -> None:
    """A source that the routing file no longer has, or that is not polled, is left alone."""
    assert (relay.listen.run("web"), relay.listen.run("gone"), vendor(relay).asked) == (0, 0, [])


def test_what_was_told_while_a_page_was_on_its_way_is_newer_than_the_page(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page still shows the withdrawal from before; the consent that was told meanwhile is not undone by it, and is no news on the next page."""
    heard(relay, Polled(position="1", sightings=[sighting("withdrawn")]))
    real = vendor(relay).poll

    def poll(position: str, source: SourceSettings, received_at: datetime) -> PollDialogue:
        page = yield from real(position, source, received_at)
        relay.vendors["crm"].answers = [(200, {"reference": "77"})]
        now = relay.ledger.now() + timedelta(milliseconds=5)
        relay.acceptor._now = lambda: now
        relay.acceptor.accept_many([(relay.rules.sources["web"], IncomingEvent(subject=Subject(email=ANA), purpose="news", state=State.GIVEN, event_time=now))])
        relay.drain()
        return page

    with monkeypatch.context() as patched:
        patched.setattr(vendor(relay), "poll", poll)
        assert heard(relay, Polled(position="1", sightings=[sighting("withdrawn")])) == 0
    assert heard(relay, Polled(position="1", sightings=[sighting("given")])) == 0
    assert told(relay, "mail") == ["withdrawn", "given"]


def test_what_was_told_while_a_page_was_taken_in_is_not_forgotten(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    """A withdrawal is told between the look and the noting of it: should the vendor show a consent afterwards, it is news, and the withdrawal is told again."""
    heard(relay, Polled(position="1", sightings=[sighting("given")]))
    relay.vendors["crm"].answers = [200, (200, {"reference": "77"})]
    accept = relay.acceptor.accept_many

    def accept_meanwhile(items: Any) -> Any:
        with monkeypatch.context() as once:
            once.setattr(relay.acceptor, "accept_many", accept)
            relay.event("withdrawn", 3, email=ANA)
            relay.drain()
        return accept(items)

    with monkeypatch.context() as patched:
        patched.setattr(relay.acceptor, "accept_many", accept_meanwhile)
        vendor(relay).pages = [Polled(position="1", events=[word("given", 1, BEN)], sightings=[sighting("given")])]
        come_due(relay)
        relay.listen.run("crm-changes")
    assert told(relay, "crm") == ["withdrawn"]
    heard(relay, Polled(position="1", sightings=[sighting("given")]))
    relay.again()
    assert told(relay, "crm") == ["withdrawn", "withdrawn"]


def test_a_source_that_was_not_heard_for_long_is_heard_before_more_consents_are_told(client: redis.Redis) -> None:
    """What is kept for withdrawals is taken for it then: it may be withdrawals that wait to be heard."""
    relay = polled_relay(client, rate=Rate(calls=4, per_seconds=60, concurrent=4))
    crowd = [relay.event("given", 1, email=f"p{number}@example.org") for number in range(9)]
    relay.drain()
    assert len(told(relay, "crm")) == 3
    relay.listen.run("crm-changes")
    assert vendor(relay).asked == [""]
    assert len(crowd) == 9


def test_a_wait_of_our_own_pauses_no_account_and_is_said(relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    """That a poll began too late is nobody's fault: withdrawals go on at once, and the log says that nothing was heard."""
    with caplog.at_level(logging.WARNING):
        heard(relay, VendorResult(outcome=Outcome.THROTTLED, reason="deadline_passed"))
    relay.event("withdrawn", 3, email=ANA)
    relay.drain()
    assert told(relay, "crm") == ["withdrawn"]
    assert [vars(each)["reason"] for each in caplog.records if each.message == "not_heard"] == ["deadline_passed"]


def test_a_source_that_cannot_be_heard_again_and_again_raises_an_alert(relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    """One failure is a warning; the fifth in a row needs a person, and being heard once starts the count anew."""
    failed = VendorResult(outcome=Outcome.UNAVAILABLE, reason="unreadable_answer")
    for _ in range(5):
        heard(relay, failed)
    heard(relay, Polled(position="1"))
    heard(relay, failed)
    said = [each.message for each in caplog.records if each.message in ("not_heard", "alert")]
    assert said == ["not_heard"] * 4 + ["alert", "not_heard"]


def test_a_long_turn_is_kept_and_stops_once_it_is_lost(relay: Relay) -> None:
    """After each page the lease is renewed and the position kept, so who takes over begins there; who lost the turn asks for no further page."""
    real = vendor(relay).poll

    def lose_the_turn(position: str, source: SourceSettings, received_at: datetime) -> PollDialogue:
        page = yield from real(position, source, received_at)
        if position == "p2":
            come_due(relay)  # its lease has run out, and another worker goes on from where it was kept
            turns.append(relay.ledger.polls.take("crm-changes", "another", 60_000))
        return page

    turns: list[Any] = []
    vendor(relay).poll = lose_the_turn  # type: ignore[method-assign]
    heard(relay, *(Polled(position=f"p{number}", more=number < 9) for number in range(2, 10)))
    assert (vendor(relay).asked, [turn.position for turn in turns]) == (["", "p2"], ["p2"])
    relay.ledger.polls.give_back(turns[0], "p7", 0)
    assert relay.ledger.polls.take("crm-changes", "next", 1000).position == "p7"  # type: ignore[union-attr]


def test_a_lease_lasts_from_the_last_page(relay: Relay) -> None:
    """Between two pages nobody else is given the turn, however long the pages before took."""
    until: list[int] = []
    real = vendor(relay).poll

    def look(position: str, source: SourceSettings, received_at: datetime) -> PollDialogue:
        until.append(int(relay.ledger.store.client.hget("cr:{s:crm-changes}:poll", "until")))
        relay.ledger.store.client.hset("cr:{s:crm-changes}:poll", "until", 1)  # the first page took almost all of the lease
        return (yield from real(position, source, received_at))

    vendor(relay).poll = look  # type: ignore[method-assign]
    heard(relay, Polled(position="2", more=True), Polled(position="3"))
    assert [each - relay.ledger.now_ms() > 50_000 for each in until] == [True, True]


def test_an_undated_withdrawal_that_was_not_accepted_is_news_again(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was seen is remembered after its news is safe: a ledger that goes away in between costs a look, not a withdrawal."""
    heard(relay, Polled(position="1", sightings=[sighting("given")]))
    page = Polled(position="1", sightings=[sighting("withdrawn")])
    with monkeypatch.context() as broken:
        broken.setattr(relay.acceptor, "accept_many", lambda _: (_ for _ in ()).throw(LedgerUnavailable("away")))
        with pytest.raises(LedgerUnavailable):
            heard(relay, page)
    assert told(relay, "mail") == []
    assert heard(relay, page) == 1
    assert told(relay, "mail") == ["withdrawn"]
