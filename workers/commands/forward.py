"""`consent ledger show` and `consent ledger bring-forward`: what the ledger is, and the word of a person that a ledger which was put back is complete again; `consent ledger migrate`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from workers.commands import common
from workers.counting import counted

if TYPE_CHECKING:
    from pipeline.ledger.lookout import Quarantine
    from workers.wiring import Parts


@click.command("show", short_help="Show id, schema, durability and quarantine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def ledger_show(*, as_json: bool) -> None:
    """Show what the ledger is: id, schema, durability, and whether it is quarantined."""
    with common.opened("ledger", looks_only=True) as parts:
        shown = _shown(parts)
    common.show(shown, as_json=as_json, pretty=lambda: _print(shown))


@click.command("bring-forward", short_help="Lift the quarantine of a ledger that is older than it was.")
@click.option(
    "--until", "until", help="Everything said until this time was posted again, such as 2026-01-05T13:00:00Z; without it, only show what is to be done."
)
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def bring_forward(until: str | None, *, is_sure: bool, dry_run: bool, as_json: bool) -> None:
    """Lift the quarantine of a ledger that was restored, or came back older than it was.

    Such a ledger may have forgotten withdrawals, so it tells withdrawals only, and every `given` waits. First have every source post again
    what it said since the time that is shown (what the ledger knows already is a duplicate, and changes nothing). Then say until when that
    was done: --until must not lie before the moment from which the ledger took events again. It shows what it will do, and asks.

    \b
    Examples:
      consent ledger bring-forward
      consent ledger bring-forward --until 2026-01-05T13:00:00Z
    """  # noqa: D301 - click reads the backspace
    from workers.erased import erase_again

    with common.opened("ledger", looks_only=True) as parts:
        found = parts.ledger.quarantine
        if found is None:
            common.show({"quarantined": False, "lifted": False}, as_json=as_json, pretty=lambda: click.echo("the ledger is not quarantined: nothing to do"))
            return
        until_ms = _read_until(parts, until, found)
        plan = _plan(parts, found, until)
        if not as_json:
            _print_plan(plan)
        if until_ms is None or dry_run:
            common.show({**plan, "lifted": False}, as_json=as_json, pretty=lambda: None)
            return
        if not is_sure:
            common.confirm("Lift the quarantine?")
        erased, _ = erase_again(parts, None, lambda _: None)  # a ledger that came back by itself was not restored by us
        lifted = parts.ledger.lift(found, until_ms)
    common.show(
        {**plan, "lifted": lifted, "erasures": erased},
        as_json=as_json,
        pretty=lambda: click.echo("lifted: `given` are told again within seconds" if lifted else ""),
    )
    if not lifted:
        click.echo("consent: the quarantine has changed meanwhile; look at it again", err=True)
        sys.exit(common.FAILED)


@click.command("quarantine", short_help="Say that the ledger may have forgotten withdrawals.")
@click.option("--from", "since", required=True, help="Words may be missing from this time on, such as the time of the copy: 2026-01-05T13:00:00Z.")
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask.")
def ledger_quarantine(since: str, *, is_sure: bool) -> None:
    """Say that the ledger may have forgotten withdrawals, where no process can notice it: files of a cluster's node were put back from a copy.

    From then on withdrawals are told and every `given` waits, until `consent ledger bring-forward`. Said too often it does no harm but for the waiting.
    """
    from pipeline.ledger.ledger import time_of

    with common.opened("ledger", looks_only=True) as parts:
        since_ms = _time_ms(since, "--from")
        if since_ms > parts.ledger.now_ms():
            raise click.BadParameter("--from: this time has not come yet")
        if not is_sure:
            common.confirm(f"Have every `given` wait, since words may be missing from {time_of(since_ms)}?")
        found = parts.ledger.quarantine_by_hand(since_ms)
    click.echo(f"quarantined: words may be missing from {time_of(found.from_ms)}; `consent ledger bring-forward` says what to do")


def _time_ms(text: str, option: str) -> int:
    """A time with its zone, in milliseconds."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise click.BadParameter(f"{option}: a time with its zone was expected, such as 2026-01-05T13:00:00Z")
    return int(found.timestamp() * 1000)


