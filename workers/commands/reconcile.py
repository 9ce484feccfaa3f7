"""The command `consent reconcile`: the ledger's own books, and what vendors hold against the standings."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click

from workers.commands import common

if TYPE_CHECKING:
    from rich.progress import Progress

    from pipeline.books import Books, Finding
    from pipeline.ledger.sweeps import Walk
    from pipeline.reconcile import Reconcile
    from workers.wiring import Parts

SHOWN: Final = 20
"""Findings of one kind that are printed for people; JSON has more."""
MOST_WAIT_SECONDS: Final = 5.0
SMALL: Final = 50
"""A ledger of fewer names for each one of the sample is looked through from its beginning."""


@click.command()
@click.option("--internal", is_flag=True, help="Only the ledger's own books: every event and delivery, what is stuck, late, dead, or does not add up.")
@click.option("--destination", "names", multiple=True, help="Only this destination; may be repeated. By default every one whose vendor can be asked.")
@click.option(
    "--sample", type=click.IntRange(min=1), help="Ask about so many people of each destination, chosen at random. The default, with reconcile.sample_size."
)
@click.option("--full", is_flag=True, help="Ask about everybody. What is done is kept in the ledger: interrupted, workers go on with it.")
@click.option("--dry-run", is_flag=True, help="Only look: repair nothing, adopt nothing, count nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def reconcile(internal: bool, names: tuple[str, ...], sample: int | None, full: bool, dry_run: bool, as_json: bool) -> None:
    """Compare what vendors hold with the standings, and repair what is too loose.

    A vendor that still permits what was withdrawn is told again. One that permits less, or has lost a consent, is reported, unless the routing file says otherwise
    (`reconcile` of the destination). It keeps within reconcile.rate_share of each vendor's limit, so it may take long; nobody else is held up.

    Exits 0 if all is in order, 1 if something has drifted, a vendor could not be asked, or (--internal) something is lost, stuck, late or a dead withdrawal.

    \b
    Examples:
      consent reconcile                                  a sample of every destination
      consent reconcile --destination dinamize-news --full
      consent reconcile --internal --json
    """  # noqa: D301 - click reads the backspace
    if internal and (names or sample or full or dry_run):
        raise click.UsageError("--internal asks nobody: leave out --destination, --sample, --full and --dry-run")
    if sample and full:
        raise click.UsageError("--sample or --full, not both")
    with common.opened("reconcile", looks_only=internal) as parts:
        if internal:
            _internal(parts, as_json=as_json)
        else:
            _against_vendors(parts, names, sample=sample, full=full, dry_run=dry_run, as_json=as_json)


def _internal(parts: Parts, *, as_json: bool) -> None:
    from pipeline.books import Bookkeeper

    keeper = Bookkeeper(parts.ledger, lambda: parts.routing, time.sleep)
    with _progress("reading the ledger") as progress:
        task = progress.add_task("reading the ledger", total=keeper.size())
        books = keeper.run(lambda passed: progress.advance(task, passed))
    common.show(books.as_json(), as_json=as_json, pretty=lambda: _show_books(books))
    sys.exit(0 if books.is_good else common.FAILED)


def _show_books(books: Books) -> None:
    console = common.console()
    console.print(common.table("events", ("state", "status", "count"), [(*names, str(count)) for names, count in sorted(books.events.items())]))
    console.print(common.table("deliveries", ("destination", "status", "count"), [(*names, str(count)) for names, count in sorted(books.deliveries.items())]))
    for purpose, count in sorted(books.told_late.items()):
        console.print(f"{count} deliveries for {purpose} were told later than its goal")
    for title, found in (("late", books.late), ("stuck", books.stuck), ("dead withdrawals", books.dead), ("does not add up", books.unexplained)):
        if found.count:
            console.print(common.table(f"{title}: {found.count}", ("what", "how"), _rows(found.named[:SHOWN])))
    console.print(f"unaccounted: {books.unaccounted}")


def _rows(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(each.id, each.what) for each in findings]


def _against_vendors(parts: Parts, names: Sequence[str], *, sample: int | None, full: bool, dry_run: bool, as_json: bool) -> None:
    from workers.reconciling import reconcile as build

    for name in names:
        common.refuse_unknown_destination(name, parts.routing.destinations)
    if parts.ledger.quarantine is not None and not dry_run:
        raise click.ClickException(
            "the ledger is older than it was, so it is no measure of what vendors hold: bring it forward first (`consent ledger`), or --dry-run"
        )
    built = build(parts)
    passes = [_Pass(parts, built, name, full=full, dry_run=dry_run, sample=sample or parts.settings.reconcile.sample_size) for name in _chosen(parts, names)]
    with _progress("asking") as progress:
        _run(passes, progress)
    rows = [each.row() for each in passes]
    common.show({"dry_run": dry_run, "destinations": rows}, as_json=as_json, pretty=lambda: _show_drift(rows))
    sys.exit(0 if all(row["good"] for row in rows) else common.FAILED)


def _chosen(parts: Parts, names: Sequence[str]) -> list[str]:
    """The destinations to ask; one that was named and cannot be asked is an error."""
    from pipeline.reconcile import why_not_asked

    reasons = {name: why_not_asked(each, parts.routing) for name, each in parts.routing.destinations.items() if not names or name in names}
    for name, reason in reasons.items():
        if reason and names:
            raise click.UsageError(f"{name} cannot be asked what it holds: {reason}")
    return [name for name, reason in reasons.items() if not reason]


class _Pass:
    """One destination being compared by this command: a full sweep goes by the ledger, like a worker's turns; a sample or a mere look is the command's own."""

    def __init__(self, parts: Parts, built: Reconcile, name: str, *, full: bool, dry_run: bool, sample: int) -> None:
        self.name, self.full, self.dry_run = name, full, dry_run
        self._parts, self._built = parts, built
        self._is_kept = full and not dry_run
        self._begun_ms = parts.ledger.now_ms()
        self.counts: Counter[str] = Counter()
        self.asked, self.failures, self.problem, self.has_ended, self.ready_at = 0, 0, "", False, 0.0
        self.sample, self.passed, self.size = sample, 0, max(1, parts.ledger.walks.size())
        self._walk: Walk = _first_walk(full=full, sample=sample, size=self.size)
        self._may_wrap = self._walk.cursor > 0

    def go_on(self) -> None:
        """Do a little of it; sets `ready_at` where there is no room for more now."""
        if self._is_kept:
            self._take_turn()
        else:
            self._step()
        self.has_ended = self.has_ended or bool(self.problem)

    def _take_turn(self) -> None:
        """A turn like a worker's, or a moment's wait where a worker has it."""
        sweeps = self._parts.ledger.sweeps
        self._built.run(self.name, full=sweeps.figures(self.name).mode != "full" and not self._is_over())
        figures = sweeps.figures(self.name)
        self.has_ended, self.passed = self._is_over(), figures.looked
        self.counts = Counter(figures.last if self.has_ended else figures.running)
        wait_ms = max(100, figures.due_ms - self._parts.ledger.clock_ms())
        self.ready_at = time.monotonic() + wait_ms / 1000

    def _is_over(self) -> bool:
        return self._parts.ledger.sweeps.figures(self.name).full_ms >= self._begun_ms

    def _step(self) -> None:
        from pipeline.reconcile import PAST_AFTER

        destination = self._parts.routing.destinations[self.name]
        step = self._built.sweeper.step(destination, self._walk, stop_at=time.monotonic() + 1, dry_run=self.dry_run, past_failures=self.failures >= PAST_AFTER)
        self._walk, self.has_ended = step.walk, step.has_ended and not (self._may_wrap and step.walk.left)
        if step.has_ended and not self.has_ended:
            self._walk, self._may_wrap = replace(step.walk, cursor=0), False
        self.counts += step.counts
        self.asked, self.passed = self.asked + step.asked, self.passed + step.passed
        self.failures = 0 if step.asked else self.failures + (step.failure is not None)
        if step.failure is not None and self.failures >= PAST_AFTER:
            self.problem = step.failure.reason or step.failure.outcome.value
        self.ready_at = time.monotonic() + (self._built.wait_ms(step) / 1000 if step.retry_ms else float(step.failure is not None))
        if not self.dry_run and step.counts:
            self._parts.ledger.sweeps.note(self.name, step.counts)

    def row(self) -> dict[str, Any]:
        """What was found, for programs."""
        from pipeline.expectation import DRIFTED, Drift

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
            "problem": self.problem or None,
            "good": good,
        }

    @property
    def share(self) -> tuple[int, int]:
        """How far it is, and of how much."""
        return (min(self.passed, self.size), self.size) if self.full else (min(self.asked, self.sample), self.sample)


def _first_walk(*, full: bool, sample: int, size: int) -> Walk:
    """A sample of a large ledger begins anywhere: any number is a place in the order in which the server keeps its names, which says nothing about people."""
    from random import SystemRandom

    from pipeline.ledger.sweeps import FULL, SAMPLE, Walk

    if full:
        return Walk(mode=FULL, cursor=0, pending=(), left=-1)
    return Walk(mode=SAMPLE, cursor=SystemRandom().getrandbits(40) if size > SMALL * sample else 0, pending=(), left=sample)


def _run(passes: Sequence[_Pass], progress: Progress) -> None:
    """Go on with whichever destination has room; this is no worker, so it may wait."""
    tasks = {each.name: progress.add_task(f"asking {each.name}", total=None) for each in passes}
    while running := [each for each in passes if not each.has_ended]:
        ready = [each for each in running if each.ready_at <= time.monotonic()]
        for each in ready:
            each.go_on()
            done, total = each.share
            progress.update(tasks[each.name], completed=total if each.has_ended else done, total=total)
        if not ready:
            time.sleep(min(MOST_WAIT_SECONDS, max(0.02, min(each.ready_at for each in running) - time.monotonic())))


@contextmanager
def _progress(_title: str) -> Iterator[Progress]:
    """A progress display on standard error, so that what is printed can be piped."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(), console=common.console(to_error=True)
    ) as progress:
        yield progress


COLUMNS: Final = ("in_sync", "missing", "vendor_stricter", "vendor_looser", "pending", "unreadable")
STYLES: Final = {"vendor_looser": "bold red", "vendor_stricter": "yellow", "missing": "yellow", "unreadable": "yellow"}


def _show_drift(rows: Sequence[dict[str, Any]]) -> None:
    console = common.console()
    if not rows:
        console.print("no destination can be asked what it holds")
        return
    cells = [[row["destination"], *(_cell(name, row[name]) for name in COLUMNS), _repaired(row["repaired"]), row["problem"] or ""] for row in rows]
    console.print(common.table("what vendors hold", ("destination", *(name.replace("_", " ") for name in COLUMNS), "repaired", "problem"), cells))


def _cell(name: str, count: int) -> str:
    return f"[{STYLES[name]}]{count}[/]" if count and name in STYLES else str(count)


def _repaired(repaired: dict[str, int]) -> str:
    return ", ".join(f"{count} {how.replace('_', ' ')}" for how, count in repaired.items() if count)
