"""Clocks that are wrong: processes hours apart, a server's clock put back in mid-work, and event times at every edge. Order holds, and nothing waits for a clock."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.chaos.frame import Check, Figures, Scale, Scenario
from tests.support.skewed import LIBRARY, Skewed, skewed_relay
from tests.support.stack import wait_until

HOUR = 3600
STEP_SECONDS = -HOUR
NARROW_CALLS, NARROW_SECONDS = 10, 4.0


@dataclass(slots=True)
class Found:
    """What one relay showed."""

    events: int = 0
    wrong: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0
    after_step_seconds: float = 0.0
    most_in_window: int = 0
    sum_in_backlog: int = 0


def at(seconds: float = 0.0) -> str:
    """A time so far from the right one."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def event(person: str, state: str, event_time: str, *, purpose: str = "news", **more: Any) -> dict[str, Any]:
    return {"subject": {"email": f"{person}@example.org"}, "purpose": purpose, "state": state, "event_time": event_time, **more}


def edges() -> dict[str, tuple[list[tuple[str, str]], str]]:
    """Person -> what they said (state, event time), in the order it is posted, and what must stand in the end."""
    now = at(-1)
    return {
        "tie": ([("withdrawn", now), ("given", now)], "withdrawn"),
        "tie-reversed": ([("given", now), ("withdrawn", now)], "withdrawn"),
        "same-instant-other-zone": ([("withdrawn", "2026-03-01T12:00:00+01:00"), ("given", "2026-03-01T08:00:00-03:00")], "withdrawn"),
        "epoch": ([("withdrawn", "1970-01-01T00:00:01Z"), ("given", "1970-01-01T00:00:00Z")], "withdrawn"),
        "epoch-then-given": ([("given", "1970-01-01T00:00:01Z"), ("withdrawn", "1970-01-01T00:00:00Z")], "given"),
        "ahead": ([("given", at(280)), ("withdrawn", at(200))], "withdrawn"),  # received later: a fast clock beats no later word
        # In Berlin clocks go from 02:00 to 03:00 on 2026-03-29, and from 03:00 to 02:00 on 2025-10-26: local times lie, instants do not.
        "clocks-go-forward": ([("withdrawn", "2026-03-29T03:00:00+02:00"), ("given", "2026-03-29T01:59:59+01:00")], "withdrawn"),
        "clocks-go-back": ([("withdrawn", "2025-10-26T02:10:00+01:00"), ("given", "2025-10-26T02:50:00+02:00")], "withdrawn"),
        "clocks-go-back-given": ([("given", "2025-10-26T02:10:00+01:00"), ("withdrawn", "2025-10-26T02:50:00+02:00")], "given"),
    }


def look_at_skew(relay: Skewed, found: Found, *, people: int, chance: random.Random) -> None:
    """Ingest, beat and workers are hours apart from each other and from the server: everything is accepted, told, and told again after a failure, within seconds."""
    first = relay.accept(event("first", "given", at(-1)))
    wait_until(lambda: bool(relay.event(first)["complete"]), 60, relay.log)  # workers take a while to start
    refused = {"future": at(400), "before 1970": "1969-12-31T23:59:59Z", "year one": "0001-01-01T00:00:00+03:00"}
    for name, time_said in refused.items():
        answer = relay.post(event("nobody", "given", time_said))
        found.wrong += [] if answer.status_code == 422 else [f"{name} was answered {answer.status_code}"]
    relay.sandboxes.faults("webhook", {"kind": "status", "status": 503, "times": 6})  # told again by beat, whose messages workers must not take for old ones
    said = {person: (list(words), wanted) for person, (words, wanted) in edges().items()}
    for number in range(people):
        states = [chance.choice(["given", "withdrawn"]) for _ in range(3)]
        said[f"person-{number}"] = ([(state, at(-3 + place)) for place, state in enumerate(states)], states[-1])
    begun_at = time.monotonic()
    ids = [relay.accept(event(person, state, time_said)) for person, (words, _) in said.items() for state, time_said in words]
    ids += [relay.accept(event("twice", "given", "2026-01-05T12:00:00Z", idempotency_key=f"twice-{n}")) for n in range(2)]
    finish(relay, found, ids, {person: wanted for person, (_, wanted) in said.items()} | {"twice": "given"}, 40)
    found.slowest_seconds = time.monotonic() - begun_at
    newest = relay.sandboxes.state("webhook")["contacts"]["quick/email:twice@example.org/news"]["event_id"]
    found.wrong += [] if newest == max(ids[-2:]) else ["of two words at one instant the one with the greater id must stand"]


