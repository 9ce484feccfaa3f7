"""Has a word that stands told to a destination once more, whatever is left of its event: by the event, or by the identifiers that standings still hold.

The delivery then travels like any other: it is judged by the standing again right before it is sent.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Mapping
from typing import Final

from msgspec import structs

from pipeline.domain import IDENTIFIER_KINDS, KIND_LETTERS, ConsentEvent, State, Subject, Word, delivery_id, utc_from_us
from pipeline.envelope import facts_of, open_if_readable, seal_event
from pipeline.ledger import Ledger
from pipeline.ledger.deliveries import DeadLetter, Row
from pipeline.ledger.events import StoredEvent
from pipeline.ledger.standings import IdentifierRecord, Reach
from pipeline.subjects import COMPLETION_DEPTH, complete
from pipeline.vault import Vault

log = logging.getLogger(__name__)

KINDS: Final[Mapping[str, str]] = {letter: kind for kind, letter in KIND_LETTERS.items()}
_ID_BYTES: Final = 15
_SAID: Final = {State.WITHDRAWN: "withdrawal_revived", State.GIVEN: "consent_revived"}


class Retelling:
    """Brings words back to be told again; safe to share between threads and to repeat."""

    def __init__(self, ledger: Ledger, vault: Vault) -> None:
        self._ledger, self._vault = ledger, vault

    def tell_again(self, word: Word, named: ConsentEvent, destination: str, reason: str, *, contact_key: str = "", cause: str = "") -> bool:
        """Have the word told to a destination, whether it was told there, is being told, or never was to be; False if it is under way already.

        `named` names the person as the destination knows him, for an event whose payload is gone. With a `contact_key` the word must reach
        that identifier: where its event names another one of the person, an event of its own says the same of this one. `cause` stays with the
        delivery when it has ended.
        """
        event_id, stored, is_open = self._find(word.event_id)
        if is_open and contact_key and not self._reaches(stored, contact_key):
            event_id, stored, is_open = self._find(derived_id(word.event_id, contact_key))
        if not is_open:
            again = _said_again(word, named, event_id, stored)
            restore(self._ledger, self._vault, again)
        now_ms = self._ledger.clock_ms()
        source = stored.facts.source if stored else named.source
        row = Row(state=word.state.value, source=source, reason=reason, since_ms=now_ms, updated_ms=now_ms, cause=cause)
        if stored and destination in stored.destinations:
            known = stored.results.get(destination)
            letter = DeadLetter(event_id=event_id, destination=destination, row=row, died_ms=known.updated_ms if known else now_ms)
            planned = bool(self._ledger.letters.reopen([letter], only_dead=False, reason=reason))
        else:
            planned = self._ledger.deliveries.plan(destination, word.state.value, [(event_id, now_ms)], row)[0]
            self._ledger.events.reopen_for(destination, [event_id], now_ms)
        if planned:
            log.info(_SAID[word.state], extra={"delivery_id": delivery_id(event_id, destination), "reason": reason})
        return planned

    def _find(self, event_id: str) -> tuple[str, StoredEvent | None, bool]:
        stored = self._ledger.events.load([event_id])[0]
        return event_id, stored, open_if_readable(stored, self._vault) is not None

    def _reaches(self, stored: StoredEvent | None, contact_key: str) -> bool:
        """Whether telling this event names the contact, by itself or by what links add to it."""
        event = open_if_readable(stored, self._vault)
        if event is None or contact_key in event.identifier_keys.values():
            return True
        reach = self._ledger.standings.reach([event.identifier_keys.values()], depth=COMPLETION_DEPTH)[0]
        return contact_key in complete(event, reach, self._ledger.standings).event.identifier_keys.values()


def restore(ledger: Ledger, vault: Vault, event: ConsentEvent) -> None:
    """Give an event whose payload is gone one again; it goes as soon as it is told if its person was erased meanwhile, and at once for a `given`."""
    ledger.events.restore(event.event_id, facts_of(event), seal_event(event, vault))
    # Only now: an erasure that begins after this look finds the event.
    reach = ledger.standings.reach([event.identifier_keys.values()], depth=0)[0]
    if reach.is_erased(event.order_us):
        ledger.erasures.erase_events([(event.event_id, event.state is State.WITHDRAWN)], event.order_us)


def derived_id(event_id: str, contact_key: str) -> str:
    """The id of the event that says what another one says, of one identifier; the same for ever, so that it is made once."""
    digest = hashlib.blake2b(f"{event_id}\0{contact_key}".encode(), digest_size=_ID_BYTES).digest()
    return base64.b32encode(digest).decode().lower()


def remade(ledger: Ledger, record: IdentifierRecord, reach: Reach, purpose: str, word: Word, stored: StoredEvent | None) -> ConsentEvent | None:
    """What standings still say of an event: its word, and the identifiers that carry it, this one and then the nearest of each kind; None if no value is left."""
    carrying = [each for ring in reach.rings for each in ring if each.value and each.words.get(purpose) == word]
    chosen: dict[str, IdentifierRecord] = {}
    for each in (*(one for one in carrying if one.key == record.key), *carrying):
        chosen.setdefault(KINDS[each.key[0]], each)
    values = {kind: value for kind, each in chosen.items() if (value := ledger.standings.open_value(each))}
    if not values:
        return None
    keys: dict[str, str] = {kind: chosen[kind].key for kind in IDENTIFIER_KINDS if kind in values}
    said_at = utc_from_us(word.order_us)
    return ConsentEvent(
        event_id=word.event_id,
        source=stored.facts.source if stored else "",
        subject=Subject(**values),
        subject_key=stored.facts.subject_key if stored else next(iter(keys.values())),
        identifier_keys=keys,
        purpose=purpose,
        state=word.state,
        event_time=said_at,
        order_us=word.order_us,
        received_at=said_at,
    )


def _said_again(word: Word, named: ConsentEvent, event_id: str, stored: StoredEvent | None) -> ConsentEvent:
    """An event that can be told although its payload is gone, by the identifiers under which the destination knows the person."""
    said_at = utc_from_us(word.order_us)
    return structs.replace(
        named,
        event_id=event_id,
        source=stored.facts.source if stored else named.source,
        subject_key=stored.facts.subject_key if stored else named.subject_key,
        purpose=stored.facts.purpose if stored else named.purpose,
        state=word.state,
        event_time=utc_from_us(stored.facts.event_us) if stored else said_at,
        order_us=word.order_us,
        received_at=utc_from_us(stored.facts.received_us) if stored else said_at,
        group=None,
        profile={},
        evidence={},
        metadata={},
    )
