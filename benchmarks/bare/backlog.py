"""Puts a backlog of events into a Redis list, and takes them out again in hundreds."""

import json

import redis

from benchmarks.invented import event
from benchmarks.peers.producer import REDIS_URL

QUEUE = "bare:events"
AT_ONCE = 100


def fill(run, count):
    """Push `count` events, a thousand in a round trip."""
    with redis.Redis.from_url(REDIS_URL) as client:
        for first in range(0, count, 1000):
            client.rpush(QUEUE, *(json.dumps(event(run, number)) for number in range(first, min(count, first + 1000))))


def take(client):
    """Up to a hundred events; none when the backlog is empty."""
    return [json.loads(text) for text in client.lpop(QUEUE, AT_ONCE) or ()]
