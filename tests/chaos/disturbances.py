"""Every way in which a server can be away or unfit, done to one under load, and the relay that it is done to; and a load while processes are killed."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.faults import SAFE, Server, Wire
from tests.support.killing import Killer, Plan
from tests.support.load import Clients, Sent, invent, posts_of
from tests.support.stack import Stack, wait_until
from tests.support.truthfulness import Consumers, Readiness, half_written
from tests.support.verdict import repeated_after
from tests.support.world import PURPOSES, SHORT

NOTICE_SECONDS = 1.5
"""How soon every process must have noticed a server that is there and no longer fit: it looks once a second."""
TAKE_SECONDS = 20.0
"""How soon after a fault every worker process must have taken a message."""
HEAL_SECONDS = 8.0
"""How long a network that is back may still be felt: TCP sends again ever more rarely."""
LEASE_SECONDS = float(SHORT["CONSENT_DELIVER_LEASE_SECONDS"])
EVENTS_A_SECOND = 40
WAITED_FOR_SECONDS = 150.0
"""How long a client repeats a post while processes are killed: a restart of everything is among what is planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast events come in while a plan is carried out, from how many clients, about how many people."""

    events_a_second: float
    clients: int
    people: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Killing:
    """A load and who kills meanwhile; `said` are the events that were answered, known once the load is over."""

    clients: Clients
    killer: Killer
    said: list[Sent] = field(default_factory=list)


@contextmanager
def killing_under_load(
    stack: Stack, chance: random.Random, plan: Plan, pace: Pace, *, first: int = 0, say: Callable[[str], None] = lambda _: None
) -> Iterator[Killing]:
    """Carry out a plan while clients post what they have, more than they can; left when all that was planned is done and the last post has its answer."""
    events = invent(chance, int(plan.kills * plan.every_seconds * pace.events_a_second * 8), people=pace.people, purposes=PURPOSES, first=first)
    posts = posts_of(chance, events)
    seconds = len(posts) / pace.events_a_second
    clients = Clients(stack.url, stack.headers(), posts, threads=pace.clients, seconds=seconds, give_up_seconds=WAITED_FOR_SECONDS)
    it = Killing(clients=clients, killer=Killer(stack, chance, plan, say))
    it.clients.start()
    it.killer.start()
    try:
        yield it
        it.killer.finish()
    finally:
        it.killer.over.set()
        it.clients.end()
    it.clients.join(200)
    it.said.extend(sent for sent in events if sent.ids)


@dataclass(slots=True)
class Disturbed:
    """A relay on a server that can be disturbed, under load; what was done to it and how long workers took to go on."""

    stack: Stack
    server: Server
    ready: Readiness
    consumers: Consumers
    chance: random.Random
    wire: Wire | None = None
    events: list[Sent] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    take_seconds: list[float] = field(default_factory=list)
    retries: int = 0
    half: list[str] = field(default_factory=list)
    again_when_full: int = 0

    @contextmanager
    def load(self, seconds: float) -> Iterator[None]:
        """Events at a modest pace for so long, from clients that repeat what is refused; left when the last has its 202."""
        fresh = invent(self.chance, int(seconds * EVENTS_A_SECOND), people=60, purposes=PURPOSES)
        for sent in fresh:
            sent.body["idempotency_key"] += f"-{len(self.events)}"
        clients = Clients(self.stack.url, self.stack.headers(), posts_of(self.chance, fresh), threads=4, seconds=seconds)
        clients.start()
        try:
            yield
        finally:
            clients.join(90)
            self.events += fresh
            self.retries += clients.retries

    def after(self, fault: str) -> None:
        """What must hold after every fault: ready again, and every worker takes messages by itself."""
        self.done[fault] += 1
        wait_until(self.is_ready, 30, lambda: f"not ready after: {fault}")
        self.take_seconds.append(self.consumers.seconds_until_all_take(TAKE_SECONDS))

    def is_ready(self) -> bool:
        return self.stack.session.get(self.stack.url + "/health/ready", timeout=20).status_code == 200

    def refused(self) -> Mapping[str, str]:
        """Post one event that must be refused; returns the answer's headers."""
        body = {"subject": {"email": "refused@example.org"}, "purpose": "newsletter", "state": "given", "event_time": "2026-01-05T10:00:00Z"}
        answer = self.stack.session.post(self.stack.url + "/v1/consent-events", json=body, headers=self.stack.headers(), timeout=20)
        assert answer.status_code == 503, answer.text
        return answer.headers


