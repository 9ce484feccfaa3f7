"""`consent erase`: what is personal of one person goes, who is never named on the command line."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from workers.commands import common
from workers.commands.subject import read_person
from workers.counting import counted

if TYPE_CHECKING:
    from pipeline.erasing import Found
    from pipeline.ledger.erasures import Begun
    from workers.wiring import Parts

HAND_SECONDS: Final = 30.0
"""How long to wait for a vendor that is being told right now."""
REWRITE_SECONDS: Final = 600.0
NAMED: Final = 20
LOG_WORDS: Final = {
    "done": "the server's append-only file was written anew: it holds nothing of the person any more",
    "none": "the server keeps no append-only file",
    "refused": "the server does not let us write its append-only file anew: have that done (BGREWRITEAOF), until then it can be read there with the vault keys",
    "failed": "the server could not write its append-only file anew (see its log): have that done (BGREWRITEAOF), until then it can be read there with the vault keys",
    "not_in_time": "the server is still writing its append-only file anew: look at it again (INFO persistence)",
    "later": "beat has the server's append-only file written anew when the last withdrawal was told",
    "left": "the server's append-only file was left as it is: it holds the person until it is written anew (BGREWRITEAOF)",
}


@click.command("erase", short_help="Erase what is personal of a person.")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--when-told", is_flag=True, help="Where withdrawals are still to be told: erase as soon as the last one is.")
@click.option("--only-given", is_flag=True, help="Only the identifiers that are given, not those linked to them.")
@click.option("--no-rewrite", is_flag=True, help="Leave the server's append-only file as it is (for all but the last of many persons).")
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what there is, and what stands in the way.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def erase(file: str | None, *, when_told: bool, only_given: bool, no_rewrite: bool, is_sure: bool, dry_run: bool, as_json: bool) -> None:
    """Erase what is personal of a person: events, identifiers, and what links them. May be repeated.

    FILE holds the identifiers as JSON, such as {"email": "ana@example.com"}; - reads them from standard input. Without FILE they are asked for. One is enough: those
    linked to it count too. What stays tells nobody who it was: keyed hashes, purposes, times and states, so that an older consent still loses. A consent
    that was still to be told is not told any more. A withdrawal is told first, or discarded by you (`consent dead discard`): until then this refuses, or
    with --when-told notes it. Vendors are not asked to delete anything. Exits 1 if it was refused, or nothing is known of the person.

    \b
    Examples:
      consent erase --dry-run
      consent erase person.json --when-told
      consent erase - --yes --json < person.json
    """  # noqa: D301 - click reads the backspace
    if file == "-" and not (is_sure or dry_run):
        raise click.UsageError("standard input holds the person, so nobody can be asked there: add --yes, or --dry-run")
    person = read_person(file)
    with common.opened("erase", looks_only=True) as parts:
        found = _find(parts, person, only_given=only_given)
        report = _report(parts, found)
        if not as_json:
            _print_found(report, only_given=only_given)
        if not found.is_known or (found.untold and not when_told) or dry_run:
            common.show(report, as_json=as_json, pretty=lambda: _print_refused(report, when_told=when_told))
            sys.exit(0 if found.is_known and (when_told or not found.untold) else common.FAILED)
        if not is_sure:
            common.confirm("Erase? This cannot be undone.")
        found = _close(parts, found, only_given=only_given)
        left = _carry_out(parts, found)
        report |= {"events": len(found.events), "erased": not left.event_ids, "waits_for": list(left.event_ids)}
        if left.event_ids:  # a backup that is made until then holds it too
            report["backups_readable_until"] = None
        report["append_only_file"] = "left" if no_rewrite else "later" if left.event_ids else _rewrite(parts)
    common.show(report, as_json=as_json, pretty=lambda: _print_done(report))


def _find(parts: Parts, person: Any, *, only_given: bool) -> Found:
    from workers.erased import erasing

    with _bar(parts, "looking through the events") as bar:
        return erasing(parts).find(parts.hasher.identifier_keys(person).values(), with_linked=not only_given, progress=bar.update)


def _close(parts: Parts, found: Found, *, only_given: bool) -> Found:
    """Write it down, and look for what came while the person was looked for and somebody was asked."""
    from workers.erased import erasing, list_of

    list_of(parts).append(found.erasure)
    with _bar(parts, "looking for what came meanwhile") as bar:
        return erasing(parts).close(found, with_linked=not only_given, progress=bar.update)


def _bar(parts: Parts, label: str) -> Any:
    return click.progressbar(length=parts.ledger.events.counts()["accepted"], label=label, file=sys.stderr)


def _report(parts: Parts, found: Found) -> dict[str, Any]:
    from pipeline.domain import KIND_LETTERS, format_time

    kinds = {letter: kind for kind, letter in KIND_LETTERS.items()}
    counts: dict[str, int] = {}
    for key in found.erasure.keys:
        counts[kinds[key[0]]] = counts.get(kinds[key[0]], 0) + 1
    until = parts.ledger.now() + timedelta(days=parts.settings.retention.backup_days)
    return {
        "known": found.is_known,
        "identifiers": counts,
        "events": len(found.events),
        "untold_withdrawals": found.untold,
        "under_way": _under_way(parts, found),
        "erased": False,
        "waits_for": [],
        "append_only_file": None,
        "backups_readable_until": format_time(until.replace(microsecond=0)),
    }


def _under_way(parts: Parts, found: Found) -> dict[str, Any] | None:
    """Erasures of this person that were begun and wait for events to be told, or to end; from the first of them on."""
    from pipeline.domain import format_time, utc_from_us

    begun = {each.erasure.name: each for each in parts.ledger.erasures.under_way() if not set(found.erasure.keys).isdisjoint(each.erasure.keys)}
    if not begun:
        return None
    since = utc_from_us(min(each.erasure.at_us for each in begun.values())).replace(microsecond=0)
    return {"since": format_time(since), "waits_for": sorted({event_id for each in begun.values() for event_id in each.event_ids})}


def _carry_out(parts: Parts, found: Found) -> Begun:
    """Begin, and wait for vendors that are being told a consent right now."""
    from pipeline.domain import State
    from workers.erased import erasing

    (begun,) = erasing(parts).begin([found])
    until = time.monotonic() + HAND_SECONDS
    while True:
        begun = erasing(parts).advance(begun)
        if not any(found.events[each] is State.GIVEN for each in begun.event_ids) or time.monotonic() > until:
            return begun
        time.sleep(0.5)


def _rewrite(parts: Parts) -> str:
    from pipeline.ledger.append_log import rewrite

    click.echo("the server writes its append-only file anew ...", err=True)
    return rewrite(parts.ledger.store, time.sleep, REWRITE_SECONDS).value


def _print_found(report: dict[str, Any], *, only_given: bool) -> None:
    if not report["known"]:
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in report["identifiers"].items())
    click.echo(f"identifiers of this person: {kinds}; events: {report['events']}")
    if under_way := report["under_way"]:
        waits = f"{counted(len(under_way['waits_for']), 'event')} to be told, or to end, first; then beat erases the rest by itself"
        click.echo(f"an erasure of this person is under way since {under_way['since']}: {waits}")
    if not only_given and any(count > 1 for count in report["identifiers"].values()):
        click.echo("more than one of a kind: if several people share an identifier, name those of this one only and add --only-given", err=True)


def _print_refused(report: dict[str, Any], *, when_told: bool) -> None:
    untold = report["untold_withdrawals"]
    if not report["known"]:
        click.echo("nothing is known of this person")
    elif untold:
        click.echo(f"{counted(len(untold), 'delivery', 'deliveries')} of withdrawals still to be told, and for that the person has to be known:")
        for name in untold[:NAMED]:
            click.echo(f"  {name}")
        if len(untold) > NAMED:
            click.echo(f"  and {len(untold) - NAMED} more (--json names all)")
        click.echo(
            f"nothing was erased. See `consent status EVENT_ID`, `consent dead replay` and `consent dead discard`{_way_out(report, when_told=when_told)}"
        )
    else:
        click.echo("nothing stands in the way; nothing was erased")


def _way_out(report: dict[str, Any], *, when_told: bool) -> str:
    """What else may be done where withdrawals are still to be told; what was asked for already is not advised again."""
    noted = set(report["under_way"]["waits_for"]) if report["under_way"] else set()
    if {name.partition(".")[0] for name in report["untold_withdrawals"]} <= noted:
        return "; the erasure under way waits for the same, so there is nothing to add"
    return "; without --dry-run all else goes at once, and this as soon as it is told" if when_told else "; or --when-told erases as soon as all are told"


def _print_done(report: dict[str, Any]) -> None:
    if report["erased"]:
        click.echo("erased")
    else:
        click.echo(f"noted: {counted(len(report['waits_for']), 'event')} to be told, or to end, first; then beat erases the rest by itself")
    click.echo(LOG_WORDS[report["append_only_file"]])
    until = report["backups_readable_until"]
    when = f"by {until}" if until else "retention.backup_days after beat has erased the rest, and so logged `erased`"
    click.echo(f"backups from before can be read with the vault keys until they are deleted: {when}{', as retention.backup_days says' * bool(until)}")
    click.echo("sooner: change the vault key (`consent vault --help`), and destroy the old one")
