"""Ten destinations side by side: limits hold whatever the workers do, a broken vendor costs the others nothing, withdrawals pass any backlog, and a backlog is compacted."""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

from tests.chaos.frame import Check, Figures, Scale, Scenario
from tests.support.stack import Stack, wait_until
from tests.support.ten_accounts import ACCOUNTS, AWAY, FAULTY, HEALTHY, exceeded, meters, post_all, said, ten_accounts, told_per_second
from tests.support.verdict import incomplete

LATENCY_SECONDS = 0.25
"""How long a vendor takes: long enough that connections, not this machine, say how fast it is told."""
SETTLE_SECONDS = 1.2
"""From the change of a fault until throughput is measured: breakers open and close within a second here."""
LEAST_SHARE = 0.8


@dataclass(slots=True)
class Findings:
    """What one relay showed; `share` is the throughput of all healthy destinations beside broken ones, as a share of what it is without them, `shares` that of each."""

    workers: int
    kills: int = 0
    events: int = 0
    exceeded: list[str] = field(default_factory=list)
    share: float = 0.0
    pairs: int = 0
    shares: dict[str, float] = field(default_factory=dict)
    given_between: int = 0
    withdrawals_seconds: float = 0.0
    compacted: int = 0
    compacted_seconds: float = 0.0
    calls_while_away: int = 0
    told_after: int = 0
    """Vendor calls beyond one for each person once the vendor was back."""
    wrong_after: int = 0
    """People of whom the vendor holds another word than the last."""
    superseded: int = 0
    """Words overtaken that were not compacted while the vendor was away."""


def break_vendors(stack: Stack, *, broken: bool) -> None:
    """Break three vendors in their three ways, or heal them; the one that is away stays away."""
    away = {"kind": "status", "times": None, "status": 503, "match": AWAY.name}
    stack.fault("webhook", away, *(FAULTY.values() if broken else ()))


def kill_workers(stack: Stack, found: Findings, chance: random.Random, times: int) -> None:
    """Kill a worker process so many times, in mid-work; its supervisor starts another, which is waited for where it was the only one."""
    for _ in range(times):
        time.sleep(chance.uniform(0.8, 1.6))
        wait_until(lambda: bool(stack.pids("worker")), 30)
        os.kill(chance.choice(stack.pids("worker")), signal.SIGKILL)
        found.kills += 1


def look_at_limits(stack: Stack, found: Findings, chance: random.Random, *, kills: int) -> None:
    """The backlog of all ten goes on being told while workers are killed and restarted; every account must be used to its limit, or nothing is shown."""
    kill_workers(stack, found, chance, kills)
    limited = [each for each in ACCOUNTS if each.calls and each.name != "in-bulk"]  # hundreds of people fit into one call of that one

    def used() -> list[str]:
        metered = meters(stack)
        slack = [each.name for each in limited if metered[each.name]["max_in_window"] < 0.5 * (each.calls or 0)]
        return slack + [name for name in ("open-wide", "two-at-once", "one-at-once", "in-bulk") if metered[name]["max_concurrent"] < 1]

    wait_until(lambda: not used(), 30, lambda: f"hardly used: {used()}")


def look_at_isolation(stack: Stack, found: Findings, *, people: int, pairs: int, most_pairs: int, seconds: float) -> None:
    """A backlog for all ten; phases without broken vendors and with them take turns, so that what this machine does otherwise falls on both.

    Where they seem to differ, further pairs tell noise, which evens out, from what a broken vendor costs, which does not.
    """
    found.events += len(post_all(stack, [said(f"person-{n}", "given", "news", second=n) for n in range(people)]))
    wait_until(lambda: all(each["done"] > 10 for name, each in meters(stack).items() if name in HEALTHY), 60, lambda: f"hardly told: {meters(stack)}")
    rates: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    while len(rates[True]) < pairs or (min(found.share, *found.shares.values()) < LEAST_SHARE and len(rates[True]) < most_pairs):
        for broken in (False, True):
            break_vendors(stack, broken=broken)
            time.sleep(SETTLE_SECONDS)
            rates[broken].append(told_per_second(stack, HEALTHY, seconds))
        found.share = _median_share([sum(each.values()) for each in rates[True]], [sum(each.values()) for each in rates[False]])
        found.shares = {name: _median_share([each[name] for each in rates[True]], [each[name] for each in rates[False]]) for name in HEALTHY}
    break_vendors(stack, broken=False)
    found.pairs = len(rates[True])
    assert stack.metric("consent_waiting", destination="one-at-once") > 0, "the backlog was too short to compare"


