"""The evidence that waits to be archived: one stream for each slot, to which the scripts append in the step that they are about.

An entry has what was said of the items of one call, and which of them came true. It is trimmed once it is archived, and never for any other reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from pipeline.errors import ArchiveMismatch
from pipeline.ledger.keys import DESTINATIONS, META, Keys
from pipeline.ledger.store import Store, pairs_of, text

ARCHIVED: Final = f"{META}:archived"
"""Which archive the entries went to, and how far each stream was trimmed."""
_ARCHIVE: Final = "archive_id"
READ_MS: Final = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    """One entry: `rows` are those items of the call for which `kind` came true, `shared` what is true of all of them."""

    stream: str
    entry: str
    kind: str
    rows: Sequence[Any]
    shared: Mapping[str, Any]

    @property
    def at_ms(self) -> int:
        """When it was written, by the ledger's clock."""
        return int(self.entry.partition("-")[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What is not archived yet: entries, the age of the oldest, and the memory they take."""

    entries: int = 0
    oldest_seconds: float = 0.0
    megabytes: float = 0.0


class Outbox:
    """The outbox of a ledger; without a `version` (that of the routing in force) nothing is written to it, what is in it can still be read."""

    def __init__(self, store: Store, keys: Keys, version: Callable[[], str] | None) -> None:
        self._store, self._keys, self._version = store, keys, version

    def of_partition(self, partition: int) -> list[str]:
        """The last key of a script in the slot of events; none if no evidence is kept."""
        return [self._keys.event(partition, "evidence")] if self._version else []

    def of_identifiers(self, partition: int) -> list[str]:
        """The last key of a script in the slot of identifiers; none if no evidence is kept."""
        return [self._keys.identifier_part(partition, "evidence")] if self._version else []

    def of_destination(self, destination: str) -> list[str]:
        """The last key of a script in the slot of a destination; none if no evidence is kept."""
        return [self._keys.destination(destination, "evidence")] if self._version else []

    def said(self, kind: str, rows: Sequence[Any], **shared: Any) -> list[bytes]:
        """The last argument of a script: what is to be recorded of its items, in their order."""
        return [orjson.dumps({"kind": kind, "rows": rows, "version": self._version(), **shared})] if self._version else []

    def streams(self) -> list[str]:
        """The names of all streams: those of events first, then those of identifiers."""
        destinations = sorted(text(name) for name in self._store.run([("SMEMBERS", DESTINATIONS)])[0])
        parts = self._keys.all
        return [f"e{partition}" for partition in parts] + [f"i:{partition}" for partition in parts] + [f"d:{name}" for name in destinations]

    def read(self, stream: str, after: str, most: int) -> list[OutboxEntry]:
        """The entries after one, oldest first.

        Where a replica may take over, it must have them: what a failover forgets is done, and said, once more. Raises LedgerUnavailable if nobody can say that it has.
        """
        reading = ("XRANGE", self._key(stream), f"({after}" if after else "-", "+", "COUNT", most)
        found = self._store.run([reading])[0]
        if found and self._store.nodes.replicates:
            # A write behind the reading, on its connection: who has the one has whatever was there to read.
            found = self._store.run([reading, ("SET", f"{self._key(stream)}:read", 1, "PX", READ_MS)], replicated=True)[0]
        return [_entry(stream, text(name), fields) for name, fields in found]

    def trim(self, positions: Mapping[str, str]) -> None:
        """Let go of what is archived up to these entries; how far is noted first, so that an archive that lost them is noticed."""
        commands: list[tuple[Any, ...]] = []
        for stream, entry in positions.items():
            milliseconds, _, number = entry.partition("-")
            commands.append(("HSET", ARCHIVED, stream, entry))
            commands.append(("XTRIM", self._key(stream), "MINID", f"{milliseconds}-{int(number) + 1}"))
        self._store.run(commands)

    def check(self, archive_id: str, positions: Mapping[str, str]) -> None:
        """Raises ArchiveMismatch if another archive has taken entries, or if this one no longer has all that it took."""
        known = {text(name): text(value) for name, value in pairs_of(self._store.run([("HGETALL", ARCHIVED)])[0])}
        owner = known.pop(_ARCHIVE, None)
        if owner is None:
            self._store.run([("HSETNX", ARCHIVED, _ARCHIVE, archive_id)])
        elif owner != archive_id:
            raise ArchiveMismatch(
                f"this is evidence archive {archive_id}, but the ledger has written to {owner}: give every process the same CONSENT_EVIDENCE_URL; "
                "if the old archive is given up, `consent evidence accept` goes on with this one"
            )
        lost = sorted(stream for stream, entry in known.items() if _order(positions.get(stream, "")) < _order(entry))
        if lost:
            raise ArchiveMismatch(
                f"the evidence archive is older than it was (streams {', '.join(lost)}): restore the newer copy; "
                "if there is none, `consent evidence accept` goes on, and what is missing stays missing"
            )

    def accept(self, archive_id: str) -> None:
        """Go on with this archive, as it is."""
        self._store.run([("DEL", ARCHIVED), ("HSET", ARCHIVED, _ARCHIVE, archive_id)])

    def waiting(self) -> Waiting:
        """How much waits."""
        streams = self.streams()
        commands: list[tuple[Any, ...]] = [("TIME",)]
        for stream in streams:
            name = self._key(stream)
            commands += [("XLEN", name), ("XRANGE", name, "-", "+", "COUNT", 1), ("MEMORY USAGE", name)]
        now, *replies = self._store.run(commands)
        entries = sum(replies[::3])
        oldest = [int(text(first[0][0]).partition("-")[0]) for first in replies[1::3] if first]
        seconds = int(now[0]) - min(oldest) / 1000 if oldest else 0.0
        return Waiting(entries=entries, oldest_seconds=max(0.0, seconds), megabytes=sum(size or 0 for size in replies[2::3]) / 1e6)

    def _key(self, stream: str) -> str:
        kind, _, name = stream.partition(":")
        if kind == "d":
            return self._keys.destination(name, "evidence")
        return self._keys.identifier_part(int(name), "evidence") if kind == "i" else self._keys.event(int(stream[1:]), "evidence")


def _entry(stream: str, entry: str, fields: Any) -> OutboxEntry:
    values = {text(name): value for name, value in pairs_of(fields)}
    said = orjson.loads(values["s"])
    kind, rows = said.pop("kind"), said.pop("rows")
    places = [int(place) for place in text(values["p"]).split(",") if place]
    return OutboxEntry(stream=stream, entry=entry, kind=kind, rows=[rows[place - 1] for place in places] if places else rows, shared=said)


def _order(entry: str) -> tuple[int, int]:
    milliseconds, _, number = entry.partition("-")
    return int(milliseconds or 0), int(number or 0)
