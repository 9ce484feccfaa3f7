"""The first step of every event: it is committed and what it says is merged, in one round trip where one server holds all keys."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.ledger.events import Events, Facts, NewEvent
from pipeline.ledger.keys import Keys
from pipeline.ledger.standings import Merge, Merged, Said, Standings
from pipeline.ledger.store import Durability, Store

Found = Sequence[Merged] | None
"""What merging found for each identifier of an event; None if nothing was merged."""


class Acceptance:
    """Takes events into the ledger; safe to share between threads."""

    def __init__(self, store: Store, keys: Keys, events: Events, standings: Standings) -> None:
        self._store, self._keys, self._events, self._standings = store, keys, events, standings

    def take(self, events: Sequence[NewEvent], merges: Sequence[Sequence[Merge]], durability: Durability) -> tuple[list[Facts | bool], list[Found]]:
        """Commit events as `Events.commit` does, and merge what each says of its identifiers, if the ledger has it as it stands here: it is new, or repeats one to the letter.

        None is found for the others, and for all where keys lie on several servers: those are to be merged when it is known what the ledger has.
        """
        if self._store.nodes.is_spread:
            return self._events.commit(events, durability), [None] * len(events)
        flat = [merge for each in merges for merge in each]
        said = [Said(record=self._keys.record(event.event_id), content=(event.content_hash, *self._events.facts_kept(event))) for event in events]
        committing = self._events.commit_commands(events)
        merging = self._standings.merge_commands(flat, [each for each, own in zip(said, merges, strict=True) for _ in own])
        half = len(committing) // 2  # what is read after the commits is asked for at the end, so that all scripts are one block
        replies = self._store.run([*committing[:half], *merging, *committing[half:]], durability=durability)
        facts = self._events.read_commit(events, [*replies[:half], *replies[half + len(merging) :]])
        found = iter(self._standings.read_merge(flat, replies[half : half + len(merging)]))
        return facts, [_all([next(found) for _ in own]) for own in merges]


def _all(found: Sequence[Merged | None]) -> Found:
    merged = [each for each in found if each is not None]
    return merged if len(merged) == len(found) else None
