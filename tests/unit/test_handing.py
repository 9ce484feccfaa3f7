"""What fan-out plans for a task that is at its destination: leased already, told at once, and never lost or told twice whatever becomes of the task."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

import pipeline.handing
from pipeline.deliver import Deliver
from pipeline.envelope import open_event
from pipeline.errors import LedgerUnavailable
from pipeline.fanout import FanOut
from pipeline.in_hand import Brought
from pipeline.vendors.base import Rate
from tests.support.relay import Relay, Vendor, destination, routing
from tests.support.stack import wait_until

ANA, BEN = "ana@example.org", "ben@example.org"


class Desk:
    """A relay with one worker whose task is at `mail` and waits for more, and a fan-out beside it."""

    def __init__(self, client: redis.Redis, seconds: float = 30.0) -> None:
        self.relay = Relay(client, routing([destination("mail")]), seconds=seconds)
        self.deliver: Deliver = self.relay.worker(idle_seconds=5.0, most_idle=1)
        self.fan_out = FanOut(self.relay.ledger, self.relay.vault, self.relay.queue, lambda: self.relay.rules, chunk_size=100, hands=self.deliver)
        self.leased: list[str] = []
        self._lease = self.relay.ledger.lease
        self.relay.ledger.lease = self._noted  # type: ignore[method-assign]
        self.task = threading.Thread(target=self.deliver.run, args=("mail", "given", []))

    def _noted(self, destination: str, lane: str, token: str, lease_ms: int, event_ids: Any) -> Any:
        self.leased += event_ids
        return self._lease(destination, lane, token, lease_ms, event_ids)

    def begin(self) -> None:
        """The task waits for more."""
        self.task.start()
        wait_until(lambda: self.deliver._crew.idle == 1, 30)

    def end(self) -> None:
        """The task finds that the routing file was read anew, and ends."""
        self.relay.rules = routing([destination("mail")])
        for inbox in self.deliver._crew._running.get(("mail", "given"), ()):
            inbox.brought.set()  # not only when its time is over
        self.task.join(timeout=30)

    def plan(self, email: str, minute: float, state: str = "given") -> str:
        event = self.relay.event(state, minute, email=email)
        self.relay.queue.messages.clear()
        self.fan_out.run([event])
        return event

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(call["to"]["email"], call["state"]) for call in self.relay.vendors["mail"].calls]

    def status(self, event: str) -> tuple[str, str | None]:
        return self.relay.deliveries(event)["mail"]


@pytest.fixture
def desk(client: redis.Redis) -> Iterator[Desk]:
    made = Desk(client)
    made.begin()
    yield made
    made.end()


def before_bringing(desk: Desk, act: Callable[[], object]) -> None:
    """Do something between the step that plans and the task's hearing of it."""
    plan = desk.relay.ledger.plan

    def planned(*arguments: Any) -> Any:
        done = plan(*arguments)
        act()
        return done

    desk.relay.ledger.plan = planned  # type: ignore[method-assign]


def test_it_is_told_without_message_and_lease(desk: Desk) -> None:
    """The step that plans has leased it; its event is not read again."""
    event = desk.plan(ANA, 1)
    wait_until(lambda: desk.status(event)[0] == "delivered", 30)
    assert desk.told == [(ANA, "given")]
    assert desk.leased == []
    assert desk.relay.queue.messages == []
    assert desk.relay.figures().unaccounted == 0


def test_a_newer_word_still_stops_it(desk: Desk) -> None:
    """The look right before the dialogue is as ever."""
    before_bringing(desk, lambda: desk.relay.event("withdrawn", 5, email=ANA))
    event = desk.plan(ANA, 1)
    wait_until(lambda: desk.status(event)[0] == "superseded", 30)
    assert desk.told == []


