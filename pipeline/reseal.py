"""Seals what older vault keys sealed with the newest one, so that the older ones can be removed.

Works beside everything else: a value that changes meanwhile is left to the next look, and looks are repeated until one finds nothing.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.errors import PayloadUnreadable
from pipeline.ledger import Ledger
from pipeline.ledger.seals import Sealed
from pipeline.vault import Vault

log = logging.getLogger(__name__)

LOOKS = 5
"""Looks after which a key that still seals new values is left on the list: some process still has it in front."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResealReport:
    """What was sealed anew, and of what remains: by key id, what a key that is not configured sealed, and what cannot be opened although its key is.

    `removable` are the configured keys that seal nothing any more, `busy` those that sealed something new during every look.
    """

    resealed: int = 0
    locked: Mapping[str, int] = field(default_factory=dict)
    damaged: int = 0
    removable: tuple[str, ...] = ()
    busy: tuple[str, ...] = ()


class Reseal:
    """Frees older vault keys. May be run again and by two at once; a kill costs nothing but the work that was left."""

    def __init__(self, ledger: Ledger, vault: Vault) -> None:
        self._ledger, self._vault = ledger, vault

    def run(self, progress: Callable[[int], None] = lambda _: None) -> ResealReport:
        """Seal anew until a look finds nothing, and take the freed keys off the ledger's list once that is on the disk."""
        resealed, found = 0, Counter[str]()
        for look in range(LOOKS):
            found, locked, damaged = Counter(), Counter[str](), 0
            for looked_at, sealed in self._ledger.seals.chunks():
                fresh, unopened = self._sealed_anew(sealed)
                resealed += self._ledger.seals.replace(fresh)
                found.update(self._vault.sealed_by(old.value) for old, _ in fresh)
                damaged += sum(1 for each in unopened if self._vault.sealed_by(each.value) in self._vault.key_ids)
                locked.update(key_id for each in unopened if (key_id := self._vault.sealed_by(each.value)) not in self._vault.key_ids)
                if not look:
                    progress(looked_at)
            if not found:
                break
        self._ledger.seals.confirm(self._ledger.durability)
        older = [key_id for key_id in self._vault.key_ids if key_id != self._vault.newest]
        free = tuple(key_id for key_id in older if key_id not in found)
        gone = [key_id for key_id in self._ledger.seals.known() if key_id not in self._vault.key_ids and key_id not in locked]
        self._ledger.seals.forget([*free, *gone])
        log.info("resealed", extra={"count": resealed, "locked": sum(locked.values()), "damaged": damaged})
        return ResealReport(resealed=resealed, locked=dict(locked), damaged=damaged, removable=free, busy=tuple(key_id for key_id in older if key_id in found))

    def _sealed_anew(self, sealed: Sequence[Sealed]) -> tuple[list[tuple[Sealed, bytes]], list[Sealed]]:
        """Each value with its fresh one, and those that do not open."""
        fresh, unopened = [], []
        for each in sealed:
            try:
                fresh.append((each, self._vault.seal(self._vault.open(each.value, each.context), each.context)))
            except PayloadUnreadable:
                unopened.append(each)
        return fresh, unopened
