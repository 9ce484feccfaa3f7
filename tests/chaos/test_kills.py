"""Kills what can be killed while events come in, and compares what the vendors know in the end with what people said.

CONSENT_CHAOS_SEED repeats a run, CONSENT_CHAOS_EVENTS and CONSENT_CHAOS_KILLS (of each worker process) make a longer one.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

import pytest
import redis

from tests.support.load import Arrival, Clients, Sent, invent, posts_of, quantiles, stale_lags
from tests.support.stack import Stack, wait_until
from tests.support.verdict import BEGUN_BEFORE_SECONDS, arrivals_of, check_end, repeated_calls
from tests.support.world import PURPOSES, disturbed_stack
from workers.queues import LANES, fan_out_queue

SEED = int(os.environ.get("CONSENT_CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))
EVENTS = int(os.environ.get("CONSENT_CHAOS_EVENTS", "2000"))
KILLS = int(os.environ.get("CONSENT_CHAOS_KILLS", "3"))
PEOPLE = 400


@pytest.fixture
def stack() -> Iterator[Stack]:
    with disturbed_stack() as relay:
        yield relay


class Killer(threading.Thread):
    """Kills a process of a stack so many times, each time a random moment after its latest start; `moments` says when."""

    def __init__(self, stack: Stack, word: str, times: int, chance: random.Random, *, most_seconds: float = 2.5) -> None:
        super().__init__(name=f"killer of {word}")
        self.stack, self.word = stack, word
        self.lives = [chance.uniform(1.0, most_seconds) for _ in range(times)]
        self.moments: list[float] = []

    def run(self) -> None:
        killed = 0
        for life in self.lives:
            wait_until(lambda killed=killed: any(pid != killed for pid in self.stack.pids(self.word)), 30)
            time.sleep(life)
            killed = next(pid for pid in self.stack.pids(self.word) if pid != killed)
            os.kill(killed, signal.SIGKILL)
            self.moments.append(time.time())


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


@pytest.mark.timeout(300)
def test_workers_may_be_killed_at_any_moment(stack: Stack) -> None:
    """Each worker process dies three times under load: every event is told, nothing is dead or unaccounted, and every vendor holds the newest word."""
    chance = random.Random(SEED)
    print(f"CONSENT_CHAOS_SEED={SEED}")
    started_at = time.monotonic()
    events = invent(chance, EVENTS, people=PEOPLE, purposes=PURPOSES)
    clients = Clients(stack.url, stack.headers(), posts_of(chance, events), threads=6, seconds=max(KILLS * 5.0, EVENTS / 150))
    killers = [Killer(stack, f"worker-{number}", KILLS, random.Random(chance.random())) for number in (1, 2)]
    clients.start()
    for killer in killers:
        killer.start()
    for killer in killers:
        killer.join()
    clients.join(120)
    kills = sorted(moment for killer in killers for moment in killer.moments)
    assert len(kills) == 2 * KILLS
    print(f"kills at {[round(moment - clients.begun_at, 1) for moment in kills]}, loaded for {clients.ended_at - clients.begun_at:.1f} s")

    # A withdrawal told after a killed `given` is told again, and final, when that can land no more: 70 s with Mailchimp's own timeout.
    check_end(stack, events, seconds=150)
    check_answers(stack, events)
    arrivals = arrivals_of(stack)
    print(check_stale(stack, events, [arrival for told in arrivals.values() for arrival in told]))
    calls, repeated = repeated_calls(stack)
    print(f"repeated webhook calls: {repeated} of {calls}")
    report(stack, clients, events, arrivals)
    assert repeated < 0.05 * calls
    assert stack.metric("consent_rescued_total") > 0
    print(f"whole test {time.monotonic() - started_at:.1f} s")


@pytest.mark.timeout(200)
def test_a_lost_broker_and_a_dead_beat_cost_time_only(stack: Stack) -> None:
    """In mid-load beat is killed and the broker's database emptied, twice: everything is brought back from the ledger and arrives.

    The workers stand still until there are messages to lose; on a calm machine they leave none.
    """
    chance = random.Random(SEED)
    print(f"CONSENT_CHAOS_SEED={SEED}")
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


@pytest.mark.timeout(200)
def test_what_ingest_said_202_to_survives_its_death(stack: Stack) -> None:
    """Ingest is killed three times in mid-load: clients repeat their posts, what had its 202 is there, and nothing is accepted twice."""
    chance = random.Random(SEED)
    print(f"CONSENT_CHAOS_SEED={SEED}")
    events = invent(chance, EVENTS, people=PEOPLE, purposes=PURPOSES)
    clients = Clients(stack.url, stack.headers(), posts_of(chance, events), threads=16, seconds=12.0)
    killer = Killer(stack, "serve", KILLS, random.Random(chance.random()), most_seconds=2.5)
    clients.start()
    killer.start()
    killer.join()
    clients.join(120)
    assert len(killer.moments) == KILLS
    assert clients.retries > 0
    check_end(stack, events, seconds=90)
    check_answers(stack, events)
    arrivals = arrivals_of(stack)
    print(check_stale(stack, events, [arrival for told in arrivals.values() for arrival in told]))
    report(stack, clients, events, arrivals)
    repeats = sum(len(sent.ids) for sent in events) - len(events)
    assert sum(sent.statuses.count("duplicate") for sent in events) >= repeats


@pytest.mark.timeout(150)
def test_withdrawals_pass_a_backlog_and_a_hanging_vendor(stack: Stack) -> None:
    """Behind thousands of `given` for a list with a rate of 60 a minute, and beside a Mailchimp that never answers, withdrawals are told within seconds."""
    backlog = [_event(f"waiting-{number}", "given", "slow-news") for number in range(3000)]
    for first in range(0, len(backlog), 1000):
        assert stack.post("/v1/consent-events/batch", backlog[first : first + 1000]).status_code == 202
    stack.fault("mailchimp", {"kind": "hang", "times": None, "seconds": 20.0})
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


def _event(name: str, state: str, purpose: str) -> dict[str, object]:
    return {"subject": {"email": f"{name}@example.org"}, "purpose": purpose, "state": state, "event_time": "2026-01-05T10:00:00Z"}
