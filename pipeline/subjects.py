"""Who an event is about: merging its word into standings, learning links, and completing a withdrawal from them.

A withdrawal reaches further than a consent: it is merged into, and told by, identifiers that earlier events named together
with its own. A `given` never is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct, structs

from pipeline.domain import IDENTIFIER_KINDS, ConsentEvent, State, Word
from pipeline.ledger.standings import IdentifierRecord, Merge, Reach, Records, Standings

COMPLETION_DEPTH = 2
"""Links that a withdrawal follows to find an identifier: by phone to an e-mail named with it, and on to the account named with that."""
NEED_A_LINK = frozenset({"missing_identifier", "ambiguous_subject"})
"""Reasons of death that a link may heal."""


def merges_of(event: ConsentEvent, standings: Standings, *, links: bool) -> list[Merge]:
    """What an event says about each of its identifiers; `links` is whether its source may teach which belong together."""
    keys = event.identifier_keys
    word = event.word.encode()
    values = event.subject.identifiers()
    return [
        Merge(
            identifier_key=key,
            purpose=event.purpose,
            word=word,
            value=standings.seal_value(key, values[kind]) if links else b"",
            links=tuple(other for other in keys.values() if other != key) if links else (),
        )
        for kind, key in keys.items()
    ]


def is_merged(event: ConsentEvent, records: Records, standings: Standings, *, links: bool) -> bool:
    """Whether all that `merges_of` says stands in the records of its identifiers, so that merging would write nothing; where anything was erased, merging decides."""
    keys, said = event.identifier_keys.values(), event.word
    for key in keys:
        record = records[key]
        word = record.words.get(event.purpose)
        if word is None or record.erased_us or (word != said and word.encode() < said.encode()):
            return False
        if links and not (standings.has_value(record) and all(other in record.links for other in keys if other != key)):
            return False
    return True


class Completed(Struct, frozen=True, kw_only=True):
    """A withdrawal with the identifiers that links add. `ambiguous` names the kinds for which more than one candidate is equally near."""

    event: ConsentEvent
    ambiguous: frozenset[str] = frozenset()


def complete(event: ConsentEvent, reach: Reach, standings: Standings) -> Completed:
    """Add to a withdrawal every kind of identifier for which exactly one candidate is nearest; leaves a `given` as it is."""
    if event.state is not State.WITHDRAWN:
        return Completed(event=event)
    keys, values, ambiguous = dict(event.identifier_keys), {}, set()
    for kind in IDENTIFIER_KINDS:
        if kind in keys:
            continue
        candidates = reach.nearest(kind)
        if len(candidates) == 1:
            if value := standings.open_value(candidates[0]):
                keys[kind], values[kind] = candidates[0].key, value
        elif candidates:
            ambiguous.add(kind)
    if values:
        event = structs.replace(event, subject=structs.replace(event.subject, **values), identifier_keys=keys)
    return Completed(event=event, ambiguous=frozenset(ambiguous))


def spread(records: Iterable[IdentifierRecord], *, states: Collection[State] = frozenset(State)) -> list[Merge]:
    """The merges that bring linked identifiers to the same newest word, of these states, for every purpose any of them knows."""
    known = list(records)
    newest: dict[str, Word] = {}
    for record in known:
        for purpose, word in record.words.items():
            if word.state in states and (purpose not in newest or newest[purpose].encode() < word.encode()):
                newest[purpose] = word
    return [
        Merge(identifier_key=record.key, purpose=purpose, word=word.encode())
        for record in known
        for purpose, word in newest.items()
        if _older(record.words, purpose, word)
    ]


def withdrawals_spread(records: Iterable[IdentifierRecord]) -> list[Merge]:
    """The merges that bring the newest withdrawal for each purpose to all of some identifiers whose links are about to go: it fences all of them as before."""
    return spread(records, states={State.WITHDRAWN})


def _older(words: Mapping[str, Word], purpose: str, word: Word) -> bool:
    return purpose not in words or words[purpose].encode() < word.encode()
