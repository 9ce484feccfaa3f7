"""Compares what the sandboxes hold and were told with what people said: lost, stale, doubled, dead. Works on the routing of `world.py`.

Repeated calls can be told at the webhook only, where a call carries its delivery's id; the other vendors are compared by what they hold.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests

from tests.support.accounting import evidence_gaps
from tests.support.load import Arrival, Sent, corrections, stale_arrivals, standing
from tests.support.stack import Stack, wait_until
from tests.support.world import LATENCY_SECONDS, PURPOSES_OF

BEGUN_BEFORE_SECONDS = 1.0
"""How long before its arrival a busy machine may have begun a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of events once the relay was given time to end: `lost` are the ids of those that did not, `wrong` (vendor, about, wanted, held).

    `lags` are the seconds after a withdrawal's 202 at which a `given` still arrived, `corrections` the seconds until each was corrected, `late` (202, arrival) of
    those that had not begun before, and `uncounted` how many of these were not counted in `stale_sends`. `gaps` is what the evidence does not account for.
    """

    events: int
    calls: int
    doubled: int
    lost: Sequence[str]
    wrong: Sequence[tuple[str, tuple[str, str], str, str | None]]
    unaccounted: float
    dead: float
    lags: Sequence[float] = field(repr=False)
    corrections: Sequence[float] = field(repr=False)
    late: Sequence[tuple[float, float]]
    stale_sends: int
    uncounted: int
    several_ids: int
    accepted: int
    gaps: Sequence[str]

    def problems(self, *, doubled_share: float) -> list[str]:
        """What a test fails with; empty if every promise was kept."""
        found = {
            f"not complete: {self.lost[:5]}": self.lost,
            f"held otherwise than said: {self.wrong[:5]}": self.wrong,
            f"unaccounted {self.unaccounted:g}": self.unaccounted,
            f"dead letters {self.dead:g}": self.dead,
            f"{self.uncounted} stale sends begun after a withdrawal's 202 were not counted": self.uncounted,
            f"{self.several_ids} events were told several ids": self.several_ids,
            f"{self.accepted} events in the ledger for {self.events} accepted": self.accepted != self.events,
            f"not on record: {self.gaps[:5]}": self.gaps,
            f"{self.doubled} of {self.calls} calls had been made before": self.doubled > doubled_share * self.calls,
        }
        return [text for text, is_wrong in found.items() if is_wrong]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What the relay itself had counted at a moment."""

    accepted: int = 0
    stale_sends: int = 0


def counts(stack: Stack) -> Counts:
    return Counts(accepted=int(stack.metric("consent_events_total", status="accepted")), stale_sends=int(stack.metric("consent_stale_sends_total")))


def judge(
    stack: Stack,
    events: Sequence[Sent],
    *,
    seconds: float,
    purposes_of: Mapping[str, Collection[str]] = PURPOSES_OF,
    before: Counts = Counts(),
) -> Verdict:
    """Give the relay so many seconds to end what it accepted, then compare. Raises nothing for what is wrong; it is in the verdict."""
    lost = incomplete(stack, [sent.event_id for sent in events], seconds)
    unaccounted = settled_metric(stack, "consent_unaccounted", 0, 15)
    arrivals = arrivals_of(stack, purposes_of)
    stale = [(withdrawn.answered_at, arrival.at) for told in arrivals.values() for arrival, withdrawn in stale_arrivals(events, told)]
    late = [(answered_at, at) for answered_at, at in stale if at - answered_at > BEGUN_BEFORE_SECONDS]
    calls, doubled = repeated_calls(stack)
    now = counts(stack)
    return Verdict(
        events=len(events),
        calls=calls,
        doubled=doubled,
        lost=lost,
        wrong=wrong_states(stack, events, purposes_of),
        unaccounted=unaccounted,
        dead=stack.metric("consent_dead_letters"),
        lags=[at - answered_at for answered_at, at in stale],
        corrections=[seconds for told in arrivals.values() for seconds in corrections(events, told)],
        stale_sends=now.stale_sends - before.stale_sends,
        late=late,
        uncounted=max(0, len(late) - (now.stale_sends - before.stale_sends)),
        several_ids=sum(len(set(sent.ids)) > 1 for sent in events),
        accepted=now.accepted - before.accepted,
        gaps=evidence_gaps(stack, events, purposes_of),
    )


def faults(stack: Stack) -> list[str]:
    """Tasks that failed, but for those whose ledger was away: an outage is no fault of a task."""
    failed = [line for line in stack.log().splitlines() if '"task_failed"' in line]
    return [line for line in failed if not str(json.loads(line).get("error", "")).startswith("LedgerUnavailable")]


def incomplete(stack: Stack, event_ids: Sequence[str], seconds: float) -> list[str]:
    """Wait until all events are complete; returns those that are not after so many seconds."""
    left, until = list(event_ids), time.monotonic() + seconds
    while left and time.monotonic() < until:
        if _is_complete(stack, left[-1]):
            left.pop()
        else:
            time.sleep(0.05)
    return [event_id for event_id in left if not _is_complete(stack, event_id)]