def _median_share(beside: list[float], without: list[float]) -> float:
    return statistics.median(beside) / max(0.1, statistics.median(without))


def look_at_withdrawals(stack: Stack, found: Findings, *, backlog: int, people: int) -> None:
    """Behind so many `given` of a narrow destination a few withdraw: they are told first."""
    found.events += len(post_all(stack, [said(f"bulk-{n}", "given", "bulk") for n in range(backlog)]))
    wait_until(lambda: meters(stack)["narrow"]["done"] > 0, 30)
    found.events += len(post_all(stack, [said(f"bulk-{backlog - 1 - n}", "withdrawn", "bulk", second=1) for n in range(people)]))
    begun_at = time.time()
    told: list[tuple[float, str]] = []

    def all_told() -> bool:
        history = stack.sandbox("webhook")["history"]
        told[:] = sorted((each["at"], each["state"]) for key, states in history.items() if key.startswith("narrow/") for each in states)
        return sum(state == "withdrawn" for _, state in told) == people

    wait_until(all_told, 60, lambda: f"told {Counter(state for _, state in told)}")
    last = max(at for at, state in told if state == "withdrawn")
    found.withdrawals_seconds = last - begun_at
    found.given_between = sum(state == "given" and begun_at < at < last for at, state in told)
    assert sum(state == "given" for _, state in told) < backlog / 2, "there was no backlog to pass"


def look_at_compaction(stack: Stack, found: Findings, *, people: int, words: int) -> None:
    """People change their minds while a vendor is away: one word each remains to be told, without the vendor, and is told at its rate once it is back."""
    overtaken: list[str] = []
    for word in range(words):
        state = "withdrawn" if word % 2 else "given"
        changed = post_all(stack, [said(f"changing-{n}", state, "changes", second=word) for n in range(people)])
        found.events += people
        overtaken += changed if word < words - 1 else []
    posted_at, calls_before = time.monotonic(), meters(stack)["away"]["calls"]
    left = incomplete(stack, overtaken, 60 + people / 10)
    assert not left, f"{len(left)} overtaken words are not ended: {stack.event(left[0])}"
    wait_until(lambda: waiting(stack) == people, 20, lambda: f"{waiting(stack)} wait for {people} people")
    found.compacted, found.compacted_seconds = superseded(stack), time.monotonic() - posted_at
    found.calls_while_away = meters(stack)["away"]["calls"] - calls_before
    assert meters(stack)["away"]["done"] == 0
    stack.fault("webhook")
    wait_until(lambda: waiting(stack) == 0, 30 + 2 * people / (AWAY.calls or 1) * AWAY.per_seconds, lambda: f"{waiting(stack)} are not told yet")
    last = "withdrawn" if words % 2 == 0 else "given"
    held = {key: contact["state"] for key, contact in stack.sandbox("webhook")["contacts"].items() if key.startswith("away/")}
    found.wrong_after = people - sum(state == last for state in held.values())
    found.told_after = meters(stack)["away"]["done"] - people
    found.superseded = superseded(stack) - found.compacted


def waiting(stack: Stack) -> float:
    return stack.metric("consent_waiting", destination="away")


def superseded(stack: Stack) -> int:
    return int(stack.metric("consent_deliveries_total", destination="away", outcome="superseded"))


