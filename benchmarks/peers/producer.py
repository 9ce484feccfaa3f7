"""Drives a peer's producer: gets everything ready, waits for the word, enqueues events and reports when.

The order of lines is the same as for the product's load: an order as JSON on standard input, `ready`, an empty line, the report as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from benchmarks.invented import Event, event

REDIS_URL: Final = os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:1/0")
STUB_URL: Final = os.environ.get("BENCH_STUB_URL", "http://127.0.0.1:1")
AT_ONCE: Final = 32
"""Events that a coroutine enqueues at once where no pace is asked for: as many as ours is posted. One after the other they would wait for the disk, each for itself."""


def produce(enqueue: Callable[[Event], Any]) -> None:
    """Enqueue with a blocking call, one after the other; its callers are done long before their workers."""
    order = json.loads(sys.stdin.readline())
    events = _events(order)
    _await_word()
    begun_at, begun_at_by_id = time.time(), {}
    for number, one in enumerate(events):
        if order["rate"]:
            time.sleep(max(0.0, begun_at + number / order["rate"] - time.time()))
            begun_at_by_id[one["idempotency_key"]] = time.time()
        enqueue(one)
    _report(begun_at, len(events), begun_at_by_id)


async def produce_async(enqueue: Callable[[Event], Awaitable[Any]]) -> None:
    """Enqueue with a coroutine: at the pace that is asked for, or `AT_ONCE` at a time."""
    order = json.loads(sys.stdin.readline())
    events = _events(order)
    _await_word()
    begun_at, begun_at_by_id = time.time(), {}
    if order["rate"]:
        for number, one in enumerate(events):
            await asyncio.sleep(max(0.0, begun_at + number / order["rate"] - time.time()))
            begun_at_by_id[one["idempotency_key"]] = time.time()
            await enqueue(one)
    else:
        left = iter(events)
        await asyncio.gather(*(_one_by_one(left, enqueue) for _ in range(AT_ONCE)))
    _report(begun_at, len(events), begun_at_by_id)


async def _one_by_one(events: Iterable[Event], enqueue: Callable[[Event], Awaitable[Any]]) -> None:
    for one in events:
        await enqueue(one)


def _events(order: dict[str, Any]) -> list[Event]:
    return [event(order["run"], number) for number in range(order["count"])]


def _await_word() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def _report(begun_at: float, count: int, begun_at_by_id: dict[str, float]) -> None:
    report = {"begun_at": begun_at, "ended_at": time.time(), "accepted": count, "statuses": {}, "posted_at": begun_at_by_id}
    print(json.dumps(report), flush=True)
