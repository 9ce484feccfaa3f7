"""How soon endings are written down: at once where that takes little, and never so often that a chunk does nothing else."""

from __future__ import annotations

import threading
import time
from collections import deque
from types import SimpleNamespace

import pytest
import redis

import pipeline.chunk
import pipeline.in_hand
from pipeline.chunk import ChunkWorker
from pipeline.in_hand import FEW_FLYING, SETTLE_AT_ONCE, SETTLE_SECONDS, Chunk
from pipeline.ledger.accounts import Admission
from pipeline.limits import DeliverOptions
from tests.support.relay import Relay, destination, routing


def traffic(concurrent: int, *, reserved: int) -> SimpleNamespace:
    return SimpleNamespace(concurrent=concurrent, reserved_dialogues=reserved, batch_size=1)


def talking(flight_seconds: float, lane: str = "given") -> Chunk:
    """A chunk in the middle of its work at a vendor that takes so long to answer, and allows fifty connections."""
    times = {"stop_at": 200.0, "renew_at": 200.0, "settle_at": time.monotonic() + 60, "patience": 0}
    chunk = Chunk(destination=None, lane=lane, token="t", more=None, traffic=traffic(50, reserved=1), pending=deque(), endings=[], **times)
    chunk.flight_seconds, chunk.turn_seconds = flight_seconds, 0.004
    chunk.flying.update(dict.fromkeys(range(chunk.most_dialogues), SimpleNamespace(tasks=["a task"], started_at=0.0)))
    return chunk


@pytest.mark.parametrize("takes,rests", [(0.002, 0.012), (0.006, 0.036), (0.5, SETTLE_SECONDS)])
def test_what_is_quick_to_write_is_written_soon(monkeypatch, takes, rests):
    """The next endings wait six times as long as writing the last took, and a twentieth of a second at most; a hundred wait for nothing."""
    clock = [100.0]
    for module in (pipeline.chunk, pipeline.in_hand):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    written: list[int] = []

    def settle(_destination, _lane, _token, endings, _now_ms) -> None:
        written.append(len(endings))
        clock[0] += takes

    worker = ChunkWorker(SimpleNamespace(clock_ms=lambda: 1), None, None, SimpleNamespace(settle=settle), None, None, lambda: False)
    times = {"stop_at": 200.0, "renew_at": 200.0, "settle_at": 100.0, "patience": 0}
    chunk = Chunk(destination=None, lane="given", token="t", more=None, traffic=None, pending=deque(), endings=["first"], **times)
    chunk.flying.update(dict.fromkeys(range(FEW_FLYING), "a dialogue"))
    worker._settle(chunk)
    ended = clock[0]
    chunk.endings = ["next"]
    for passed, count in ((rests - 0.001, 1), (rests + 0.001, 2)):
        clock[0] = ended + passed
        worker._settle(chunk)
        assert len(written) == count
    chunk.endings = ["one of many"] * SETTLE_AT_ONCE
    worker._settle(chunk)
    assert written == [1, 1, SETTLE_AT_ONCE]
    chunk.endings = ["one of few"]
    worker._settle(chunk)
    assert len(written) == 3
    del chunk.flying[0]  # few are under way: a crash should repeat none that was answered
    worker._settle(chunk)
    assert len(written) == 4


def test_nobody_waits_for_an_answer_while_endings_are_due():
    """A vendor that takes long to answer does not keep what others have answered from being written down."""
    now = time.monotonic()
    times = {"stop_at": now + 60, "renew_at": now + 60, "settle_at": now + 0.05, "patience": 0}
    chunk = Chunk(destination=None, lane="given", token="t", more=None, traffic=traffic(1, reserved=0), pending=deque(), endings=["told"], **times)
    chunk.flying[1] = "a dialogue that takes long"
    chunk.wait()
    assert 0.04 < time.monotonic() - now < 0.9
    chunk.endings.clear()
    chunk.wait()
    assert time.monotonic() - now > 1.0