def killed(it: Disturbed) -> None:
    """kill -9, some seconds away, back with its append-only file."""
    with it.ready.wrong():
        it.server.kill()
        time.sleep(it.chance.uniform(0.5, 2.0))
    it.server.start()


def made_again(stack: Stack) -> int:
    """Calls made again since a lease had run out."""
    return repeated_after(stack.sandbox("webhook")["history"], LEASE_SECONDS - 1)


def full(it: Disturbed) -> None:
    """No memory for anything new while vendors are being told: what they are told is not forgotten, what is refused is not half there."""
    it.stack.settings("webhook", latency_seconds=0.5)
    wait_until(lambda: it.stack.sandbox("webhook")["concurrent"] > 0, 20)
    before = made_again(it.stack)
    with it.server.client() as client:
        with it.ready.wrong():
            client.config_set("maxmemory", 1)
            assert int(it.refused()["Retry-After"]) >= 1
            time.sleep(it.chance.uniform(2.0, 3.0))
            it.half += half_written(client)
        client.config_set("maxmemory", 0)
    it.stack.settings("webhook", latency_seconds=0.03)
    time.sleep(LEASE_SECONDS + 1)  # what could not be written down would be told again when its lease is over
    it.again_when_full += made_again(it.stack) - before


def slow(it: Disturbed, seconds: float) -> None:
    """A server that answers nobody for a while."""
    with it.ready.wrong(), it.server.client() as client:
        client.execute_command("DEBUG", "SLEEP", seconds)


def a_little_slow(it: Disturbed) -> None:
    """Slower than anybody likes, and faster than any timeout."""
    slow(it, it.chance.uniform(0.5, 2.0))


def very_slow(it: Disturbed) -> None:
    """Longer than the timeouts of ledger and broker."""
    slow(it, it.chance.uniform(6.0, 7.0))


def connections_cut(it: Disturbed) -> None:
    """Every connection closed by the server, those of subscribers and of blocked fetches too, again and again."""
    with it.server.client() as client:
        for _ in range(8):
            with it.ready.wrong(heal_seconds=1.0):
                for kind in ("normal", "pubsub"):
                    client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            time.sleep(it.chance.uniform(0.05, 0.4))


def broker_flushed(it: Disturbed) -> None:
    """The broker's database emptied, the ledger's untouched."""
    with it.server.client(database=1) as broker:
        for _ in range(3):
            broker.flushdb()
            time.sleep(it.chance.uniform(0.1, 0.5))


def unsafe_setting(it: Disturbed) -> None:
    """A setting that breaks a promise, at run time: refused by every accept within a second or so, and named."""
    name, value = it.chance.choice([("maxmemory-policy", "allkeys-lru"), ("appendfsync", "no"), ("appendonly", "no"), ("no-appendfsync-on-rewrite", "yes")])
    since = time.monotonic()
    with it.server.client() as client:
        with it.ready.wrong(notice_seconds=NOTICE_SECONDS):
            client.config_set(name, value)
            time.sleep(NOTICE_SECONDS)
            it.refused()
            time.sleep(0.5)
            it.refused()
        client.config_set(name, SAFE[name])
    assert any(name in reason for reason in it.ready.reasons(since)), it.ready.reasons(since)


def network_cut(it: Disturbed) -> None:
    """Packets vanish for longer than the timeouts, on a blackhole route or a dead link; then the network is back."""
    assert it.wire is not None
    cut, mend = it.chance.choice([(it.wire.cut, it.wire.mend), (it.wire.pull, it.wire.plug)])
    with it.ready.wrong(heal_seconds=HEAL_SECONDS):
        cut()
        time.sleep(it.chance.uniform(6.5, 8.5))
    mend()


def vanished(it: Disturbed) -> None:
    """The server dies behind a cut network and is another one when that is back: nobody was told that the old connections are gone."""
    assert it.wire is not None
    with it.ready.wrong(heal_seconds=HEAL_SECONDS):
        it.wire.cut()
        it.server.kill()
        time.sleep(it.chance.uniform(1.0, 3.0))
        it.wire.mend()
        it.server.start()


Faults = Mapping[str, Callable[[Disturbed], None]]
FAULTS: Faults = {
    "server killed, back with its file": killed,
    "server full": full,
    "server slow, shorter than the timeouts": a_little_slow,
    "server slow, longer than the timeouts": very_slow,
    "all connections cut eight times": connections_cut,
    "broker's database emptied three times": broker_flushed,
    "unsafe setting at run time": unsafe_setting,
}
NETWORK_FAULTS: Faults = {
    "network cut, longer than the timeouts": network_cut,
    "server killed behind a cut network": vanished,
}
