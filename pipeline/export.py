"""Exports dead withdrawals to a vendor that takes a file of people to remove, and closes them once a person says that the vendor took it.

In between they stay dead, with their alert: a file that was written is not yet a file that was taken.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.domain import ConsentEvent, DeliveryStatus, State, delivery_id
from pipeline.envelope import open_if_readable
from pipeline.errors import ConfigurationError
from pipeline.fence import TELL, Judgement, judge, sharing
from pipeline.ledger import Ledger
from pipeline.ledger.deliveries import DeadLetter, Row
from pipeline.ledger.letters import EXPORTED, LetterFilter
from pipeline.prepare import contact_keys_of, instruction_of
from pipeline.routing import Destination, Routing
from pipeline.subjects import COMPLETION_DEPTH, complete
from pipeline.vault import Vault
from pipeline.vendors._removing import RemovesByFile

log = logging.getLogger(__name__)

CANNOT_EXPRESS: Final = f"cannot_express_{State.WITHDRAWN}"
AT_ONCE: Final = 200
REMOVED: Final = "removed_by_export"
"""Reason of a `given` that is told again because the file removed what it had told before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """One withdrawal in a file, and the keys of the identifiers by which the person is known; both may stand in a manifest, as they name nobody."""

    delivery_id: str
    identifier_keys: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Collected:
    """What goes into a file for one destination, and by delivery id what does not.

    `overtaken`: a newer word, or the written rule that keeps the contact, says otherwise. `unreadable`: the payload is gone or cannot be opened. `unnamed`: kinds of identifier that the file cannot name.
    """

    rows: dict[tuple[str, ...], None] = field(default_factory=dict, repr=False)
    exported: list[Exported] = field(default_factory=list)
    overtaken: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    unnamed: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Confirmed:
    """What a confirmation did (or would do), by delivery id.

    `outgrown`: more identifiers of the person are known by now than the file names, so it stays dead for the next file. `not_dead`: closed or replayed since;
    `closed_before` are those of them that an earlier confirmation closed. `told_again`: each `given` that holds, and that the file undid.
    """

    closed: list[str] = field(default_factory=list)
    outgrown: list[str] = field(default_factory=list)
    closed_before: list[str] = field(default_factory=list)
    not_dead: list[str] = field(default_factory=list)
    told_again: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looked:
    """A dead letter as things stand now; `event` is completed, None if it cannot be opened.

    `kept_by` are the `given` of other purposes by which the routing file keeps the contact: the file removes what they told as well.
    """

    letter: DeadLetter
    event: ConsentEvent | None
    verdict: Judgement = TELL
    kept_by: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return delivery_id(self.letter.event_id, self.letter.destination)


