"""Kills, pauses and restarts every kind of process while events come in, and compares what the vendors know in the end with what people said."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pytest
import redis

from tests.chaos.disturbances import Pace, killing_under_load
from tests.chaos.frame import Check, Figures, Scale, Scenario
from tests.support.killing import WEIGHTS, Plan, plain
from tests.support.load import Arrival, Clients, Sent, invent, posts_of, quantile, quantiles, stale_lags
from tests.support.stack import Stack, wait_until
from tests.support.verdict import BEGUN_BEFORE_SECONDS, Verdict, arrivals_of, check_end, counts, faults, judge
from tests.support.world import PURPOSES, PURPOSES_OF, QUICK_VENDORS, VENDORS, disturbed_stack
from workers.queues import LANES, fan_out_queue

EVENTS = 2000
PEOPLE = 400

ROUND_KILLS = 250
"""After so many kills the relay is left alone, compared, and the vendors forget."""
EVERY_SECONDS = 2.5
"""Mean distance of kills, beside what restarts of everything take."""
POSTS_PER_SECOND = 40.0
END_SECONDS = 180.0
"""A withdrawal told after a killed `given` is told again, and final, when that can land no more: 70 s with Mailchimp's own timeout."""
CORRECTED_SECONDS = 30.0
TWO_OF_EACH = {"CONSENT_INGEST_PROCESSES": "2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What was done in a round, and what came of it."""

    verdict: Verdict
    done: Mapping[str, int]
    unexplained: int
    retries: int
    told_after: Sequence[float]


def disturb(stack: Stack, chance: random.Random, plan: Plan, vendors: Sequence[str], *, first: int = 0, say: Callable[[str], None] = lambda _: None) -> Round:
    """Carry out a plan under load, then leave the relay alone and compare."""
    before = counts(stack)
    pace = Pace(events_a_second=POSTS_PER_SECOND, clients=24, people=PEOPLE + 10 * plan.kills)
    with killing_under_load(stack, chance, plan, pace, first=first, say=say) as it:
        pass
    verdict = judge(stack, it.said, seconds=END_SECONDS, purposes_of={vendor: PURPOSES_OF[vendor] for vendor in vendors}, before=before)
    return Round(
        verdict=verdict,
        done=it.killer.done,
        unexplained=unexplained(verdict.late, it.killer.pauses),
        retries=it.clients.retries,
        told_after=withdrawals_told_after(it.said, arrivals_of(stack, ["webhook"])["webhook"]),
    )


def unexplained(late: Iterable[tuple[float, float]], pauses: Sequence[tuple[str, float, float]]) -> int:
    """How many `given` were sent after a withdrawal's 202 although no worker stood still at any time between the two."""
    stood_still = [(begun_at, ended_at) for kind, begun_at, ended_at in pauses if kind.startswith("worker")]
    return sum(not any(begun_at <= at and ended_at >= answered_at for begun_at, ended_at in stood_still) for answered_at, at in late)


def withdrawals_told_after(events: Iterable[Sent], arrivals: Iterable[Arrival]) -> list[float]:
    """Seconds from the 202 of each withdrawal to its own first arrival at the webhook."""
    answered = {sent.event_id: sent.answered_at for sent in events if sent.withdrawn}
    first: dict[str, float] = {}
    for arrival in arrivals:
        if arrival.event_id in answered:
            first[arrival.event_id] = min(arrival.at, first.get(arrival.event_id, arrival.at))
    return [max(0.0, at - answered[event_id]) for event_id, at in first.items()]


def run(scale: Scale, seed: int) -> Figures:
    """Kill so many times, in rounds on one relay."""
    chance, rounds = random.Random(seed), math.ceil(scale.kills / ROUND_KILLS)
    found = []
    with disturbed_stack(environment=TWO_OF_EACH, vendors_apart=True) as stack:
        for number in range(rounds):
            kills = scale.kills // rounds + (number < scale.kills % rounds)
            plan = Plan(kills=kills, every_seconds=EVERY_SECONDS, pauses=max(2, kills // 12), longest_pause_seconds=12.0)
            found.append(disturb(stack, chance, plan, VENDORS, first=number * 1_000_000, say=scale.say))
            scale.say(f"round {number + 1} of {rounds}: {found[-1].verdict}")
            for vendor in VENDORS:
                stack.reset(vendor)
        failed = faults(stack)
    for line in failed[:10]:
        scale.say(line)
    return figures(found, len(failed))


def figures(rounds: Sequence[Round], failed: int) -> Figures:
    """What is published of all rounds together."""
    verdicts = [each.verdict for each in rounds]
    done: Counter[str] = Counter()
    for each in rounds:
        done.update(each.done)
    lags = [lag for each in verdicts for lag in each.lags]
    corrected = [seconds for each in verdicts for seconds in each.corrections]
    told_after = [seconds for each in rounds for seconds in each.told_after]
    return Figures(
        done=dict(sorted(done.items())),
        events=sum(each.events for each in verdicts),
        calls=sum(each.calls for each in verdicts),
        lost=sum(len(each.lost) for each in verdicts),
        stale=sum(len(each.wrong) for each in verdicts),
        doubled=sum(each.doubled for each in verdicts),
        checks=(
            Check(what="`consent_unaccounted` in the end", found=sum(each.unaccounted for each in verdicts), most=0),
            Check(what="dead letters in the end", found=sum(each.dead for each in verdicts), most=0),
            Check(what="events that are in the ledger more or less than once", found=sum(abs(each.accepted - each.events) for each in verdicts), most=0),
            Check(what="events whose clients were told several ids", found=sum(each.several_ids for each in verdicts), most=0),
            Check(what="tasks that failed by a fault of ours", found=failed, most=0),
            Check(what="accepted events and webhook calls for which the evidence does not account", found=sum(len(each.gaps) for each in verdicts), most=0),
            Check(
                what="kinds of process that no rolling restart met", found=len(_plain_kinds() - {name for name in done if name.startswith("SIGTERM")}), most=0
            ),
            Check(
                what=f"`given` that arrived later than {BEGUN_BEFORE_SECONDS:g} s after a withdrawal's 202 and were not counted in `consent_stale_sends_total`",
                found=sum(each.uncounted for each in verdicts),
                most=0,
            ),
            Check(what="`given` that arrived so late although no worker was paused meanwhile", found=sum(each.unexplained for each in rounds), most=0),
            Check(what="seconds until such a `given` was corrected, at most", found=round(max(corrected, default=0.0), 2), most=CORRECTED_SECONDS),
        ),
        more={
            "posts that clients had to repeat": sum(each.retries for each in rounds),
            "`given` that arrived after a withdrawal's 202": len(lags),
            "of these, later than a call that had begun before": sum(lag > BEGUN_BEFORE_SECONDS for lag in lags),
            "`consent_stale_sends_total`": sum(each.stale_sends for each in verdicts),
            "202 of a withdrawal to the vendor's being told, median": f"{quantile(told_after, 0.5):.2f} s",
            "the same, 99th percentile": f"{quantile(told_after, 0.99):.2f} s",
            "the same, longest": f"{quantile(told_after, 1.0):.2f} s",
        },
    )


SCENARIO = Scenario(
    name="kills",
    title="Every kind of process is killed, paused and restarted",
    told="""
        Two ingest and two worker processes, beat, Flower, the server with its append-only file and the supervisors of all of them are killed (SIGKILL) at random moments, a fifth of the time two at
        once; workers and ingest are paused (SIGSTOP) for up to 12 seconds and go on; now and then every process is restarted (SIGTERM) one after another. Meanwhile 24 clients send events about people
        who change their minds, in no order of time, some of them twice; a client repeats what was not answered. After every 250 kills the relay is left alone and compared with the vendors.
        Calls are counted at the webhook, where a call carries its delivery's id.
    """,
    run=run,
    longest_seconds=lambda scale: 300 + scale.kills * 8 + math.ceil(scale.kills / ROUND_KILLS) * 400,
)


def _plain_kinds() -> set[str]:
    return {f"SIGTERM of {plain(kind)}" for kind in WEIGHTS}


@pytest.mark.timeout(170)
def test_any_process_may_be_killed_or_paused_at_any_moment(seed: int) -> None:
    """A dozen kills of every kind of process but the supervisor, and pauses: nothing accepted is lost, every vendor holds the newest word, few calls are made twice."""
    begun_at = time.monotonic()
    plan = Plan(
        kills=12,
        every_seconds=1.5,
        pauses=3,
        longest_pause_seconds=4.0,
        restarts=0,
        weights={kind: weight for kind, weight in WEIGHTS.items() if kind != "supervisor"},
    )
    with disturbed_stack(vendors=QUICK_VENDORS, environment=TWO_OF_EACH) as stack:
        done = disturb(stack, random.Random(seed), plan, QUICK_VENDORS)
        print(dict(done.done), done.verdict, f"withdrawals told after {quantiles(done.told_after)}")
        assert done.verdict.problems(doubled_share=0.1) == []
        assert done.unexplained == 0
        assert max(done.verdict.corrections, default=0.0) < CORRECTED_SECONDS
        assert faults(stack) == []
    assert sum(count for what, count in done.done.items() if "SIGKILL" in what) == plan.kills
    print(f"whole test {time.monotonic() - begun_at:.1f} s")


@pytest.fixture
def stack() -> Iterator[Stack]:
    with disturbed_stack() as relay:
        yield relay


def check_answers(stack: Stack, events: Sequence[Sent]) -> None:
    """Every event has one id whatever its clients had to repeat, and is in the ledger once."""
    assert all(len(set(sent.ids)) == 1 for sent in events)
    assert len({sent.event_id for sent in events}) == len(events)
    assert stack.metric("consent_events_total", status="accepted") == len(events)


def check_stale(stack: Stack, events: Sequence[Sent], arrivals: Iterable[Arrival]) -> str:
    """A `given` after a newer withdrawal's 202 had begun before, or was counted."""
    lags = stale_lags(events, arrivals)
    counted = stack.metric("consent_stale_sends_total")
    assert sum(lag > BEGUN_BEFORE_SECONDS for lag in lags) <= counted
    return f"stale given: {len(lags)} arrived, counted {counted:g}, lags {quantiles(lags)}"


def report(stack: Stack, clients: Clients, events: Sequence[Sent], arrivals: dict[str, list[Arrival]]) -> None:
    """Figures for people: speed, and how long withdrawals took."""
    answered = {sent.event_id: sent.answered_at for sent in events}
    first: dict[str, float] = {}
    for arrival in arrivals["webhook"]:
        first[arrival.event_id] = min(arrival.at, first.get(arrival.event_id, arrival.at))
    load_seconds = clients.ended_at - clients.begun_at
    last = max(arrival.at for told in arrivals.values() for arrival in told)
    print(f"accepted {len(events)} events in {load_seconds:.1f} s ({len(events) / load_seconds:.0f}/s), client retries {clients.retries}")
    calls = {vendor: len(told) for vendor, told in arrivals.items()}
    print(f"calls {calls}, the last {last - clients.ended_at:.1f} s after the load")
    print(f"accept to told (webhook): {quantiles(max(0.0, at - answered[event_id]) for event_id, at in first.items())}")
    print(f"rescued {stack.metric('consent_rescued_total'):g}, superseded {stack.metric('consent_deliveries_total', outcome='superseded'):g}")


@pytest.mark.timeout(200)
def test_a_lost_broker_and_a_dead_beat_cost_time_only(stack: Stack, seed: int) -> None:
    """In mid-load beat is killed and the broker's database emptied, twice: everything is brought back from the ledger and arrives.

    The workers stand still until there are messages to lose; on a calm machine they leave none.
    """
    chance = random.Random(seed)
    events = invent(chance, EVENTS // 2, people=PEOPLE // 2, purposes=PURPOSES)
    clients = Clients(stack.url, stack.headers(), posts_of(chance, events), threads=8, seconds=EVENTS / 400)
    clients.start()
    lost = 0
    with redis.Redis.from_url(stack.broker_url) as broker:
        for share in (0.3, 0.7):
            wait_until(lambda share=share: sum(1 for sent in events if sent.ids) > share * len(events), 60)
            os.kill(stack.pids("beat")[0], signal.SIGKILL)
            workers = stack.pids("worker")
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)
            try:
                wait_until(lambda: any(broker.llen(fan_out_queue(lane)) for lane in LANES), 20)
                lost += sum(broker.llen(name) for name in broker.scan_iter("*", _type="list"))
                broker.flushdb()
            finally:
                for pid in workers:
                    os.kill(pid, signal.SIGCONT)
    clients.join(90)
    check_end(stack, events, seconds=90)
    check_answers(stack, events)
    arrivals = arrivals_of(stack)
    print(f"messages in the queues when they were emptied: {lost}")
    print(check_stale(stack, events, [arrival for told in arrivals.values() for arrival in told]))
    report(stack, clients, events, arrivals)
    assert lost > 0
    assert stack.metric("consent_rescued_total") > 0


@pytest.mark.timeout(150)
def test_withdrawals_pass_a_backlog_and_a_hanging_vendor(stack: Stack) -> None:
    """Behind thousands of `given` for a list with a rate of 60 a minute, and beside a Mailchimp that never answers, withdrawals are told within seconds."""
    backlog = [_event(f"waiting-{number}", "given", "slow-news") for number in range(3000)]
    for first in range(0, len(backlog), 1000):
        assert stack.post("/v1/consent-events/batch", backlog[first : first + 1000]).status_code == 202
    stack.fault("mailchimp", {"kind": "hang", "times": None, "seconds": 8.0})
    hanging = [_event(f"hanging-{number}", "given", "newsletter") for number in range(600)]
    assert stack.post("/v1/consent-events/batch", hanging).status_code == 202
    wait_until(lambda: stack.sandbox("mailchimp")["concurrent"] > 0 and stack.metric("consent_deliveries_total", destination="dinamize-limited") > 10, 20)

    begun = time.time()
    people = [f"leaving-{number}" for number in range(4)]
    slow = [_event(name, "withdrawn", "slow-news") for name in people]
    quick = [_event(name, "withdrawn", "newsletter") for name in people]
    assert stack.post("/v1/consent-events/batch", slow + quick).status_code == 202
    wanted = {(f"{name}@example.org", purpose) for name in people for purpose in ("slow-news", "newsletter")}
    told_at: dict[tuple[str, str, str], float] = {}

    def all_told() -> bool:
        for vendor, arrivals in arrivals_of(stack).items():
            told_at.update({(vendor, *arrival.about): arrival.at for arrival in arrivals if arrival.about in wanted})
        return all(("dinamize", *about) in told_at for about in wanted) and all(("webhook", f"{name}@example.org", "newsletter") in told_at for name in people)

    wait_until(all_told, 20, lambda: str(sorted(told_at)))
    print(f"withdrawals told after {quantiles(at - begun for at in told_at.values())}")
    assert stack.metric("consent_waiting", destination="dinamize-limited", lane="given") > 2000
    assert max(at - begun for at in told_at.values()) < 5.0
    assert not any(vendor == "mailchimp" for vendor, *_ in told_at)
    stack.fault("mailchimp")


def _event(name: str, state: str, purpose: str) -> dict[str, object]:
    return {"subject": {"email": f"{name}@example.org"}, "purpose": purpose, "state": state, "event_time": "2026-01-05T10:00:00Z"}