def _is_complete(stack: Stack, event_id: str) -> bool:
    try:
        return bool(stack.event(event_id).get("complete"))
    except requests.RequestException:
        return False


def settled_metric(stack: Stack, name: str, wanted: float, seconds: float) -> float:
    """A metric once it is as wanted, or what it is after so many seconds."""
    until = time.monotonic() + seconds
    while (value := stack.metric(name)) != wanted and time.monotonic() < until:
        time.sleep(0.2)
    return value


def about_of(vendor: str, key: str) -> tuple[str, str] | None:
    """Whom and what a sandbox's contact stands for; None if it is named by another identifier than the e-mail."""
    if vendor == "webhook":
        who, _, purpose = key.rpartition("/")
        return (who.removeprefix("email:"), purpose) if who.startswith("email:") else None
    listed, _, email = key.partition("/")
    return email, "slow-news" if listed == "2" else "newsletter"


def arrivals_of(stack: Stack, vendors: Iterable[str] = PURPOSES_OF) -> dict[str, list[Arrival]]:
    """What each sandbox was told about e-mail addresses, when the requests came in."""
    found: dict[str, list[Arrival]] = {}
    for vendor in vendors:
        found[vendor] = []
        for key, states in stack.sandbox(vendor)["history"].items():
            about = about_of(vendor, key)
            for told in states if about else ():
                at = told["at"] - LATENCY_SECONDS
                found[vendor].append(Arrival(about=about, state=told["state"], at=at, event_id=told.get("event_id", ""), call_id=told.get("webhook_id", "")))
    return found


def held(stack: Stack, vendors: Iterable[str] = PURPOSES_OF) -> dict[str, dict[tuple[str, str], str]]:
    """Vendor -> e-mail and purpose -> the state it holds now."""
    return {
        vendor: {about: contact["state"] for key, contact in stack.sandbox(vendor)["contacts"].items() if (about := about_of(vendor, key))}
        for vendor in vendors
    }


def wrong_states(
    stack: Stack, events: Iterable[Sent], purposes_of: Mapping[str, Collection[str]] = PURPOSES_OF
) -> list[tuple[str, tuple[str, str], str, str | None]]:
    """Where a vendor holds something else than the newest word, or knows somebody of whom nothing was said: (vendor, about, wanted, held)."""
    expected, states, wrong = standing(events), held(stack, purposes_of), []
    for vendor, purposes in purposes_of.items():
        wanted = {about: state for about, state in expected.items() if about[1] in purposes}
        known = states[vendor]
        differing = (about for about in sorted(wanted.keys() | known.keys()) if known.get(about) != wanted.get(about))
        wrong += [(vendor, about, wanted.get(about, "nothing"), known.get(about)) for about in differing]
    return wrong


def repeated_calls(stack: Stack) -> tuple[int, int]:
    """Webhook calls, and how many had been made before."""
    return repeated_in(stack.sandbox("webhook")["history"])


def repeated_in(history: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[int, int]:
    """The same of a webhook's history; a call that names a further identifier, since a link was learned, is no repeat."""
    deliveries = _times_by_delivery(history)
    return sum(max(map(len, each.values())) for each in deliveries), sum(map(_repeats, deliveries))


def repeated_after(history: Mapping[str, Sequence[Mapping[str, Any]]], seconds: float) -> int:
    """Webhook calls that were made again so long after they had been made, as when a lease runs out; one that a link brought back comes at once."""
    repeated = [sorted(max(each.values(), key=len)) for each in _times_by_delivery(history) if _repeats(each)]
    return sum(any(later - earlier >= seconds for earlier, later in itertools.pairwise(times)) for times in repeated)


def _times_by_delivery(history: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Mapping[str, list[float]]]:
    """When each delivery was told, by the identifiers that it named."""
    times: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for key, states in history.items():
        for told in states:
            times[told["webhook_id"]][key].append(told.get("at", 0.0))
    return list(times.values())


def _repeats(by_identifier: Mapping[str, Sequence[float]]) -> int:
    """How many calls of a delivery had been made before."""
    most = max(map(len, by_identifier.values()))
    return max(0, most - 1 - sum(len(times) < most for times in by_identifier.values()))


def check_end(stack: Stack, events: Sequence[Sent], *, seconds: float, is_on_record: bool = True) -> None:
    """Whatever happened: everything is known and complete, nobody is dead or unaccounted, evidence (if `is_on_record`) has every step, and every vendor holds what was said last."""
    stack.wait_complete([sent.event_id for sent in events], seconds)
    wait_until(lambda: stack.metric("consent_unaccounted") == 0, 10)
    assert stack.metric("consent_dead_letters") == 0
    assert stack.get("/v1/dead-letters").json()["items"] == []
    assert '"task_failed"' not in stack.log()
    assert not is_on_record or evidence_gaps(stack, events) == []
    assert wrong_states(stack, events) == []
