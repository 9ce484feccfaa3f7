"""Holds the evidence against what really happened: every accepted event, and every call that a sandbox saw, must be on record."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing

from tests.support.load import Sent
from tests.support.stack import Stack

Recorded = Mapping[tuple[str, str, str], int]
"""(event id, kind, destination) -> how many records."""


def gaps(recorded: Recorded, accepted: Iterable[str], calls: Mapping[tuple[str, str], int]) -> list[str]:
    """What the evidence does not account for. `calls` are those that a vendor saw, by (event id, destination).

    A call is accounted for by the record of its request, or by one that says that a worker took the delivery up and never reported.
    """
    found = []
    for event_id in accepted:
        for kind in ("received", "accepted", "planned", "completed"):
            count = recorded.get((event_id, kind, ""), 0)
            if count == 0 or (count > 1 and kind != "completed"):  # one that is brought back is completed again
                found.append(f"{event_id}: {count} records of kind {kind}")
    for (event_id, destination), count in calls.items():
        known = sum(recorded.get((event_id, kind, destination), 0) for kind in ("told", "unanswered"))
        if count > known:
            found.append(f"{event_id}.{destination}: {count} calls, {known} on record")
    return found


def recorded_in(stack: Stack, event_ids: Collection[str]) -> Recorded:
    """What a relay's archive has of these events, once everything that waited is archived."""
    archived = stack.consent("evidence", "archive")
    assert archived.returncode == 0, archived.stderr
    query = "SELECT event_id, kind, coalesce(json_extract(CAST(content AS TEXT), '$.destination'), ''), count(*) FROM evidence_record GROUP BY 1, 2, 3"
    with closing(sqlite3.connect(stack.folder / "evidence.sqlite")) as connection:
        return {(event_id, kind, destination): count for event_id, kind, destination, count in connection.execute(query) if event_id in event_ids}


def webhook_calls(stack: Stack) -> dict[tuple[str, str], int]:
    """The calls that the webhook's sandbox saw, by (event id, destination): it is told the id of each delivery."""
    times: dict[str, Counter[str]] = defaultdict(Counter)
    for key, states in stack.sandbox("webhook")["history"].items():
        for told in states:
            times[told["webhook_id"]][key] += 1
    calls = {}
    for delivery, by_identifier in times.items():
        event_id, _, destination = delivery.partition(".")
        calls[event_id, destination] = max(by_identifier.values())
    return calls


def evidence_gaps(stack: Stack, events: Iterable[Sent]) -> list[str]:
    """What the evidence of a relay does not account for, of these events."""
    accepted = {sent.event_id for sent in events if sent.ids}
    calls = {about: count for about, count in webhook_calls(stack).items() if about[0] in accepted}
    return gaps(recorded_in(stack, accepted), sorted(accepted), calls)
