"""The same load on every combination of broker and ledger, with workers killed and the ledger's primary taken away in mid-run."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest

from tests.chaos.disturbances import Pace, killing_under_load
from tests.chaos.frame import Check, Figures, Scale, Scenario
from tests.support.engines import BROKERS, LEDGERS, Engine, engine
from tests.support.killing import WEIGHTS, Plan
from tests.support.load import Clients, Sent, invent, posts_of
from tests.support.rabbitmq import rabbitmq_node
from tests.support.stack import Stack, wait_until
from tests.support.verdict import Verdict, faults, judge
from tests.support.world import PURPOSES, PURPOSES_OF, QUICK_VENDORS, disturbed_stack

EVENTS = 120
LOADED_SECONDS = 3.0
SETTLE_SECONDS = 120.0
"""How long the relay has for everything once the load is over: a claim of a killed worker has to run out, and a late write to become impossible."""
SHORT_REPEATED_SHARE = 0.25
"""The same where there is one loss among a hundred and twenty events."""
IN_SHORT = (("rabbitmq", "sentinel"), ("valkey", "cluster"))
"""Each broker and each kind of ledger once; one server is what all other chaos tests run on, and tests/flow/test_rabbitmq.py with RabbitMQ. The long form takes every pair."""
FULL_KILLS = 60
EVERY_SECONDS = 2.5
BETWEEN_SECONDS = (8.0, 16.0)
"""How long after a server is back the next one is taken away."""
PACE = Pace(events_a_second=30.0, clients=12, people=200)
REPEATED_SHARE = 0.02
"""Calls that may have been made before: twice as many as where only processes are killed, since each loss of a primary leaves answers unwritten too."""
CORRECTED_SECONDS = 30.0
PRIMARY, BROKER = "taken away: a primary of the ledger", "taken away: the broker"
WEIGHTS_OUTSIDE = {kind: weight for kind, weight in WEIGHTS.items() if kind != "server"}
"""The servers are none of the relay's own processes here."""
TWO_OF_EACH = {"CONSENT_INGEST_PROCESSES": "2"}


