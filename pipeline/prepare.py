"""Turns leased deliveries into what can be told: the event opened, a withdrawal completed, the contact named, or an ending right away."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct, structs

from pipeline.domain import ConsentEvent, Instruction, Outcome, State, VendorResult, delivery_id
from pipeline.envelope import nameless, open_if_readable
from pipeline.fence import Judgement, judge
from pipeline.ledger import Ledger
from pipeline.ledger.deliveries import Leased
from pipeline.ledger.events import StoredEvent
from pipeline.ledger.letters import ERASED
from pipeline.ledger.standings import Merge, Reach
from pipeline.routing import Destination, Routing
from pipeline.settle import WRITTEN_RULES, Ending
from pipeline.subjects import COMPLETION_DEPTH, Completed, complete
from pipeline.vault import Vault

log = logging.getLogger(__name__)

DIFFERS_THERE = "differs_there"
"""Reason of a withdrawal whose origin was asked, and does not hold it (any more): it is told like any other."""
UNREADABLE_WAIT_SECONDS = 60.0
"""How long a delivery waits whose payload cannot be opened: somebody may still put the missing vault key back."""


class Task(Struct, frozen=True, kw_only=True):
    """One delivery ready to be told, with the keys of every identifier that the vendor will be sent.

    Tasks of one `place` may share a dialogue; one with `asks` is asked about alone: it awaits confirmation, or was heard from this very destination.
    """

    leased: Leased
    event: ConsentEvent
    instruction: Instruction
    contact_keys: tuple[str, ...]
    place: str
    asks: bool = False

    @property
    def was_refused(self) -> bool:
        """Whether the vendor's last word was that it does not let us in."""
        return self.leased.row.outcome == Outcome.MISCONFIGURED

    def ending(self, result: VendorResult | None, **values: object) -> Ending:
        values["asked"] = ("awaited" if self.leased.row.awaiting else "asked") if self.asks else ""
        return Ending(event=self.event, event_id=self.event.event_id, row=self.leased.row, result=result, contact_keys=self.contact_keys, **values)  # type: ignore[arg-type]


