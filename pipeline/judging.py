"""The last look at the standings for a chunk: who is still to be told, and what a write that came too late has to be corrected by."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from pipeline.domain import Outcome, Standing, State, VendorResult, Word
from pipeline.fence import judge, sharing
from pipeline.ledger import Ledger
from pipeline.ledger.deliveries import DeadLetter, Row
from pipeline.ledger.standings import newest_of
from pipeline.prepare import Preparer, Task
from pipeline.routing import Destination, Routing
from pipeline.settle import TOLD, Ending

log = logging.getLogger(__name__)


class Judge:
    """Reads standings right before dialogues start and right after they end; safe to share between threads."""

    def __init__(self, ledger: Ledger, preparer: Preparer, routing: Callable[[], Routing]) -> None:
        self._ledger, self._preparer, self._routing = ledger, preparer, routing

    def endings(self, destination: Destination, tasks: Sequence[Task]) -> dict[str, Ending | None]:
        """For each task the ending the fence gives it, or None if it is to be told."""
        if not tasks:
            return {}
        reaches = self._ledger.standings.reach([task.event.identifier_keys.values() for task in tasks])
        purposes = self._routing().purposes_of(destination.name)
        judgements = [judge(task.event, reach, destination, purposes) for task, reach in zip(tasks, reaches, strict=True)]
        named = self._preparer.named(destination.name, {judgement.unless_told_by for judgement in judgements if judgement.unless_told_by})
        verdicts: dict[str, Ending | None] = {}
        for task, judgement in zip(tasks, judgements, strict=True):
            if named.get(judgement.unless_told_by, frozenset()).issuperset(task.contact_keys):
                result: VendorResult | None = VendorResult(outcome=Outcome.SUPERSEDED, reason="told_by_newer_event")
                verdicts[task.event.event_id] = task.ending(result, superseded_by=judgement.unless_told_by)
            elif judgement.result is not None:
                verdicts[task.event.event_id] = task.ending(judgement.result, superseded_by=judgement.superseded_by)
            else:
                verdicts[task.event.event_id] = None
        return verdicts

    def with_standings(self, destination: Destination, tasks: Sequence[Task]) -> list[Task]:
        """The tasks, for a vendor that asks for it with what stands now for the destination's other purposes."""
        if not tasks or not destination.adapter.capabilities.sees_standings:
            return list(tasks)
        reaches = self._ledger.standings.reach([task.event.identifier_keys.values() for task in tasks])
        purposes = sorted(self._routing().purposes_of(destination.name))
        words = [
            {purpose: word for purpose in purposes if purpose != task.event.purpose and (word := reach.newest(purpose)) is not None}
            for task, reach in zip(tasks, reaches, strict=True)
        ]
        named = self._preparer.named(destination.name, {word.event_id for each in words for word in each.values() if word.state is State.GIVEN})
        return [_with_standings(task, found, named, destination) for task, found in zip(tasks, words, strict=True)]

    def correct_stale(self, destination: Destination, sent: Sequence[tuple[Task, VendorResult, bool]]) -> None:
        """Count every `given` sent while a newer withdrawal was accepted; have the newer word told again that a write beyond its claim may have undone."""
        may_have_acted = [(task, ours) for task, result, ours in sent if result.outcome in TOLD or not result.definite]
        looked_at = [(task, ours) for task, ours in may_have_acted if task.event.state is State.GIVEN or not ours]
        if not looked_at:
            return
        undone: list[DeadLetter] = []
        count, now_ms = 0, self._ledger.clock_ms()
        for (_, ours), newest in zip(looked_at, self._newer(destination, [task for task, _ in looked_at]), strict=True):
            if newest is None:
                continue
            count += newest.state is State.WITHDRAWN
            if not ours:
                undone.append(_letter(destination.name, newest, now_ms))
        if count:
            self._ledger.note_stale(count)
            log.warning("stale_send", extra={"destination": destination.name, "deliveries": count})
        if undone:
            self._ledger.letters.reopen(list(dict.fromkeys(undone)), only_dead=False, reason="late_write")

    def _newer(self, destination: Destination, tasks: Sequence[Task]) -> list[Word | None]:
        """For each task a newer word that says the opposite; for a `given` also the withdrawal of a purpose that shares its contact, which came after it was judged."""
        purposes = self._routing().purposes_of(destination.name)
        checks = [_checks(task, destination, purposes) for task in tasks]
        newer = iter(self._ledger.standings.newer([check for each in checks for check in each]))
        found = []
        for task, asked in zip(tasks, checks, strict=True):
            words = [(purpose, next(newer)) for _, purpose, _ in asked]
            own = newest_of(word for purpose, word in words if purpose == task.event.purpose)
            others = newest_of(word for purpose, word in words if purpose != task.event.purpose and word and word.state is State.WITHDRAWN)
            found.append(own if own and own.state is not task.event.state else others)
        return found


def _with_standings(task: Task, words: Mapping[str, Word], named: Mapping[str, frozenset[str]], destination: Destination) -> Task:
    standings = [
        Standing(purpose=purpose, state=word.state, options=destination.options_for(purpose))
        for purpose, word in words.items()
        if word.state is State.WITHDRAWN or named.get(word.event_id, frozenset()).issuperset(task.contact_keys)
    ]
    return replace(task, instruction=replace(task.instruction, standings=tuple(standings)))


def _checks(task: Task, destination: Destination, purposes: Iterable[str]) -> list[tuple[str, str, str]]:
    """Identifier key, purpose and the word that a newer one would beat ("": any)."""
    event = task.event
    wins_alone = event.state is State.WITHDRAWN or event.purpose in destination.keep_contact_for
    others = [] if wins_alone else sharing(event.purpose, destination, purposes)
    return [
        (key, purpose, word) for key in event.identifier_keys.values() for purpose, word in [(event.purpose, event.word.encode()), *((p, "") for p in others)]
    ]


def _letter(destination: str, word: Word, now_ms: int) -> DeadLetter:
    """A delivery that ended before now, whichever way, as what is to be brought back."""
    return DeadLetter(event_id=word.event_id, destination=destination, row=Row(state=word.state.value), died_ms=now_ms)
