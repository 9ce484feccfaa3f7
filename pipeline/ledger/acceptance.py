"""The first step of every event: it is committed, what it says is merged, and a fan-out task that waits is given it, in one round trip where one server holds all keys."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from pipeline.ledger.events import Events, Facts, NewEvent
from pipeline.ledger.keys import Keys
from pipeline.ledger.standings import Merge, Merged, Said, Standings
from pipeline.ledger.store import Durability, Store
from pipeline.ledger.trays import MOST_ON_TRAY, Trays

Found = Sequence[Merged] | None
"""What merging found for each identifier of an event; None if nothing was merged."""


class Took(Struct, frozen=True):
    """What the ledger says of each event, and what merging found; `laid` are the lanes of which a fan-out task has all that is new."""

    facts: Sequence[Facts | bool]
    found: list[Found]
    laid: frozenset[str] = frozenset()


class Acceptance:
    """Takes events into the ledger; safe to share between threads."""

    def __init__(self, store: Store, keys: Keys, events: Events, standings: Standings, trays: Trays) -> None:
        self._store, self._keys, self._events, self._standings, self._trays = store, keys, events, standings, trays

    def take(self, events: Sequence[NewEvent], merges: Sequence[Sequence[Merge]], durability: Durability) -> Took:
        """Commit events as `Events.commit` does, and merge what each says of its identifiers, if the ledger has it as it stands here: it is new, or repeats one to the letter.

        None is found for the others, and for all where keys lie on several servers: those are to be merged when it is known what the ledger has.
        """
        if self._store.nodes.is_spread:
            return Took(self._events.commit(events, durability), [None] * len(events))
        flat = [merge for each in merges for merge in each]
        said = [Said(record=self._keys.record(event.event_id), content=(event.content_hash, *self._events.facts_kept(event))) for event in events]
        committing = self._events.commit_commands(events)
        merging = self._standings.merge_commands(flat, [each for each, own in zip(said, merges, strict=True) for _ in own])
        lanes = self._lanes(events, durability)
        laying = self._trays.lay_commands(lanes)
        half = len(committing) // 2  # what is read after the commits is asked for at the end, so that all scripts are one block
        replies = iter(self._store.run([*committing[:half], *merging, *laying, *committing[half:]], durability=durability))
        committed, merged, laid, counts = ([next(replies) for _ in part] for part in (committing[:half], merging, laying, committing[half:]))
        facts = self._events.read_commit(events, [*committed, *counts])
        found = iter(self._standings.read_merge(flat, merged))
        return Took(facts, [_all([next(found) for _ in own]) for own in merges], frozenset(lane for lane, each in zip(lanes, laid, strict=True) if each))

    def _lanes(self, events: Sequence[NewEvent], durability: Durability) -> dict[str, list[str]]:
        """The ids of those that may be given to a task at once, by lane."""
        lanes: dict[str, list[str]] = {}
        if self._trays.are_used(durability):
            for event in events:
                lanes.setdefault(event.facts.state.value, []).append(event.event_id)
        return {lane: ids for lane, ids in lanes.items() if len(ids) <= MOST_ON_TRAY}


def _all(found: Sequence[Merged | None]) -> Found:
    merged = [each for each in found if each is not None]
    return merged if len(merged) == len(found) else None
