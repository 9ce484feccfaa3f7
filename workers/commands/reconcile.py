"""The command `consent reconcile`: the ledger's own books, and what vendors hold against the standings."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from workers.commands import common
from workers.counting import counted

if TYPE_CHECKING:
    from pipeline.books import Books, Finding
    from pipeline.reconcile import Reconcile
    from workers.wiring import Parts

SHOWN: Final = 20
"""Findings of one kind that are printed for people; JSON has more."""


@click.command(short_help="Compare what vendors hold with the standings, and repair.")
@click.option("--internal", is_flag=True, help="Only the ledger's own books: every event and delivery, what is stuck, late, dead, or does not add up.")
@click.option("--destination", "names", multiple=True, help="Only this destination; may be repeated. By default every one whose vendor can be asked.")
@click.option(
    "--sample", type=click.IntRange(min=1), help="Ask about so many people of each destination, chosen at random. The default, with reconcile.sample_size."
)
@click.option("--full", is_flag=True, help="Ask about everybody. What is done is kept in the ledger: interrupted, workers go on with it.")
@click.option("--show", "only_shows", is_flag=True, help="Ask nobody: show what was found so far, and by event who has drifted and was not seen in sync since.")
@click.option("--dry-run", is_flag=True, help="Only look: repair nothing, adopt nothing, count nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def reconcile(internal: bool, names: tuple[str, ...], sample: int | None, full: bool, only_shows: bool, dry_run: bool, as_json: bool) -> None:
    """Compare what vendors hold with the standings, and repair what is too loose.

    A vendor that still permits what was withdrawn is told again. One that permits less, or has lost a consent, is reported, unless the routing file says otherwise
    (`reconcile` of the destination). It keeps within reconcile.rate_share of each vendor's limit, so it may take long; nobody else is held up.

    Exits 0 if all is in order, 1 if something has drifted, a vendor could not be asked, or (--internal) something is lost, stuck, late or a dead withdrawal.

    \b
    Examples:
      consent reconcile                                  a sample of every destination
      consent reconcile --destination dinamize-news --full
      consent reconcile --show                           who has drifted, by event
      consent reconcile --internal --json
    """  # noqa: D301 - click reads the backspace
    if internal and (names or sample or full or dry_run or only_shows):
        raise click.UsageError("--internal asks nobody: leave out --destination, --sample, --full, --show and --dry-run")
    if only_shows and (sample or full or dry_run):
        raise click.UsageError("--show asks nobody: leave out --sample, --full and --dry-run")
    if sample and full:
        raise click.UsageError("--sample or --full, not both")
    with common.opened("reconcile", looks_only=internal or only_shows) as parts:
        if internal:
            _internal(parts, as_json=as_json)
        elif only_shows:
            _standing(parts, names, as_json=as_json)
        else:
            _against_vendors(parts, names, sample=sample, full=full, dry_run=dry_run, as_json=as_json)


def _internal(parts: Parts, *, as_json: bool) -> None:
    from pipeline.books import Bookkeeper
    from workers.commands.progress import progress

    keeper = Bookkeeper(parts.ledger, lambda: parts.routing, time.sleep)
    with progress() as bars:
        task = bars.add_task("reading the ledger", total=keeper.size())
        books = keeper.run(lambda passed: bars.advance(task, passed))
    common.show(books.as_json(), as_json=as_json, pretty=lambda: _show_books(books))
    sys.exit(0 if books.is_good else common.FAILED)


def _show_books(books: Books) -> None:
    console = common.console()
    console.print(common.table("events", ("state", "status", "count"), [(*names, str(count)) for names, count in sorted(books.events.items())]))
    console.print(common.table("deliveries", ("destination", "status", "count"), [(*names, str(count)) for names, count in sorted(books.deliveries.items())]))
    for purpose, count in sorted(books.told_late.items()):
        console.print(f"told later than its goal for {purpose}: {counted(count, 'delivery', 'deliveries')}")
    for title, found in (("late", books.late), ("stuck", books.stuck), ("dead withdrawals", books.dead), ("does not add up", books.unexplained)):
        if found.count:
            console.print(common.table(f"{title}: {found.count}", ("what", "how"), _rows(found.named[:SHOWN])))
    console.print(f"unaccounted: {books.unaccounted}")


def _rows(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(each.id, each.what) for each in findings]


def _against_vendors(parts: Parts, names: Sequence[str], *, sample: int | None, full: bool, dry_run: bool, as_json: bool) -> None:
    from workers.commands.progress import progress
    from workers.passes import Pass, run_passes
    from workers.reconciling import reconcile as build

    for name in names:
        common.refuse_unknown_destination(name, parts.routing.destinations)
    if parts.ledger.quarantine is not None and not dry_run:
        raise click.ClickException(
            "the ledger is older than it was, so it is no measure of what vendors hold: bring it forward first (`consent ledger`), or --dry-run"
        )
    built, size = build(parts), sample or parts.settings.reconcile.sample_size
    passes = [Pass(parts, built, name, full=full, dry_run=dry_run, sample=size) for name in _chosen(parts, built, names)]
    with progress() as bars:
        run_passes(passes, bars)
    rows = [each.row() for each in passes]
    common.show({"dry_run": dry_run, "destinations": rows}, as_json=as_json, pretty=lambda: _show_drift(rows))
    sys.exit(0 if all(row["good"] for row in rows) else common.FAILED)


def _standing(parts: Parts, names: Sequence[str], *, as_json: bool) -> None:
    from workers.passes import standing

    for name in names:
        common.refuse_unknown_destination(name, parts.routing.destinations)
    chosen = [name for name, each in parts.routing.destinations.items() if each.adapter.capabilities.reads_back and (not names or name in names)]
    rows = [standing(parts, name) for name in chosen]
    common.show({"destinations": rows}, as_json=as_json, pretty=lambda: _show_standing(rows))
    sys.exit(common.FAILED if any(row["drifted"]["count"] for row in rows) else 0)


def _chosen(parts: Parts, built: Reconcile, names: Sequence[str]) -> list[str]:
    """The destinations to ask; one that was named and is not to be asked is an error, one that was not is left out, and that is said."""
    reasons = {name: built.why_not_asked(name) for name in parts.routing.destinations if not names or name in names}
    for name, reason in reasons.items():
        if reason and names:
            raise click.UsageError(f"{name} cannot be asked what it holds: {reason}")
        if reason and parts.routing.destinations[name].adapter.capabilities.reads_back:
            click.echo(f"{name} is not asked: {reason}", err=True)
    return [name for name, reason in reasons.items() if not reason]


COLUMNS: Final = ("in_sync", "missing", "vendor_stricter", "vendor_looser", "pending", "unreadable")
STYLES: Final = {"vendor_looser": "bold red", "vendor_stricter": "yellow", "missing": "yellow", "unreadable": "yellow"}


def _show_drift(rows: Sequence[dict[str, Any]]) -> None:
    console = common.console()
    if not rows:
        console.print("no destination can be asked what it holds")
        return
    cells = [[row["destination"], *(_cell(name, row[name]) for name in COLUMNS), _repaired(row["repaired"]), row["problem"] or ""] for row in rows]
    console.print(common.table("what vendors hold", ("destination", *(name.replace("_", " ") for name in COLUMNS), "repaired", "problem"), cells))
    _show_drifted(rows)


def _show_standing(rows: Sequence[dict[str, Any]]) -> None:
    console = common.console()
    cells = [[row["destination"], mode, *(_cell(name, found[name]) for name in COLUMNS)] for row in rows for mode, found in row["last"].items()]
    if not cells:
        console.print("nothing has been compared yet")
    else:
        console.print(common.table("last found", ("destination", "pass", *(name.replace("_", " ") for name in COLUMNS)), cells))
    _show_drifted(rows)


def _show_drifted(rows: Sequence[dict[str, Any]]) -> None:
    """Some of those who have drifted, by event: `consent status EVENT_ID` tells more of each."""
    for row in rows:
        count, items = row["drifted"]["count"], row["drifted"]["items"][:SHOWN]
        if not count:
            continue
        cells = [(each["event_id"], each["class"].replace("_", " "), each["at"], (each["repaired"] or "").replace("_", " ")) for each in items]
        common.console().print(common.table(f"drifted at {row['destination']}: {count}", ("event", "the vendor's state", "seen", "repaired"), cells))
        if count > len(items):
            common.console().print(f"and {count - len(items)} more: --json has them")


def _cell(name: str, count: int) -> str:
    return f"[{STYLES[name]}]{count}[/]" if count and name in STYLES else str(count)


def _repaired(repaired: dict[str, int]) -> str:
    return ", ".join(f"{count} {how.replace('_', ' ')}" for how, count in repaired.items() if count)
