"""Standings of identifiers: the newest word for each purpose, and which identifiers name the same subject.

Each identifier has one record. Merging is last-writer-wins, hence commutative and idempotent: it may be repeated and reordered freely.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from msgspec import Struct

from pipeline.domain import KIND_LETTERS, Personal, Word
from pipeline.errors import PayloadUnreadable
from pipeline.ledger.keys import Keys
from pipeline.ledger.store import Store, text
from pipeline.vault import Vault

log = logging.getLogger(__name__)

MAX_REACH = 32
"""Identifiers that one look at a subject follows at the most; a subject with more is not one person."""


MOST_KEPT = 64
"""Fields and values of a record that is kept in its decoded form."""


class Merge(Personal, frozen=True, kw_only=True):
    """What one event says about one of its identifiers."""

    SHOWN = ("identifier_key", "purpose", "word", "links")

    identifier_key: str
    purpose: str = ""
    word: str = ""
    value: bytes = b""
    links: tuple[str, ...] = ()


class Said(Struct, frozen=True, kw_only=True):
    """The event that says something: the name of its record, and the content hash, facts and times that must stand there."""

    record: str
    content: tuple[str, str, str]


class Merged(Struct, frozen=True, kw_only=True):
    """What a merge found: the newest word now, how many links were new, and whether deliveries wait for this identifier to be linked."""

    newest: Word | None
    new_links: int
    missed: bool


class IdentifierRecord(Personal, frozen=True, kw_only=True):
    """One identifier's standings (purpose -> word), links and sealed value; what was said until `erased_us` was erased, 0 if nothing was.

    `told` are the (purpose, destination) pairs by which a `given` went out under a condition that its withdrawal need not meet.
    """

    SHOWN = ("key", "words", "links", "told", "erased_us")

    key: str
    words: Mapping[str, Word]
    links: frozenset[str]
    told: frozenset[tuple[str, str]] = frozenset()
    erased_us: int = 0
    value: bytes | None = None

    def is_erased(self, order_us: int) -> bool:
        """Whether what it says by a word of this order time was erased."""
        return self.erased_us >= order_us


Records = Mapping[str, IdentifierRecord]
"""What was read of identifiers, by their keys."""


class Reach(Struct, frozen=True):
    """The identifiers linked to an event's, nearest first: `rings[0]` are its own, `rings[n]` those n links away."""

    rings: tuple[tuple[IdentifierRecord, ...], ...]

    def newest(self, purpose: str) -> Word | None:
        """The newest word on a purpose by its own identifiers and those linked to them directly."""
        return newest_of(record.words.get(purpose) for ring in self.rings[:2] for record in ring)

    def told(self, purpose: str) -> set[str]:
        """The destinations that were told `given` for a purpose under a condition."""
        return {destination for ring in self.rings for record in ring for said, destination in record.told if said == purpose}

    def is_erased(self, order_us: int) -> bool:
        """Whether what its own identifiers say by a word of this order time was erased."""
        return any(record.is_erased(order_us) for record in self.rings[0])

    def nearest(self, kind: str) -> tuple[IdentifierRecord, ...]:
        """The identifiers of a kind at the smallest distance at which there are any; more than one means that it is not clear who is meant."""
        for ring in self.rings:
            found = tuple(record for record in ring if record.key[0] == KIND_LETTERS[kind] and record.value)
            if found:
                return found
        return ()


def newest_of(words: Iterable[Word | None]) -> Word | None:
    """The newest of some words by last-writer-wins."""
    return max((word for word in words if word), key=Word.encode, default=None)


