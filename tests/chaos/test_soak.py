"""Runs for long at half of the highest rate: nothing may grow, neither latency nor memory, descriptors or queues."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from tests.chaos.frame import Check, Figures, Plot, Scale, Scenario
from tests.support.flat import growth
from tests.support.load import Clients, Sent
from tests.support.stack import Stack, wait_until
from tests.support.verdict import settled_metric, wrong_states
from tests.support.watching import Book, Watcher
from tests.support.world import PURPOSES, disturbed_stack

PEOPLE = 3000
CLIENTS = 24
WARM_SHARE = 0.25
"""What is looked at begins after this share of the run: until then caches and pools fill."""
SAMPLES = 240
LIMITS: Mapping[str, tuple[str, float, float]] = {
    "memory": ("MB", 80.0, 0.1),
    "descriptors": ("count", 50.0, 0.1),
    "server": ("MB", 10.0, 0.1),
    "waiting": ("count", 50.0, 0.25),
    "latency": ("s", 0.2, 0.25),
}
"""Curve -> unit, the median below which growth is measured by this value instead, and the share of it by which a line may grow."""
TITLES = {
    "memory": "memory of every process",
    "descriptors": "file descriptors of every process",
    "server": "memory of the server's data",
    "waiting": "number of messages and deliveries that wait",
    "latency": "time from the 202 to the vendor",
}


def environment(seconds: float) -> dict[str, str]:
    """What is kept for days is kept for minutes, so that the run reaches the state in which as much goes as comes."""
    days = min(180.0, seconds / 8) / 86_400
    return {
        "CONSENT_INGEST_PROCESSES": "2",
        "CONSENT_LEDGER_PAYLOAD_DAYS": f"{days:.6f}",
        "CONSENT_LEDGER_DEDUP_DAYS": f"{days:.6f}",
        "CONSENT_FLOWER_MAX_TASKS": "500",
    }


def words(chance: random.Random, book: Book) -> Iterator[list[Sent]]:
    """Posts of one event each, without end: each the newest word of one of `PEOPLE`."""
    for number in itertools.count():
        now = datetime.now(UTC)
        body = {
            "idempotency_key": f"soak-{now.timestamp():.6f}-{number}",
            "subject": {"email": f"person-{chance.randrange(PEOPLE)}@example.org"},
            "purpose": chance.choices(list(PURPOSES), list(PURPOSES.values()))[0],
            "state": chance.choice(["given", "withdrawn"]),
            "event_time": now.isoformat(),
        }
        sent = Sent(body=body, order=int(now.timestamp() * 1_000_000))
        book.open(sent)
        yield [sent]


def highest_rate(stack: Stack, chance: random.Random, book: Book, seconds: float) -> float:
    """Events a second, from the first post until everything of them is told, when clients post as fast as they are answered."""
    clients = Clients(stack.url, stack.headers(), words(chance, book), threads=CLIENTS)
    clients.start()
    time.sleep(seconds)
    clients.end()
    clients.join(60)
    wait_until(lambda: stack.metric("consent_waiting") == 0, 300)
    took_seconds = time.time() - clients.begun_at
    book.close()
    return book.accepted / took_seconds


def soak(stack: Stack, chance: random.Random, scale: Scale) -> Figures:
    """Measure the highest rate, then go on at half of it."""
    book = Book()
    highest = highest_rate(stack, chance, book, min(30.0, scale.seconds / 10))
    rate = highest / 2
    scale.say(f"highest rate {highest:.0f} events a second; going on at {rate:.0f} for {scale.seconds:.0f} s")
    settled_metric(stack, "consent_unaccounted", 0, 15)
    accepted_before, book.accepted = stack.metric("consent_events_total", status="accepted"), 0
    watcher = Watcher(stack, book, max(1.0, scale.seconds / SAMPLES), scale.say)
    watcher.tell()
    watcher.calls = watcher.doubled = 0
    clients = Clients(stack.url, stack.headers(), words(chance, book), threads=CLIENTS, every_seconds=1 / rate)
    clients.start()
    watcher.start()
    try:
        time.sleep(scale.seconds)
    finally:
        clients.end()
        watcher.finish()
    clients.join(60)
    waiting = settled_metric(stack, "consent_waiting", 0, 120)
    watcher.tell()
    unaccounted = settled_metric(stack, "consent_unaccounted", 0, 15)
    missing = abs(stack.metric("consent_events_total", status="accepted") - accepted_before - book.accepted)
    return figures(
        watcher, book, rates=(highest, rate), lost=int(waiting + unaccounted + missing), stale=len(wrong_states(stack, book.newest.values())), stack=stack
    )


def figures(watcher: Watcher, book: Book, *, rates: tuple[float, float], lost: int, stale: int, stack: Stack) -> Figures:
    """What is published: the curves, and a check of each line."""
    return Figures(
        done={"seconds at half of the highest rate": round(watcher.at_seconds[-1])},
        events=book.accepted,
        calls=watcher.calls,
        lost=lost,
        stale=stale,
        doubled=watcher.doubled,
        checks=(
            *flatness(watcher.at_seconds, {curve: watcher.lines(curve) for curve in LIMITS}),
            Check(what="dead letters in the end", found=stack.metric("consent_dead_letters"), most=0),
            Check(what="processes that died", found=stack.log().count('"child_died"'), most=0),
        ),
        more={
            "highest rate, events a second": round(rates[0], 1),
            "rate of the soak, events a second": round(rates[1], 1),
            "reached, events a second": round(book.accepted / watcher.at_seconds[-1], 1),
        },
        plots=[Plot(title=TITLES[curve], unit=unit, at_seconds=watcher.at_seconds, lines=watcher.lines(curve)) for curve, (unit, _, _) in LIMITS.items()],
    )


def flatness(at_seconds: Sequence[float], curves: Mapping[str, Mapping[str, Sequence[float | None]]]) -> list[Check]:
    """For each curve the line that grew most, by its robust slope after the warming up, as a share of its median."""
    checks = []
    after = at_seconds[-1] * WARM_SHARE
    for curve, (_, floor, most) in LIMITS.items():
        grown = {name: growth(at_seconds, values, after=after, floor=floor) for name, values in curves[curve].items()}
        worst = max(grown, key=lambda name: grown[name])
        checks.append(Check(what=f"growth of the {TITLES[curve]}, as a share of its median (most: {worst})", found=round(grown[worst], 3), most=most))
    return checks


def run(scale: Scale, seed: int) -> Figures:
    """One relay for the whole time."""
    with disturbed_stack(environment=environment(scale.seconds), vendors_apart=True, waits={}) as stack:
        return soak(stack, random.Random(seed), scale)


SCENARIO = Scenario(
    name="soak",
    title="Half of the highest rate, for long",
    told=f"""
        The highest rate is measured first: 24 clients post as fast as they are answered, until everything is told to three vendors. Then the relay (two ingest and two worker processes, beat, Flower,
        server; default settings) works at half of it. Memory and file descriptors of every process, memory of the server's data, messages and deliveries that wait and the time from a 202 to the
        vendor are sampled {SAMPLES} times. After the first quarter none of them may grow: the median of the slopes between all pairs of samples (Theil-Sen), over the time that is left, must stay
        below a share of the median. Records and payloads, kept for days by default, are kept for an eighth of the run and at most 3 minutes, and Flower keeps 500 tasks, so that as much goes as comes.
        Clients, sandboxes and relay share the machine.
    """,
    run=run,
    longest_seconds=lambda scale: 2 * scale.seconds + 900,
)


def test_growth_is_seen_and_odd_samples_are_not() -> None:
    """A leak of a fifth fails, noise with a few spikes passes, and so does growth while warming up."""
    chance, at = random.Random(5), [float(second) for second in range(0, 300, 2)]
    noise = [100 + chance.uniform(-5, 5) + (200 if chance.random() < 0.03 else 0) for _ in at]
    warming = [100 - max(0.0, 60 - moment) / 2 for moment in at]
    leak = [value + moment * 20 / 225 for value, moment in zip(noise, at, strict=True)]

    def is_flat(line: Sequence[float]) -> bool:
        others = {curve: {"line": [1.0] * len(at)} for curve in LIMITS}
        return all(check.is_met for check in flatness(at, {**others, "memory": {"worker-1": line}}))

    assert is_flat(noise)
    assert is_flat(warming)
    assert not is_flat(leak)