class RemovalExport:
    """Collects what a file must remove, and confirms it; safe to repeat."""

    def __init__(self, ledger: Ledger, vault: Vault, routing: Callable[[], Routing]) -> None:
        self._ledger, self._vault, self._routing = ledger, vault, routing

    def count(self, destination: str) -> int:
        """How many dead withdrawals wait for a file."""
        return self._ledger.deliveries.dead_counts(destination).get((State.WITHDRAWN.value, CANNOT_EXPRESS), 0)

    def collect(self, destination: str, progress: Callable[[int], None] = lambda _: None) -> Collected:
        """What removes everybody who withdrew and whose withdrawal this destination could not be told; changes nothing."""
        settings = self._routing().destinations[destination]
        collected = Collected()
        wanted = LetterFilter(destination=destination, reason=CANNOT_EXPRESS, state=State.WITHDRAWN)
        for letters in _chunks(self._ledger.letters.find(wanted)):
            for looked in self._look(settings, letters):
                _sort(settings, looked, collected)
            progress(len(letters))
        log.info("removals_collected", extra={"destination": destination, "deliveries": len(collected.exported), "rows": len(collected.rows)})
        return collected

    def confirm(self, destination: str, exported: Sequence[Exported], file: str, *, dry_run: bool = False) -> Confirmed:
        """Close the dead withdrawals that a file named, and tell again each `given` that holds and that the file undid.

        One whose person is known by more identifiers than the file names is not closed. Raises ConfigurationError if the destination is gone.
        """
        settings = self._routing().destinations.get(destination)
        if settings is None:
            raise ConfigurationError(f"destination {destination} is not configured: the file was made for it")
        confirmed = Confirmed()
        for part in _chunks(exported):
            self._confirm(settings, {each.delivery_id: each for each in part}, file, confirmed, dry_run=dry_run)
        log.info("removals_confirmed", extra={"destination": destination, "dry_run": dry_run, "deliveries": len(confirmed.closed)})
        return confirmed

    def _confirm(self, settings: Destination, part: Mapping[str, Exported], file: str, confirmed: Confirmed, *, dry_run: bool) -> None:
        letters, gone = self._ledger.letters.by_id(list(part))
        looked_at = list(self._look(settings, letters))
        good = [looked for looked in looked_at if _is_covered(settings, looked, part[looked.name])]
        confirmed.outgrown += [looked.name for looked in looked_at if looked not in good]
        self._sort_gone(settings.name, gone, confirmed)
        undone = self._undone(settings.name, good)
        if dry_run:
            confirmed.closed += [looked.name for looked in good]
        else:
            confirmed.closed += self._ledger.letters.close_exported([looked.letter for looked in good], file, self._ledger.clock_ms())
            undone = self._ledger.letters.reopen(undone, only_dead=False, reason=REMOVED)
        confirmed.told_again += [delivery_id(letter.event_id, letter.destination) for letter in undone]

    def _look(self, settings: Destination, letters: Sequence[DeadLetter]) -> Iterator[_Looked]:
        """Dead letters with their events, completed and judged as right before a send."""
        stored = self._ledger.events.load([letter.event_id for letter in letters])
        opened = [open_if_readable(event, self._vault) for event in stored]
        reaches = iter(self._ledger.standings.reach([event.identifier_keys.values() for event in opened if event], depth=COMPLETION_DEPTH))
        purposes = self._routing().purposes_of(settings.name)
        for letter, event in zip(letters, opened, strict=True):
            if event is None:
                yield _Looked(letter=letter, event=None)
            else:
                reach = next(reaches)
                completed = complete(event, reach, self._ledger.standings).event
                words = [reach.newest(purpose) for purpose in sharing(event.purpose, settings, purposes) if purpose in settings.keep_contact_for]
                kept_by = tuple(word.event_id for word in words if word is not None and word.state is State.GIVEN)
                yield _Looked(letter=letter, event=completed, verdict=judge(event, reach, settings, purposes), kept_by=kept_by)

    def _sort_gone(self, destination: str, delivery_ids: Sequence[str], confirmed: Confirmed) -> None:
        """Tell what an earlier confirmation closed from what went another way."""
        stored = self._ledger.events.load([name.partition(".")[0] for name in delivery_ids], payloads=False)
        for name, event in zip(delivery_ids, stored, strict=True):
            result = event.results.get(destination) if event else None
            (confirmed.closed_before if result is not None and result.reason == EXPORTED else confirmed.not_dead).append(name)

    def _undone(self, destination: str, closed: Sequence[_Looked]) -> list[DeadLetter]:
        """The deliveries of `given` that hold now, that this destination was told, and that the file has removed again."""
        newer = sorted({event_id for looked in closed for event_id in (looked.verdict.superseded_by, *looked.kept_by) if event_id})
        found = []
        for event in self._ledger.events.load(newer, payloads=False):
            result = event.results.get(destination) if event else None
            if event and result and event.facts.state is State.GIVEN and result.status is DeliveryStatus.DELIVERED:
                row = Row(state=event.facts.state.value, source=event.facts.source)
                found.append(DeadLetter(event_id=event.event_id, destination=destination, row=row, died_ms=result.updated_ms))
        return found


def _sort(settings: Destination, looked: _Looked, collected: Collected) -> None:
    """Put one letter where it belongs; only one that the file names whole is exported."""
    if looked.event is None:
        collected.unreadable.append(looked.name)
        return
    if looked.verdict.result is not None:
        collected.overtaken.append(looked.name)
        return
    assert isinstance(settings.adapter, RemovesByFile), "only destinations whose vendor takes such files are exported"
    (removal,) = settings.adapter.export_removals([instruction_of(settings, looked.event)])
    if removal.unnamed or not removal.rows:
        collected.unnamed[looked.name] = removal.unnamed
        return
    collected.rows |= dict.fromkeys(removal.rows)
    collected.exported.append(Exported(delivery_id=looked.name, identifier_keys=contact_keys_of(settings, looked.event)))


def _is_covered(settings: Destination, looked: _Looked, exported: Exported) -> bool:
    """Whether the file names the person by all that is known by now; one that can no longer be opened was named by all that was."""
    return looked.event is None or set(contact_keys_of(settings, looked.event)) <= set(exported.identifier_keys)


def _chunks(values: Sequence[Any]) -> Iterator[list[Any]]:
    waiting = iter(values)
    while chunk := list(itertools.islice(waiting, AT_ONCE)):
        yield chunk
