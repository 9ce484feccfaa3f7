"""The command `check`: is the routing file good, what does it do, and may a pair be changed as it says."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from workers.commands import common
from workers.counting import counted

if TYPE_CHECKING:
    from pipeline.routing import Routing
    from workers.wiring import Parts

CONDITIONS = ("current-node-empty", "new-node-empty", "userdb-empty")

HELP = """\
Check settings and routing file, and say in words what the file does. Exits 2 if anything is wrong or a key has expired; sends nothing.

With --previous the pairs of Contacthub and Contactsend are compared with those of FILE, and each change with the vendor's table of
what must hold before it. Exits 2 if something does not hold.

\b
  change                source     current  new
                        disabled   node     node
                                   empty    empty
  node                     x         x
  apiKey                   x         x
  node and apiKey          x         x
  userdb id                x         x        x
  node and userdb id       x         x        x
  subscription             x
  mapping                  x

Other changes at once need what each of them needs; what is not in the table (userKey, token, name, description, enabled, a
new pair, one taken out) needs nothing.

The source is disabled if the pair is `enabled: false` in both files: disable it by a change of its own, then make the change, and
enable it again last. The rest cannot be seen from here, so look yourself and say --holds:

\b
  current-node-empty  no customer is left in the node that the pair had before
  new-node-empty      no customer is in the node that the pair has afterwards
  userdb-empty        no subscriber is in the user database that the pair has
                      afterwards; no change in the table asks for it

Both files are read with the same environment. A key that only got another value there looks unchanged: give the new one a
variable of its own. A variable of FILE that is not set makes all of its destination count as changed.
"""


@click.command(help=HELP, short_help="Check settings and routing file, and say what it does.")
@click.option("--previous", metavar="FILE", type=click.Path(path_type=Path), help="The routing file that is in force now: may its pairs be changed so?")
@click.option("--holds", multiple=True, type=click.Choice(CONDITIONS), help="With --previous: a condition that you have made sure of. May be repeated.")
def check(previous: Path | None, holds: Sequence[str]) -> None:
    from pipeline.errors import ConfigurationError
    from pipeline.expiry import key_expiries
    from pipeline.routing_summary import describe
    from workers.wiring import Parts

    if holds and previous is None:
        raise click.UsageError("--holds says what holds before a change; name the file that is in force with --previous")
    built = Parts(common.environment(of_running=True))
    expiries = [expiry for expiry in key_expiries(built.routing, datetime.now(UTC).date()) if expiry.is_near]
    for line in [*describe(built.routing), *(f"warning: {expiry}" for expiry in expiries)]:
        click.echo(line)
    if past := [str(expiry) for expiry in expiries if expiry.is_past]:
        raise ConfigurationError("\n".join(past))
    count = f"{counted(len(built.routing.destinations), 'destination')}, {counted(len(built.routing.triggers), 'trigger')}"
    click.echo(f"{built.settings.routing_path()}: good, {count}")
    if previous is not None:
        _compare(_in_force(previous, built), built.routing, previous, holds)


def _in_force(path: Path, built: Parts) -> Routing:
    """The previous routing. Raises ConfigurationError if it is wrong in more than variables that are not set."""
    from pipeline.routing_file import load_routing
    from workers.options import routing_text

    return load_routing(routing_text(path), filename=str(path), environment=built.environment, may_be_unset=True)


def _compare(in_force: Routing, fresh: Routing, path: Path, holds: Sequence[str]) -> None:
    """Say what changes, then raise ConfigurationError naming every condition that does not hold."""
    from pipeline.errors import ConfigurationError
    from pipeline.pair_changes import Condition, pair_changes

    confirmed = {Condition(name) for name in holds}
    changes = pair_changes(in_force, fresh, confirmed)
    if any(change.unread for change in changes):
        for line in in_force.unset:
            click.echo(line)
    for change in changes:
        for line in change.lines():
            click.echo(line)
    for condition in sorted(confirmed.difference(*(change.needed for change in changes))):
        click.echo(f"--holds {condition}: no change asks for it")
    if refusals := [refusal for change in changes for refusal in change.refusals()]:
        raise ConfigurationError(f"{path}: this change of pairs is not allowed yet\n" + "\n".join(refusals))
    click.echo(f"{path}: {counted(len(changes), 'pair')} changed, all that must hold holds" if changes else f"{path}: no pair changes")
