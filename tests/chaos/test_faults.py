"""Disturbs the server under load in every way a server can be away, and asks after each: is all told, does every worker take messages, did readiness say so."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import redis

from tests.chaos.disturbances import FAULTS, NETWORK_FAULTS, TAKE_SECONDS, Disturbed, Faults
from tests.chaos.frame import SEED_VARIABLE, Check, Figures, Scale, Scenario, new_seed
from tests.support.faults import Wire, faulty_server, laid_wire
from tests.support.stack import Stack, wait_until
from tests.support.truthfulness import Consumers, Readiness
from tests.support.verdict import judge
from tests.support.world import disturbed_stack

WORKERS = 2
ONLY_LONG = frozenset({"server slow, shorter than the timeouts", "broker's database emptied three times", "network cut, longer than the timeouts"})
"""What the short forms leave out: others of theirs, or a lost broker in tests/chaos/test_kills.py, are harder on the same parts."""


def emptied(it: Disturbed) -> None:
    """The server comes back without its file: refused, by processes that start again too, until a person says so."""
    told = it.stack.sandbox("webhook")["history"]
    it.server.kill()
    it.server.forget()
    it.server.start()
    os.kill(it.stack.pids("worker-1")[0], signal.SIGKILL)
    until = time.monotonic() + 3.0
    while time.monotonic() < until:
        it.refused()
        assert not it.is_ready()
        time.sleep(0.2)
    asked = it.stack.consent("ledger", "accept", input="n\n")
    assert (asked.returncode, "nothing was changed" in asked.stderr) == (1, True), asked.stderr
    assert it.stack.environment["CONSENT_LEDGER_EXPECTED_ID"] in asked.stdout
    it.refused()
    with it.server.client() as client:
        assert client.keys("cr:*") == []
    assert it.stack.sandbox("webhook")["history"] == told
    assert "is empty" in it.stack.get("/health/ready").text

    accepted = it.stack.consent("ledger", "accept", "--yes")
    assert accepted.returncode == 0, accepted.stderr
    it.after("server back empty, and accepted")
    withdrawn, given = it.stack.accept("withdrawn", email="leaving@example.org"), it.stack.accept("given", email="coming@example.org")
    it.stack.wait_complete([withdrawn])
    wait_until(lambda: bool(it.stack.deliveries(given)), 20)
    assert {reason for _, reason in it.stack.deliveries(given).values()} == {"quarantined"}
    lifted = it.stack.consent("ledger", "bring-forward", "--until", datetime.now(UTC).isoformat(), "--yes")
    assert lifted.returncode == 0, lifted.stderr
    wait_until(lambda: not it.stack.metric("consent_quarantined"), 5)


@contextmanager
def disturbed(seed: int, *, wire: Wire | None = None) -> Iterator[Disturbed]:
    where = {"host": wire.inside, "namespace": wire.namespace} if wire else {}
    with faulty_server(**where) as server, disturbed_stack(environment={"CONSENT_REDIS_URL": server.url}) as stack:
        ready, consumers = Readiness(stack), Consumers(stack, WORKERS)
        ready.start()
        try:
            yield Disturbed(stack=stack, server=server, ready=ready, consumers=consumers, chance=random.Random(seed), wire=wire)
        finally:
            ready.stop()
            consumers.close()


def figures_of(it: Disturbed) -> Figures:
    """Give it time to end, then compare everything."""
    verdict = judge(it.stack, it.events, seconds=60)
    for name, found in {
        "not complete": verdict.lost,
        "held otherwise": verdict.wrong,
        "lies": it.ready.lies(),
        "false alarms": it.ready.false_alarms(),
    }.items():
        print(name, found[:5])
    print({name: round(seconds, 1) for name, seconds in zip(it.done, it.take_seconds, strict=False)}, it.ready.bad)
    return Figures(
        done=dict(it.done),
        events=verdict.events,
        calls=verdict.calls,
        lost=len(verdict.lost),
        stale=len(verdict.wrong),
        doubled=verdict.doubled,
        doubled_share=0.05,
        checks=[
            Check(what="dead letters, unaccounted and twice accepted", found=verdict.dead + verdict.unaccounted + verdict.several_ids, most=0),
            Check(what="events in the ledger beyond those answered 202", found=abs(verdict.accepted - verdict.events), most=0),
            Check(what="stale sends that were not counted", found=verdict.uncounted, most=0),
            Check(what="events half written by a full server", found=len(it.half), most=0),
            Check(what="vendor calls made again because the server was full", found=it.again_when_full, most=0),
            Check(what="messages that were noted at the broker, or left in a file when it went away", found=left_over(it.stack), most=0),
            Check(what="readiness said ready while events could not be taken", found=len(it.ready.lies()), most=0),
            Check(what="readiness said not ready though nothing was wrong", found=len(it.ready.false_alarms()), most=0),
            Check(what="seconds until every worker took messages again, at the most", found=round(max(it.take_seconds), 1), most=TAKE_SECONDS),
        ],
        more={"posts that clients had to repeat": it.retries, "looks at readiness": len(it.ready.samples)},
    )


def left_over(stack: Stack) -> int:
    """What a worker that only keeps in mind what it has taken must never leave."""
    with redis.Redis.from_url(stack.broker_url) as broker:
        return int(broker.exists("unacked")) + stack.log().count("EMERGENCY DUMP")


def go_through(it: Disturbed, faults: Faults) -> None:
    """Each fault once, under load."""
    for name, fault in faults.items():
        with it.load(2.0):
            time.sleep(0.3)
            fault(it)
        it.after(name)


def in_short(faults: Faults) -> Faults:
    return {name: fault for name, fault in faults.items() if name not in ONLY_LONG}


def hold(figures: Figures) -> None:
    """Fail with whatever did not hold."""
    assert [f"{check.what}: {check.found:g}" for check in figures.all_checks() if not check.is_met] == []


@pytest.fixture(scope="module")
def it() -> Iterator[Disturbed]:
    """One relay for all short forms, its server behind a wire where there can be one."""
    seed = new_seed()
    print(f"{SEED_VARIABLE}={seed}")
    with ExitStack() as stack:
        wire = None if Wire.why_not() else stack.enter_context(laid_wire())
        yield stack.enter_context(disturbed(seed, wire=wire))


@pytest.mark.timeout(240)
def test_faults_of_the_server_cost_time_only(it: Disturbed) -> None:
    """One after the other under load: killed, full, slow, cut off, set up badly."""
    go_through(it, in_short(FAULTS))
    hold(figures_of(it))


@pytest.mark.timeout(150)
def test_a_cut_network_costs_time_only(it: Disturbed) -> None:
    """Packets vanish, nobody is refused, and the server dies meanwhile, unheard."""
    if it.wire is None:
        pytest.skip(Wire.why_not())
    go_through(it, in_short(NETWORK_FAULTS))
    hold(figures_of(it))


@pytest.mark.timeout(120)
def test_an_emptied_server_is_refused_until_a_person_accepts_it(it: Disturbed) -> None:
    """The last, as it loses everything."""
    emptied(it)


def run(scale: Scale, seed: int) -> Figures:
    """Rounds of all faults in an order of their own, then the emptied server; and the same with a network that is cut, where that can be done."""
    rounds = scale.times(10)
    with disturbed(seed) as it:
        for _ in range(rounds):
            scale.say(f"server: {sum(it.done.values())} faults, {len(it.events)} events")
            go_through(it, shuffled(it.chance, FAULTS))
        figures = figures_of(it)
        emptied(it)
        figures = replace(figures, done=dict(it.done))
    if why_not := Wire.why_not():
        return replace(figures, more={**figures.more, "network not cut": why_not})
    with laid_wire() as wire, disturbed(seed, wire=wire) as it:
        for _ in range(rounds):
            scale.say(f"network: {sum(it.done.values())} faults, {len(it.events)} events")
            go_through(it, shuffled(it.chance, NETWORK_FAULTS))
        return joined(figures, figures_of(it))


def shuffled(chance: random.Random, faults: Faults) -> Faults:
    return dict(chance.sample(list(faults.items()), len(faults)))


def joined(first: Figures, second: Figures) -> Figures:
    """Both runs as one; each check is of the worse of the two."""
    worse = [replace(check, found=max(check.found, other.found)) for check, other in zip(first.checks, second.checks, strict=True)]
    sums = {name: getattr(first, name) + getattr(second, name) for name in ("events", "calls", "lost", "stale", "doubled")}
    more = {name: value + second.more[name] for name, value in first.more.items()}
    return replace(first, **sums, done={**first.done, **second.done}, checks=worse, more=more)


SCENARIO = Scenario(
    name="faults",
    title="Faults of the server",
    told="""
    Under a modest load the server is killed and restarted with its file, filled, slowed below and beyond the timeouts, its connections are cut, its broker database is emptied, and it is
    set to evict or not to sync; then it comes back empty and is refused until an operator accepts it. In a network namespace of its own packets to it vanish, and it dies behind the cut.
    After each fault every worker process must take messages again by itself, and readiness, asked ten times a second, must have said what was true.
    """,
    run=run,
    longest_seconds=lambda scale: 600.0 + 240.0 * scale.times(10),
)