def look_at_step(relay: Skewed, found: Found, *, backlog: int) -> None:
    """The server's clock goes back an hour while a narrow destination has a backlog and full window, retries wait, and a worker dies with leases in hand."""
    # The failures come last, so that what waits for its retry does so across the step.
    before = [relay.accept(event(f"slow-{n}", "given", at(-2), purpose="slow")) for n in range(backlog)]
    changing = [relay.accept(event(f"changing-{n}", "given", at(-1))) for n in range(10)]
    wait_until(lambda: account(relay, "narrow")["done"] >= NARROW_CALLS, 20, relay.log)
    relay.sandboxes.faults("webhook", {"kind": "status", "status": 503, "times": 4})
    changing += [relay.accept(event(f"retried-{n}", "given", at(-1))) for n in range(4)]
    relay.kill("late")
    relay.set_clock("server", STEP_SECONDS)
    wait_until(lambda: relay.server_offset_seconds() < STEP_SECONDS / 2, 10)
    begun_at = time.monotonic()
    relay.worker("late", 0)
    after = [relay.accept(event(f"changing-{n}", "withdrawn", at(0))) for n in range(10)]
    after += [relay.accept(event(f"slow-{backlog - 1 - n}", "withdrawn", at(0), purpose="slow")) for n in range(3)]
    wanted = {f"changing-{n}": "withdrawn" for n in range(10)} | {f"retried-{n}": "given" for n in range(4)}
    told_in = (backlog + 3) / NARROW_CALLS * NARROW_SECONDS
    finish(relay, found, [*before, *changing, *after], wanted, 60 + 2 * told_in)
    found.after_step_seconds, found.sum_in_backlog = time.monotonic() - begun_at, backlog
    narrow = {
        key.split(":")[1].split("@")[0]: contact["state"] for key, contact in relay.sandboxes.state("webhook")["contacts"].items() if key.startswith("narrow/")
    }
    withdrawn = {f"slow-{backlog - 1 - n}" for n in range(3)}
    found.wrong += [
        f"{person} is held as {state} by the narrow destination" for person, state in narrow.items() if (state == "withdrawn") is not (person in withdrawn)
    ]
    found.wrong += [] if len(narrow) == backlog else [f"the narrow destination knows {len(narrow)} of {backlog}"]
    found.wrong += [] if "clock_put_back" in relay.log() else ["nobody said that the clock was put back"]
    found.most_in_window = account(relay, "narrow")["max_in_window"]


def finish(relay: Skewed, found: Found, ids: list[str], wanted: dict[str, str], seconds: float) -> None:
    """Wait until all of it is complete, then compare what the vendor holds."""
    found.events += len(ids)
    left = list(ids)

    def done() -> bool:
        while left and relay.event(left[-1])["complete"]:
            left.pop()
        return not left

    wait_until(done, seconds, lambda: f"not complete: {relay.event(left[-1])}\n{relay.log()}")
    contacts = relay.sandboxes.state("webhook")["contacts"]
    held = {person: contacts.get(f"quick/email:{person}@example.org/news", {}).get("state") for person in wanted}
    found.wrong += [f"{person} is held as {held[person]}, not {state}" for person, state in wanted.items() if held[person] != state]


def account(relay: Skewed, name: str) -> dict[str, int]:
    return dict(relay.sandboxes.state("webhook")["accounts"].get(name, {"done": 0, "max_in_window": 0}))


def look(seed: int, *, people: int, backlog: int, skew: Callable[[int], int] = lambda hours: hours * HOUR) -> Found:
    """One relay through both: hours of skew, and a step back of an hour."""
    found, chance = Found(), random.Random(seed)
    with skewed_relay(ingest=skew(-2), beat=skew(-1), workers={"early": skew(3), "late": skew(-5)}) as relay:
        look_at_skew(relay, found, people=people, chance=chance)
        look_at_step(relay, found, backlog=backlog)
    return found


def checks_of(found: Found) -> list[Check]:
    told_in = found.sum_in_backlog / NARROW_CALLS * NARROW_SECONDS
    return [
        Check(what=f"words out of order, wrong answers and missing alerts ({'; '.join(found.wrong) or 'none'})", found=len(found.wrong), most=0),
        Check(what="seconds until everything was told by processes whose clocks are hours apart", found=round(found.slowest_seconds, 1), most=40),
        Check(
            what=f"seconds until everything was told after the server's clock went back an hour; the vendor's rate alone takes {told_in:.0f}",
            found=round(found.after_step_seconds, 1),
            most=round(60 + 2 * told_in),
        ),
        Check(what="calls in any window of a vendor that allows 10 in 4 seconds, across the step", found=found.most_in_window, most=NARROW_CALLS),
    ]


@pytest.mark.timeout(300)
@pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime (Debian, Ubuntu: apt-get install libfaketime)")
def test_wrong_clocks_cost_seconds(seed: int) -> None:
    """Ingest two hours behind, beat one, workers three ahead and five behind; then the server's clock goes back an hour and a worker dies at that moment."""
    found = look(seed, people=8, backlog=15)
    print(found)
    assert [check.what for check in checks_of(found) if not check.is_met] == []


def run(scale: Scale, seed: int) -> Figures:
    """The long form: more people, longer backlogs, and again and again."""
    rounds = [look(seed + number, people=scale.times(200), backlog=scale.times(120)) for number in range(scale.times(5))]
    return Figures(
        done={"steps back of the server's clock by an hour": len(rounds), "processes with clocks hours apart": 4 * len(rounds)},
        events=sum(found.events for found in rounds),
        calls=None,
        checks=[check for found in rounds for check in checks_of(found)],
    )


SCENARIO = Scenario(
    name="clocks",
    title="Clocks that are hours wrong, and a server's clock that is put back",
    told="""
        Ingest's clock is two hours behind the server's, beat's one, one worker's five, another's three ahead (libfaketime). Events come with times at every edge: equal instants, both sides of a change of
        daylight saving time, 1970, the allowed skew in the future. Then the server's clock is put back by an hour while a rate window is full, retries wait and a worker is killed with leases in hand.
        Everything must be told within seconds, in order, and no faster than the vendor allows.
    """,
    run=run,
    longest_seconds=lambda scale: 60 + scale.times(5) * 400,
)
