"""Holds the evidence against what really happened: every accepted event, and every call that a sandbox saw, must be on record."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing

from tests.support.load import Sent
from tests.support.stack import Stack

MOST_REQUESTS = 6
"""Requests of one dialogue, at the most: found, read, written, each once more."""
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


def unrecorded(seen: Mapping[str, int], recorded: Mapping[str, int], unanswered: int) -> list[str]:
    """Calls that vendors saw and no record has, by their keyed hash; a worker that never reported may have made some for each delivery that it had taken up."""
    missing = {name: count - recorded.get(name, 0) for name, count in seen.items() if count > recorded.get(name, 0)}
    most = unanswered * MOST_REQUESTS
    return (
        [f"{sum(missing.values())} calls are not on record, {unanswered} deliveries are unanswered, such as {sorted(missing)[:3]}"]
        if sum(missing.values()) > most
        else []
    )


def unrecorded_calls(stack: Stack, vendors: Iterable[str]) -> list[str]:
    """The same of a relay whose sandboxes were given its pepper, for all calls since they were last told to forget."""
    seen = Counter(call["request_hmac"] for vendor in vendors for call in stack.sandbox(vendor)["calls"] if "request_hmac" in call)
    query = "SELECT json_extract(CAST(content AS TEXT), '$.request_hmac'), kind, count(*) FROM evidence_record WHERE kind IN ('told', 'asked', 'unanswered') GROUP BY 1, 2"
    recorded: Counter[str] = Counter()
    unanswered = 0
    with closing(sqlite3.connect(stack.folder / "evidence.sqlite")) as connection:
        for name, kind, count in connection.execute(query):
            if kind == "unanswered":
                unanswered += count
            else:
                recorded[name] += count
    return unrecorded(seen, recorded, unanswered)


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


def evidence_gaps(stack: Stack, events: Iterable[Sent], vendors: Iterable[str] = ()) -> list[str]:
    """What the evidence of a relay does not account for: of these events, and of every call to these vendors."""
    accepted = {sent.event_id for sent in events if sent.ids}
    calls = {about: count for about, count in webhook_calls(stack).items() if about[0] in accepted}
    return gaps(recorded_in(stack, accepted), sorted(accepted), calls) + unrecorded_calls(stack, vendors)