class Preparer:
    """Prepares chunks of leased deliveries of one destination; safe to share between threads. `routing` says which sources speak for it."""

    def __init__(self, ledger: Ledger, vault: Vault, routing: Callable[[], Routing]) -> None:
        self._ledger, self.vault, self._routing = ledger, vault, routing

    def prepare(self, destination: Destination, leased: Sequence[tuple[Leased, StoredEvent | ConsentEvent | None]]) -> tuple[list[Task], list[Ending]]:
        """The deliveries that can be told, and those that end without a word to the vendor; with each comes its event, opened, or as its record has it."""
        tasks: list[Task] = []
        endings: list[Ending] = []
        incomplete: list[tuple[Leased, ConsentEvent]] = []
        routing = self._routing()
        for each, event in leased:
            opened = self._open(each, event)
            if isinstance(opened, Ending):
                endings.append(opened)
            elif opened.state is State.GIVEN and destination.name in routing.origin_of(opened.source):
                endings.append(_ending(each, opened, Outcome.NOT_APPLICABLE, "heard_from_it"))  # it may have heard of a withdrawal since
            elif opened.state not in destination.adapter.capabilities.states:
                endings.append(_ending(each, opened, Outcome.UNSUPPORTED, f"cannot_express_{opened.state}"))
            elif each.row.awaiting and not destination.adapter.capabilities.reads_back:
                endings.append(_ending(each, opened, Outcome.PENDING_CONFIRMATION, each.row.reason))
            elif _is_incomplete(destination, opened):
                incomplete.append((each, opened))
            elif destination.adapter.contact_of(opened.subject):
                tasks.append(self._task(destination, each, opened))
            else:
                endings.append(_ending(each, opened, Outcome.NOT_APPLICABLE, "missing_identifier"))
        for task_or_ending in self._complete(destination, incomplete) if incomplete else ():
            (tasks if isinstance(task_or_ending, Task) else endings).append(task_or_ending)  # type: ignore[arg-type]
        return tasks, self._overtaken(destination, endings) if endings else endings

    def waiting(self, destination: Destination, waiting: Sequence[tuple[Leased, StoredEvent | None]]) -> list[Task]:
        """Deliveries as they are judged while they wait, without a word to anybody; one that awaits confirmation is left out.

        A withdrawal that has to be completed first names no contact yet, so that no newer one can be said to tell it instead.
        """
        tasks = []
        for leased, stored in waiting:
            event = open_if_readable(stored, self.vault)
            if event is not None and not leased.row.awaiting:
                task = self._task(destination, leased, event)
                tasks.append(structs.replace(task, contact_keys=()) if _is_incomplete(destination, event) else task)
        return tasks

    def _overtaken(self, destination: Destination, endings: Sequence[Ending]) -> list[Ending]:
        """What a newer word has overtaken, or a written rule keeps, ends by that, whatever else would have become of it: it is no dead letter, and awaits nothing."""
        purposes = self._routing().purposes_of(destination.name)
        reaches = iter(self._ledger.standings.reach([ending.event.identifier_keys.values() for ending in endings if ending.event is not None]))
        return [_as_judged(ending, judge(ending.event, next(reaches), destination, purposes)) if ending.event is not None else ending for ending in endings]

    def named(self, destination: str, event_ids: Iterable[str]) -> dict[str, frozenset[str]]:
        """The identifiers (keys) that each of these events itself names, of those events that are delivered to the destination."""
        found = {}
        for stored in self._ledger.events.load(sorted(event_ids)):
            event = open_if_readable(stored, self.vault) if stored is not None and destination in stored.destinations else None
            if event is not None:  # of one that cannot be opened nothing is said: an older event that says the same is told as well
                found[event.event_id] = frozenset(event.identifier_keys.values())
        return found

    def _open(self, leased: Leased, stored: StoredEvent | ConsentEvent | None) -> ConsentEvent | Ending:
        if isinstance(stored, ConsentEvent):
            return stored
        if stored is None:
            log.error("alert", extra={"alert": "event_missing", "event_id": leased.event_id})
        elif stored.is_erased and stored.payload is None:  # nobody can tell it: a withdrawal that has to be told once more is dead, with an alert
            return _ending(leased, nameless(stored), Outcome.NOT_APPLICABLE, ERASED)
        event = open_if_readable(stored, self.vault, alert=True)
        return event or Ending(event=None, event_id=leased.event_id, row=leased.row, back_at_ms=-int(UNREADABLE_WAIT_SECONDS * 1000))

    def _complete(self, destination: Destination, incomplete: Sequence[tuple[Leased, ConsentEvent]]) -> list[Task | Ending]:
        """Complete withdrawals that lack the identifier this vendor needs from what earlier events named together."""
        ready: list[Task | Ending] = []
        for (leased, event), completed in zip(incomplete, self._follow_links(destination, [event for _, event in incomplete]), strict=True):
            if destination.adapter.contact_of(completed.event.subject):
                ready.append(self._task(destination, leased, completed.event))
            else:
                ambiguous = completed.ambiguous & set(destination.adapter.capabilities.identifiers)
                ready.append(_ending(leased, event, Outcome.NOT_APPLICABLE, "ambiguous_subject" if ambiguous else "missing_identifier"))
        return ready

    def _follow_links(self, destination: Destination, events: Sequence[ConsentEvent]) -> list[Completed]:
        """Ask for links, note what stays incomplete, and ask again: a link learned in between finds the note or is found here."""
        reaches = self._reaches(events)
        completed = self._look(events, reaches)
        for event, reach, found in zip(events, reaches, completed, strict=True):
            if not destination.adapter.contact_of(found.event.subject):
                near = [record.key for ring in reach.rings[:COMPLETION_DEPTH] for record in ring]  # a link of any of these may be the one that is missing
                self._ledger.standings.note_missing(near, delivery_id(event.event_id, destination.name))
        if not all(destination.adapter.contact_of(found.event.subject) for found in completed):
            completed = self._look(events, self._reaches(events))
        merges = [
            Merge(identifier_key=key, purpose=event.purpose, word=event.word.encode())
            for event, found in zip(events, completed, strict=True)
            for kind, key in found.event.identifier_keys.items()
            if kind not in event.identifier_keys
        ]
        if merges:
            self._ledger.standings.merge(merges)
        return completed

    def _reaches(self, events: Sequence[ConsentEvent]) -> list[Reach]:
        return self._ledger.standings.reach([event.identifier_keys.values() for event in events], depth=COMPLETION_DEPTH)

    def _look(self, events: Sequence[ConsentEvent], reaches: Sequence[Reach]) -> list[Completed]:
        return [complete(event, reach, self._ledger.standings) for event, reach in zip(events, reaches, strict=True)]

    def _task(self, destination: Destination, leased: Leased, event: ConsentEvent) -> Task:
        instruction = instruction_of(destination, event)
        asks = destination.adapter.capabilities.reads_back and (leased.row.awaiting or self._is_from(destination, leased, event))
        place = f"ask {event.event_id}" if asks else destination.adapter.place_of(instruction.options)
        task = Task(leased=leased, event=event, instruction=instruction, contact_keys=contact_keys_of(destination, event), place=place, asks=asks)
        return structs.replace(task, place=f"refused {place}") if task.was_refused else task

    def _is_from(self, destination: Destination, leased: Leased, event: ConsentEvent) -> bool:
        """Whether the destination itself was heard to say this, and has not been asked whether it still does."""
        return leased.row.reason != DIFFERS_THERE and destination.name in self._routing().origin_of(event.source)


def _is_incomplete(destination: Destination, event: ConsentEvent) -> bool:
    """Whether a withdrawal may have to be completed, even if it names one of several identifiers: the vendor may know the person by another."""
    return event.state is State.WITHDRAWN and not event.identifier_keys.keys() >= set(destination.adapter.capabilities.identifiers)


def instruction_of(destination: Destination, event: ConsentEvent) -> Instruction:
    """What a destination would be told of an event, with the options of its purpose."""
    return Instruction(
        delivery_id=delivery_id(event.event_id, destination.name),
        event_id=event.event_id,
        subject=event.subject,
        purpose=event.purpose,
        state=event.state,
        event_time=event.event_time,
        options=destination.options_for(event.purpose),
        profile=event.profile,
        evidence=event.evidence,
        metadata=event.metadata,
    )


def contact_keys_of(destination: Destination, event: ConsentEvent) -> tuple[str, ...]:
    """The keys of every identifier that the vendor would be sent."""
    return tuple(event.identifier_keys[kind] for kind in destination.adapter.contact_of(event.subject))


def _as_judged(ending: Ending, judgement: Judgement) -> Ending:
    result = judgement.result
    if result is not None and (result.outcome is Outcome.SUPERSEDED or result.reason in WRITTEN_RULES):
        return structs.replace(ending, result=result, superseded_by=judgement.superseded_by)
    return ending


def _ending(leased: Leased, event: ConsentEvent, outcome: Outcome, reason: str) -> Ending:
    return Ending(event=event, event_id=event.event_id, row=leased.row, result=VendorResult(outcome=outcome, reason=reason))
