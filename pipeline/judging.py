"""The last look at the standings for a chunk: who is still to be told, and what a write that came too late has to be corrected by."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Mapping, Sequence

from msgspec import Struct, structs

from pipeline.domain import ConsentEvent, Outcome, Standing, State, VendorResult, Word
from pipeline.fence import judge, sharing
from pipeline.ledger import Ledger
from pipeline.ledger.standings import Records, newest_of
from pipeline.prepare import Preparer, Task
from pipeline.retelling import Retelling
from pipeline.routing import Destination, Routing
from pipeline.settle import TOLD, Ending

log = logging.getLogger(__name__)


class Checked(Struct, frozen=True):
    """A task that was told, and what shows whether a newer word came meanwhile: identifier key, purpose and the word to beat ("": any)."""

    task: Task
    checks: tuple[tuple[str, str, str], ...]


class Judge:
    """Reads standings right before dialogues start and right after they end; safe to share between threads."""

    def __init__(self, ledger: Ledger, preparer: Preparer, routing: Callable[[], Routing]) -> None:
        self._ledger, self._preparer, self._routing = ledger, preparer, routing
        self._retelling = Retelling(ledger, preparer.vault)

    def endings(self, destination: Destination, tasks: Sequence[Task], read: Records | None = None) -> dict[str, Ending | None]:
        """For each task the ending the fence gives it, or None if it is to be told; `read` are records that were read just now."""
        if not tasks:
            return {}
        reaches = self._ledger.standings.reach([task.event.identifier_keys.values() for task in tasks], read=read)
        purposes = self._routing().purposes_of(destination.name)
        judgements = [judge(task.event, reach, destination, purposes) for task, reach in zip(tasks, reaches, strict=True)]
        named = self._preparer.named(destination.name, {judgement.unless_told_by for judgement in judgements if judgement.unless_told_by})
        verdicts: dict[str, Ending | None] = {}
        for task, judgement in zip(tasks, judgements, strict=True):
            if task.contact_keys and named.get(judgement.unless_told_by, frozenset()).issuperset(task.contact_keys):
                result: VendorResult | None = VendorResult(outcome=Outcome.SUPERSEDED, reason="told_by_newer_event")
                verdicts[task.event.event_id] = task.ending(result, superseded_by=judgement.unless_told_by)
            elif judgement.result is not None:
                verdicts[task.event.event_id] = task.ending(judgement.result, superseded_by=judgement.superseded_by)
            else:
                verdicts[task.event.event_id] = None
        return verdicts

    def with_standings(self, destination: Destination, tasks: Sequence[Task], read: Records | None = None) -> list[Task]:
        """The tasks, for a vendor that asks for it with what stands now for the destination's other purposes."""
        if not tasks or not destination.adapter.capabilities.sees_standings:
            return list(tasks)
        reaches = self._ledger.standings.reach([task.event.identifier_keys.values() for task in tasks], read=read)
        purposes = sorted(self._routing().purposes_of(destination.name))
        words = [
            {purpose: word for purpose in purposes if purpose != task.event.purpose and (word := reach.newest(purpose)) and not self._ledger.holds(word.state)}
            for task, reach in zip(tasks, reaches, strict=True)
        ]
        named = self._preparer.named(destination.name, {word.event_id for each in words for word in each.values() if word.state is State.GIVEN})
        return [_with_standings(task, found, named, destination) for task, found in zip(tasks, words, strict=True)]

    def checks(self, destination: Destination, sent: Sequence[tuple[Task, VendorResult]]) -> list[Checked]:
        """What to look up once these dialogues have ended: was anything accepted meanwhile that what was told might have overtaken?"""
        purposes = self._routing().purposes_of(destination.name)
        return [Checked(task, tuple(_checks(task, destination, purposes))) for task, result in sent if result.outcome in TOLD or not result.definite]

    def correct_stale(self, destination: Destination, checked: Sequence[Checked], words: Sequence[Word | None], lost: Container[str]) -> None:
        """Count every `given` sent while a newer withdrawal was accepted; have the newer word told again that a write beyond its claim may have undone.

        `words` answers all checks in order; `lost` are the events whose claim had not lasted.
        """
        undone: dict[str, tuple[Word, ConsentEvent]] = {}
        count, answers = 0, iter(words)
        for each in checked:
            newest = _opposite(each, [next(answers) for _ in each.checks])
            ours = each.task.event.event_id not in lost
            if newest is None or (ours and each.task.event.state is not State.GIVEN):
                continue
            count += newest.state is State.WITHDRAWN
            if not ours:
                undone[newest.event_id] = newest, each.task.event
        if count:
            self._ledger.note_stale(count)
            log.warning("stale_send", extra={"destination": destination.name, "deliveries": count})
        for stored in self._ledger.events.load(list(undone), payloads=False) if undone else ():
            if stored is not None and destination.name in stored.destinations:  # else it is still to be planned, or is none of this destination's
                word, named = undone[stored.event_id]
                self._retelling.tell_again(word, named, destination.name, "late_write")


def _opposite(checked: Checked, words: Sequence[Word | None]) -> Word | None:
    """A newer word that says the opposite; for a `given` also the withdrawal of a purpose that shares its contact, which came after it was judged."""
    event = checked.task.event
    named = [(purpose, word) for (_, purpose, _), word in zip(checked.checks, words, strict=True) if word is not None]
    own = newest_of(word for purpose, word in named if purpose == event.purpose)
    others = newest_of(word for purpose, word in named if purpose != event.purpose and word.state is State.WITHDRAWN)
    return own if own and own.state is not event.state else others


def _with_standings(task: Task, words: Mapping[str, Word], named: Mapping[str, frozenset[str]], destination: Destination) -> Task:
    standings = [
        Standing(purpose=purpose, state=word.state, options=destination.options_for(purpose))
        for purpose, word in words.items()
        if word.state is State.WITHDRAWN or named.get(word.event_id, frozenset()).issuperset(task.contact_keys)
    ]
    return structs.replace(task, instruction=structs.replace(task.instruction, standings=tuple(standings)))


def _checks(task: Task, destination: Destination, purposes: Iterable[str]) -> list[tuple[str, str, str]]:
    """Identifier key, purpose and the word that a newer one would beat ("": any)."""
    event = task.event
    wins_alone = event.state is State.WITHDRAWN or event.purpose in destination.keep_contact_for
    others = [] if wins_alone else sharing(event.purpose, destination, purposes)
    return [
        (key, purpose, word) for key in event.identifier_keys.values() for purpose, word in [(event.purpose, event.word.encode()), *((p, "") for p in others)]
    ]