def disturb(
    stack: Stack, servers: Engine, chance: random.Random, *, events: int, strikes: int, seconds: float, vendors: Collection[str] = tuple(PURPOSES_OF)
) -> tuple[list[Sent], Verdict]:
    """Load a relay for so many seconds, and meanwhile kill a worker and take the primary away, so many times each; what came of it."""
    said = invent(chance, events, people=max(20, events // 10), purposes=PURPOSES)
    clients = Clients(stack.url, stack.headers(), posts_of(chance, said), threads=6, seconds=seconds)
    clients.start()
    for strike in range(strikes):
        answered = events * (strike + chance.uniform(0.2, 0.6)) / strikes
        wait_until(lambda answered=answered: sum(1 for sent in said if sent.ids) >= answered, 60 + seconds)
        os.kill(chance.choice(stack.pids("worker")), signal.SIGKILL)
        servers.take_away_primary()
    clients.join(120)
    return said, judge(stack, said, seconds=SETTLE_SECONDS, purposes_of={name: purposes for name, purposes in PURPOSES_OF.items() if name in vendors})


@pytest.mark.timeout(240)
@pytest.mark.parametrize("broker, ledger", IN_SHORT)
def test_a_killed_worker_and_a_lost_primary_lose_nothing(broker: str, ledger: str, seed: int, request: pytest.FixtureRequest) -> None:
    """Whatever it stands on: every answered event is told, every vendor holds the newest word, nothing is dead or unaccounted."""
    with ExitStack() as running:
        servers = running.enter_context(engine(broker, ledger, lambda: request.getfixturevalue("rabbitmq")))
        stack = running.enter_context(disturbed_stack(vendors=QUICK_VENDORS, environment=servers.environment))
        begun_with = {"events": EVENTS, "strikes": 1, "seconds": LOADED_SECONDS, "vendors": QUICK_VENDORS}
        said, verdict = disturb(stack, servers, random.Random(seed), **begun_with)
        assert len({sent.event_id for sent in said}) == EVENTS
        assert verdict.problems(doubled_share=SHORT_REPEATED_SHARE) == []
        assert max(verdict.corrections, default=0.0) < CORRECTED_SECONDS
        assert faults(stack) == []


@dataclass(frozen=True, slots=True, kw_only=True)
class Harassed:
    """What was done to one pair, and what came of it; `failed` are tasks that failed by a fault of ours."""

    done: Counter[str]
    verdict: Verdict
    failed: int
    has_own_broker: bool


def harass(stack: Stack, servers: Engine, chance: random.Random, plan: Plan) -> Harassed:
    """The kill suite on other engines: any process is killed, paused and restarted, and meanwhile a primary, and now and then the broker, is taken away."""
    taken: Counter[str] = Counter()
    with killing_under_load(stack, chance, plan, replace(PACE, people=PACE.people + 5 * plan.kills)) as it:
        while not it.killer.over.wait(chance.uniform(*BETWEEN_SECONDS)):
            servers.take_away_primary()
            taken[PRIMARY] += 1
            if servers.take_away_broker and taken[PRIMARY] % 3 == 1:
                servers.take_away_broker()
                taken[BROKER] += 1
    verdict = judge(stack, it.said, seconds=SETTLE_SECONDS)
    failed = len(faults(stack))
    return Harassed(done=it.killer.done + taken, verdict=verdict, failed=failed, has_own_broker=servers.take_away_broker is not None)


def run(scale: Scale, seed: int) -> Figures:
    """The long form: every combination, a cluster with replicas as well, one after the other."""
    chance, kills = random.Random(seed), max(len(WEIGHTS_OUTSIDE), scale.times(FULL_KILLS))
    plan = Plan(kills=kills, every_seconds=EVERY_SECONDS, pauses=max(2, kills // 12), longest_pause_seconds=6.0, weights=WEIGHTS_OUTSIDE)
    pairs: dict[str, Harassed] = {}
    with rabbitmq_node() as node:
        for broker in BROKERS:
            for ledger in LEDGERS:
                scale.say(f"broker {broker}, ledger {ledger}: {kills} kills")
                with (
                    engine(broker, ledger, lambda: node) as servers,
                    disturbed_stack(environment={**servers.environment, **TWO_OF_EACH}, vendors_apart=True) as stack,
                ):
                    pairs[f"{broker} + {ledger}"] = pair = harass(stack, servers, chance, plan)
                for problem in pair.verdict.problems(doubled_share=REPEATED_SHARE):
                    scale.say(f"  {problem}")
    found = [pair.verdict for pair in pairs.values()]
    done = sum((pair.done for pair in pairs.values()), Counter[str]())
    return Figures(
        done={"combinations": len(pairs), **dict(sorted(done.items()))},
        events=sum(each.events for each in found),
        calls=sum(each.calls for each in found),
        lost=sum(len(each.lost) for each in found),
        stale=sum(len(each.wrong) for each in found),
        doubled=sum(each.doubled for each in found),
        doubled_share=REPEATED_SHARE,
        checks=[check for name, pair in pairs.items() for check in _checks(name, pair)],
        more={f"{name}: share of calls that had been made before": round(each.verdict.doubled / max(1, each.verdict.calls), 4) for name, each in pairs.items()},
    )


def _checks(name: str, pair: Harassed) -> list[Check]:
    verdict = pair.verdict
    figures = {
        "tasks that failed by a fault of ours": pair.failed,
        "items unaccounted": verdict.unaccounted,
        "dead letters": verdict.dead,
        "stale sends that were not counted": verdict.uncounted,
        "events that were told several ids": verdict.several_ids,
        "events in the ledger beside those accepted": abs(verdict.accepted - verdict.events),
        "events and calls for which the evidence does not account": len(verdict.gaps),
    }
    taken = {PRIMARY: pair.done[PRIMARY], **({BROKER: pair.done[BROKER]} if pair.has_own_broker else {})}
    return [
        *(Check(what=f"{name}: {what}", found=found, most=0) for what, found in figures.items()),
        *(Check(what=f"{name}: times of {what}", found=times, least=1) for what, times in taken.items()),
        Check(what=f"{name}: seconds until a stale `given` was corrected, at most", found=max(verdict.corrections, default=0.0), most=CORRECTED_SECONDS),
    ]


SCENARIO = Scenario(
    name="engines",
    title="Every combination of broker and ledger loses its primary",
    told="""A load runs on each combination of a broker (Valkey, RabbitMQ with quorum queues) and a ledger (one server, behind Sentinel with two replicas, a cluster of three nodes, the same with a
    replica each), with two ingest and two worker processes. As in the scenario of kills, processes of every kind are killed, paused and restarted; meanwhile the ledger's primary is killed again and again (alone it is started
    again after a second, otherwise a replica takes its place and it comes back as a replica), and with every third of them the broker, where it is a server of its own. Of the calls, one in fifty may have been made before, twice as many as where only processes are
    killed: each loss of a primary leaves answers unwritten too.""",
    run=run,
    longest_seconds=lambda scale: len(BROKERS) * len(LEDGERS) * (200 + SETTLE_SECONDS + scale.times(FULL_KILLS) * 8),
)