def test_what_waited_too_long_is_leased_anew(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the task it was leased for: it is not told on the word of an old lease."""
    monkeypatch.setattr(pipeline.handing, "FRESH_SECONDS", -1.0)
    event = desk.plan(ANA, 1)
    wait_until(lambda: desk.status(event)[0] == "delivered", 30)
    assert desk.leased == [event]


def test_what_waited_too_long_meets_a_pause(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The destination was paused meanwhile: it goes back, and is told once it goes on."""
    monkeypatch.setattr(pipeline.handing, "FRESH_SECONDS", -1.0)
    before_bringing(desk, lambda: desk.relay.ledger.deliveries.pause("mail", paused=True))
    event = desk.plan(ANA, 1)
    wait_until(lambda: desk.leased == [event], 30)
    desk.end()
    assert desk.status(event) == ("waiting", "paused")
    assert desk.told == []
    desk.relay.ledger.deliveries.pause("mail", paused=False)
    desk.relay.again()
    assert desk.told == [(ANA, "given")]


def test_what_the_task_cannot_take_any_more_goes_back(desk: Desk) -> None:
    """It had to end while the other planned: whoever planned returns what was leased, to be told within a moment and not after the lease."""
    before_bringing(desk, desk.end)
    event = desk.plan(ANA, 1)
    assert desk.status(event)[0] == "waiting"
    assert desk.told == []
    desk.relay.again()
    assert desk.told == [(ANA, "given")]
    assert desk.relay.figures().unaccounted == 0


def test_what_was_brought_and_not_taken_goes_back(desk: Desk) -> None:
    """The task ends for a new routing file with something in its inbox."""
    with desk.deliver.reserve(desk.relay.rules.destinations["mail"], "given", 1) as room:  # type: ignore[union-attr]
        place = ("mail", "given")
        event = desk.relay.event("given", 1, email=ANA)
        (stored,) = desk.relay.ledger.events.load([event])
        assert stored is not None
        desk.relay.ledger.plan({place: [(event, 1)]}, [(event, ["mail"], "")], {place: room.lease})
        desk.relay.rules = routing([destination("mail")])
        room.bring([open_event(stored, desk.relay.vault)], [])
    desk.task.join(timeout=30)
    assert desk.status(event)[0] == "waiting"
    desk.relay.again()
    assert desk.told == [(ANA, "given")]


def test_the_answer_of_the_plan_is_lost(client: redis.Redis) -> None:
    """It is leased for a task that never hears of it: after the lease it is told, once, and the task was not kept."""
    desk = Desk(client, seconds=0.2)
    desk.begin()

    def away() -> None:
        raise LedgerUnavailable("away")

    before_bringing(desk, away)
    event = desk.relay.event("given", 1, email=ANA)
    with pytest.raises(LedgerUnavailable):
        desk.fan_out.run([event])
    assert desk.deliver._crew._running["mail", "given"][0].holders == 0
    desk.end()
    assert desk.told == []
    wait_until(lambda: [desk.relay.again(), desk.told][-1] == [(ANA, "given")], 30)
    assert desk.status(event)[0] == "delivered"
    assert desk.relay.figures().unaccounted == 0


def test_a_ledger_that_goes_away_keeps_nobody_else_waiting(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """One task has ended, and what was planned for it cannot be given back: the others are brought theirs, and it is told after its lease."""
    desk = Desk(client, seconds=0.3)
    desk.relay.rules = routing([destination("mail"), destination("news"), destination("sms")])
    desk.relay.vendors |= {name: Vendor() for name in ("news", "sms")}
    crew, told_to = desk.deliver._crew, desk.relay.rules.destinations
    inboxes = {name: crew.join(name, "given", [], told_to[name]) for name in ("mail", "news")}
    claim = desk.relay.ledger.deliveries.claim

    def away(*_: Any) -> Any:
        raise LedgerUnavailable("away")

    before_bringing(desk, lambda: [crew.leave(inboxes["mail"]), monkeypatch.setattr(desk.relay.ledger.deliveries, "claim", away)])  # type: ignore[arg-type]
    event = desk.relay.event("given", 1, email=ANA)
    desk.relay.queue.messages.clear()
    assert desk.fan_out.run([event]) == 3
    assert [item.event_id for item in crew.waiting(inboxes["news"])] == [event]  # type: ignore[arg-type, union-attr]
    assert [values[0] for kind, values in desk.relay.queue.messages] == ["sms"]
    monkeypatch.setattr(desk.relay.ledger.deliveries, "claim", claim)
    wait_until(lambda: [desk.relay.again(), len(desk.relay.vendors["mail"].calls)][-1] == 1, 30)


def test_new_ones_and_others_are_taken_together(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that cannot lease the others just then does not lose those that need no lease; the same delivery by both ways is told once."""
    deliver, mail = desk.deliver, desk.relay.rules.destinations["mail"]
    desk.end()
    desk.relay.rules = routing([mail])
    inbox = deliver._crew.join("mail", "given", [], mail)
    assert inbox is not None
    planned = desk.plan(ANA, 1)
    other = desk.relay.event("given", 2, email=BEN)
    desk.relay.fan_out.run([other])
    deliver._crew.put_back(inbox, [planned, other])
    with monkeypatch.context() as patched:
        patched.setattr(desk.relay.ledger, "lease", lambda *_: (_ for _ in ()).throw(LedgerUnavailable("away")))
        assert [leased.event_id for leased, _ in deliver._lease_brought(mail, "given", inbox)] == [planned]
    assert deliver._crew.waiting(inbox) == [other]
    deliver._run(mail, "given", inbox)
    assert desk.status(other)[0] == "delivered"


def test_a_busy_task_is_brought_ids(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would wait long is not leased meanwhile."""
    monkeypatch.setattr(pipeline.handing, "MOST_LEASED", 2)
    mail = desk.relay.rules.destinations["mail"]
    with desk.deliver.reserve(mail, "given", 2) as first, desk.deliver.reserve(mail, "given", 1) as second:  # type: ignore[union-attr]
        assert (first.lease is not None, second.lease is None) == (True, True)
    with desk.deliver.reserve(mail, "given", 2) as again:  # type: ignore[union-attr]
        assert again.lease == (again.token, desk.relay.lease_seconds * 1000)


def test_who_tells_keeps_what_waits_for_it(client: redis.Redis) -> None:
    """A vendor that hangs holds up the task, not the lease of what was planned for it: nobody takes it away, and no record says that it may have been told."""
    relay = Relay(client, routing([destination("mail", rate=Rate(concurrent=1))]), seconds=30.0, evidence=True)
    deliver, mail = relay.deliver, relay.rules.destinations["mail"]
    inbox = deliver._crew.join("mail", "given", [], mail)
    assert inbox is not None
    first, second = relay.event("given", 1, email=ANA), relay.event("given", 2, email=BEN)
    fan_out = FanOut(relay.ledger, relay.vault, relay.queue, lambda: relay.rules, chunk_size=100, hands=deliver)
    fan_out.run([first])
    in_hand = deliver._lease_brought(mail, "given", inbox)
    tasks, _ = deliver._preparer.prepare(mail, in_hand)
    fan_out.run([second])
    more = Brought(take=lambda _: ((), ()), leased=lambda: [item.event_id for item in deliver._crew.waiting(inbox)])  # type: ignore[union-attr]
    chunk = deliver.worker._chunk(mail, "given", inbox.token, more)
    chunk.add(tasks, ())
    name = next(client.scan_iter(match="cr:{d:mail}:out:given"))
    client.zadd(name, dict.fromkeys((first, second), 1))
    chunk.renew_at = 0.0
    deliver.worker._renew(chunk)
    assert min(client.zmscore(name, [first, second])) > relay.ledger.now_ms()


def test_planned_twice_it_is_told_once(desk: Desk) -> None:
    """A hint for the fan-out that comes again plans nothing new; two at once share what is new."""
    events = [desk.relay.event("given", minute, email=f"p{minute}@example.org") for minute in range(20)]
    desk.relay.queue.messages.clear()
    threads = [threading.Thread(target=desk.fan_out.run, args=(events,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    wait_until(lambda: all(desk.status(event)[0] == "delivered" for event in events), 30)
    assert sorted(email for email, _ in desk.told) == sorted(f"p{minute}@example.org" for minute in range(20))
