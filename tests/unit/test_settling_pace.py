"""How soon endings are written down: at once where that takes little, and never so often that a chunk does nothing else."""

from __future__ import annotations

import time
from collections import deque
from types import SimpleNamespace

import pytest

import pipeline.chunk
from pipeline.chunk import SETTLE_AT_ONCE, SETTLE_SECONDS, ChunkWorker
from pipeline.landing import Chunk


@pytest.mark.parametrize("takes,rests", [(0.002, 0.012), (0.010, 0.060), (0.5, SETTLE_SECONDS)])
def test_what_is_quick_to_write_is_written_soon(monkeypatch, takes, rests):
    """The next endings wait six times as long as writing the last took, and a tenth of a second at most; a hundred wait for nothing."""
    clock = [100.0]
    monkeypatch.setattr(pipeline.chunk, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    written: list[int] = []

    def settle(_destination, _lane, _token, endings, _now_ms) -> None:
        written.append(len(endings))
        clock[0] += takes

    worker = ChunkWorker(SimpleNamespace(clock_ms=lambda: 1), None, None, SimpleNamespace(settle=settle), None, None)
    times = {"stop_at": 200.0, "renew_at": 200.0, "settle_at": 100.0, "patience": 0}
    chunk = Chunk(destination=None, lane="given", token="t", traffic=None, pending=deque(), endings=["first"], **times)
    chunk.flying[1] = "a dialogue"
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


def test_nobody_waits_for_an_answer_while_endings_are_due():
    """A vendor that takes long to answer does not keep what others have answered from being written down."""
    worker = ChunkWorker(None, None, None, None, None, None)
    now = time.monotonic()
    times = {"stop_at": now + 60, "renew_at": now + 60, "settle_at": now + 0.05, "patience": 0}
    chunk = Chunk(destination=None, lane="given", token="t", traffic=SimpleNamespace(concurrent=1), pending=deque(), endings=["told"], **times)
    chunk.flying[1] = "a dialogue that takes long"
    worker._wait(chunk)
    assert 0.04 < time.monotonic() - now < 0.5
    chunk.endings.clear()
    worker._wait(chunk)
    assert time.monotonic() - now > 1.0
