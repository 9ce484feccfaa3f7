"""Group commit: who is written with whom, who gets which answer, and what happens at the end."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from pipeline.domain import IncomingEvent, State, Subject
from pipeline.errors import LedgerUnavailable
from pipeline.ingest.blocking import BlockingCalls
from pipeline.ingest.committer import GroupCommitter
from pipeline.ingest.ports import IngestLimits
from pipeline.ingest.problems import Problem
from tests.unit.ingest_fakes import FakeAcceptor, make_routing

SOURCE = make_routing().sources["web-forms"]
LONG_WAIT = IngestLimits(group_commit_wait_seconds=5.0)


def item(name: str):
    from tests.unit.ingest_fakes import NOW

    return (SOURCE, IncomingEvent(subject=Subject(external_id=name), purpose="newsletter", state=State.GIVEN, event_time=NOW, idempotency_key=name))


def run(scenario, acceptor=None, limits=None):
    acceptor = acceptor or FakeAcceptor()
    committer = GroupCommitter(acceptor, limits or IngestLimits())
    committer.start()
    try:
        return asyncio.run(scenario(committer)), acceptor
    finally:
        if acceptor.gate is not None:
            acceptor.gate.set()
        committer.close()


async def one(committer, name):
    (outcome,) = await committer.submit([item(name)])
    return outcome


def test_a_lone_event_is_written_at_once():
    """Given a long window and one caller that sends event after event, none waits for it."""

    async def scenario(committer):
        started = time.monotonic()
        for number in range(50):
            await one(committer, str(number))
        return time.monotonic() - started

    seconds, acceptor = run(scenario, limits=LONG_WAIT)
    assert acceptor.groups == [1] * 50
    assert seconds < 4


def test_what_arrives_during_a_write_is_written_together():
    """Given a write under way, the next fifty events go in one group and each caller gets its own answer."""
    acceptor = FakeAcceptor(gate=threading.Event())

    async def scenario(committer):
        first = asyncio.ensure_future(one(committer, "first"))
        await asyncio.to_thread(acceptor.entered.wait, 5)
        rest = [asyncio.ensure_future(one(committer, str(number))) for number in range(50)]
        await asyncio.sleep(0.02)
        acceptor.gate.set()
        return [answer.event_id for answer in await asyncio.gather(first, *rest)]

    ids, _ = run(scenario, acceptor)
    assert acceptor.groups == [1, 50]
    assert ids == list(acceptor.events)


def test_callers_who_come_back_together_stay_together():
    """Given callers that send their next event when they have their answer, they are written as one group again."""
    acceptor = FakeAcceptor(gate=threading.Event())

    async def scenario(committer):
        async def caller(name, turns):
            for turn in range(turns):
                await one(committer, f"{name}{turn}")

        ahead = asyncio.ensure_future(caller("a", 4))
        await asyncio.to_thread(acceptor.entered.wait, 5)
        rest = [asyncio.ensure_future(caller(name, 3)) for name in "bcdefgh"]
        await asyncio.sleep(0.02)
        acceptor.gate.set()
        await asyncio.gather(ahead, *rest)

    run(scenario, acceptor, LONG_WAIT)
    assert acceptor.groups == [1, 8, 8, 8]


def test_a_group_never_exceeds_its_size():
    """Given more waiting events than a group may have, they go in several groups, in order."""
    acceptor = FakeAcceptor(gate=threading.Event())

    async def scenario(committer):
        first = asyncio.ensure_future(one(committer, "first"))
        await asyncio.to_thread(acceptor.entered.wait, 5)
        rest = [asyncio.ensure_future(one(committer, str(number))) for number in range(25)]
        await asyncio.sleep(0.02)
        acceptor.gate.set()
        await asyncio.gather(first, *rest)

    run(scenario, acceptor, IngestLimits(group_commit_events=10))
    assert acceptor.groups == [1, 10, 10, 5]


def test_a_poisoned_event_fails_alone():
    """Given one event the acceptor breaks on in a group of twenty, nineteen are accepted."""
    acceptor = FakeAcceptor(poison="7")

    async def scenario(committer):
        return await committer.submit([item(str(number)) for number in range(20)])

    outcomes, _ = run(scenario, acceptor)
    assert [index for index, outcome in enumerate(outcomes) if isinstance(outcome, ZeroDivisionError)] == [7]
    assert len(acceptor.events) == 19


def test_a_wrong_number_of_answers_is_nobodys_answer():
    """Given an acceptor that loses an answer, no caller is told that the event was accepted."""

    class Loser(FakeAcceptor):
        def accept_many(self, items):
            return super().accept_many(items)[1:]

    async def scenario(committer):
        return await committer.submit([item("a"), item("b")])

    outcomes, _ = run(scenario, Loser())
    assert [type(outcome) for outcome in outcomes] == [RuntimeError, RuntimeError]


def test_an_unavailable_ledger_fails_the_whole_group_once():
    """Given a ledger that is away, all callers hear it and it is asked once."""
    acceptor = FakeAcceptor(failure=LedgerUnavailable("away"))

    async def scenario(committer):
        return await committer.submit([item("a"), item("b")])

    outcomes, _ = run(scenario, acceptor)
    assert [type(outcome) for outcome in outcomes] == [LedgerUnavailable, LedgerUnavailable]
    assert acceptor.groups == [2]


def test_more_than_may_wait_is_refused_and_the_rest_is_written():
    """Given the pending bound reached, the next event is 429 and those before it are still written."""
    acceptor = FakeAcceptor(gate=threading.Event())

    async def scenario(committer):
        taken = [asyncio.ensure_future(one(committer, str(number))) for number in range(3)]
        await asyncio.sleep(0.02)
        with pytest.raises(Problem) as refused:
            await one(committer, "x")
        acceptor.gate.set()
        await asyncio.gather(*taken)
        return refused.value.kind.status

    status, _ = run(scenario, acceptor, IngestLimits(max_pending=3))
    assert (status, len(acceptor.events)) == (429, 3)


def test_closing_writes_what_was_taken_and_refuses_the_rest():
    """Given events waiting behind a write, close writes them all; a new one is 503; start takes events again."""
    acceptor = FakeAcceptor(gate=threading.Event())

    async def scenario(committer):
        taken = [asyncio.ensure_future(one(committer, str(number))) for number in range(5)]
        await asyncio.sleep(0.02)
        closing = asyncio.ensure_future(asyncio.to_thread(committer.close))
        await asyncio.sleep(0.02)
        with pytest.raises(Problem) as refused:
            await one(committer, "late")
        acceptor.gate.set()
        await asyncio.gather(closing, *taken)
        committer.start()
        await one(committer, "again")
        return refused.value.kind.status

    status, _ = run(scenario, acceptor)
    assert (status, sorted(event.idempotency_key for _, _, event in acceptor.events.values())) == (503, ["0", "1", "2", "3", "4", "again"])


def test_a_caller_that_left_does_not_disturb_the_others():
    """Given a caller that gave up waiting, its event is written and the others get their answers."""
    acceptor = FakeAcceptor(gate=threading.Event())

    async def scenario(committer):
        gone, stays = (asyncio.ensure_future(one(committer, name)) for name in "ab")
        await asyncio.to_thread(acceptor.entered.wait, 5)
        gone.cancel()
        acceptor.gate.set()
        return (await stays).status

    status, _ = run(scenario, acceptor)
    assert (status, len(acceptor.events)) == ("accepted", 2)


def test_blocking_calls_are_bounded():
    """Given all places and the queue taken, one more call is 429; after close it is 503."""

    async def scenario():
        calls = BlockingCalls("test", threads=1, places=1, queue=1)
        calls.start()
        gate = threading.Event()
        held = [asyncio.ensure_future(calls.run(gate.wait, 5)) for _ in range(2)]
        await asyncio.sleep(0.01)
        with pytest.raises(Problem) as full:
            await calls.run(int)
        gate.set()
        await asyncio.gather(*held)
        calls.close()
        with pytest.raises(Problem) as closed:
            await calls.run(int)
        return full.value.kind.status, closed.value.kind.status

    assert asyncio.run(scenario()) == (429, 503)


def test_places_are_taken_in_turn():
    """Given one place, a second holder waits for the first and a third is refused."""

    async def scenario():
        calls = BlockingCalls("test", threads=1, places=1, queue=1)
        order = []

        async def hold(name):
            async with calls.place():
                order.append(name)
                await asyncio.sleep(0.01)

        first, second = asyncio.ensure_future(hold("first")), asyncio.ensure_future(hold("second"))
        await asyncio.sleep(0)
        with pytest.raises(Problem):
            await hold("third")
        await asyncio.gather(first, second)
        return order

    assert asyncio.run(scenario()) == ["first", "second"]
