"""What vendors hold, compared because a person asked for it: one pass for each destination, side by side, until each has ended or says why it cannot."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Final

from pipeline.domain import Outcome
from pipeline.expectation import DRIFTED, Drift
from pipeline.ledger.drifts import MOST_KEPT, Drifted
from pipeline.ledger.ledger import time_of
from pipeline.ledger.sweeps import FULL, SAMPLE, Walk
from pipeline.reconcile import ALERT_AFTER, PAST_AFTER

if TYPE_CHECKING:
    from rich.progress import Progress

    from pipeline.reconcile import Reconcile
    from workers.wiring import Parts

MOST_WAIT_SECONDS: Final = 5.0
SMALL: Final = 50
"""A ledger of fewer names for each one of the sample is looked through from its beginning."""


class Pass:
    """One destination being compared by this command: a full sweep goes by the ledger, like a worker's turns; a sample or a mere look is the command's own."""

    def __init__(self, parts: Parts, built: Reconcile, name: str, *, full: bool, dry_run: bool, sample: int) -> None:
        self.name, self.full, self.dry_run = name, full, dry_run
        self._parts, self._built = parts, built
        self._is_kept = full and not dry_run
        before = parts.ledger.sweeps.figures(name)
        self._full_ms, self._failures = before.full_ms, before.failures if self._is_kept else 0
        self.counts: Counter[str] = Counter()
        self._seen: list[Drifted] = []
        self.asked, self.problem, self.has_ended, self.ready_at = 0, "", False, 0.0
        self.sample, self.passed, self.size = sample, 0, max(1, parts.ledger.walks.size())
        self._walk: Walk = _first_walk(full=full, sample=sample, size=self.size)
        self._may_wrap = self._walk.cursor > 0

    def go_on(self) -> None:
        """Do a little of it; sets `ready_at` where there is no room for more now. A person may have paused the destination meanwhile."""
        self.problem = self._built.why_not_asked(self.name)
        if not self.problem:
            self._take_turn() if self._is_kept else self._step()
        self.has_ended = self.has_ended or bool(self.problem)

    def _take_turn(self) -> None:
        """A turn like a worker's, or a moment's wait where a worker has it."""
        sweeps = self._parts.ledger.sweeps
        if self._parts.ledger.quarantine is not None:
            self.problem = "the ledger is older than it was, so it is no measure of what vendors hold (`consent ledger`)"
            return
        self._built.run(self.name, full=sweeps.figures(self.name).mode != FULL and not self._is_over())
        figures = sweeps.figures(self.name)
        self.has_ended, self.passed = self._is_over(), figures.looked
        self.counts = Counter(figures.last if self.has_ended else figures.running)
        if figures.failures > self._failures and not self.has_ended:
            self._doubt(figures.failures, figures.failed_with, figures.reason)
        self._failures = figures.failures
        wait_ms = max(100, figures.due_ms - self._parts.ledger.clock_ms())
        self.ready_at = time.monotonic() + wait_ms / 1000

    def _is_over(self) -> bool:
        return self._parts.ledger.sweeps.figures(self.name).full_ms != self._full_ms

    def _doubt(self, failures: int, outcome: str, reason: str) -> None:
        """End where waiting longer changes nothing: that workers go on with a full sweep by themselves does not keep the person who asked for it."""
        if failures >= ALERT_AFTER or outcome == Outcome.MISCONFIGURED:
            self.problem = reason or outcome

    def _step(self) -> None:
        destination = self._parts.routing.destinations[self.name]
        step = self._built.sweeper.step(destination, self._walk, stop_at=time.monotonic() + 1, dry_run=self.dry_run, past_failures=self._failures >= PAST_AFTER)
        self._walk, self.has_ended = step.walk, step.has_ended and not (self._may_wrap and step.walk.left)
        if step.has_ended and not self.has_ended:
            self._walk, self._may_wrap = replace(step.walk, cursor=0), False
        self.counts += step.counts
        self._seen += step.drifted
        self.asked, self.passed = self.asked + step.asked, self.passed + step.passed
        self._failures = (0 if step.has_answered else self._failures) + (step.failure is not None)
        if step.failure is not None:
            self._doubt(self._failures, step.failure.outcome, step.failure.reason)
        self.ready_at = time.monotonic() + (self._built.wait_ms(step) / 1000 if step.retry_ms else float(step.failure is not None))
        if not self.dry_run and step.counts:
            self._parts.ledger.sweeps.note(self.name, step.counts)
        if not self.dry_run and self.has_ended:
            self._parts.ledger.sweeps.note_sample(self.name, self.counts)

    def row(self) -> dict[str, Any]:
        """What was found, for programs."""
        found = {drift.value: self.counts.get(drift, 0) for drift in Drift}
        repaired = {how: sum(count for name, count in self.counts.items() if name.endswith(f":{how}")) for how in ("told_again", "adopted")}
        compared = sum(found.values()) - found[Drift.UNREADABLE] - found[Drift.PENDING]
        is_blind = bool(found[Drift.UNREADABLE]) and not compared
        good = not (self.problem or is_blind or any(found[drift] for drift in DRIFTED))
        return {
            "destination": self.name,
            "mode": "full" if self.full else "sample",
            **found,
            "repaired": repaired,
            "drifted": listed(self._seen if self.dry_run else self._parts.ledger.drifts.of(self.name)),
            "problem": self.problem or ("nobody there could be compared" if is_blind else None),
            "good": good,
        }

    @property
    def share(self) -> tuple[int, int]:
        """How far it is, and of how much."""
        return (min(self.passed, self.size), self.size) if self.full else (min(self.asked, self.sample), self.sample)


def listed(found: Sequence[Drifted]) -> dict[str, Any]:
    """Who has drifted, by event, for programs."""
    items = [{"event_id": each.event_id, "class": each.drift, "at": time_of(each.at_ms), "repaired": each.repaired or None} for each in found[:MOST_KEPT]]
    return {"count": len(found), "items": items}


def standing(parts: Parts, name: str) -> dict[str, Any]:
    """What was found at a destination so far, by workers or by hand, and who has drifted and was not seen in sync since; asks nobody."""
    figures, drifted = parts.ledger.sweeps.figures(name), parts.ledger.drifts.of(name)
    found = {mode: {drift.value: counts.get(drift, 0) for drift in Drift} for mode, counts in figures.last_by_mode.items() if counts}
    return {"destination": name, "last": found, "full_at": time_of(figures.full_ms) if figures.full_ms else None, "drifted": listed(drifted)}


def _first_walk(*, full: bool, sample: int, size: int) -> Walk:
    """A sample of a large ledger begins anywhere: any number is a place in the order in which the server keeps its names, which says nothing about people."""
    if full:
        return Walk(mode=FULL, cursor=0, pending=(), left=-1)
    return Walk(mode=SAMPLE, cursor=SystemRandom().getrandbits(40) if size > SMALL * sample else 0, pending=(), left=sample)


def run_passes(passes: Sequence[Pass], progress: Progress) -> None:
    """Go on with whichever destination has room; this is no worker, so it may wait."""
    tasks = {each.name: progress.add_task(f"asking {each.name}", total=None) for each in passes}
    while running := [each for each in passes if not each.has_ended]:
        ready = [each for each in running if each.ready_at <= time.monotonic()]
        for each in ready:
            each.go_on()
            done, total = each.share
            progress.update(tasks[each.name], completed=total if each.has_ended else done, total=total)
        if not ready:
            progress.refresh()
            time.sleep(min(MOST_WAIT_SECONDS, max(0.02, min(each.ready_at for each in running) - time.monotonic())))
