"""Commands about events: send, status, and dead list|show|replay|discard."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from workers.commands import common, trial

if TYPE_CHECKING:
    from workers.wiring import Parts

STYLES = {"delivered": "green", "dead": "bold red", "waiting": "yellow", "sending": "yellow", "awaiting_confirmation": "cyan"}


@click.command(short_help="Send events from a file, or test one destination.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--url", help="Where the relay is; by default CONSENT_INGEST_HOST and _PORT, or the running `consent up`.")
@click.option("--source", help="Post each item as this source's own body (/v1/sources/<source>) instead of as our own events.")
@click.option("--batch", default=500, show_default=True, help="Events in one request.")
@click.option("--only", metavar="DESTINATION", help="With --test: tell this destination, and no other.")
@click.option("--test", "is_test", is_flag=True, help="With --only: tell it directly, outside the ledger, to see what it answers.")
@click.option("--count", type=click.IntRange(min=1), help="With --test: how many events of the file. Default 1.")
@click.option("--without-ledger", is_flag=True, help="With --test: go on where no ledger can be asked who stands withdrawn.")
def send(file: str, url: str | None, source: str | None, batch: int, only: str | None, is_test: bool, count: int | None, without_ledger: bool) -> None:
    """Send events from FILE: JSON (one object or an array), NDJSON (one object a line) or CSV; - reads NDJSON from standard input.

    The key is read from CONSENT_KEY or asked for, never given as an argument. Sending a file twice does no harm. The columns of
    a CSV are the fields of an event: email, phone, external_id, national_id, country, purpose, state, event_time,
    idempotency_key, and dotted ones such as profile.name or metadata.campaign. Exits 1 if any event was refused.

    With --only DESTINATION --test the first event that the routing would send there is told to that vendor, with no key and outside the ledger, and the
    answer is shown; --source is then the source it comes from. It is no rehearsal: a vendor with double opt-in sends its mail. Refused for a person who stands
    otherwise in the ledger, and for a consent where a source speaks for the destination: it would come back as a real one. A withdrawal that comes back there is
    heard as one. Exits 1 if the vendor does not take it.

    \b
    Examples:
      CONSENT_KEY=$(cat .consent/sample_native_key) consent send samples/native.json
      consent send withdrawals.csv --url https://relay.example.org
      consent send one-person.json --only retargetly-crm --test
    """  # noqa: D301 - click reads the backspace
    if trial.refuse_half(only, is_test, belonging=count is not None or without_ledger, url=url):
        trial.run(file, source, str(only), count or 1, without_ledger=without_ledger)
    _send(file, url, source, batch)


def _send(file: str, url: str | None, source: str | None, batch: int) -> None:
    from workers.sender import Sender, read_events

    key = os.environ.get("CONSENT_KEY") or (click.prompt("Key", hide_input=True, err=True) if sys.stdin.isatty() and file != "-" else "")
    if not key:
        raise click.UsageError("no key: set CONSENT_KEY to a key of the source that these events come from")
    try:
        events = read_events(file, sys.stdin if file == "-" else None)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    sender = Sender(url or _ingest_url(), key)
    with click.progressbar(length=len(events), label="sending", file=sys.stderr) as bar:
        result = sender.send_to_source(source, events, bar.update) if source else sender.send(events, batch, bar.update)
    for index, problem in result.refused:
        click.echo(f"{file}: event {index + 1}: {problem}", err=True)
    click.echo(f"accepted {result.accepted}, duplicates {result.duplicates}, superseded {result.superseded}, refused {len(result.refused)}")
    sys.exit(common.FAILED if result.refused else 0)


def _ingest_url() -> str:
    section = common.settings(of_running=True).ingest
    return f"http://{section.host}:{section.port}"


@click.command()
@click.argument("event_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def status(event_id: str, as_json: bool) -> None:
    """Show an event and what each destination was told. Exits 1 if there is no such event."""
    with common.opened("status", looks_only=True) as parts:
        view = parts.ledger.event(event_id)
    if view is None:
        raise click.ClickException(f"no event {event_id}")
    common.show(view, as_json=as_json, pretty=lambda: _show_event(view))


def _show_event(view: dict[str, Any]) -> None:
    console = common.console()
    complete = "complete" if view["complete"] else "not complete"
    console.print(
        f"[bold]{view['event_id']}[/] {view['state']} {view['purpose']} from {view['source']}, subject {view['subject_key']}, {view['status']}, {complete}"
    )
    console.print(common.table("", DELIVERY_COLUMNS, [delivery_row(delivery) for delivery in view["deliveries"]]))


DELIVERY_COLUMNS = ("destination", "status", "outcome", "reason", "attempts", "next attempt", "vendor reference")


def delivery_row(delivery: dict[str, Any]) -> list[str]:
    """One delivery as the cells of a row."""
    word = delivery["status"]
    cells = [delivery["destination"], f"[{STYLES.get(word, 'default')}]{word}[/]"]
    return cells + [str(delivery[name] or "") for name in ("outcome", "reason", "attempts", "next_attempt_at", "vendor_reference")]


@click.group()
def dead() -> None:
    """List, show, replay or discard deliveries that died.

    A dead withdrawal never expires: it is told in the end, or a person discards it with a reason.
    """


def _read_since(_context: click.Context, _option: click.Parameter, text: str | None) -> datetime | None:
    try:
        since = datetime.fromisoformat(text) if text else None
    except ValueError:
        since = datetime.min  # noqa: DTZ901 - refused below, as any time without a zone
    if since and since.tzinfo is None:
        raise click.BadParameter("a time with its zone was expected, such as 2026-01-05T13:00:00-03:00")
    return since


@dead.command("list")
@click.option("--destination", help="Only this destination's.")
@click.option("--reason", help="Only with this reason.")
@click.option("--state", type=click.Choice(["given", "withdrawn"]), help="Only deliveries of this state.")
@click.option("--since", callback=_read_since, help="Only those that died at or after this time, such as 2026-01-05T13:00:00-03:00.")
@click.option("--cursor", help="Go on after a former page: its next_cursor.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(min=1), help="At most so many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def dead_list(as_json: bool, **wanted: Any) -> None:
    """List dead letters, and all of them counted by cause."""
    with common.opened("dead", looks_only=True) as parts:
        _refuse_unknown(parts, wanted["destination"])
        try:
            page = parts.desk.dead_letters(**wanted)
        except ValueError as error:
            raise click.UsageError(f"--cursor: {error}") from error
    items, groups = [common.as_dict(item) for item in page.items], [common.as_dict(group) for group in page.groups]

    def pretty() -> None:
        console = common.console()
        if not items:
            console.print("no dead letters")
            return
        console.print(
            common.table("by cause", ("destination", "state", "reason", "count"), [_cells(group, "destination state reason count") for group in groups])
        )
        console.print(common.table("dead letters", ("delivery", "state", "outcome", "reason", "attempts", "died"), [_cells(item, _ITEM) for item in items]))
        if page.next_cursor:
            console.print(f"more: --cursor {page.next_cursor}", soft_wrap=True)

    common.show({"items": items, "groups": groups, "next_cursor": page.next_cursor}, as_json=as_json, pretty=pretty)


def _refuse_unknown(parts: Parts, destination: str | None) -> None:
    """One that the routing file no longer has may still have dead letters; where that file cannot be read whole, nobody knows which are unknown."""
    from pipeline.errors import ConfigurationError

    known = parts.ledger.deliveries.known_destinations()
    if destination is None or destination in known:
        return
    with suppress(ConfigurationError):
        common.refuse_unknown_destination(destination, {*parts.read_routing().destinations, *known})


def _fail_for_unknown(delivery_ids: Sequence[str]) -> None:
    if delivery_ids:
        click.echo(f"consent: no dead delivery {', '.join(delivery_ids)}", err=True)
        sys.exit(common.FAILED)


_ITEM = "delivery_id state outcome reason attempts died_at"


def _cells(value: dict[str, Any], names: str) -> list[str]:
    return [str(value.get(name, "")) for name in names.split()]


@dead.command("show")
@click.argument("delivery_id")
def dead_show(delivery_id: str) -> None:
    """Show the event of a dead delivery (as `consent status`)."""
    from pipeline.domain import split_delivery_id

    event_id, _ = split_delivery_id(delivery_id)
    with common.opened("dead", looks_only=True) as parts:
        view = parts.ledger.event(event_id) if event_id else None
    if view is None:
        raise click.ClickException(f"no delivery {delivery_id}")
    _show_event(view)


@dead.command("replay", short_help="Tell dead deliveries again, by id or by filter.")
@click.argument("delivery_ids", nargs=-1)
@click.option("--destination", help="All of this destination.")
@click.option("--reason", help="All with this reason.")
@click.option("--state", type=click.Choice(["given", "withdrawn"]), help="All of this state.")
@click.option("--dry-run", is_flag=True, help="Only say what would be replayed.")
def dead_replay(delivery_ids: tuple[str, ...], destination: str | None, reason: str | None, state: str | None, dry_run: bool) -> None:
    """Tell dead deliveries again, by id or by filter; what a newer word has overtaken is left alone.

    Exits 1 if an id names no dead delivery, or none of the ids was replayed. Destinations whose secrets are not set here count as not configured.

    \b
    Examples:
      consent dead replay 6ksd...v2.dinamize-news
      consent dead replay --destination dinamize-news --reason http_400 --dry-run
    """  # noqa: D301 - click reads the backspace
    chosen = {name: value for name, value in (("destination", destination), ("reason", reason), ("state", state)) if value}
    if bool(delivery_ids) == bool(chosen):
        raise click.UsageError("name delivery ids or a filter (--destination, --reason, --state), and not both")
    with common.opened("dead", looks_only=True) as parts:
        _refuse_unknown(parts, destination)
        report = parts.desk.replay(list(delivery_ids) or None, dry_run, filter=chosen)
    common.show({"dry_run": dry_run, "replayed": list(report.replayed), "not_replayed": list(report.skipped)}, as_json=True, pretty=lambda: None)
    _fail_for_unknown([each["delivery_id"] for each in report.skipped if each["reason"] == "not_found"])
    sys.exit(common.FAILED if delivery_ids and not report.replayed else 0)


@dead.command("discard")
@click.argument("delivery_ids", nargs=-1, required=True)
@click.option("--reason", required=True, help="Why these need not be told; kept with them.")
def dead_discard(delivery_ids: tuple[str, ...], reason: str) -> None:
    """Close dead deliveries without telling anybody. The reason must not name a person. Exits 1 if an id names no dead delivery."""
    with common.opened("dead", looks_only=True) as parts:
        report = parts.desk.discard(delivery_ids, reason)
    common.show({"discarded": report}, as_json=True, pretty=lambda: None)
    _fail_for_unknown([each for each in delivery_ids if each not in report])
