"""Erasing a person: what is personal goes, the fence stays, and whoever is at work at the same time brings nothing back and tells no `given`."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Self

import pytest
import redis

from pipeline.backfill import Backfill
from pipeline.desk import Desk
from pipeline.domain import Outcome, Subject, VendorResult
from pipeline.envelope import open_if_readable
from pipeline.erasing import Erasing, Found, NotOnePerson
from pipeline.identifiers import normalise_subject
from pipeline.ledger.deliveries import DeadLetter, Row
from pipeline.ledger.erasures import Begun
from pipeline.retelling import Retelling
from pipeline.routing import Source
from pipeline.vendors.base import VendorRequest
from tests.support.parts import everything_stored
from tests.support.relay import BASE_TIME, PlainAdapter, Relay, destination, routing

ANA, PHONE = "ana@example.org", "+5551900000001"
SOURCES = (Source(name="web"), Source(name="mute", links=False))


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    return Relay(client, routing([destination("mail")], sources=SOURCES))


def erasing(relay: Relay) -> Erasing:
    return Erasing(relay.ledger, relay.vault, lambda: relay.rules)


def find(relay: Relay, *, with_linked: bool = True, **subject: str) -> Found:
    return erasing(relay).find(relay.hasher.identifier_keys(normalise_subject(subject)).values(), with_linked=with_linked)


def erase(relay: Relay, **subject: str) -> Begun:
    """All of it that can be done now."""
    eraser = erasing(relay)
    return eraser.advance(eraser.begin([eraser.close(find(relay, **subject))])[0])


def personal(client: redis.Redis) -> list[tuple[str, str]]:
    """Where something is sealed, or links stand."""
    found = [(name.decode(), "") for name in client.keys("cr:{e*}:p:*")]
    for name in client.keys("cr:{i*}:i:*"):
        found += [(name.decode(), field.decode()) for field in client.hkeys(name) if field == b"v" or field.startswith(b"l:")]
    return sorted(found + [(name.decode(), "") for name in client.keys("cr:{i*}:m:*")])


def status(relay: Relay, **subject: str) -> list[tuple[str, str]]:
    desk = Desk(relay.ledger, relay.vault, lambda: relay.rules, relay.hasher)
    return [(each["purpose"], each["state"]) for each in desk.subject(Subject(**subject))["purposes"]]


def event_status(relay: Relay, event_id: str) -> tuple[str, bool]:
    view = relay.ledger.event(event_id)
    assert view is not None
    return view["status"], view["complete"]


def later(relay: Relay) -> float:
    """A minute that comes after any erasure until now."""
    return (relay.ledger.now() - BASE_TIME).total_seconds() / 60 + 1


def test_what_is_personal_goes_and_the_fence_stays(relay: Relay, client: redis.Redis) -> None:
    """Over all linked identifiers; nobody else loses anything; events say `erased`, purposes and states stay, and an older `given` still loses."""
    first = relay.event("given", 1, email=ANA, phone=PHONE)
    second = relay.event("withdrawn", 5, email=ANA)
    relay.event("given", 1, purpose="sms", source="mute", phone=PHONE, external_id="C-1")
    relay.drain()
    others = relay.event("given", 1, email="ben@example.org", phone="+5551900000002")
    relay.drain()
    kept = len([each for each in personal(client) if others in each[0]])
    begun = erase(relay, email=ANA)
    assert begun.event_ids == ()
    assert len(personal(client)) == kept + 2 + 2  # a payload, two values, two links: those of the other person
    assert [event_status(relay, each) for each in (first, second)] == [("erased", True)] * 2
    assert event_status(relay, others) == ("accepted", True)
    assert status(relay, email=ANA) == status(relay, phone=PHONE) == [("news", "withdrawn"), ("sms", "given")]
    calls = len(relay.vendors["mail"].calls)
    for minute, subject in ((2, {"email": ANA}), (3, {"phone": PHONE})):
        late = relay.accept("given", minute, **subject)
        relay.drain()
        assert (late.status, event_status(relay, late.event_id)) == ("superseded", ("erased", True))
    assert len(personal(client)) == kept + 4
    assert len(relay.vendors["mail"].calls) == calls
    assert relay.figures().unaccounted == 0
    assert erasing(relay).go_on() == 0


def test_a_later_word_of_the_person_is_accepted_as_usual(relay: Relay, client: redis.Redis) -> None:
    """It is told, and its values are kept and linked; erasing again takes them too."""
    relay.event("withdrawn", 1, email=ANA, phone=PHONE)
    relay.drain()
    erase(relay, email=ANA)
    assert personal(client) == []
    relay.clock_offset = timedelta(hours=1)
    again = relay.accept("given", later(relay), email=ANA, phone=PHONE)
    relay.drain()
    assert (again.status, event_status(relay, again.event_id)) == ("accepted", ("accepted", True))
    assert relay.vendors["mail"].held[ANA, "news"] == "given"
    assert len(personal(client)) == 5
    assert find(relay, phone=PHONE).erasure.keys != find(relay, phone=PHONE, with_linked=False).erasure.keys


def test_erasing_twice_changes_nothing_more(relay: Relay, client: redis.Redis) -> None:
    """Idempotent: only the time of the last erasure moves on."""
    relay.event("withdrawn", 1, email=ANA, phone=PHONE)
    relay.drain()
    erase(relay, email=ANA)

    def stored() -> dict[bytes, object]:
        found = everything_stored(client)
        return {
            name: {key: each for key, each in value.items() if key != b"x"} if isinstance(value, dict) else value
            for name, value in found.items()
            if b"meta" not in name
        }

    before = stored()
    for subject in ({"email": ANA}, {"phone": PHONE}, {"email": ANA, "phone": PHONE}):
        assert erase(relay, **subject).event_ids == ()
    assert stored() == before


def test_untold_withdrawals_are_named_and_erased_when_told(relay: Relay, client: redis.Redis) -> None:
    """Waiting, dead or not fanned out: `find` names them; noted, each goes when it is told or discarded, and then the identifiers."""
    relay.vendors["mail"].answers = [503, 400]
    waits, dies = relay.event("withdrawn", 1, email=ANA), relay.event("withdrawn", 1, purpose="sms", email=ANA, phone=PHONE)
    relay.drain()
    fresh = relay.event("withdrawn", 2, phone=PHONE)
    found = find(relay, email=ANA)
    assert sorted(found.untold) == sorted([f"{waits}.mail", f"{dies}.mail", fresh])
    begun = erase(relay, email=ANA)
    assert sorted(begun.event_ids) == sorted([waits, dies, fresh])
    assert len(personal(client)) > 3
    relay.again(2)
    assert erasing(relay).go_on() == 1
    assert not client.exists(relay.ledger.keys.payload(waits), relay.ledger.keys.payload(fresh))
    assert client.exists(relay.ledger.keys.payload(dies))
    desk = Desk(relay.ledger, relay.vault, lambda: relay.rules, relay.hasher)
    assert desk.discard([f"{dies}.mail"], "told by phone") == [f"{dies}.mail"]
    assert erasing(relay).go_on() == 0
    assert personal(client) == []
    assert relay.vendors["mail"].held[ANA, "news"] == "withdrawn"
    assert relay.figures().unaccounted == 0


@pytest.mark.parametrize("stage", ["accepted", "planned", "waiting", "dead", "awaiting"])
def test_unfinished_given_end_without_being_told(client: redis.Redis, stage: str) -> None:
    """Wherever it stood it ends as skipped, reason `erased`, and is never told again; the books balance."""
    relay = Relay(client, routing([destination("mail", Unconfirmed if stage == "awaiting" else PlainAdapter)], sources=SOURCES))
    relay.vendors["mail"].answers = {"waiting": [503], "dead": [400]}.get(stage, [])
    event_id = relay.event("given", 1, email=ANA)
    if stage == "planned":
        relay.step()
    elif stage != "accepted":
        relay.drain()
    calls = len(relay.vendors["mail"].calls)
    assert erase(relay, email=ANA).event_ids == ()
    relay.drain()
    relay.again(2)
    assert relay.deliveries(event_id) == ({} if stage == "accepted" else {"mail": ("skipped", "erased")})
    assert event_status(relay, event_id) == ("erased", True)
    assert len(relay.vendors["mail"].calls) == calls
    assert (personal(client), relay.figures().unaccounted) == ([], 0)
    desk = Desk(relay.ledger, relay.vault, lambda: relay.rules, relay.hasher)
    assert desk.replay([f"{event_id}.mail"]).replayed == []


class Unconfirmed(PlainAdapter):
    """A vendor whose people do not confirm."""

    def tell(self, instructions):
        yield VendorRequest(operation="tell", path="/tell", body=b"[]")
        return [VendorResult(outcome=Outcome.PENDING_CONFIRMATION)] * len(instructions)


class Interleaved:
    """Erases a person at the n-th command batch that reaches the ledger, and counts the batches."""

    def __init__(self, relay: Relay, at: int, act: Callable[[], object]) -> None:
        self.count, self._at, self._act, self._store = 0, at, act, relay.ledger.store
        self._run = self._store.round_trip

    def __enter__(self) -> Self:
        self._store.round_trip = self._counted
        return self

    def __exit__(self, *_: object) -> None:
        self._store.round_trip = self._run

    def _counted(self, commands, **options):
        self.count += 1
        if self.count == self._at:
            self._store.round_trip = self._run
            self._act()
            self._store.round_trip = self._counted
        return self._run(commands, **options)


def settle_down(relay: Relay, subject: dict[str, str]) -> None:
    """Whatever was lost on the way is found, and told if it still is to be; then nothing of the person is left."""
    time.sleep(0.04)
    relay.hurry(pushed=True)
    relay.again(2)
    assert erasing(relay).go_on() == 0
    assert personal(relay.ledger.store.client) == [], subject
    assert relay.figures().unaccounted == 0


def person(n: int) -> dict[str, str]:
    return {"email": f"p{n}@example.org", "phone": f"+55519{n:08d}"}


def given_to(relay: Relay, email: str) -> int:
    """How often the vendor was told `given` of a person."""
    return sum(call["state"] == "given" and call["to"].get("email") == email for call in relay.vendors["mail"].calls)


@pytest.mark.parametrize("state", ["given", "withdrawn"])
def test_erasing_between_any_two_steps_of_an_event(relay: Relay, state: str) -> None:
    """Before each round trip of accepting, fanning out, leasing, judging, telling and settling: nothing personal is left, and no `given` is told once the erasure is done."""
    at, in_hand = 0, 0
    while True:
        at += 1
        subject = person(at)
        relay.event("withdrawn", 0, purpose="sms", **subject)
        relay.drain()
        done: list[tuple[Begun, int]] = []
        with Interleaved(relay, at, lambda: done.append((erase(relay, email=subject["email"]), given_to(relay, subject["email"])))) as steps:  # noqa: B023 - used up at once
            event_id = relay.event(state, 1, **subject)
            relay.drain()
        if steps.count < at:
            break
        settle_down(relay, subject)
        assert event_status(relay, event_id) == ("erased", True)
        (begun, calls) = done[0]
        if state == "withdrawn":
            assert relay.vendors["mail"].held[subject["email"], "news"] == "withdrawn", f"at {at}"
        elif begun.event_ids:
            in_hand += 1
        else:
            assert given_to(relay, subject["email"]) == calls, f"at {at}"
    assert at > 10
    assert in_hand < at / 2


@pytest.mark.parametrize("state", ["given", "withdrawn"])
@pytest.mark.parametrize("way", ["backfill", "told again"])
def test_erasing_between_any_two_steps_of_making_payloads_anew(client: redis.Redis, state: str, way: str) -> None:
    """Backfilling, and telling again what stands, make an event anew that has expired; of an erased person none stays, and no `given` is told."""
    at = 0
    while True:
        at += 1
        client.flushall()  # backfilling takes steps for everybody whom the ledger knows
        relay = Relay(client, routing([destination("mail"), destination("new")], sources=SOURCES))
        relay.rules = routing([destination("mail")], sources=SOURCES)
        subject = person(at)
        event_id = relay.event(state, 1, **subject)
        relay.drain()
        event = open_if_readable(relay.ledger.events.load([event_id])[0], relay.vault)
        assert event is not None
        client.delete(relay.ledger.keys.payload(event_id), relay.ledger.keys.record(event_id))
        relay.rules = routing([destination("mail"), destination("new")], sources=SOURCES)
        done: list[Begun] = []
        with Interleaved(relay, at, lambda: done.append(erase(relay, email=subject["email"]))) as steps:  # noqa: B023 - used up at once
            if way == "backfill":
                Backfill(relay.ledger, relay.vault, lambda: relay.rules).run("new")  # noqa: B023 - used up at once
            else:
                Retelling(relay.ledger, relay.vault).tell_again(event.word, event, "new", "repaired")
        calls = len(relay.vendors["new"].calls)
        if steps.count < at:
            break
        settle_down(relay, subject)
        assert state == "withdrawn" or len(relay.vendors["new"].calls) == calls, f"at {at}"
    assert at > 5


def test_a_given_in_hand_is_waited_for(relay: Relay, client: redis.Redis) -> None:
    """While a vendor is being told, the erasure is not done: what corrects the `given` must stay readable. Its reference is not kept."""
    seen: list[Begun] = []
    relay.exchange.before = lambda _: seen.append(erase(relay, email=ANA))
    relay.vendors["mail"].answers = [(200, {"reference": "member-7"})]
    event_id = relay.event("given", 1, email=ANA)
    relay.drain()
    assert [each.event_ids for each in seen] == [(event_id,)]
    assert erasing(relay).go_on() == 0
    assert personal(client) == []
    assert relay.deliveries(event_id)["mail"][0] == "delivered"
    assert b"member-7" not in b"".join(client.hvals(relay.ledger.keys.record(event_id)))


def test_a_withdrawal_that_has_to_be_told_once_more_is_dead(relay: Relay) -> None:
    """A stale write of a process that slept through the erasure cannot be corrected any more: a person is told, and can discard it."""
    withdrawn = relay.event("withdrawn", 1, email=ANA)
    relay.drain()
    erase(relay, email=ANA)
    letter = DeadLetter(event_id=withdrawn, destination="mail", row=Row(state="withdrawn"), died_ms=relay.ledger.clock_ms())
    relay.ledger.letters.reopen([letter], only_dead=False, reason="late_write")
    relay.again()
    assert relay.deliveries(withdrawn) == {"mail": ("dead", "erased")}
    desk = Desk(relay.ledger, relay.vault, lambda: relay.rules, relay.hasher)
    assert desk.discard([f"{withdrawn}.mail"], "told by phone") == [f"{withdrawn}.mail"]
    assert event_status(relay, withdrawn) == ("erased", True)


@pytest.mark.parametrize("state", ["given", "withdrawn"])
@pytest.mark.parametrize("stage", ["accepted", "waiting", "dead", "told"])
def test_what_comes_while_a_person_is_looked_for_is_erased_too(relay: Relay, client: redis.Redis, state: str, stage: str) -> None:
    """Said before, and posted after the walk, wherever it has got to: a `given` is not told any more, a withdrawal is told first, and nothing of either is left."""
    relay.event("given", 1, email=ANA, phone=PHONE)
    relay.drain()
    found = find(relay, email=ANA)
    relay.vendors["mail"].answers = {"waiting": [503], "dead": [400]}.get(stage, [])
    late = relay.event(state, 2, email=ANA)
    if stage != "accepted":
        relay.drain()
    calls = len(relay.vendors["mail"].calls)
    eraser = erasing(relay)
    closed = eraser.close(found)
    assert late in closed.events
    begun = eraser.advance(eraser.begin([closed])[0])
    has_to_be_told = state == "withdrawn" and stage != "told"
    assert begun.event_ids == ((late,) if has_to_be_told else ())
    relay.drain()
    relay.again(2)
    if has_to_be_told and stage == "dead":
        desk = Desk(relay.ledger, relay.vault, lambda: relay.rules, relay.hasher)
        assert desk.discard([f"{late}.mail"], "told by phone") == [f"{late}.mail"]
    assert erasing(relay).go_on() == 0
    assert event_status(relay, late) == ("erased", True)
    assert len(relay.vendors["mail"].calls) == calls + (has_to_be_told and stage != "dead")
    assert (personal(client), relay.figures().unaccounted) == ([], 0)


def test_whoever_is_named_together_with_a_person_meanwhile_is_not_erased_unseen(relay: Relay) -> None:
    """What was not shown is not erased: it is refused, looked for again, and then goes. Where only those that are given go, it stands in the way of nothing."""
    relay.event("given", 1, email=ANA)
    relay.drain()
    found, alone = find(relay, email=ANA), find(relay, with_linked=False, email=ANA)
    late = relay.event("given", 2, email=ANA, phone=PHONE)
    relay.drain()
    eraser = erasing(relay)
    with pytest.raises(NotOnePerson, match="erase again"):
        eraser.close(found)
    assert late in eraser.close(alone, with_linked=False).events
    assert event_status(relay, late) == ("accepted", True)
    assert len(find(relay, email=ANA).erasure.keys) == 2


def test_a_given_that_a_worker_is_about_to_tell_is_not_told(relay: Relay, client: redis.Redis) -> None:
    """Leased and opened before the erasure: the last look before the call finds the mark."""
    event_id, take, left = relay.event("given", 1, email=ANA), relay.ledger.turns.take, []

    def after_erasing(*arguments, **options):
        left.append(erase(relay, email=ANA).event_ids)
        return take(*arguments, **options)

    relay.ledger.turns.take = after_erasing
    relay.drain()
    relay.ledger.turns.take = take
    assert left[0] == (event_id,), "somebody has it in hand"
    assert relay.vendors["mail"].calls == []
    assert relay.deliveries(event_id) == {"mail": ("skipped", "erased")}
    assert (erasing(relay).go_on(), personal(client)) == (0, [])


def test_a_given_posted_again_brings_nothing_back(relay: Relay, client: redis.Redis) -> None:
    """The same post as before the erasure is a duplicate, and teaches nothing."""
    first = relay.accept("given", 1, key="one", email=ANA, phone=PHONE)
    relay.drain()
    erase(relay, phone=PHONE)
    again = relay.accept("given", 1, key="one", email=ANA, phone=PHONE)
    relay.drain()
    assert (again.event_id, again.status) == (first.event_id, "duplicate")
    assert personal(client) == []


def test_identifiers_of_several_people_are_refused(relay: Relay, client: redis.Redis) -> None:
    """More identifiers than one person has are not erased by one command; only those that were named are, if asked for."""
    for n in range(40):
        relay.event("withdrawn", n, email=f"p{n}@example.org", phone=PHONE)
    relay.drain()
    before = everything_stored(client)
    with pytest.raises(NotOnePerson, match="only-given"):
        find(relay, phone=PHONE)
    assert everything_stored(client) == before
    found = find(relay, email="p3@example.org", with_linked=False)
    assert len(found.events) == 1
    eraser = erasing(relay)
    assert eraser.advance(eraser.begin([found])[0]).event_ids == ()
    (key,) = found.erasure.keys
    assert client.hkeys(relay.ledger.keys.identifier(key)) == [b"p:news", b"x"]
    assert not any(f"l:{key}".encode() in client.hkeys(name) for name in client.keys("cr:{i*}:i:*"))
    assert len(personal(client)) == 39 + 40 + 2 * 39


def test_former_erasures_are_carried_out_again(relay: Relay, client: redis.Redis) -> None:
    """A ledger that came back from before them: what was said until each goes, what was said since stays, and untold withdrawals are told first."""
    for n in range(5):
        relay.event("withdrawn" if n else "given", 1, email=f"p{n}@example.org", phone=f"+555190000000{n}")
    relay.drain()
    founds = [find(relay, email=f"p{n}@example.org") for n in range(3)]
    relay.clock_offset = timedelta(hours=1)
    since = relay.event("given", later(relay), email="p1@example.org")
    waits = relay.event("withdrawn", 2, purpose="sms", email="p2@example.org")
    eraser = erasing(relay)
    assert eraser.again([each.erasure for each in founds]) == 1
    relay.drain()
    assert eraser.go_on() == 0
    assert event_status(relay, since) == ("accepted", True)
    assert event_status(relay, waits) == ("erased", True)
    assert client.exists(relay.ledger.keys.payload(since))
    assert len([1 for name, field in personal(client) if field == ""]) == 3
    assert status(relay, email="p0@example.org") == [("news", "given")]


def test_many_erase_and_post_at_the_same_time(client: redis.Redis) -> None:
    """Two erase the same person over and over while events of theirs are accepted and told: no error, the books balance, and in the end one more erasure leaves nothing."""
    relay = Relay(client, routing([destination("mail")], sources=SOURCES), seconds=5)
    errors: list[Exception] = []

    def erases() -> None:
        try:
            for _ in range(8):
                with contextlib.suppress(NotOnePerson):  # named together with the phone since it was looked for
                    erase(relay, email=ANA)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=erases) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(40):
        relay.event("withdrawn" if n % 3 else "given", n, email=ANA, **({"phone": PHONE} if n % 2 else {}))
        relay.drain()
    for thread in threads:
        thread.join(60)
    relay.again(2)
    erase(relay, email=ANA)
    assert errors == []
    assert personal(client) == []
    assert relay.vendors["mail"].held[ANA, "news"] == "withdrawn"
    assert relay.figures().unaccounted == 0