class Standings:
    """The identifier part of the ledger."""

    def __init__(self, store: Store, keys: Keys, vault: Vault) -> None:
        self._store, self._keys, self._vault = store, keys, vault

    def merge(self, merges: Sequence[Merge]) -> list[Merged]:
        """Merge words, values and links; answers in order."""
        found = self.read_merge(merges, self._store.run(self.merge_commands(merges), replicated=True))
        return [each for each in found if each is not None]

    def merge_and_read(self, merges: Sequence[Merge], named: Collection[str]) -> tuple[list[Merged], Records]:
        """Merge, and read the records of these identifiers as they are then, in one round trip."""
        merging, reading = self.merge_commands(merges), self.read_commands(named)
        replies = self._store.run_in_order([merging, reading], replicated=True)
        found = self.read_merge(merges, replies[: len(merging)])
        return [each for each in found if each is not None], self.read_records(named, replies[len(merging) :])

    def look(self, named: Collection[str]) -> tuple[Records, bool]:
        """Read the records of these identifiers, and whether deliveries wait for any of them to be linked, in one round trip."""
        reading = self.read_commands(named)
        replies = self._store.run([*reading, *(("EXISTS", *map(self._keys.missing, keys)) for keys in self._by_partition(named))])
        return self.read_records(named, replies[: len(reading)]), any(replies[len(reading) :])

    def merge_commands(self, merges: Sequence[Merge], said_by: Sequence[Said] = ()) -> list[tuple[Any, ...]]:
        """What merges, for a round trip with other commands; `read_merge` reads the answers. With `said_by`, one for each merge, nothing is merged of an event that is not so in the ledger."""
        commands = []
        for positions in self._keys.by_partition([merge.identifier_key for merge in merges]).values():
            keys: list[str] = []
            arguments: list[Any] = [3 if said_by else 2]
            for position in positions:
                merge = merges[position]
                keys += [self._keys.identifier(merge.identifier_key), self._keys.missing(merge.identifier_key)]
                arguments += [merge.purpose, merge.word, merge.value, len(merge.links), *merge.links]
                if said_by:
                    keys.append(said_by[position].record)
                    arguments += said_by[position].content
            commands.append(self._store.script("merge", keys, arguments))
        return commands

    def read_merge(self, merges: Sequence[Merge], replies: Sequence[Any]) -> list[Merged | None]:
        """What the answers to `merge_commands` of the same merges say; None where nothing was merged."""
        answers: list[Merged | None] = [None] * len(merges)
        for positions, found in zip(self._keys.by_partition([merge.identifier_key for merge in merges]).values(), replies, strict=True):
            for position, reply in zip(positions, found, strict=True):
                if reply:
                    word, new_links, missed = reply
                    answers[position] = Merged(newest=Word.decode(text(word)) if word else None, new_links=int(new_links), missed=bool(missed))
        return answers

    def newer(self, checks: Sequence[tuple[str, str, str]]) -> list[Word | None]:
        """For each (identifier key, purpose, encoded word) a newer word, if there is one."""
        return self.read_newer(checks, self._store.run(self.newer_commands(checks)))

    def newer_commands(self, checks: Sequence[tuple[str, str, str]]) -> list[tuple[Any, ...]]:
        """What asks for that, to be run with other commands; `read_newer` reads the answers."""
        commands = []
        for positions in self._keys.by_partition([key for key, _, _ in checks]).values():
            keys = [self._keys.identifier(checks[position][0]) for position in positions]
            arguments = [value for position in positions for value in checks[position][1:]]
            commands.append(self._store.script("newer", keys, arguments))
        return commands

    def read_newer(self, checks: Sequence[tuple[str, str, str]], replies: Sequence[Any]) -> list[Word | None]:
        """The answers to `newer_commands` of the same checks."""
        answers: list[Word | None] = [None] * len(checks)
        for positions, words in zip(self._keys.by_partition([key for key, _, _ in checks]).values(), replies, strict=True):
            for position, word in zip(positions, words, strict=True):
                if word:
                    answers[position] = Word.decode(text(word))
        return answers

    def reach(self, subjects: Sequence[Iterable[str]], *, depth: int = 1, read: Records | None = None) -> list[Reach]:
        """For each set of identifier keys, their records and those up to `depth` links away; one round trip for each ring that has any not `read` just before."""
        known: dict[str, IdentifierRecord] = dict(read or {})
        rings: list[list[tuple[str, ...]]] = [[tuple(dict.fromkeys(keys))] for keys in subjects]
        for distance in range(depth + 1):
            self._fetch({key for levels in rings if len(levels) > distance for key in levels[distance]} - known.keys(), known)
            if distance == depth:
                break
            for levels in rings:
                if len(levels) > distance and (further := _next_ring(levels, known)):
                    levels.append(further)
        return [Reach(tuple(tuple(known[key] for key in ring) for ring in levels)) for levels in rings]

    def open_value(self, record: IdentifierRecord) -> str:
        """The identifier itself, only for telling a vendor; empty, with an alert, if its vault key is missing: one record must not hold up a whole chunk."""
        try:
            return self._vault.open(record.value or b"", record.key).decode()
        except PayloadUnreadable as error:
            log.error("alert", extra={"alert": "identifier_unreadable", "identifier_key": record.key, "reason": str(error)})  # noqa: TRY400 (no traceback: it is no bug)
            return ""

    def has_value(self, record: IdentifierRecord) -> bool:
        """Whether an identifier's record has its value, sealed with the vault key that seals now."""
        return record.value is not None and self._vault.is_newest(record.value)

    def seal_value(self, key: str, value: str) -> bytes:
        """An identifier sealed for its own record."""
        return self._vault.seal(value.encode(), key)

    def note_missing(self, identifier_keys: Iterable[str], delivery_id: str) -> None:
        """Remember that a delivery waits for any of these identifiers to be linked to another."""
        self._store.run([("SADD", self._keys.missing(key), delivery_id) for key in identifier_keys])

    def missed_by(self, identifier_keys: Sequence[str]) -> set[str]:
        """The deliveries that wait for a link of these identifiers."""
        replies = self._store.run([("SMEMBERS", self._keys.missing(key)) for key in identifier_keys])
        return {text(member) for members in replies for member in members}

    def forget_missing(self, identifier_keys: Iterable[str], delivery_ids: Iterable[str]) -> None:
        """These deliveries need not wait for a link any more."""
        if members := list(delivery_ids):
            self._store.run([("SREM", self._keys.missing(key), *members) for key in identifier_keys])

    def note_told(self, entries: Iterable[tuple[str, str, str]]) -> None:
        """Remember for (identifier key, purpose, destination) that a `given` goes there, so that its withdrawal follows whatever it says of itself."""
        self._store.run([("HSETNX", self._keys.identifier(key), f"t:{purpose}:{destination}", "") for key, purpose, destination in entries], replicated=True)

    def scan(self, count: int = 500) -> Iterator[IdentifierRecord]:
        """Every identifier record of the ledger, in no order; records written meanwhile may be missed."""
        for name in self._store.scan(f"{self._keys.identifier('*').partition(':{')[0]}:{{i*}}:i:*", count):
            key = text(name).rpartition(":")[2]
            yield _record(key, self._store.run([("HGETALL", name)])[0])

    def read_commands(self, keys: Collection[str]) -> list[tuple[Any, ...]]:
        """What reads the records of some identifiers, for a round trip with other commands; `read_records` reads the answers."""
        return [self._store.script("read", [self._keys.identifier(name) for name in names], [len(names)]) for names in self._by_partition(keys)]

    def read_records(self, keys: Collection[str], replies: Sequence[Any]) -> Records:
        """The records, from the answers to `read_commands` of the same keys."""
        names = list(keys)
        groups = self._keys.by_partition(names).values()
        return {names[n]: _record(names[n], reply) for places, answers in zip(groups, replies, strict=True) for n, reply in zip(places, answers, strict=True)}

    def _by_partition(self, named: Collection[str]) -> list[list[str]]:
        names = list(named)
        return [[names[n] for n in places] for places in self._keys.by_partition(names).values()]

    def _fetch(self, wanted: set[str], known: dict[str, IdentifierRecord]) -> None:
        keys = sorted(wanted)
        known.update(self.read_records(keys, self._store.run(self.read_commands(keys))))


