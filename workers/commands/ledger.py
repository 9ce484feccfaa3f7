"""Commands about the ledger as a whole."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from workers.commands import common
from workers.counting import counted

if TYPE_CHECKING:
    from workers.accepting import Found

LOST = (
    "What the missing ledger had accepted and not told yet is told to nobody, what it knew of people's consent is not known, and who repeats a post is not recognised. "
    "If there is a backup, restore it instead."
)


@click.group(short_help="Look after the ledger as a whole.")
def ledger() -> None:
    """The ledger as a whole."""


@ledger.command("accept", short_help="Take what the server holds for the ledger from now on.")
@click.option("--instead-of", "instead_of", multiple=True, metavar="ID", help="A ledger that is missed; the reason in /health/ready names it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def ledger_accept(instead_of: tuple[str, ...], *, yes: bool) -> None:
    """Take what the server holds for the ledger from now on, where another one was expected or it is empty.

    Shows what it finds and asks. Until then ingest answers 503 and no worker does anything; afterwards running processes go on within a second. Withdrawals
    that the missed ledger knew are missing, so `given` wait until `consent ledger bring-forward`. It says so for the ledgers of CONSENT_LEDGER_EXPECTED_ID, of the state directory of `consent up`, and of --instead-of. Exits 1 without a yes.
    """
    from workers.accepting import looking

    with looking(common.environment(of_running=True), instead_of, of_up=not os.environ.get("CONSENT_REDIS_URL")) as looked:
        found = looked.look()
        _show(found)
        if found.is_expected:
            click.echo("this is the ledger that is expected: there is nothing to accept")
            return
        if not found.expected:
            click.echo("no ledger is known to be missed: if processes refuse this one, give the id that their reason names with --instead-of", err=True)
        click.echo(LOST)
        question = "Begin with an empty ledger?" if found.ledger is None else f"Work with ledger {found.ledger.ledger_id}?"
        if not yes and not common.is_sure(question):
            raise click.ClickException("nothing was changed")
        taken = looked.accept()
    replaced = f" in the place of {', '.join(taken.replaces)}" if taken.replaces else ""
    click.echo(f"accepted: ledger {taken.ledger_id}{replaced}")
    if taken.replaces:
        click.echo("it is quarantined: withdrawals are told, and `given` wait until sources have posted again (`consent ledger bring-forward`)")
    click.echo(f"where CONSENT_LEDGER_EXPECTED_ID is set, set it to {taken.ledger_id} when convenient")


def _show(found: Found) -> None:
    click.echo(f"server    {found.server}, {counted(found.keys, 'key')}")
    if found.ledger is None:
        click.echo("holds     no ledger" + (" (its keys have no identity among them)" if found.keys else ""))
    else:
        counts = found.counts
        click.echo(f"holds     ledger {found.ledger.ledger_id}: {counted(counts['accepted'], 'event')} accepted, {counts['open']} of them unfinished")
    click.echo(f"expected  {', '.join(found.expected) or 'none'}")
    if found.unsafe:
        click.echo(f"unsafe    {found.unsafe}")
