"""Brings withdrawals back when a link is learned: those that died for want of an identifier, and those told before it was known who else is meant."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta

from pipeline.domain import ConsentEvent, DeliveryStatus, delivery_id, split_delivery_id
from pipeline.envelope import open_if_readable
from pipeline.ledger import Ledger
from pipeline.ledger.deliveries import DeadLetter, Row
from pipeline.ledger.letters import LetterFilter
from pipeline.ledger.results import DeliveryResult
from pipeline.routing import Destination, Routing
from pipeline.subjects import COMPLETION_DEPTH, NEED_A_LINK, complete
from pipeline.vault import Vault

log = logging.getLogger(__name__)

RECENT = timedelta(minutes=10)
"""Deaths that are looked at once more: a link learned in the very moment of a death finds the delivery not dead yet, and passes it by."""
AT_ONCE = 200


class Revival:
    """Reopens deliveries of withdrawals; safe to share between threads and to repeat."""

    def __init__(self, ledger: Ledger, vault: Vault, routing: Callable[[], Routing]) -> None:
        self._ledger, self._vault, self._routing = ledger, vault, routing

    def by_identifiers(self, identifier_keys: Iterable[str]) -> None:
        """Bring back what died for want of a link of these identifiers, where what is linked by now names the contact."""
        keys = sorted(identifier_keys)
        if not keys:
            return
        waiting = sorted(self._ledger.standings.missed_by(keys))
        letters, _ = self._ledger.letters.by_id(waiting)
        self._revive(letters)
        self._ledger.standings.forget_missing(keys, [name for name in waiting if not self._may_still_die(name)])

    def of_late(self) -> None:
        """Look once more at what died lately."""
        since = self._ledger.now() - RECENT
        for reason in sorted(NEED_A_LINK):
            self._revive(self._ledger.letters.find(LetterFilter(reason=reason, since=since), most=AT_ONCE))

    def retell(self, event_ids: Iterable[str]) -> None:
        """Have withdrawals told again wherever they were told, or are being told: a link that was just learned gives them more identifiers."""
        for stored in self._ledger.events.load(sorted(event_ids)):
            if stored is not None and open_if_readable(stored, self._vault) is not None:
                row = Row(state=stored.facts.state.value, source=stored.facts.source)
                now_ms = self._ledger.clock_ms()
                # One without a result may be on its way there, or told and not copied yet: the ledger takes it from whoever tells it.
                told = [name for name in stored.destinations if name in self._routing().destinations and _may_be_told(stored.results.get(name))]
                died = {name: stored.results[name].updated_ms if name in stored.results else now_ms for name in told}
                letters = [DeadLetter(event_id=stored.event_id, destination=name, row=row, died_ms=died[name]) for name in told]
                self._reopen(letters, only_dead=False)

    def _revive(self, letters: Sequence[DeadLetter]) -> None:
        self._reopen([letter for letter in letters if letter.row.reason in NEED_A_LINK and self._is_reached(letter)], only_dead=True)

    def _reopen(self, letters: Sequence[DeadLetter], *, only_dead: bool) -> None:
        for letter in self._ledger.letters.reopen(letters, only_dead=only_dead, reason="link_learned") if letters else ():
            log.info("withdrawal_revived", extra={"delivery_id": delivery_id(letter.event_id, letter.destination), "reason": "link_learned"})

    def _is_reached(self, letter: DeadLetter) -> bool:
        """Whether links name the contact by now; if not, the next link of anybody near is waited for."""
        destination = self._routing().destinations.get(letter.destination)
        stored = self._ledger.events.load([letter.event_id])[0]
        event = open_if_readable(stored, self._vault)
        return destination is not None and event is not None and self._names_contact(destination, event)

    def _names_contact(self, destination: Destination, event: ConsentEvent) -> bool:
        for _ in range(2):  # once more after the note: a link learned in between finds the note, or is found here
            reach = self._ledger.standings.reach([event.identifier_keys.values()], depth=COMPLETION_DEPTH)[0]
            if destination.adapter.contact_of(complete(event, reach, self._ledger.standings).event.subject):
                return True
            near = [record.key for ring in reach.rings[:COMPLETION_DEPTH] for record in ring]
            self._ledger.standings.note_missing(near, delivery_id(event.event_id, destination.name))
        return False

    def _may_still_die(self, name: str) -> bool:
        """Whether a delivery is unfinished or dead: a later link must still find the note of it."""
        event_id, destination = split_delivery_id(name)
        return self._ledger.deliveries.is_known(destination, [event_id])[0]


def _may_be_told(result: DeliveryResult | None) -> bool:
    return result is None or result.status is DeliveryStatus.DELIVERED