@click.command("migrate", short_help="Bring the ledger to this release's schema.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask.")
def ledger_migrate(*, dry_run: bool, is_sure: bool) -> None:
    """Bring the ledger to the schema of this release, after every process was replaced.

    It may be broken off and repeated. Older programs refuse the ledger from then on, so make a backup first if you may want to go back. Refuses
    while processes of an older release run.
    """
    from pipeline.ledger import migrations

    with common.opened("ledger", looks_only=True) as parts:
        schema_version = parts.ledger.identity.schema_version
        steps = migrations.pending(schema_version)
        if not steps:
            click.echo(f"the ledger has schema {schema_version}: nothing to do")
            return
        for step in steps:
            click.echo(f"to schema {step.to}: {step.title}")
        older = _unknown_workers(parts)
        if older:
            click.echo(f"workers of an older release still run: {', '.join(older)}", err=True)
        if dry_run:
            return
        if not is_sure:
            common.confirm("Migrate?")
        schema_version = parts.ledger.upkeep.migrate(older, lambda _: click.echo(".", nl=False, err=True))
    click.echo(f"the ledger has schema {schema_version}")


def _unknown_workers(parts: Parts) -> list[str]:
    """Workers that answer and do not note in the ledger that they live: their release is older than that."""
    from pipeline.ledger import migrations

    known = {name.partition(" process ")[0] for name in migrations.living(parts.ledger.store)}
    answering = {name for answer in parts.app.control.ping(timeout=2.0) for name in answer}
    return sorted(answering - known)


def _shown(parts: Parts) -> dict[str, Any]:
    from pipeline.ledger.ledger import time_of

    found = parts.ledger.identity
    return {
        "ledger_id": found.ledger_id,
        "schema_version": found.schema_version,
        "partitions": found.partitions,
        "created_at": time_of(found.created_seconds * 1000),
        "durability": parts.ledger.durability.mode,
        "events": parts.ledger.events.counts(),
        "quarantine": _quarantine(parts.ledger.quarantine),
    }


def _quarantine(found: Quarantine | None) -> dict[str, Any] | None:
    from pipeline.ledger.ledger import time_of

    if found is None:
        return None
    return {"reason": found.reason, "since": time_of(found.since_ms), "words_may_be_missing_from": time_of(found.from_ms)}


def _print(shown: Mapping[str, Any]) -> None:
    for name, value in shown.items():
        if name != "quarantine":
            click.echo(f"{name.replace('_', ' ')}: {', '.join(f'{key} {count}' for key, count in value.items()) if isinstance(value, dict) else value}")
    found = shown["quarantine"]
    click.echo(f"quarantined since {found['since']} ({found['reason']}): `consent ledger bring-forward` says what to do" if found else "not quarantined")


def _read_until(parts: Parts, text: str | None, found: Quarantine) -> int | None:
    """The time in milliseconds; refused where it leaves a gap or has not come yet."""
    from pipeline.ledger.ledger import time_of

    if text is None:
        return None
    until_ms = _time_ms(text, "--until")
    if until_ms < found.since_ms // 1000 * 1000:
        raise click.BadParameter(
            f"--until: the ledger takes events again only since {time_of(found.since_ms)}: what was said until then has to be posted again, or it stays missing"
        )
    if until_ms > parts.ledger.now_ms():
        raise click.BadParameter("--until: this time has not come yet")
    return until_ms


def _plan(parts: Parts, found: Quarantine, until: str | None) -> dict[str, Any]:
    deliveries = parts.ledger.deliveries
    waiting = {name: count for name in deliveries.known_destinations() if (count := deliveries.figures(name)["waiting"]["given"])}
    return {"quarantined": True, **(_quarantine(found) or {}), "until": until, "given_waiting": waiting, "events": parts.ledger.events.counts()["accepted"]}


def _print_plan(plan: Mapping[str, Any]) -> None:
    click.echo(f"quarantined since {plan['since']} ({plan['reason']}); the ledger knows {counted(plan['events'], 'event')}")
    click.echo(f"what was said from {plan['words_may_be_missing_from']} until {plan['since']} may be missing: every source has to post it again first")
    waiting = ", ".join(f"{name} {count}" for name, count in plan["given_waiting"].items()) or "none"
    click.echo(f"`given` that wait and will be told when it is lifted, unless a withdrawal has overtaken them: {waiting}")
    if plan["until"] is None:
        click.echo("when that is done: consent ledger bring-forward --until TIME, the time until which everything was posted again")
