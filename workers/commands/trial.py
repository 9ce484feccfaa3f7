"""`consent send FILE --only DESTINATION --test`: one person first, at one vendor, outside the ledger."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import click

from workers.commands import common
from workers.counting import counted

if TYPE_CHECKING:
    from pipeline.domain import ConsentEvent, IncomingEvent
    from pipeline.routing import Routing, Source
    from pipeline.trial import Trial, TrialReport
    from workers.wiring import Parts

COLUMNS = ("event", "state", "purpose", "sent", "outcome", "reason", "vendor reference", "calls", "seconds")
WORDS = {
    "applied": "taken",
    "unchanged": "was so already",
    "pending_confirmation": "taken, and waits for the person or for an import",
    "not_applicable": "does not concern this vendor",
    "unsupported": "cannot be expressed there",
    "rejected": "refused",
    "misconfigured": "our credentials or settings are refused",
    "throttled": "too many calls for now",
    "unavailable": "no usable answer",
}
"""What each outcome means, for somebody who tests."""


def refuse_half(only: str | None, is_test: bool, *, belonging: bool, url: str | None) -> bool:
    """Whether a test is asked for. Raises UsageError for half of it: a send to one destination alone that is no test would leave the others behind.

    `belonging`: whether options are there that only a test has.
    """
    if only and is_test and url:
        raise click.UsageError("--url is where a relay is, and a test goes past it: leave it out")
    if only and is_test:
        return True
    if only or is_test:
        raise click.UsageError("--only and --test go together: events go to every destination that the routing names, and only a test goes to one")
    if belonging:
        raise click.UsageError("--count and --without-ledger belong to --only DESTINATION --test")
    return False


def run(file: str, source_name: str | None, only: str, count: int, *, without_ledger: bool) -> None:
    """Tell `only` about the first events of the file that the routing would send there. Ends with exit code 1 if the vendor refused one."""
    from config.logging import setup_logging
    from workers.sender import read_events
    from workers.wiring import Parts

    try:
        items = read_events(file, sys.stdin if file == "-" else None)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with ExitStack() as stack:
        parts = stack.enter_context(closing(Parts(common.environment(of_running=True))))
        setup_logging(parts.settings, "send")
        logging.getLogger().setLevel(logging.WARNING)
        common.refuse_unknown_destination(only, parts.routing.destinations)
        trial = _trial(parts, stack, without_ledger=without_ledger)
        source = _source(parts.routing, source_name)
        chosen = _chosen(trial, source, _incoming(parts.routing, source, file, items), parts.routing, only, count)
        reports = _tell(trial, parts.routing, only, chosen)
    sys.exit(0 if all(report.is_taken for _, report in reports) else common.FAILED)


def _trial(parts: Parts, stack: ExitStack, *, without_ledger: bool) -> Trial:
    """With the ledger wherever one can be reached, even if it may be done without."""
    from pipeline.errors import LedgerUnavailable
    from pipeline.identifiers import Hasher
    from pipeline.sessions import Unshared
    from pipeline.trial import Trial
    from workers.options import exchange

    missing = "" if parts.settings.redis_url else "CONSENT_REDIS_URL is not set and no `consent up` is running"
    try:
        if not missing:
            trial = Trial(parts.exchange, parts.routing, parts.hasher, parts.limits)
            trial.ask_first(parts.ledger, parts.vault)
            return trial
    except LedgerUnavailable as error:
        missing = str(error)
    if not without_ledger:
        raise click.UsageError(f"no ledger can be asked whether this person stands withdrawn: {missing}. --without-ledger tells the destination all the same")
    click.echo(f"no ledger was asked: {missing}", err=True)
    own = stack.enter_context(closing(exchange(parts.settings, Unshared())))
    return Trial(own, parts.routing, Hasher(os.urandom(32)), parts.limits)


def _source(routing: Routing, name: str | None) -> Source:
    """The source that the events come from, which decides how they are read and which triggers they meet."""
    from pipeline.routing import NATIVE

    if name is not None:
        if name not in routing.sources:
            raise click.UsageError(f"no source {name!r}; there is {', '.join(routing.sources) or 'none'}")
        return routing.sources[name]
    senders = [source for source in routing.sources.values() if source.kind == NATIVE and "ingest" in source.scopes]
    if len(senders) != 1:
        raise click.UsageError(f"--source: which of {', '.join(source.name for source in senders) or 'no native source'} do these events come from?")
    return senders[0]


def _incoming(routing: Routing, source: Source, file: str, items: Sequence[Any]) -> Iterator[tuple[int, IncomingEvent]]:
    """The events of the file one after the other, with their places, read as ingest reads them; a wrong one is named."""
    from datetime import UTC, datetime

    from pipeline.errors import InvalidInput
    from pipeline.schemas import NativeReader

    native = NativeReader(routing.purposes, lambda: datetime.now(UTC))
    read = _reader(source, native)
    for place, item in enumerate(items, start=1):
        try:
            for found in read(item):
                if isinstance(found, InvalidInput):
                    raise found
                yield place, found
        except InvalidInput as error:
            raise click.ClickException(f"{file}: event {place}: {error}") from None


def _reader(source: Source, native: Any) -> Callable[[Any], Sequence[Any]]:
    from datetime import UTC, datetime

    import orjson

    from pipeline.routing import NATIVE
    from pipeline.sources import read_source
    from pipeline.vendors.base import Notification

    def of_source(item: Any) -> Sequence[Any]:
        return read_source(source, Notification(body=orjson.dumps(item), media_type="application/json", received_at=datetime.now(UTC)), native)

    def of_ours(item: Any) -> Sequence[Any]:
        return [native.read(item, default_country=source.country)]

    return of_ours if source.kind == NATIVE else of_source


def _chosen(
    trial: Trial, source: Source, incoming: Iterator[tuple[int, IncomingEvent]], routing: Routing, only: str, count: int
) -> list[tuple[int, ConsentEvent]]:
    """The first events that the routing would send there, none of which is hopeless; nothing was sent yet."""
    chosen: list[tuple[int, ConsentEvent]] = []
    looked_at = 0
    for place, found in incoming:
        looked_at += 1
        event = trial.event_of(source, found)
        if only in routing.route(event):
            trial.refuse_hopeless(routing.destinations[only], event)
            chosen.append((place, event))
        if len(chosen) == count:
            return chosen
    if not chosen:
        raise click.ClickException(f"of {counted(looked_at, 'event')} of {source.name} the routing sends none to {only}")
    return chosen


def _tell(trial: Trial, routing: Routing, only: str, chosen: Sequence[tuple[int, ConsentEvent]]) -> list[tuple[int, TrialReport]]:
    reports: list[tuple[int, TrialReport]] = []
    try:
        for place, event in chosen:
            reports.append((place, trial.tell(routing.destinations[only], event)))
    finally:
        _show(routing, only, reports)
    return reports


def _show(routing: Routing, only: str, reports: Sequence[tuple[int, TrialReport]]) -> None:
    console = common.console()
    if reports:
        console.print(common.table(f"test of {only}", COLUMNS, [_row(place, report) for place, report in reports]))
        speakers = " and ".join(source.name for source in routing.speakers_for(only))
        heard = f"{speakers} may hear of it and tell the others." if speakers else "no other destination heard of it."
        console.print(f"No event of this is in the ledger, and {heard}", soft_wrap=True)


def _row(place: int, report: TrialReport) -> list[str]:
    result = report.result
    word = WORDS.get(result.outcome.value, "")
    outcome = f"[{'green' if report.is_taken else 'bold red'}]{result.outcome}[/]: {word}" + ("" if result.definite else ", may still take effect")
    cells = [str(place), report.state.value, report.purpose, ", ".join(report.operations) or "nothing", outcome, result.reason, result.vendor_reference]
    return [*cells, str(report.calls), f"{report.seconds:.3f}"]
