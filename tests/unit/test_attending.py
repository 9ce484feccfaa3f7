"""A fan-out task that stays is given what is accepted meanwhile: no message, nothing lost when it ends, and messages again when nobody is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery.worker import state

import pipeline.attending
import workers.attending
from config.settings import load_settings
from pipeline.attending import Attendant
from pipeline.domain import IncomingEvent, State, Subject
from pipeline.errors import LedgerUnavailable
from pipeline.fanout import FanOut
from pipeline.ledger.keys import LANES, Keys
from pipeline.ledger.store import Durability
from pipeline.ledger.trays import ATTENDED_MS, KEPT_MS, MOST_ON_TRAY
from tests.support.relay import BASE_TIME, Relay, destination, routing
from tests.support.stack import wait_until
from workers.options import staying_tasks
from workers.reconciling import bulkhead


@pytest.fixture
def relay(client: redis.Redis) -> Relay:
    return Relay(client, routing([destination("mail")]))


class Task:
    """A fan-out task of a process of its own, in a thread; `planned` is what it planned, and how much at once."""

    def __init__(self, relay: Relay, *, may_stay: bool = True) -> None:
        self.planned: list[list[str]] = []
        self.is_stopping = False
        self.relay, self.run = relay, relay.fan_out.run
        relay.fan_out.run = self._noted  # type: ignore[method-assign]
        self.attendant = Attendant(relay.ledger, relay.fan_out, may_stay=may_stay, is_stopping=lambda: self.is_stopping)
        self.threads: list[threading.Thread] = []

    def _noted(self, event_ids: Sequence[str]) -> int:
        self.planned.append(list(event_ids))
        return self.run(event_ids)

    def begin(self, lane: str = "given") -> None:
        self.threads.append(threading.Thread(target=self.attendant.run, args=(lane, [])))
        self.threads[-1].start()
        wait_until(lambda: bool(self.relay.ledger.store.client.exists(Keys.attended(lane))), 10)

    def end(self) -> None:
        self.is_stopping = True
        for thread in self.threads:
            thread.join(timeout=20)
            assert not thread.is_alive()

    @property
    def ids(self) -> list[str]:
        return [event_id for each in self.planned for event_id in each]


@pytest.fixture
def task(relay: Relay) -> Iterator[Task]:
    made = Task(relay)
    yield made
    made.end()


def given(number: int, state: State = State.GIVEN) -> IncomingEvent:
    return IncomingEvent(subject=Subject(email=f"p{number}@example.org"), purpose="news", state=state, event_time=BASE_TIME, idempotency_key=f"k{number}")


def test_what_is_accepted_is_planned_without_a_message(relay: Relay, task: Task):
    """An event of the lane that is attended reaches the task at once; one of the other lane is announced."""
    task.begin()
    laid = relay.event("given", 1, email="ana@example.org")
    wait_until(lambda: relay.ledger.events.load([laid])[0].fanned_out, 10)
    announced = relay.event("withdrawn", 1, email="ben@example.org")
    assert [kind for kind, _ in relay.queue.messages if kind == "fan_out"] == ["fan_out"]
    assert ("fan_out", ("withdrawn", (announced,))) in relay.queue.messages
    assert task.ids == [laid]
    relay.drain()
    assert relay.vendors["mail"].held == {("ana@example.org", "news"): "given", ("ben@example.org", "news"): "withdrawn"}


def test_nobody_there_and_it_is_announced(relay: Relay):
    """Without a task at the tray nothing is laid."""
    event = relay.event("given", 1, email="ana@example.org")
    assert relay.queue.messages == [("fan_out", ("given", (event,)))]
    assert relay.ledger.store.client.zcard(Keys.tray("given")) == 0


def test_one_task_of_a_process_attends_a_lane(relay: Relay, task: Task):
    """A second message for a lane only does what it says; the other lane has a task of its own."""
    task.begin()
    event = relay.event("given", 1, email="ana@example.org")
    began = time.monotonic()
    task.attendant.run("given", [event])
    assert time.monotonic() - began < pipeline.attending.STAY_SECONDS / 2
    task.begin("withdrawn")
    assert [relay.ledger.store.client.zcard(Keys.attended(lane)) for lane in LANES] == [1, 1]


def test_task_that_may_not_stay_does_what_its_message_says(relay: Relay):
    """Where threads are few, a task ends at once and nothing is ever laid for it."""
    event = relay.event("given", 1, email="ana@example.org")
    task = Task(relay, may_stay=False)
    task.attendant.run("given", [event])
    assert (task.ids, relay.ledger.store.client.exists(Keys.attended("given"))) == ([event], 0)


def test_task_ends_in_time_and_is_followed_by_a_message(relay: Relay, monkeypatch: pytest.MonkeyPatch):
    """After its time it is there no longer: the next event is announced."""
    monkeypatch.setattr(pipeline.attending, "STAY_SECONDS", 0.2)
    monkeypatch.setattr(pipeline.attending, "WAIT_SECONDS", 0.1)
    began = time.monotonic()
    Task(relay).attendant.run("given", [])
    assert time.monotonic() - began >= 0.2
    event = relay.event("given", 1, email="ana@example.org")
    assert relay.queue.messages == [("fan_out", ("given", (event,)))]


def test_what_lies_there_goes_with_the_last_task(relay: Relay):
    """A task that leaves while another is there takes nothing along; the last one takes all."""
    trays = relay.ledger.trays
    for token in ("one", "two"):
        trays.take("given", token, wait_seconds=0.01, says_so=True)
    event = relay.event("given", 1, email="ana@example.org")
    assert trays.leave("given", "one") == []
    assert trays.leave("given", "two") == [event]
    assert trays.leave("given", "two") == []
    assert relay.queue.messages == []


def test_task_that_is_silent_counts_as_gone(relay: Relay):
    """A task that was killed said so last two seconds ago: then messages are sent again."""
    trays, client = relay.ledger.trays, relay.ledger.store.client
    trays.take("given", "killed", wait_seconds=0.01, says_so=True)
    assert 0 < client.pttl(Keys.attended("given")) <= ATTENDED_MS
    client.zadd(Keys.attended("given"), {"killed": 1})
    event = relay.event("given", 1, email="ana@example.org")
    assert relay.queue.messages == [("fan_out", ("given", (event,)))]
    trays.take("given", "next", wait_seconds=0.01, says_so=True)
    assert client.zrange(Keys.attended("given"), 0, -1) == [b"next"]


def test_what_was_laid_for_a_task_that_died_is_announced(relay: Relay):
    """Nobody comes for what lies there: beat announces it as soon as the task no longer counts as there, and not before."""
    relay.ledger.trays.take("given", "killed", wait_seconds=0.01, says_so=True)
    event = relay.event("given", 1, email="ana@example.org")
    relay.beat()
    assert relay.queue.messages == []
    relay.ledger.store.client.zadd(Keys.attended("given"), {"killed": 1})
    relay.beat()
    assert relay.queue.messages == [("fan_out", ("given", (event,)))]
    assert relay.ledger.events.counts()["rescued"] == 1
    relay.drain()
    assert relay.vendors["mail"].held == {("ana@example.org", "news"): "given"}
    relay.beat()
    assert relay.ledger.events.counts()["rescued"] == 1


def test_what_a_task_took_and_never_planned_is_found(relay: Relay):
    """It died with what it had taken: the ledger brings the event back, as it does when a message was lost; what lies on a tray goes by itself."""
    relay.ledger.trays.take("given", "killed", wait_seconds=0.01, says_so=True)
    event = relay.event("given", 1, email="ana@example.org")
    assert 0 < relay.ledger.store.client.pttl(Keys.tray("given")) <= KEPT_MS
    assert relay.ledger.trays.take("given", "killed", wait_seconds=0.01, says_so=False) == [event]
    relay.hurry(pushed=True)
    relay.beat()
    relay.drain()
    assert relay.vendors["mail"].held == {("ana@example.org", "news"): "given"}


def test_a_full_tray_sends_the_rest_by_messages(relay: Relay):
    """A tray takes what one task plans in a moment; what comes beyond brings in other tasks."""
    relay.ledger.trays.take("given", "busy", wait_seconds=0.01, says_so=True)
    source = relay.rules.sources["web"]
    relay.acceptor.accept_many([(source, given(n)) for n in range(MOST_ON_TRAY - 1)])
    assert relay.queue.messages == []
    both = relay.acceptor.accept_many([(source, given(n)) for n in (1000, 1001)])
    assert relay.queue.messages == [("fan_out", ("given", tuple(each.event_id for each in both)))]
    relay.acceptor.accept_many([(source, given(n)) for n in range(2000, 2000 + MOST_ON_TRAY + 1)])
    assert len(relay.queue.messages) == 2
    assert len(relay.ledger.trays.take("given", "busy", wait_seconds=0.01, says_so=False)) == MOST_ON_TRAY - 1


def test_repeated_event_that_is_planned_is_not_laid_again(relay: Relay):
    """A duplicate costs the task nothing once its event is planned, nor when it is complete."""
    trays, source = relay.ledger.trays, relay.rules.sources["web"]
    trays.take("given", "there", wait_seconds=0.01, says_so=True)
    relay.acceptor.accept_many([(source, given(1))])
    relay.fan_out.run(trays.take("given", "there", wait_seconds=0.01, says_so=False))
    relay.acceptor.accept_many([(source, given(1))])
    relay.drain()
    (again,) = relay.acceptor.accept_many([(source, given(1))])
    assert relay.ledger.events.load([again.event_id])[0].finished
    assert trays.take("given", "there", wait_seconds=0.01, says_so=False) == []


@pytest.mark.parametrize(
    "mode, replicates, spread, used",
    [("fsync", False, False, True), ("waitaof", False, False, False), ("fsync", True, False, False), ("fsync", False, True, False)],
)
def test_used_only_where_an_answer_means_durable(relay: Relay, monkeypatch: pytest.MonkeyPatch, mode: str, replicates: bool, spread: bool, used: bool):
    """A task must not be given what a crash or a failover could still take back."""
    nodes = type(relay.ledger.store.nodes)
    monkeypatch.setattr(nodes, "replicates", replicates)
    monkeypatch.setattr(nodes, "is_spread", spread)
    assert relay.ledger.trays.are_used(Durability(mode)) is used


def test_accepting_lays_nothing_where_trays_are_not_used(relay: Relay):
    """A task that is there is not given what the server answers for before it is on disk."""
    relay.ledger.trays.take("given", "there", wait_seconds=0.01, says_so=True)
    relay.ledger._durability = Durability("none")
    event = relay.event("given", 1, email="ana@example.org")
    assert relay.queue.messages == [("fan_out", ("given", (event,)))]


def away(*_: object, **__: object) -> None:
    raise LedgerUnavailable("away")


def test_ledger_that_goes_away_ends_a_task_that_waits(relay: Relay, monkeypatch: pytest.MonkeyPatch):
    """What its message named is planned, so it ends without a word; the next message of the lane finds its place free."""
    task = Task(relay)
    with monkeypatch.context() as patched:
        patched.setattr(relay.ledger.trays, "take", away)
        patched.setattr(relay.ledger.trays, "leave", away)
        task.attendant.run("given", [])
    task.begin()
    task.end()


def test_ledger_that_goes_away_while_events_are_planned_fails_the_task(relay: Relay):
    """What was laid and could not be planned is no success, and waits for the ledger to bring it back."""
    relay.ledger.trays.take("given", "other", wait_seconds=0.01, says_so=True)
    relay.event("given", 1, email="ana@example.org")
    task = Task(relay)
    task.run = lambda event_ids: away() if event_ids else 0
    with pytest.raises(LedgerUnavailable):
        task.attendant.run("given", [])
    task.run = FanOut(relay.ledger, relay.vault, relay.queue, lambda: relay.rules, chunk_size=100).run
    task.begin()
    task.end()


def test_what_lies_there_when_a_task_ends_is_planned_by_it(relay: Relay, monkeypatch: pytest.MonkeyPatch):
    """What is laid between its last look and its leaving is planned before it goes."""
    task, take = Task(relay), relay.ledger.trays.take
    laid: list[str] = []

    def last_look(*arguments: Any, **options: Any) -> list[str]:
        found = take(*arguments, **options)
        task.is_stopping = True
        laid.append(relay.event("given", 1, email="ana@example.org"))
        return found

    monkeypatch.setattr(relay.ledger.trays, "take", last_look)
    monkeypatch.setattr(pipeline.attending, "WAIT_SECONDS", 0.01)
    task.attendant.run("given", [])
    assert task.ids == laid
    assert [kind for kind, _ in relay.queue.messages] == ["deliver"]
    assert relay.ledger.store.client.exists(Keys.attended("given")) == 0


def test_process_that_is_to_end_ends_its_task_soon(relay: Relay, monkeypatch: pytest.MonkeyPatch):
    """A worker that stops does not wait until the task's time is over."""
    monkeypatch.setattr(pipeline.attending, "STAY_SECONDS", 3600.0)
    task = Task(relay)
    task.begin()
    task.end()


