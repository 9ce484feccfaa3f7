"""The backlog of the bare loops: a Redis list of events as JSON, taken out in hundreds."""

import json

QUEUE = "bare:events"
AT_ONCE = 100


def fill(client, events):
    """Push events, a thousand in a round trip."""
    for first in range(0, len(events), 1000):
        client.rpush(QUEUE, *(json.dumps(event) for event in events[first : first + 1000]))


def take(client):
    """Up to a hundred events; none when the backlog is empty."""
    return [json.loads(text) for text in client.lpop(QUEUE, AT_ONCE) or ()]
