"""Compares what vendors hold with the standings: one turn of one destination after the other, each bounded in time, going on where the last one ended.

Beat asks for turns, workers take them, and the ledger gives each destination's to one of them. Samples go on through the ledger from where the last one ended, so that
in time they meet everybody; a full sweep begins at its beginning. Whoever is told or compared goes by the same claims and limits, so neither harms the other.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.domain import Outcome, State, VendorResult
from pipeline.expectation import Drift
from pipeline.ledger import Ledger
from pipeline.ledger.sweeps import FULL, SweepTimes, SweepTurn
from pipeline.limits import Bulkhead
from pipeline.ports import Publisher
from pipeline.routing import Destination, Routing
from pipeline.sweeping import Step, Sweeper

log = logging.getLogger(__name__)

FAILED_WAIT_SECONDS: Final = 10.0
FAILED_WAIT_MAX_SECONDS: Final = 300.0
PAST_AFTER: Final = 3
"""Failures in a row after which it is found out whether the vendor is away, or fails with the one who is asked about: him it passes by."""
ALERT_AFTER: Final = 5
IDLE_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileOptions:
    """How often samples and full sweeps begin (0: never), how many people a sample asks about, how long a turn lasts, and how long a lost one is waited for."""

    sample_every_seconds: float = 3600.0
    sample_size: int = 100
    full_every_seconds: float = 604_800.0
    turn_seconds: float = 5.0
    lease_seconds: float = 120.0
    misconfigured_probe_seconds: float = 180.0

    @property
    def times(self) -> SweepTimes:
        return SweepTimes(
            sample_every_ms=int(self.sample_every_seconds * 1000),
            sample_size=self.sample_size,
            full_every_ms=int(self.full_every_seconds * 1000),
            lease_ms=int(self.lease_seconds * 1000),
        )

    @property
    def idle_ms(self) -> int:
        """When to look again after a pass has ended."""
        return self.times.sample_every_ms or self.times.full_every_ms or IDLE_MS


class Reconcile:
    """Takes turns; safe to share between threads and to run in several processes."""

    def __init__(
        self, ledger: Ledger, sweeper: Sweeper, publisher: Publisher, routing: Callable[[], Routing], bulkhead: Bulkhead, options: ReconcileOptions
    ) -> None:
        self._ledger, self._publisher, self._routing, self._bulkhead, self._options = ledger, publisher, routing, bulkhead, options
        self.sweeper = sweeper

    def push_due(self) -> list[str]:
        """Ask workers to go on with every destination whose turn has come; returns their names."""
        names = self.askable()
        due = self._ledger.sweeps.due(names, self._ledger.clock_ms()) if names else []
        for name in due:
            self._publisher.sweep(name)
        return due

    def askable(self) -> list[str]:
        """The destinations whose vendor can be asked what it holds, and may be."""
        routing = self._routing()
        return [name for name, each in routing.destinations.items() if why_not_asked(each, routing) == ""]

    def why_not_asked(self, name: str) -> str:
        """Why a destination is not asked now, and what to do about it; empty if it may be."""
        routing = self._routing()
        if name not in routing.destinations:
            return "the routing file does not have it"
        paused = self._ledger.deliveries.figures(name)["paused"]
        return why_not_asked(routing.destinations[name], routing) or (f"it is paused; `consent destination resume {name}` first" if paused else "")

    def run(self, name: str, *, full: bool = False) -> bool:
        """One turn of a destination, if it is its turn and a thread is free for it; with `full` a full sweep begins now. False if there was no turn."""
        destination = self._routing().destinations.get(name)
        if destination is None or self.why_not_asked(name):
            return False
        if self._ledger.quarantine is not None:
            return False  # what an older ledger says is no measure of what a vendor holds
        ticket = self._bulkhead.enter(f"sweep {name}", State.GIVEN.value)
        if ticket is None:
            return False
        try:
            turn = self._ledger.sweeps.take(name, secrets.token_hex(8), self._options.times, self._ledger.walks.server(), full=full)
            if turn is not None:
                self._go_on(destination, turn)
            return turn is not None
        finally:
            self._bulkhead.leave(f"sweep {name}", State.GIVEN.value, ticket)

    def _go_on(self, destination: Destination, turn: SweepTurn) -> None:
        stop_at, walk = time.monotonic() + self._options.turn_seconds, turn.walk
        past_failures = self._ledger.sweeps.failures(destination.name) >= PAST_AFTER
        while True:
            step = self.sweeper.step(destination, walk, stop_at=stop_at, past_failures=past_failures)
            walk, past_failures = step.walk, past_failures and not step.has_answered
            if not self._ledger.sweeps.keep(turn, walk, step.counts, step.passed, lease_ms=self._options.times.lease_ms, asked=step.has_answered):
                return
            if step.has_ended:
                self._ledger.sweeps.give_back(turn, walk, self._options.idle_ms, ended=True)
                self._say_ended(destination)
                return
            if step.failure is not None:
                failures = self._ledger.sweeps.give_up(turn, walk, self._wait_ms(turn, step.failure), step.failure)
                self._complain(destination, step.failure, failures)
                return
            if step.retry_ms or time.monotonic() > stop_at:
                self._ledger.sweeps.give_back(turn, walk, self.wait_ms(step))
                return

    def wait_ms(self, step: Step) -> int:
        """How long until there is room again for what a step could not do."""
        return max(100, step.retry_ms - self._ledger.clock_ms()) if step.retry_ms else 0

    def _wait_ms(self, turn: SweepTurn, failure: VendorResult) -> int:
        if failure.outcome is Outcome.MISCONFIGURED:
            return int(self._options.misconfigured_probe_seconds * 1000)
        if failure.retry_after_seconds is not None:
            return int(failure.retry_after_seconds * 1000)
        failures = self._ledger.sweeps.failures(turn.destination)
        return int(min(FAILED_WAIT_MAX_SECONDS, FAILED_WAIT_SECONDS * 2 ** min(failures, 10)) * 1000)

    def _say_ended(self, destination: Destination) -> None:
        """Say what a pass found; aloud where a vendor permits what was withdrawn, although it is being told again."""
        figures = self._ledger.sweeps.figures(destination.name)
        if figures.last_mode == FULL:
            self._ledger.drifts.forget(destination.name, figures.started_ms)
        found = {name: count for name, count in figures.last.items() if ":" not in name}
        log.info("sweep_ended", extra={"destination": destination.name, "mode": figures.last_mode, "found": found})
        if count := found.get(Drift.VENDOR_LOOSER, 0):
            log.error("alert", extra={"alert": "vendor_looser", "destination": destination.name, "people": count})

    def _complain(self, destination: Destination, failure: VendorResult, failures: int) -> None:
        extra = {"destination": destination.name, "reason": failure.reason, "failures": failures}
        if failure.outcome is Outcome.MISCONFIGURED or failures == ALERT_AFTER:
            log.error("alert", extra={"alert": "vendor_not_asked", **extra})
        else:
            log.warning("not_asked", extra=extra)


def why_not_asked(destination: Destination, routing: Routing) -> str:
    """Why a destination's vendor is not asked what it holds; empty if it is."""
    if not destination.adapter.capabilities.reads_back:
        return "its vendor cannot be asked"
    if not destination.enabled:
        return "it is disabled"
    return "its pair is not enabled" if destination.name in routing.resting_destinations else ""
