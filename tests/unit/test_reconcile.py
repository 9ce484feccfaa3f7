"""What a vendor holds against the standing: each class of drift, what is repaired by itself, and who is left alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import redis

from pipeline.domain import State
from pipeline.expectation import Drift
from pipeline.reconcile import ReconcileOptions
from pipeline.routing import Source, Trigger
from pipeline.vendors.base import Rate
from tests.support.comparing import ComparingRelay, asked_adapter, asked_destination, crm, only
from tests.support.relay import BASE_TIME, Vendor, destination, routing

ANA, BEN, PHONE = "ana@example.org", "ben@example.org", "+5511987654321"
SOURCES = (Source(name="web"), Source(name="crm-news", origin=("crm",)))


def relay_of(client: redis.Redis, *, kind: Any = None, sources: Any = SOURCES, triggers: Any = None, more: Any = None, **values: Any) -> ComparingRelay:
    """`crm` can be asked, `mail` is told as well."""
    crm = asked_destination("crm", kind or asked_adapter(), **values)
    return ComparingRelay(client, routing([crm, destination("mail")], sources=sources, triggers=triggers), **(more or {}))


@pytest.fixture
def relay(client: redis.Redis) -> ComparingRelay:
    return relay_of(client)


def happen(relay: ComparingRelay, state: str, minute: float = 1, **said: Any) -> str:
    event = relay.event(state, minute, **{"email": ANA, **said})
    relay.drain()
    return event


def states_told(vendor: Vendor) -> list[str]:
    return [call["state"] for call in vendor.calls]


# Each class

CASES = [
    ("given", "given", Drift.IN_SYNC),
    ("given", None, Drift.MISSING),
    ("given", "withdrawn", Drift.VENDOR_STRICTER),
    ("withdrawn", "given", Drift.VENDOR_LOOSER),
    ("withdrawn", "withdrawn", Drift.IN_SYNC),
    ("withdrawn", None, Drift.IN_SYNC),
]


@pytest.mark.parametrize("state,held,drift", CASES)
def test_each_state_held_is_classed(relay: ComparingRelay, state: str, held: str | None, drift: Drift) -> None:
    """What the vendor holds against what was told; nothing held is no permission."""
    happen(relay, state)
    crm(relay).sets(ANA, held)
    assert relay.found() == only(drift)


def test_an_answer_that_cannot_be_read_is_no_state(relay: ComparingRelay) -> None:
    happen(relay, "withdrawn")
    crm(relay).ask_answers = ["broken"]
    assert relay.found() == only(Drift.UNREADABLE)
    assert states_told(crm(relay)) == ["withdrawn"]


def test_who_was_never_heard_of_is_not_asked_about(relay: ComparingRelay) -> None:
    """Without a standing nothing is known, and nothing is compared, told or withdrawn."""
    crm(relay).sets(ANA, "given")
    assert relay.found() == {}
    assert crm(relay).asks == []


# What is repaired


def test_a_withdrawal_that_the_vendor_does_not_hold_is_told_again_and_recorded(relay: ComparingRelay) -> None:
    event = happen(relay, "withdrawn")
    crm(relay).sets(ANA, "given")
    assert relay.sweep() == {"vendor_looser": 1, "vendor_looser:told_again": 1}
    assert relay.deliveries(event)["crm"] == ("waiting", "repaired")
    relay.again()
    assert crm(relay).holds(ANA) == "withdrawn"
    assert relay.deliveries(event) == {"crm": ("delivered", "repaired"), "mail": ("delivered", None)}
    assert relay.found() == only(Drift.IN_SYNC)
    assert relay.figures().unaccounted == 0


@pytest.mark.parametrize("gone", ["cr:{e*}:p:*", "cr:{e*}:[ep]:*"], ids=["payload", "payload and record"])
def test_a_withdrawal_whose_event_is_gone_is_told_again_by_what_is_left(relay: ComparingRelay, gone: str) -> None:
    """The standing still holds the identifier, so the person can be named."""
    happen(relay, "withdrawn")
    for name in relay.ledger.store.client.scan_iter(match=gone):
        relay.ledger.store.client.delete(name)
    crm(relay).sets(ANA, "given")
    assert relay.sweep()["vendor_looser:told_again"] == 1
    relay.again()
    assert crm(relay).holds(ANA) == "withdrawn"
    assert relay.figures().unaccounted == 0


def test_an_identifier_that_the_event_does_not_name_is_told_by_itself(client: redis.Redis) -> None:
    """The word came to it by a link: its event names another address of the person, and telling that again would not reach this one."""
    relay = relay_of(client)
    happen(relay, "withdrawn", 5, email=BEN, phone=PHONE)
    happen(relay, "given", 1, email=ANA, phone=PHONE)
    relay.again()
    crm(relay).sets(ANA, "given")
    before = len(crm(relay).calls)
    assert relay.sweep()["vendor_looser:told_again"] == 1
    relay.again()
    assert crm(relay).holds(ANA) == "withdrawn"
    assert [call["to"] for call in crm(relay).calls[before:]] == [{"email": ANA}]
    assert relay.figures().unaccounted == 0
    assert "vendor_looser" not in relay.found()


def test_a_vendor_that_lies_is_told_again_each_time(relay: ComparingRelay) -> None:
    """It confirms and does nothing: every sweep shows it, and a withdrawal never gives up."""
    crm(relay).lies = True
    happen(relay, "withdrawn")
    crm(relay).sets(ANA, "given")
    for told in (2, 3):
        assert relay.found() == only(Drift.VENDOR_LOOSER)
        relay.again()
        assert len(crm(relay).calls) == told


def test_a_lost_consent_is_only_reported(relay: ComparingRelay) -> None:
    happen(relay, "given")
    crm(relay).sets(ANA, None)
    assert relay.sweep() == {"missing": 1}
    relay.again()
    assert states_told(crm(relay)) == ["given"]


def test_a_lost_consent_is_told_again_where_the_routing_file_says_so(client: redis.Redis) -> None:
    relay = relay_of(client, when_missing="tell")
    happen(relay, "given")
    crm(relay).sets(ANA, None)
    assert relay.sweep() == {"missing": 1, "missing:told_again": 1}
    relay.again()
    assert crm(relay).holds(ANA) == "given"


def test_a_lost_consent_is_never_made_up_from_what_is_left_of_it(client: redis.Redis) -> None:
    """Without its event nobody knows how far it reached."""
    relay = relay_of(client, when_missing="tell")
    happen(relay, "given")
    for name in relay.ledger.store.client.scan_iter(match="cr:{e*}:p:*"):
        relay.ledger.store.client.delete(name)
    crm(relay).sets(ANA, None)
    assert relay.sweep() == {"missing": 1}
    relay.again()
    assert states_told(crm(relay)) == ["given"]


def test_a_stricter_vendor_is_only_reported(relay: ComparingRelay) -> None:
    happen(relay, "given")
    crm(relay).sets(ANA, "withdrawn")
    assert relay.sweep() == {"vendor_stricter": 1}
    relay.again()
    assert states_told(relay.vendors["mail"]) == ["given"]


def test_a_stricter_vendors_word_counts_where_the_routing_file_says_so(client: redis.Redis) -> None:
    """It becomes an event of the source that speaks for it, and everybody else is told."""
    relay = relay_of(client, when_stricter="adopt")
    happen(relay, "given")
    crm(relay).sets(ANA, "withdrawn", changed_at=BASE_TIME + timedelta(minutes=30))
    assert relay.sweep() == {"vendor_stricter": 1, "vendor_stricter:adopted": 1}
    relay.drain()
    relay.again()
    assert states_told(relay.vendors["mail"]) == ["given", "withdrawn"]
    assert states_told(crm(relay)) == ["given"]
    word = relay.ledger.standings.reach([[relay.hasher.identifier_key("email", ANA)]])[0].newest("news")
    assert word is not None
    assert (word.state, word.order_us) == (State.WITHDRAWN, int((BASE_TIME + timedelta(minutes=30)).timestamp() * 1_000_000) + 999_999)
    view = relay.ledger.event(word.event_id)
    assert view is not None
    assert view["source"] == "crm-news"
    assert relay.found() == only(Drift.IN_SYNC)


@pytest.mark.parametrize("later_us,adopted", [(400_000, True), (1_000_000, False)])
def test_a_change_dated_by_the_second_may_be_any_moment_of_it(client: redis.Redis, later_us: int, adopted: bool) -> None:
    """A consent of the same second may have come before; one of the next has come after."""
    relay = relay_of(client, when_stricter="adopt")
    happen(relay, "given", 10 + later_us / 60_000_000)
    crm(relay).sets(ANA, "withdrawn", changed_at=BASE_TIME + timedelta(minutes=10))
    assert relay.sweep().get("vendor_stricter:adopted", 0) == int(adopted)


def test_an_adopted_word_without_a_date_is_as_old_as_our_last_telling(client: redis.Redis) -> None:
    """Never as new as the reading: a consent given after the telling stands."""
    relay = relay_of(client, when_stricter="adopt")
    first = happen(relay, "given")
    told_ms = relay.ledger.events.load([first])[0].results["crm"].updated_ms  # type: ignore[union-attr]
    crm(relay).sets(ANA, "withdrawn")
    assert relay.sweep()["vendor_stricter:adopted"] == 1
    word = relay.ledger.standings.reach([[relay.hasher.identifier_key("email", ANA)]])[0].newest("news")
    assert word is not None
    assert word.order_us == told_ms * 1000


def test_a_vendors_word_that_is_older_than_the_consent_is_not_adopted(client: redis.Redis) -> None:
    """The vendor never took the consent: that is no word of the person against it."""
    relay = relay_of(client, when_stricter="adopt")
    happen(relay, "given", 10)
    crm(relay).sets(ANA, "withdrawn", changed_at=BASE_TIME)
    assert relay.sweep() == {"vendor_stricter": 1}


def test_a_word_adopted_twice_is_one_event(client: redis.Redis) -> None:
    relay = relay_of(client, when_stricter="adopt")
    happen(relay, "given")
    crm(relay).sets(ANA, "withdrawn", changed_at=BASE_TIME + timedelta(minutes=30))
    relay.sweep()
    accepted = relay.ledger.events.counts()["accepted"]
    relay.sweep()
    assert relay.ledger.events.counts()["accepted"] == accepted == 2


# Who is left alone


@pytest.mark.parametrize("answer", [503, "lost"])
def test_unfinished_work_is_pending(relay: ComparingRelay, answer: Any) -> None:
    """Whoever is still to be told, or may have been, is not compared, and nobody is asked."""
    crm(relay).answers = [answer]
    happen(relay, "withdrawn")
    crm(relay).sets(ANA, "given")
    assert relay.found() == only(Drift.PENDING)
    assert crm(relay).asks == []


def test_a_late_write_that_may_come_is_pending(relay: ComparingRelay) -> None:
    """What is held now says little while an older request may still arrive."""
    crm(relay).answers = ["late"]
    relay.event("given", 1, email=ANA)
    relay.drain()
    relay.event("withdrawn", 2, email=ANA)
    relay.drain()
    assert relay.found() == only(Drift.PENDING)


def test_what_was_told_a_moment_ago_is_pending(client: redis.Redis) -> None:
    """Some vendors carry out later what they confirm at once."""
    relay = relay_of(client, more={"settle_ms": 60_000})
    happen(relay, "withdrawn")
    crm(relay).sets(ANA, "given")
    assert relay.found() == only(Drift.PENDING)


def test_a_dead_withdrawal_is_pending(relay: ComparingRelay) -> None:
    """A person has to look at it; comparing adds nothing."""
    crm(relay).answers = [400]
    happen(relay, "withdrawn")
    crm(relay).sets(ANA, "given")
    assert relay.found() == only(Drift.PENDING)


def test_a_refusal_is_not_repeated_until_something_changes(relay: ComparingRelay) -> None:
    """What the vendor refuses for good is parked, even after a person has discarded the dead letter; another identifier is another matter."""
    happen(relay, "withdrawn", 1)
    crm(relay).sets(ANA, "given")
    relay.sweep()
    crm(relay).answers = [400]
    relay.again()
    assert relay.found() == only(Drift.PENDING)
    letters, _ = relay.ledger.letters.by_id([letter["delivery_id"] for letter in relay.ledger.letters.page(_all()).items])
    relay.ledger.letters.discard(letters, "they cannot", relay.ledger.now_ms())
    told = len(crm(relay).calls)
    assert relay.sweep() == {"vendor_looser": 1}
    relay.again()
    assert len(crm(relay).calls) == told
    happen(relay, "withdrawn", 2)
    crm(relay).sets(ANA, "given")
    assert relay.sweep()["vendor_looser:told_again"] == 1


def _all() -> Any:
    from pipeline.ledger.letters import LetterFilter

    return LetterFilter()


def test_a_consent_that_awaits_its_confirmation_is_pending(client: redis.Redis) -> None:
    """Double opt-in: the person has said yes, the vendor waits for his click, and nothing has drifted."""
    relay = relay_of(client, kind=asked_adapter(double_opt_in=True))
    event = relay.event("given", 1, email=ANA)
    relay.step()
    from pipeline.ledger.deliveries import Row, Settlement, Verb

    leased = relay.ledger.deliveries.claim("crm", "given", "t", 1000, [event])
    assert leased
    relay.ledger.deliveries.settle("crm", "given", "t", [Settlement(event_id=event, verb=Verb.WAIT, at_ms=-3_600_000, row=Row(awaiting=True))])
    assert relay.found() == only(Drift.PENDING)
    assert crm(relay).asks == []


def test_a_consent_that_was_never_to_go_there_is_not_missed(client: redis.Redis) -> None:
    """Its trigger left the destination out, so what is held there says nothing."""
    triggers = [Trigger(deliver_to=("mail",)), Trigger(deliver_to=("crm",), states=frozenset({State.WITHDRAWN}))]
    relay = relay_of(client, triggers=triggers)
    happen(relay, "given")
    assert relay.found() == {}


def test_where_a_linked_identifier_says_the_opposite_nobody_is_told(client: redis.Redis) -> None:
    """A phone shared by two people withdraws with one of them: whether the other is meant is not guessed."""
    relay = relay_of(client)
    happen(relay, "given", 1, email=ANA, phone=PHONE)
    happen(relay, "withdrawn", 2, email=BEN, phone=PHONE)
    calls = len(crm(relay).calls)
    crm(relay).sets(ANA, "given")
    relay.sweep()
    relay.again()
    assert len(crm(relay).calls) == calls


# One state for a contact


def contact_relay(client: redis.Redis, **values: Any) -> ComparingRelay:
    return relay_of(client, kind=asked_adapter(scope="contact"), **values)


def test_one_state_for_a_contact_is_compared_once(client: redis.Redis) -> None:
    """A withdrawal of any purpose stops everything there, so a consent for another is not missed."""
    relay = contact_relay(client)
    happen(relay, "given", 1, purpose="sms")
    happen(relay, "withdrawn", 2, purpose="news")
    assert crm(relay).holds(ANA) == "withdrawn"
    assert relay.found() == only(Drift.IN_SYNC)
    crm(relay).sets(ANA, "given")
    assert relay.sweep() == {"vendor_looser": 1, "vendor_looser:told_again": 1}
    relay.again()
    assert crm(relay).holds(ANA) == "withdrawn"


def test_a_purpose_that_keeps_the_contact_is_what_counts(client: redis.Redis) -> None:
    """The written rule lets the contact live on: a withdrawal of another purpose is no reason to call it too loose."""
    relay = contact_relay(client, keep_contact_for=frozenset({"sms"}))
    happen(relay, "given", 1, purpose="sms")
    happen(relay, "withdrawn", 2, purpose="news")
    assert crm(relay).holds(ANA) == "given"
    assert relay.found() == only(Drift.IN_SYNC)
    happen(relay, "withdrawn", 3, purpose="sms")
    crm(relay).sets(ANA, "given")
    assert relay.found() == only(Drift.VENDOR_LOOSER)


def test_a_stricter_contact_withdraws_every_purpose_of_it(client: redis.Redis) -> None:
    relay = contact_relay(client, when_stricter="adopt")
    for purpose in ("news", "sms"):
        happen(relay, "given", 1, purpose=purpose)
    crm(relay).sets(ANA, "withdrawn")
    relay.sweep()
    relay.drain()
    reach = relay.ledger.standings.reach([[relay.hasher.identifier_key("email", ANA)]])[0]
    assert {purpose: reach.newest(purpose).state for purpose in ("news", "sms")} == dict.fromkeys(("news", "sms"), State.WITHDRAWN)  # type: ignore[union-attr]


# While it reads


def test_a_withdrawal_accepted_while_the_vendor_is_asked_wins(client: redis.Redis) -> None:
    """The verdict on the consent is dropped, and the withdrawal is told by its own delivery, after the claim has ended."""
    relay = relay_of(client, when_missing="tell")
    happen(relay, "given")
    crm(relay).sets(ANA, None)
    crm(relay).on_ask = lambda: _accept_and_try(relay)
    assert relay.found() == only(Drift.PENDING)
    assert states_told(crm(relay)) == ["given"]
    crm(relay).on_ask = lambda: None
    relay.again(3)
    assert crm(relay).holds(ANA) == "withdrawn"


def _accept_and_try(relay: ComparingRelay) -> None:
    """A withdrawal comes, and a worker tries to tell it while the contact is claimed."""
    relay.event("withdrawn", 9, email=ANA)
    relay.drain()
    assert states_told(crm(relay)) == ["given"]


def test_a_consent_accepted_while_the_vendor_is_asked_is_not_overtaken(client: redis.Redis) -> None:
    """A stricter state that was read before a newer consent came is not adopted."""
    relay = relay_of(client, when_stricter="adopt")
    happen(relay, "given")
    crm(relay).sets(ANA, "withdrawn")
    crm(relay).on_ask = lambda: _accept(relay, "given")
    assert relay.found() == only(Drift.PENDING)
    crm(relay).on_ask = lambda: None
    relay.drain()
    relay.again(2)
    assert crm(relay).holds(ANA) == "given"


def _accept(relay: ComparingRelay, state: str) -> None:
    relay.event(state, 9, email=ANA)


def test_whom_a_worker_is_talking_about_is_pending(relay: ComparingRelay) -> None:
    happen(relay, "withdrawn")
    crm(relay).sets(ANA, "given")
    from pipeline.limits import traffic_of

    traffic = traffic_of(relay.rules.destinations["crm"], "withdrawn", replace(relay.limits, total_timeout_seconds=30.0))
    relay.ledger.accounts.admit(traffic, "withdrawn", "worker", 0, [[relay.hasher.identifier_key("email", ANA)]])
    assert relay.found() == only(Drift.PENDING)
    assert crm(relay).asks == []


# Turns


def people(relay: ComparingRelay, count: int) -> None:
    for number in range(count):
        relay.event("withdrawn", 1, email=f"person-{number}@example.org")
    relay.drain()


def test_a_sweep_that_was_cut_short_goes_on_where_it_was(client: redis.Redis) -> None:
    """A worker that dies in the middle of a step costs the rest of that step: everybody is compared, and nobody counted twice."""
    relay = relay_of(client, rate=Rate(concurrent=1))
    people(relay, 60)

    def die() -> None:
        if len(crm(relay).asks) == 40:
            raise KeyboardInterrupt

    crm(relay).on_ask = die
    with pytest.raises(KeyboardInterrupt):
        relay.sweep()
    crm(relay).on_ask = lambda: None
    figures = relay.ledger.sweeps.figures("crm")
    assert (figures.mode, figures.running) == ("full", {"in_sync": 32})
    client.hset("cr:{d:crm}:sweep", mapping={"until": 0})
    assert relay.found() == only(Drift.IN_SYNC, 60)
    assert {ask[0] for ask in crm(relay).asks} == {f"person-{number}@example.org" for number in range(60)}
    assert len(crm(relay).asks) == 68


def test_one_worker_at_a_time_compares_a_destination(relay: ComparingRelay) -> None:
    people(relay, 1)
    reached = []
    crm(relay).on_ask = lambda: reached.append(relay.reconcile.run("crm", full=True))
    relay.sweep()
    assert reached == [False]


def test_it_takes_no_more_than_its_share_of_the_rate(client: redis.Redis) -> None:
    """Two of twenty calls in a minute: then the turn ends, and the next one is due when there is room again."""
    relay = relay_of(client, rate=Rate(calls=20, per_seconds=60, concurrent=4), more={"share": 0.1})
    for number in range(5):
        relay.event("withdrawn", 1, email=f"person-{number}@example.org")
    relay.drain()
    relay.again(3)
    assert relay.reconcile.run("crm", full=True)
    assert len(crm(relay).asks) == 2
    figures = relay.ledger.sweeps.figures("crm")
    assert figures.mode == "full"
    assert 50_000 < figures.due_ms - relay.ledger.now_ms() <= 61_000
    assert not relay.reconcile.run("crm")


def test_a_share_less_than_one_question_is_asked_more_seldom(client: redis.Redis) -> None:
    relay = relay_of(client, rate=Rate(calls=5, per_seconds=1, concurrent=4), more={"share": 0.1})
    shared = relay.asker.shared(relay.rules.destinations["crm"])
    assert (shared.calls, shared.per_ms, shared.concurrent) == (1, 2000, 1)


def test_a_vendor_that_is_throttled_is_left_alone(relay: ComparingRelay) -> None:
    """It says when to come back, for everybody; whom it was asked about is asked about again."""
    people(relay, 2)
    crm(relay).ask_answers = [429]
    relay.reconcile.run("crm", full=True)
    figures = relay.ledger.sweeps.figures("crm")
    assert figures.running == {}
    assert 4000 < figures.due_ms - relay.ledger.now_ms() <= 5000
    relay.ledger.store.client.delete("cr:{a:crm}:gate")
    assert relay.found() == only(Drift.IN_SYNC, 2)


def test_a_sample_asks_about_so_many_and_the_next_goes_on(client: redis.Redis) -> None:
    """Two samples of two meet four people; what they find is counted."""
    options = ReconcileOptions(sample_size=2, sample_every_seconds=0.001, full_every_seconds=0)
    relay = relay_of(client, rate=Rate(concurrent=1), more={"options": options})
    people(relay, 6)
    for asked in (2, 4):
        client.hset("cr:{d:crm}:sweep", mapping={"due": 0})
        assert relay.reconcile.run("crm")
        assert len({ask[0] for ask in crm(relay).asks}) == asked
    figures = relay.ledger.sweeps.figures("crm")
    assert (figures.last_mode, figures.last, figures.total) == ("sample", {"in_sync": 2}, {"in_sync": 4})


def test_a_sample_that_meets_nobody_ends_too(client: redis.Redis) -> None:
    """Three looks in a ledger of people whom this destination was never told of, not all of it."""
    options = ReconcileOptions(sample_size=3, sample_every_seconds=60, full_every_seconds=0)
    relay = relay_of(
        client, triggers=[Trigger(deliver_to=("mail",)), Trigger(deliver_to=("crm",), states=frozenset({State.WITHDRAWN}))], more={"options": options}
    )
    for number in range(150):
        relay.event("given", 1, email=f"person-{number}@example.org")
    relay.drain()
    assert relay.reconcile.run("crm")
    figures = relay.ledger.sweeps.figures("crm")
    assert (figures.last_mode, figures.mode, crm(relay).asks) == ("sample", "", [])
    held = client.hmget("cr:{d:crm}:sweep", "rolling", "rest")
    assert held[0] != b"-1" or held[1]


def test_beat_asks_for_what_is_due_and_for_no_more(client: redis.Redis) -> None:
    """Destinations that cannot be asked, or are disabled or paused, are left out; a pass that has ended waits for the next."""
    relay = relay_of(client)
    assert relay.reconcile.push_due() == ["crm"]
    relay.drain()
    assert relay.reconcile.push_due() == []
    relay.ledger.deliveries.pause("crm", paused=True)
    assert not relay.reconcile.run("crm", full=True)
    relay.rules = replace(relay.rules, destinations={**relay.rules.destinations, "crm": replace(relay.rules.destinations["crm"], enabled=False)})
    assert relay.reconcile.askable() == []


def test_another_run_of_the_server_makes_the_cursor_meaningless(client: redis.Redis) -> None:
    """A pass under way begins anew, as the order in which names are kept is another one."""
    relay = relay_of(client, rate=Rate(concurrent=1))
    people(relay, 3)
    client.hset("cr:{d:crm}:sweep", mapping={"mode": "full", "cursor": 12345, "pending": "", "left": -1, "server": "another", "n:in_sync": 7})
    assert relay.found() == only(Drift.IN_SYNC, 3)


def test_nothing_personal_is_kept_or_logged(relay: ComparingRelay, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    happen(relay, "withdrawn")
    crm(relay).sets(ANA, "given")
    relay.sweep()
    relay.again()
    stored = [
        value
        for name in relay.ledger.store.client.keys("cr:{d:*}:*")
        if b"sweep" in name or b"parked" in name
        for value in [repr(relay.ledger.store.client.hgetall(name))]
    ]
    assert stored
    assert not [text for text in (*stored, caplog.text) if "ana@" in text]
