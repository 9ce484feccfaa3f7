"""Kills, pauses and restarts the processes of a stack while it works; every choice comes from the seed, the machine decides only how far they had come."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.support.stack import Stack, wait_until

WEIGHTS: Mapping[str, float] = {
    "worker-1": 18, "worker-2": 18, "ingest": 26, "beat": 11, "server": 12, "flower": 6, "ingest-group": 5, "supervisor": 2,
}  # fmt: skip
"""How often which kind of process is killed."""
PAUSED = ("worker-1", "worker-2", "ingest")
AT_ONCE_SHARE = 0.2
"""Share of kills that follow the one before at once."""
OTHERS = ("worker-1", "worker-2", "ingest", "beat", "flower", "server", "supervisor")
"""Whom it meets if the one that was chosen is away."""
BACK_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a relay is disturbed: kills with their mean distance, pauses with their longest, and how many rolling restarts."""

    kills: int
    every_seconds: float
    pauses: int
    longest_pause_seconds: float
    restarts: int = 1
    weights: Mapping[str, float] = field(default_factory=lambda: WEIGHTS)


class Killer(threading.Thread):
    """Carries a plan out; `done` counts what was done to which kind, `pauses` are (kind, from, until). `failure` is what went wrong with the killing itself."""

    def __init__(self, stack: Stack, chance: random.Random, plan: Plan, say: Callable[[str], None] = lambda _: None) -> None:
        super().__init__(name="killer")
        self.stack, self.chance, self.plan, self._say = stack, chance, plan, say
        self.done: Counter[str] = Counter()
        self.killed = 0
        self.pauses: list[tuple[str, float, float]] = []
        self.failure: BaseException | None = None
        self.over = threading.Event()
        self._resuming: list[threading.Timer] = []

    def run(self) -> None:
        try:
            for act in self._acts():
                if self.over.is_set():
                    return
                act()
        except BaseException as error:
            self.failure = error
        finally:
            for timer in self._resuming:
                timer.join()
            self.over.set()

    def finish(self) -> None:
        """Wait for the end of all that was planned and of its consequences; raises what went wrong."""
        self.join()
        if self.failure is not None:
            raise self.failure
        wait_until(
            lambda: self.stack.is_ready() and set(self.plan.weights) - {"ingest-group"} <= set(self.stack.kinds()),
            BACK_SECONDS,
            lambda: str(self.stack.kinds()),
        )

    def _acts(self) -> list[Callable[[], None]]:
        """What is done, in order: kills, every kind once at least, with pauses and restarts at random places among them."""
        kinds = [*self.plan.weights, *self.chance.choices(list(self.plan.weights), list(self.plan.weights.values()), k=self.plan.kills)][: self.plan.kills]
        self.chance.shuffle(kinds)
        acts = [self._kill_after(kind, self._wait_seconds()) for kind in kinds]
        for _ in range(self.plan.pauses):
            act = self._pause_for(self.chance.choice(PAUSED), self.chance.uniform(0.3, self.plan.longest_pause_seconds))
            acts.insert(self.chance.randrange(len(acts)), act)
        for number in range(1, self.plan.restarts + 1):
            acts.insert(len(acts) * number // (self.plan.restarts + 1), self._restart_all)
        return acts

    def _wait_seconds(self) -> float:
        """Kills come in no rhythm: some at once after another, the others on average so that `every_seconds` is kept."""
        if self.chance.random() < AT_ONCE_SHARE:
            return 0.0
        return min(self.chance.expovariate((1 - AT_ONCE_SHARE) / self.plan.every_seconds), 5 * self.plan.every_seconds)

    def _kill_after(self, kind: str, seconds: float) -> Callable[[], None]:
        def act() -> None:
            self.over.wait(seconds)
            self._kill(kind)

        return act

    def _kill(self, kind: str) -> None:
        """Kill one process of this kind, or of another one if this is away at the moment and does not come back soon."""
        pids = self._running(kind, 3.0)
        if not pids:
            running = self.stack.kinds()
            kind = next((other for other in OTHERS if other in running), "")
            assert kind, "nothing of the relay runs any more, and its supervisor does not start it again"
            pids = running[kind]
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.chance.choice(pids), signal.SIGKILL)
            self.killed += 1
            self.done[f"SIGKILL of {plain(kind)}"] += 1
        if kind == "supervisor":
            self.stack.start_again()
        if self.killed % 25 == 0:
            self._say(f"{self.killed} of {self.plan.kills} killed")

    def _running(self, kind: str, seconds: float) -> list[int]:
        until = time.monotonic() + seconds
        while not (pids := self.stack.kinds().get(kind, [])) and time.monotonic() < until:
            time.sleep(0.05)
        return pids

    def _pause_for(self, kind: str, seconds: float) -> Callable[[], None]:
        def act() -> None:
            pids = self._running(kind, 3.0)
            if not pids:
                return
            pid, begun_at = self.chance.choice(pids), time.time()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                self.done[f"SIGSTOP, later SIGCONT, of {plain(kind)}"] += 1
                timer = threading.Timer(seconds, self._resume, (pid, kind, begun_at))
                self._resuming.append(timer)
                timer.start()

        return act

    def _resume(self, pid: int, kind: str, begun_at: float) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        self.pauses.append((kind, begun_at, time.time()))

    def _restart_all(self) -> None:
        """Ask every process to end, one kind after the other, each once the one before is back; in the end the supervisor with all that is left."""
        self._say("rolling restart")
        for kind in self.plan.weights:
            pids = self._running(kind, BACK_SECONDS)
            assert pids, f"{kind} was not there to be restarted"
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
                    self.done[f"SIGTERM of {plain(kind)}"] += 1
                if kind == "supervisor":
                    self.stack.start_again()
                wait_until(
                    lambda pid=pid, kind=kind: bool(set(self.stack.kinds().get(kind, [])) - {pid}), BACK_SECONDS, lambda kind=kind: f"{kind} did not come back"
                )


def plain(kind: str) -> str:
    """A kind for people: workers are one kind."""
    plain = {"server": "the server", "supervisor": "the supervisor, and with it everything", "ingest-group": "the supervisor of ingest, and with it ingest"}
    return "a worker" if kind.startswith("worker") else plain.get(kind, kind)
