"""One measurement: from the word to begin until the stub has counted everything, with the CPU time that each process used for it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks import machine
from benchmarks.figures import Figures, add
from benchmarks.invented import VENDORS
from benchmarks.peers.catalogue import LIMITS, PEERS
from benchmarks.processes import Failed, Process, Producer
from benchmarks.stub import Stub

WARM_UP_EVENTS: Final = 100
MOST_EVENTS: Final = 150_000
LEAST_EVENTS: Final = 200
FIRST_GUESS: Final = 2000.0
"""Events a second that the product is first taken to do; sets the length of the first round only."""


@dataclass(slots=True, kw_only=True)
class Context:
    """What a run was asked for, and its progress."""

    folder: Path
    rounds: int
    seconds: float
    is_quick: bool
    say: Callable[[str], None]
    paces: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _runs: Iterable[int] = field(default_factory=itertools.count)

    def run(self) -> str:
        """A name for a run's events that no other run has."""
        return f"r{next(iter(self._runs))}"

    def count(self, contender: str) -> int:
        """Events that will take this contender about `seconds`, by its pace in the round before."""
        known = PEERS.get(contender) or LIMITS.get(contender)
        pace = self.paces.get(contender, known.events_per_second if known else FIRST_GUESS)
        return int(min(MOST_EVENTS, max(LEAST_EVENTS, pace * self.seconds)))

    def note(self, text: str) -> None:
        """Keep what a reader of the figures must know."""
        if text not in self.notes:
            self.notes.append(text)


def in_turn(context: Context, contenders: Iterable[str], measure: Callable[[str], Mapping[str, float]], *, rounds: int | None = None) -> Figures:
    """Every contender once in each round, so that a slow hour of the machine meets them all; each round begins with another one."""
    names = list(contenders)
    figures: Figures = {name: {} for name in names}
    for round_number in range(rounds or context.rounds):
        first = round_number % len(names)
        for name in names[first:] + names[:first]:
            context.say(f"{name}, round {round_number + 1}")
            try:
                add(figures, name, measure(name))
            except (Failed, OSError, TimeoutError) as error:
                context.note(f"{name}: a round failed ({type(error).__name__}: {str(error)[:300]})")
    return {name: values for name, values in figures.items() if values}


@dataclass(slots=True)
class Meter:
    """CPU time of named processes, and of the rest of the machine, since its making."""

    processes: Mapping[str, Process]
    before: dict[str, float] = field(init=False)
    busy_before: float = field(init=False)
    begun_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.before = self._now()
        self.busy_before, self.begun_at = machine.busy_seconds(), time.time()

    def used(self) -> dict[str, float]:
        """CPU seconds by name; `others` is what processes used that have nothing to do with the run."""
        used = {name: value - self.before.get(name, 0.0) for name, value in self._now().items()}
        used["others"] = max(0.0, machine.busy_seconds() - self.busy_before - sum(used.values()))
        return used

    def _now(self) -> dict[str, float]:
        return {name: machine.cpu_seconds(process.pid) for name, process in self.processes.items()}


def warm_up(stub: Stub, producer: Producer, still_runs: Callable[[], None], events: int = WARM_UP_EVENTS) -> None:
    """Have everything told once, so that imports and connections are not measured. Raises Failed if it does not come."""
    wanted = stub.count() + events * len(VENDORS)
    producer.begin()
    complete = stub.wait_for(wanted, still_runs)
    accepted = producer.report()["accepted"]
    if not complete or accepted != events:
        raise Failed(f"the warm-up did not end: {accepted} of {events} accepted, {wanted - stub.count()} calls missing")


def end_to_end(stub: Stub, producer: Producer, processes: Mapping[str, Process], events: int, still_runs: Callable[[], None]) -> dict[str, float]:
    """From the first event of the producer to the last of 3 calls for each, and what is found when looking again. `producing_share`: of this time, how long events still came."""
    mark, base, wanted = stub.mark(), stub.count(), events * len(VENDORS)
    meter = Meter({**processes, "producer": producer.process, "stub": stub.process})
    producer.begin()
    complete = stub.wait_for(base + wanted, still_runs)
    ended_at, used, told = time.time(), meter.used(), stub.count() - base
    report = producer.report()
    seconds = ended_at - report["begun_at"]
    producing = {"producing_share": min(1.0, (report["ended_at"] - report["begun_at"]) / seconds)}
    return {**rates(told, seconds, used), **producing, **oddities(wanted, told, complete, stub.repeats(base + wanted, mark))}


def rates(told: int, seconds: float, used: Mapping[str, float]) -> dict[str, float]:
    """Deliveries a second, CPU of each part for 1,000 of them, and how many cores the run and strangers used meanwhile."""
    parts = {f"cpu_ms_{name}": value * 1e6 / told for name, value in used.items() if name != "others"} if told else {}
    cores = {"cores_busy": (sum(used.values()) - used["others"]) / seconds, "others_cores": used["others"] / seconds}
    return {"deliveries_per_second": told / seconds, "seconds": seconds, **parts, **cores}


def oddities(wanted: int, told: int, complete: bool, repeats: int) -> dict[str, float]:
    """What should be nothing: calls that did not come in time, and calls too many."""
    return {"missing": 0 if complete else wanted - told, "repeats": max(0, repeats)}


def total_cpu(values: dict[str, Any], parts: Iterable[str]) -> dict[str, float]:
    """CPU ms for 1,000 deliveries over these parts: what the contender itself costs, without stub and client."""
    return {**values, "cpu_ms": sum(values.get(f"cpu_ms_{part}", 0.0) for part in parts)}