def _next_ring(levels: Sequence[tuple[str, ...]], known: Mapping[str, IdentifierRecord]) -> tuple[str, ...]:
    seen = {key for ring in levels for key in ring}
    further = sorted({link for key in levels[-1] for link in known[key].links} - seen)
    return tuple(further[: MAX_REACH - len(seen)])


def _record(key: str, reply: Any) -> IdentifierRecord:
    """A record from its hash; large ones, of which each new link makes another, are not kept."""
    hashed = tuple(reply) if isinstance(reply, list) else tuple(itertools.chain.from_iterable(reply.items()))
    return (_decoded if len(hashed) <= MOST_KEPT else _decoded.__wrapped__)(key, hashed)


@lru_cache(maxsize=512)  # the same record is read when its person's event is planned, and a moment later for each destination
def _decoded(key: str, hashed: tuple[bytes, ...]) -> IdentifierRecord:
    """A record from the fields and values of its hash; most of what a worker reads are these, so nothing is made that is not kept."""
    words, links, told, value, erased_us = {}, [], [], None, 0
    for name, content in zip(hashed[::2], hashed[1::2], strict=True):
        kind = name[:2]
        if kind == b"p:":
            words[name[2:].decode()] = Word.decode(content.decode())
        elif kind == b"v":
            value = content
        elif kind == b"l:":
            links.append(name[2:].decode())
        elif kind == b"t:":
            purpose, _, destination = name[2:].decode().rpartition(":")
            told.append((purpose, destination))
        elif kind == b"x":
            erased_us = int(content)
    return IdentifierRecord(key=key, words=words, links=frozenset(links), told=frozenset(told), erased_us=erased_us, value=value)
