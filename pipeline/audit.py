"""Looks over the ledger's books now and then: copies what a worker settled but could not copy, and says aloud what does not add up.

Run by beat every few seconds; safe to run twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pipeline.compaction import Compaction
from pipeline.figures import collect
from pipeline.ledger import Ledger
from pipeline.prepare import Preparer
from pipeline.revival import Revival
from pipeline.routing import Routing
from pipeline.settler import Settler
from pipeline.vault import Vault

log = logging.getLogger(__name__)

RESULTS_AT_ONCE = 500
EVENTS_SOON = 2000
"""Open events of each partition that are looked at soon where something does not add up."""


class Audit:
    """Keeps the books; safe to share between threads."""

    def __init__(
        self, ledger: Ledger, vault: Vault, routing: Callable[[], Routing], settler: Settler, *, is_working: Callable[[], bool] = lambda: False
    ) -> None:
        """`is_working`: whether this process tells somebody now, so that what can wait takes little of it."""
        self._ledger, self._routing = ledger, routing
        self._revival = Revival(ledger, vault, routing)
        self._compaction = Compaction(ledger, Preparer(ledger, vault, routing), settler, routing, is_working=is_working)

    def run(self) -> None:
        """One look: leftovers, vault keys, what was overtaken while it waits, withdrawals that a link may have revived, the `unaccounted` figure, withdrawals that take too long, deliveries of
        destinations that are gone.
        """
        self.fold_leftovers()
        self._look_after_keys()
        self._compaction.run()
        self._revival.of_late()
        routing = self._routing()
        snapshot = collect(self._ledger, routing)
        if snapshot.unaccounted:
            log.error("alert", extra={"alert": "unaccounted", "items": snapshot.unaccounted})
            self._ledger.events.look_soon(EVENTS_SOON)
        for name, seconds in snapshot.oldest_untold_withdrawal_seconds.items():
            destination = routing.destinations.get(name)
            if destination is not None and seconds >= destination.retry.give_up_after_seconds:
                log.error("alert", extra={"alert": "withdrawal_overdue", "destination": name, "seconds": int(seconds)})
        waiting: dict[str, int] = {}
        for name, _, count in snapshot.waiting:
            waiting[name] = waiting.get(name, 0) + count
        for name, count in waiting.items():
            if count and name not in routing.destinations:
                log.error("alert", extra={"alert": "destination_removed", "destination": name, "deliveries": count})

    def _look_after_keys(self) -> None:
        """List the key that seals here again, should `consent vault reseal` have taken it for an old one, and say which are wanted that this process lacks."""
        self._ledger.seals.note()
        for key_id in self._ledger.seals.missing():
            log.error("alert", extra={"alert": "vault_key_missing", "key": key_id})

    def fold_leftovers(self) -> int:
        """Copy results into their events' records that a worker settled but could not copy any more; returns how many."""
        copied = 0
        for destination in self._ledger.deliveries.known_destinations():
            results = self._ledger.deliveries.results(destination, RESULTS_AT_ONCE)
            if results:
                self._ledger.events.fold([(event_id, destination, result) for event_id, result in results])
                self._ledger.deliveries.unfold(destination, results)
                copied += len(results)
        return copied