def test_two_processes_share_a_tray(relay: Relay, task: Task):
    """Each event is planned by one of them."""
    other = Attendant(relay.ledger, relay.fan_out, may_stay=True, is_stopping=lambda: task.is_stopping)
    task.threads.append(threading.Thread(target=other.run, args=("given", [])))
    task.threads[-1].start()
    task.begin()
    wait_until(lambda: relay.ledger.store.client.zcard(Keys.attended("given")) == 2, 10)
    events = [relay.event("given", 1, email=f"p{n}@example.org") for n in range(20)]
    wait_until(lambda: len(task.ids) == 20, 10)
    assert sorted(task.ids) == sorted(events)


def test_memory_that_is_full_by_then_does_not_refuse_the_event(relay: Relay):
    """If an id cannot be laid, the event is accepted all the same, and announced."""
    client = relay.ledger.store.client
    relay.ledger.trays.take("given", "there", wait_seconds=0.01, says_so=True)
    client.set(Keys.tray("given"), "what cannot be added to", px=60_000)
    with pytest.raises(redis.ResponseError):
        client.zadd(Keys.tray("given"), {"a": 1})
    names = [Keys.tray("given"), Keys.attended("given"), relay.ledger.keys.record("a" * 24)]
    text = relay.ledger.store.source("lay").replace("redis.call('ZCARD', KEYS[1])", "0")
    assert client.eval(text, len(names), *names, 50, 1000, "a" * 24) == 0