def test_the_first_answer_of_a_chunk_is_written_down_at_once(client: redis.Redis, monkeypatch: pytest.MonkeyPatch):
    """While another dialogue of the chunk is under way: a crash then repeats that one only."""
    monkeypatch.setattr(pipeline.in_hand, "SETTLE_SECONDS", 30.0)
    relay = Relay(client, routing([destination("mail")]))
    events = [relay.event("given", n, email=f"p{n}@example.org") for n in range(2)]
    relay.fan_out.run(events)
    direct, held = relay.exchange.start, []
    relay.exchange.start = lambda work, on_done: held.append((work, on_done)) if not held else direct(work, on_done)
    task = threading.Thread(target=relay.deliver.run, args=("mail", "given", events))
    task.start()
    until = time.monotonic() + 10
    while not (settled := client.hlen(relay.ledger.keys.destination("mail", "result"))) and time.monotonic() < until:
        time.sleep(0.005)
    direct(*held[0])
    task.join(30)
    assert settled == 1
    assert [relay.deliveries(event)["mail"][0] for event in events] == ["delivered", "delivered"]


def test_who_was_let_in_has_patience_again(monkeypatch: pytest.MonkeyPatch):
    """A chunk that has one connection in turn with another waits as long for each of its turns."""
    worker = ChunkWorker(None, None, None, None, None, DeliverOptions(patience_seconds=0.25), lambda: False)
    monkeypatch.setattr(worker, "_launch", lambda *_: None)
    times = {"stop_at": 0.0, "renew_at": 0.0, "settle_at": 0.0, "patience": 0}
    chunk = Chunk(destination=None, lane="given", token="t", more=None, traffic=None, pending=deque(), endings=[], **times)
    worker._start(chunk, [SimpleNamespace(contact_keys=())], Admission(dialogues=1, retry_at_ms=0, why="", verdicts=(1,)), {}, 0.0)
    assert (chunk.patience, chunk.moved) == (25, True)


def test_what_a_slow_vendor_answered_is_settled_with_the_next_turn():
    """Groups come one after the other; a settlement apart would keep the next of them from its connections."""
    landing = SimpleNamespace(leaving=SimpleNamespace(permits=[(1, 1)]), results=["a result"])
    assert talking(0.1).is_time_to_settle(landing)
    assert not talking(0.01).is_time_to_settle(landing)
    chunk = talking(0.1)
    chunk.endings = ["left over"]
    assert not chunk.is_time_to_settle()


@pytest.mark.parametrize("lane,asked", [("given", 0), ("withdrawn", 1)])
def test_a_connection_kept_for_withdrawals_is_not_asked_for(lane, asked):
    """It took a round trip to be refused, each time that endings were due."""
    chunk = talking(0.1, lane)
    chunk.flying.pop(49, None)
    chunk.pending.append(SimpleNamespace(place="", contact_keys=()))
    assert len(chunk.next_asked(0)) == asked


def test_few_are_taken_in_while_the_connections_of_a_slow_vendor_would_wait():
    """But no fewer than a hundred, where a vendor has few connections: each time is a lease."""
    chunk = talking(0.1)
    chunk.traffic.concurrent = 101
    assert chunk.most_taken == 200
    chunk.traffic.concurrent = 8
    assert chunk.most_taken == 100
    assert talking(0.01).most_taken is None


def test_as_many_are_leased_as_are_to_be_taken_in(client: redis.Redis):
    relay = Relay(client, routing([destination("mail")]), seconds=30.0)
    events = [relay.event("given", minute, email=f"p{minute}@example.org") for minute in range(12)]
    relay.fan_out.run(events)
    mail = relay.rules.destinations["mail"]
    inbox = relay.deliver._crew.join("mail", "given", events, mail)
    assert [len(relay.deliver._lease_brought(mail, "given", inbox, limit)) for limit in (5, 5, None)] == [5, 5, 2]


def test_a_group_that_has_landed_does_not_wait_for_the_next(monkeypatch):
    """Where a vendor is quick, all that lands within the time of gathering goes together; else only what lands together."""
    monkeypatch.setattr(pipeline.in_hand, "GATHER_SECONDS", 5.0)
    monkeypatch.setattr(pipeline.in_hand, "GAP_SECONDS", 0.05)
    chunk, began = talking(0.1), time.monotonic()
    for number in range(3):
        chunk.landed.put((chunk.flying[number], "a result", 0.1))
    chunk.wait()
    assert len(chunk.arrived) == 3
    assert time.monotonic() - began < 4.0


def test_what_landed_before_a_turn_failed_waits_for_nothing_else(monkeypatch):
    """It is still there when the ledger is back, and others may have landed since."""
    chunk, began = talking(0.1), time.monotonic()
    chunk.arrived.append((chunk.flying[0], "a result"))
    chunk.landed.put((chunk.flying[1], "a result", 0.1))
    chunk.wait()
    chunk.wait()
    assert len(chunk.arrived) == 2
    assert time.monotonic() - began < 0.9
