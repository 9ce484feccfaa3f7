"""`consent subject`: what holds for a person, who is never named on the command line, where other users of the machine and the shell's history would see it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from workers.commands import common

if TYPE_CHECKING:
    from pipeline.domain import Subject

PROMPTS = (("external_id", "external id"), ("email", "e-mail"), ("phone", "phone"), ("national_id", "national id"), ("country", "country"))
COLUMNS = ("destination", "told", "at", "event", "newest word there", "reason", "next attempt")


@click.command("subject", short_help="Show what a person said, and what was told of it.")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def subject(file: str | None, *, as_json: bool) -> None:
    """Show what a person said last on each purpose, and what every destination was told of it.

    FILE holds the identifiers as JSON, such as {"email": "ana@example.com"}; - reads them from standard input. Without FILE they are asked for. One identifier is enough; what
    is linked to it counts too. Nothing personal is printed. Exits 1 if nothing is known of the person.

    \b
    Examples:
      consent subject
      consent subject person.json
      consent subject - --json < person.json
    """  # noqa: D301 - click reads the backspace
    person = read_person(file)
    with common.opened("subject", looks_only=True) as parts:
        status = parts.desk.subject(person)
    common.show(status, as_json=as_json, pretty=lambda: _show(status))
    if not status["purposes"]:
        sys.exit(common.FAILED)


def read_person(file: str | None) -> Subject:
    """The person of a file, of standard input (`-`), or asked for at the terminal (None). Raises UsageError naming each wrong field, never its value."""
    from pipeline.errors import InvalidInput
    from pipeline.identifiers import normalise_subject

    raw = _asked() if file is None else _read(file)
    try:
        return normalise_subject(raw)
    except InvalidInput as error:
        raise click.UsageError("; ".join(f"{each.path}: {each.message}" for each in error.errors)) from None


def _asked() -> dict[str, Any]:
    if not sys.stdin.isatty():
        raise click.UsageError("name a FILE with the identifiers as JSON, or - for standard input: there is no terminal to ask at")
    click.echo("one identifier is enough; leave the others empty", err=True)
    return {name: click.prompt(title, default="", show_default=False, err=True) for name, title in PROMPTS}


def _read(file: str) -> dict[str, Any]:
    with click.open_file(file, encoding="utf-8") as stream:
        try:
            found = json.load(stream)
        except ValueError:  # its text may quote the file
            raise click.UsageError(f'{file}: is not JSON; {{"email": "ana@example.com"}} would be') from None
    inner = found.get("subject", found) if isinstance(found, dict) else None
    if not isinstance(inner, dict):
        raise click.UsageError(f'{file}: must be an object such as {{"email": "ana@example.com"}}')
    return inner


def _show(status: Mapping[str, Any]) -> None:
    console = common.console()
    console.print(f"subject [bold]{status['subject_key']}[/]")
    if not status["purposes"]:
        console.print("nothing is known of this person")
    for each in status["purposes"]:
        title = f"{each['purpose']}: {each['state']} since {each['order_time']}, event {each['event_id']}"
        console.print(common.table(title, COLUMNS, [_row(told) for told in each["destinations"]]))


def _row(told: Mapping[str, Any]) -> list[str]:
    return [str(told[name] or "") for name in ("destination", "told", "told_at", "event_id", "status", "reason", "next_attempt_at")]
