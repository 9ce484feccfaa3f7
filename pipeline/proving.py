"""Makes proofs: of one event, or of all that is known of a person, for whoever may see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pipeline.domain import Subject, format_time
from pipeline.errors import ArchiveUnavailable
from pipeline.evidence.archive import Archive
from pipeline.evidence.document import build
from pipeline.evidence.reader import Reader
from pipeline.evidence.summary import ALL_RECORDS, NEAREST, ONE_EVENT, ONE_SOURCE
from pipeline.evidence.told import Told, last_told
from pipeline.identifiers import Hasher
from pipeline.ledger.standings import MAX_REACH
from pipeline.routing import Routing

Content = Mapping[str, Any]


class Prover:
    """Reads the archive; safe to share between threads. Raises ArchiveUnavailable.

    `source` None sees everything. A source sees its own events only: other records of the same chain are there by their hash.
    """

    def __init__(self, archive: Archive, hasher: Hasher, routing: Callable[[], Routing], now: Callable[[], datetime]) -> None:
        self._archive, self._hasher, self._routing, self._now = archive, hasher, routing, now

    def event(self, event_id: str, source: str | None = None) -> dict[str, Any] | None:
        """The proof of one event; None if nothing is recorded of it, or if it is another source's."""
        with self._archive.reading() as connection:
            reader = Reader(connection)
            chain = reader.chain_of(event_id)
            return self._document(reader, [chain] if chain else [], ONE_EVENT, lambda content: content.get("event_id") == event_id and _sees(source, content))

    def subject(self, subject: Subject, source: str | None = None) -> dict[str, Any] | None:
        """The proof of everything about a person, by any identifier and by those named together with it; None if nothing is recorded."""
        with self._archive.reading() as connection:
            reader = Reader(connection)
            found = reader.chains_of(self._hasher.identifier_keys(subject).values(), MAX_REACH)
            whole = ALL_RECORDS if found.is_all else NEAREST
            made = self._document(reader, found.chains, whole if source is None else ONE_SOURCE, lambda content: _sees(source, content))
            if made is not None and not found.is_all:
                made["record_metadata"]["followed_at_most"] = MAX_REACH
            return made

    def told(self, subject: Subject) -> Mapping[tuple[str, str], Told]:
        """(purpose, destination) -> what it was told last of a person; nothing while the archive is away."""
        try:
            with self._archive.reading() as connection:
                return last_told(connection, Reader(connection).chains_of(self._hasher.identifier_keys(subject).values(), MAX_REACH).chains)
        except ArchiveUnavailable:
            return {}

    def _document(self, reader: Reader, chains: Sequence[str], shows: str, shown: Callable[[Content], bool]) -> dict[str, Any] | None:
        made = build(reader, chains, shows=shows, now=format_time(self._now()), shown=shown, labels=self._labels())
        return made if made["events"] else None

    def _labels(self) -> dict[str, Any]:
        """Names for people, as the routing file has them now."""
        routing = self._routing()
        return {
            "purposes": {name: purpose.title for name, purpose in sorted(routing.purposes.items())},
            "destinations": {name: destination.adapter.title for name, destination in sorted(routing.destinations.items())},
        }


def _sees(source: str | None, content: Content) -> bool:
    return source is None or content.get("source") == source
