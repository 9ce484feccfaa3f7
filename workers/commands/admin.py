"""Commands for operators: doctor, keys, destination, backfill."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from workers.commands import common
from workers.counting import counted

if TYPE_CHECKING:
    from pipeline.routing_keys import KeyPlace


@click.command(short_help="Look for what stands in the way.")
@click.option("--worker", "what", flag_value="worker", help="Only whether workers answer (for health checks).")
@click.option("--beat", "what", flag_value="beat", help="Only whether beat's work is being done (for health checks).")
@click.option("--vendors", "ask_vendors", is_flag=True, help="Also ask each vendor by requests that change nothing: credentials, rights, lists.")
def doctor(what: str | None, *, ask_vendors: bool) -> None:
    """Look for what stands in the way: settings, routing file, secrets, ledger, broker, workers, beat, dead withdrawals, refused credentials, expired keys, overdue work.

    Exits 1 if anything does. Paused destinations, open breakers, keys with 30 days left and a dead `given` are only noted.
    """
    from workers.diagnosis import examine

    with common.opened("doctor", looks_only=True) as parts:
        findings = examine(parts, what, ask_vendors=ask_vendors)
    for finding in findings:
        click.echo(f"{finding.mark:4} {finding.name}: {finding.text}")
    sys.exit(0 if all(finding.good for finding in findings) else common.FAILED)


@click.group(short_help="Make and revoke keys of sources, make the relay's secrets.")
def keys() -> None:
    """Make and withdraw the keys with which sources send, and the relay's own secrets."""


@keys.command("new", short_help="Make a key for a source.")
@click.argument("source")
def keys_new(source: str) -> None:
    """Make a key for SOURCE: the key goes to whoever sends, its hash into the routing file. It is shown once and kept nowhere."""
    from workers.state import key_hash, new_source_key

    _warn_of_unknown_source(source)
    key = new_source_key()
    click.echo(f"key of {source}, shown only now (send it as Authorization: Bearer <key>):", err=True)
    click.echo(key)
    click.echo(f'add to the keys of {source} in the routing file, then send SIGHUP to the running relay:\n  "{key_hash(key)}"', err=True)


def _warn_of_unknown_source(name: str) -> None:
    """A new source's key is made before the file names it, so this is no refusal."""
    from pipeline.errors import ConfigurationError
    from workers.wiring import Parts

    try:
        built = Parts(common.environment(of_running=True))
    except ConfigurationError:
        click.echo(f"warning: the routing file is not good (`consent check`), so nobody knows whether {name} is a source", err=True)
        return
    if name not in built.routing.sources:
        known = ", ".join(sorted(built.routing.sources)) or "none"
        click.echo(f"warning: {built.settings.routing_path()} has no source {name!r} (it has {known}): the key opens nothing until it has", err=True)


@keys.command("revoke", short_help="Say where the key with this hash is taken out.")
@click.argument("key_hash", metavar="SHA256")
def keys_revoke(key_hash: str) -> None:
    """Say where the key with this hash stands, in the routing file or in a variable that it names; taken out there, it opens nothing.

    The first 8 digits of the hash or more will do, if no other key's begins with them.
    """
    from config.settings import load_settings
    from pipeline.routing_keys import key_places
    from workers.options import routing_text

    digits = key_hash.lower().removeprefix("sha256:")
    if not re.fullmatch("[0-9a-f]{8,64}", digits):
        raise click.UsageError("the key's hash was expected, or at least its first 8 hex digits")
    environment = common.environment(of_running=True)
    path = load_settings(environment).routing_path()
    found = [place for place in key_places(routing_text(path), environment) if place.key.startswith(digits)]
    if not found:
        raise click.ClickException(f"no key {key_hash} in {path}, nor in a variable that it names and that is set here")
    if (count := len({place.key for place in found})) > 1:
        raise click.ClickException(f"the hashes of {count} keys in {path} begin with {digits}, at lines {_lines(found)}: give more of it")
    if written := [place for place in found if place.variable is None]:
        click.echo(f"take it out of {path}, line {_lines(written)}, then send SIGHUP to the running relay")
    for place in found:
        if place.variable is not None:
            click.echo(
                f"the key comes from the variable {place.variable} ({path}:{place.line}): take that out of the line, then send SIGHUP to the running relay; "
                "or change the variable where the relay is started, and start it anew"
            )


def _lines(places: Sequence[KeyPlace]) -> str:
    return ", ".join(str(place.line) for place in places)


@keys.command("secret", short_help="Print a new pepper and a new vault key.")
def keys_secret() -> None:
    """Print a new pepper and a new vault key, as lines for an environment file."""
    from workers.state import new_pepper, new_vault_key

    click.echo(f"CONSENT_SUBJECT_PEPPER={new_pepper()}\nCONSENT_VAULT_KEYS={new_vault_key()}")


@click.group(short_help="Pause and resume the deliveries of a destination.")
def destination() -> None:
    """Pause and resume the deliveries of a destination; what is accepted meanwhile waits."""


@destination.command("pause")
@click.argument("name")
def destination_pause(name: str) -> None:
    """Tell a destination nothing until it is resumed."""
    with common.opened("destination") as parts:
        common.refuse_unknown_destination(name, parts.routing.destinations)
        parts.ledger.deliveries.pause(name, paused=True)
    click.echo(f"{name} is paused; deliveries wait")


@destination.command("resume")
@click.argument("name")
def destination_resume(name: str) -> None:
    """Go on telling a paused destination, withdrawals first."""
    with common.opened("destination") as parts:
        common.refuse_unknown_destination(name, parts.routing.destinations)
        parts.ledger.deliveries.pause(name, paused=False)
    click.echo(f"{name} is resumed")


@click.command(short_help="Tell a new destination the current standings.")
@click.argument("destination")
@click.option("--dry-run", is_flag=True, help="Only count what would be told.")
def backfill(destination: str, dry_run: bool) -> None:
    """Tell a new destination the current standings, withdrawals first. May be run again: what was told is not told twice.

    Exits 1 if some standings can no longer be told, because the payload of their event is gone (ledger.payload_days, or the
    source's retention) or its vault key is missing.
    """
    with common.opened("backfill") as parts:
        common.refuse_unknown_destination(destination, parts.routing.destinations)
        report = parts.backfill.run(destination, dry_run)
    common.show(common.as_dict(report), as_json=True, pretty=lambda: None)
    if report.unreadable:
        raise click.ClickException(f"{counted(report.unreadable, 'standing')} cannot be told to {destination}: what was said is no longer kept")
