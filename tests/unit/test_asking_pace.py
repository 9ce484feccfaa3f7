"""How many dialogues a chunk asks for: all that may be under way, and after a refusal hardly more than have ended, until nothing is refused any more."""

from __future__ import annotations

import time
from collections import deque
from types import SimpleNamespace

import pytest

from pipeline.chunk import ChunkWorker
from pipeline.in_hand import LEAST_TRIED, Chunk
from pipeline.ledger.accounts import Admission


def chunk_of(waiting: int, *, concurrent: int, lane: str = "given", batch_size: int = 1) -> Chunk:
    """A chunk of so many deliveries, each to somebody else."""
    traffic = SimpleNamespace(concurrent=concurrent, reserved_dialogues=0, batch_size=batch_size)
    pending = deque(SimpleNamespace(place="", contact_keys=(str(number),)) for number in range(waiting))
    far = time.monotonic() + 60
    destination = SimpleNamespace(options_by_purpose={})
    return Chunk(
        destination=destination,
        lane=lane,
        token="t",
        more=None,
        traffic=traffic,
        pending=pending,
        endings=[],
        stop_at=far,
        renew_at=far,
        settle_at=far,
        patience=0,
    )


def turn(chunk: Chunk, free: int, landed: int = 0) -> int:
    """How many are asked for, of which so many are admitted; each is under way alone from then on."""
    asked = chunk.next_asked(landed)
    for permit in list(chunk.flying)[:landed]:
        del chunk.flying[permit]
    for task, _ in chunk.sort(asked, [1] * min(free, len(asked)) + [0] * (len(asked) - free)):
        chunk.flying[chunk.next_permit] = SimpleNamespace(tasks=[task])
        chunk.next_permit += 1
    return len(asked)


def test_what_is_refused_is_not_asked_for_each_time():
    """Two processes share 64 connections: each asks for those that ended, and for a few of the others'."""
    chunk = chunk_of(1000, concurrent=64)
    assert turn(chunk, 32) == 64
    assert [turn(chunk, landed, landed) for landed in (10, 32, 1)] == [10 + LEAST_TRIED, 32 + LEAST_TRIED, 1 + LEAST_TRIED]
    assert len(chunk.pending) == 1000 - 32 - 10 - 32 - 1


def test_connections_that_become_free_are_all_had_soon():
    chunk = chunk_of(1000, concurrent=64)
    turn(chunk, 8)
    assert [turn(chunk, 64) for _ in range(5)] == [LEAST_TRIED, 2 * LEAST_TRIED, 4 * LEAST_TRIED, 64 - 8 - 7 * LEAST_TRIED, 0]
    assert len(chunk.flying) == 64
    assert turn(chunk, 64, 64) == 64


def test_who_had_all_that_it_tried_tries_again_at_once():
    """Not when the next dialogue has landed: a slow vendor would have many connections idle until then."""
    chunk = chunk_of(1000, concurrent=64)
    turn(chunk, 8)
    assert not chunk.is_growing
    for _ in range(4):
        turn(chunk, 64)
        growing, full = chunk.is_growing, len(chunk.flying) == 64
        assert growing is not full
    turn(chunk, 0, 10)
    assert not chunk.is_growing


def test_others_are_tried_where_a_few_are_talked_about_elsewhere():
    """What was not asked for does not go back to the ledger with those few."""
    chunk = chunk_of(10, concurrent=64)
    for task in chunk.pending:
        task.ending = lambda *_args, **_options: "busy"
    chunk.tried = LEAST_TRIED
    asked = chunk.next_asked(0)
    admission = Admission(dialogues=0, retry_at_ms=0, why="", verdicts=(-1,) * len(asked))
    worker = ChunkWorker(None, None, None, None, None, SimpleNamespace(patience_seconds=0), lambda: False)
    worker._launch = lambda *_args: None
    worker._start(chunk, asked, admission, {}, 0.0)
    assert (len(chunk.pending), chunk.endings) == (10 - LEAST_TRIED, ["busy"] * LEAST_TRIED)


@pytest.mark.parametrize("batch_size, at_once", [(1, 6), (2, 1)])
def test_deliveries_of_several_places_go_together_unless_they_would_share_a_call(batch_size, at_once):
    """A withdrawal that is asked about has a place of its own; one after the other they would hold up those behind them."""
    chunk = chunk_of(6, concurrent=8, batch_size=batch_size)
    for number, task in enumerate(chunk.pending):
        task.place = f"ask {number}"
    assert len(chunk.next_asked(0)) == at_once


def test_calls_for_many_stay_full():
    """What is tried is counted in dialogues: a call for five hundred does not become one for four."""
    chunk = chunk_of(20_000, concurrent=20, batch_size=500)
    turn(chunk, 500)
    assert turn(chunk, 500) == LEAST_TRIED * 500


@pytest.mark.parametrize("concurrent", [1, 64])
def test_withdrawals_ask_for_all_that_they_want(concurrent):
    """As many connections are left to them as they were refused."""
    chunk = chunk_of(1000, concurrent=concurrent, lane="withdrawn")
    assert [turn(chunk, 0) for _ in range(3)] == [concurrent] * 3
