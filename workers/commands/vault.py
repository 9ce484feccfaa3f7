"""The command `vault`: which keys seal what, sealing anew, and giving up a lost key."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import click

from workers.commands import common
from workers.counting import counted


@click.group()
def vault() -> None:
    """Look after the keys that seal payloads (CONSENT_VAULT_KEYS). A key is named by its id, which is no secret.

    \b
    To change the key:
      1. `consent keys secret` prints a new one. Where several machines run, put it behind the old one first and restart all.
      2. Put it in front of CONSENT_VAULT_KEYS, and restart every process.
      3. `consent vault reseal` seals anew what the old one sealed, and says that it may be removed.
      4. Take the old one out, and restart.
    """  # noqa: D301 - click reads the backspace


@vault.command("status", short_help="List the keys, and which may be removed.")
def vault_status() -> None:
    """List the keys: which seals, which may have sealed something, which may be removed. Exits 1 if one is missing that is needed."""
    with common.opened("vault", looks_only=True) as parts:
        parts.needs_vault_keys = False
        known = parts.ledger.seals.known()
        configured = parts.vault.key_ids
    words = {key_id: "opens what it sealed; `consent vault reseal` frees it" if key_id in known else "seals nothing: may be removed" for key_id in configured}
    words[configured[0]] = "seals"
    missing = sorted(known.keys() - set(configured))
    words |= dict.fromkeys(missing, "MISSING: put it back behind the newest, or give up what it sealed by `consent vault forget`")
    for key_id, word in words.items():
        since = f", in use since {datetime.fromtimestamp(known[key_id], UTC):%Y-%m-%d}" if key_id in known else ""
        click.echo(f"{key_id}: {word}{since}")
    sys.exit(common.FAILED if missing else 0)


@vault.command("reseal", short_help="Seal with the newest key what older ones sealed.")
def vault_reseal() -> None:
    """Seal with the newest key what older ones sealed, while everything runs, and say which may be removed. May be run again.

    Exits 1 if something is left: sealed by a key that is not configured, by one that some process still has in front, or damaged.
    """
    from pipeline.reseal import Reseal

    with common.opened("vault", looks_only=True) as parts:
        parts.needs_vault_keys = False
        reseal = Reseal(parts.ledger, parts.vault)
        with click.progressbar(length=parts.ledger.seals.count_keys(), label="looking through the ledger", file=sys.stderr) as bar:
            report = reseal.run(bar.update)
    click.echo(f"{counted(report.resealed, 'value')} sealed anew")
    for key_id in report.removable:
        click.echo(f"{key_id} seals nothing any more: once every process runs with the newest key in front, take it out of CONSENT_VAULT_KEYS and restart")
    left = [
        f"{counted(count, 'value')} sealed by the key {key_id}, which is not configured: put it back and run this again"
        for key_id, count in report.locked.items()
    ]
    left += [f"{key_id} still seals new values: a process has it in front; restart it and run this again" for key_id in report.busy]
    left += [f"{counted(report.damaged, 'damaged value')}: not opened by a key that is there; restore from a backup"] if report.damaged else []
    if left:
        raise click.ClickException("\n".join(left))


@vault.command("forget", short_help="Give up what a lost key sealed.")
@click.argument("key_ids", metavar="KEY_ID...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
def vault_forget(key_ids: Sequence[str], yes: bool) -> None:
    """Give up what a lost key sealed, so that the relay starts without it. What it sealed stays unreadable until the key is put back.

    Standings still hold, so no older word can be told. Withdrawals whose payload cannot be opened wait with an alert (payload_unreadable).
    """
    with common.opened("vault", looks_only=True) as parts:
        parts.needs_vault_keys = False
        known = parts.ledger.seals.known()
        for key_id in key_ids:
            if key_id in parts.vault.key_ids:
                raise click.UsageError(f"{key_id} is configured; `consent vault reseal` frees a key without losing anything")
            if key_id not in known:
                raise click.UsageError(f"{key_id} is no key of this ledger (`consent vault status`)")
        if not yes:
            common.confirm(f"What {', '.join(key_ids)} sealed cannot be read any more. Go on?")
        parts.ledger.seals.forget(key_ids)
    click.echo(f"forgotten: {', '.join(key_ids)}")