def look(workers: int, seed: int, share: float, *, kills: int, pairs: int, most_pairs: int, seconds: float) -> Findings:
    """One relay with so many worker processes, through everything."""
    found, chance = Findings(workers=workers), random.Random(seed)
    with ten_accounts(workers=workers, latency_seconds=LATENCY_SECONDS) as stack:
        break_vendors(stack, broken=False)
        people = int(26 * (SETTLE_SECONDS + seconds) * 2 * most_pairs + 500 + 100 * kills)
        look_at_isolation(stack, found, people=people, pairs=pairs, most_pairs=most_pairs, seconds=seconds)
        look_at_limits(stack, found, chance, kills=kills)
        look_at_withdrawals(stack, found, backlog=round(20_000 * share), people=20)
        look_at_compaction(stack, found, people=round(400 * share), words=4)
        found.exceeded = exceeded(stack)
        wait_until(lambda: stack.metric("consent_unaccounted") == 0, 15)
        assert '"task_failed"' not in stack.log()
    return found


@pytest.mark.timeout(300)
def test_ten_destinations_side_by_side(seed: int) -> None:
    """Two workers, one of them killed: no limit exceeded, the healthy as fast beside the broken, withdrawals first, and one word each left of a backlog."""
    found = look(2, seed, 0.1, kills=1, pairs=2, most_pairs=7, seconds=1.6)
    print(found)
    assert [check.what for check in checks_of(found) if not check.is_met] == []


def checks_of(found: Findings) -> list[Check]:
    """What must hold of one relay."""
    by = f"with {found.workers} worker processes"
    return [
        Check(what=f"limits that an account saw exceeded, {by} ({'; '.join(found.exceeded) or 'none'})", found=len(found.exceeded), most=0),
        Check(
            what=f"throughput of the healthy destinations beside broken ones, as a share of that without (medians), {by}",
            found=round(found.share, 3),
            least=LEAST_SHARE,
        ),
        Check(what=f"given told between a withdrawal's 202 and the last withdrawal of a narrow destination, {by}", found=found.given_between, most=20),
        Check(
            what=f"seconds until 20 withdrawals passed the backlog of a destination that takes 10 a second, {by}",
            found=round(found.withdrawals_seconds, 1),
            most=15,
        ),
        Check(what=f"calls to a vendor after its return beyond one for each person, {by}", found=found.told_after, most=0),
        Check(what=f"people of whom it then held another word than the last, {by}", found=found.wrong_after, most=0),
        Check(
            what=f"calls to a vendor that is away, while four words each wait, {by}", found=found.calls_while_away, most=max(30.0, 3 * found.compacted_seconds)
        ),
    ]


def _slowest(found: Findings) -> Check:
    """A sum could hide one that is starved; of each by itself a short run knows too little."""
    share = min(found.shares.values())
    return Check(what=f"the same of the destination that lost most, with {found.workers} worker processes", found=round(share, 3), least=LEAST_SHARE)


def run(scale: Scale, seed: int) -> Figures:
    """The long form: one, two and four worker processes, killed again and again, with 20,000 `given` to pass."""
    every = []
    for workers in (1, 2, 4):
        scale.say(f"{workers} worker processes")
        every.append(look(workers, seed + workers, scale.share, kills=scale.times(10), pairs=scale.times(8), most_pairs=scale.times(8) + 8, seconds=4.0))
    shares = {f"{found.workers} workers: share of {name}": round(share, 3) for found in every for name, share in found.shares.items()}
    return Figures(
        done={"worker processes killed": sum(found.kills for found in every), "phases with three broken vendors": sum(found.pairs for found in every)},
        events=sum(found.events for found in every),
        calls=None,
        checks=[check for found in every for check in [*checks_of(found), _slowest(found)]],
        more=shares,
    )


SCENARIO = Scenario(
    name="isolation",
    title="Ten destinations side by side, some of them broken",
    told="""
        Ten destinations with limits of their own: calls a second, in two and in three seconds, one to eight at once, vendors that take two calls for a person or many people in one. The sandboxes meter every account:
        calls in any sliding window, calls at once. With one, two and four worker processes, which are killed meanwhile, no limit may be exceeded. Then a vendor that hangs, one that answers 500 and one that throttles
        take turns with phases in which all are well: the median throughput of the others beside them must be at least 80 % of that without. Twenty people withdraw behind 20,000 `given` of a destination that takes ten a
        second. People change their minds four times while a vendor is away: one word each may remain, without a call, and is told at the vendor's rate once it is back.
    """,
    run=run,
    longest_seconds=lambda scale: 3 * (600 + 200 * scale.share * 8),
)