@pytest.mark.parametrize("threads, reserved, staying, most_given", [(16, 4, 2, 10), (8, 2, 2, 4), (7, 2, 0, 5), (5, 4, 0, 1)])
def test_threads_of_tasks_that_stay_are_never_those_of_withdrawals(
    monkeypatch: pytest.MonkeyPatch, valkey_url: str, threads: int, reserved: int, staying: int, most_given: int
):
    """Tasks stay only where threads are many, and take them from those that deliveries of `given` may have."""
    settings = load_settings(
        {
            "CONSENT_REDIS_URL": valkey_url,
            "CONSENT_WORKER_THREADS": str(threads),
            "CONSENT_DELIVER_THREADS_RESERVED_FOR_WITHDRAWALS": str(reserved),
        }
    )
    assert staying_tasks(settings) == staying
    parts = SimpleNamespace(settings=settings, built=lambda _name, build: build())
    made = bulkhead(parts)
    entered = [made.enter(f"d{n}", "given") for n in range(threads)]
    assert sum(ticket is not None for ticket in entered) == most_given


def test_worker_that_was_told_to_stop_is_stopping(monkeypatch: pytest.MonkeyPatch):
    """Celery notes a warm stop and a cold one apart."""
    assert not workers.attending.is_stopping()
    for name in ("should_stop", "should_terminate"):
        with monkeypatch.context() as patched:
            patched.setattr(state, name, 0)
            assert workers.attending.is_stopping()
