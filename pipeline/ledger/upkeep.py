"""What is done to a ledger as a whole: brought to a newer schema, backed up, and told which processes live."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pipeline.ledger.keys import META, Keys
from pipeline.ledger.lookout import Lookout
from pipeline.ledger.migrations import Step, migrate
from pipeline.ledger.store import Store


class Upkeep:
    """The part of the ledger for those who look after it."""

    def __init__(self, store: Store, keys: Keys, lookout: Lookout) -> None:
        self._store, self._keys, self._lookout = store, keys, lookout

    def migrate(self, others: Iterable[str] = (), on_piece: Callable[[Step], object] = lambda _: None) -> int:
        """Bring the ledger to this release's schema; returns it. Raises LedgerMismatch while `others` or other older processes live."""
        schema_version = migrate(self._store, self._keys, self._lookout.schema_version, others=others, on_piece=on_piece)
        self._lookout.look()
        return schema_version

    def note_backup(self, taken_ms: int) -> None:
        """Note that everything up to this moment is in a backup."""
        self._store.run([("HSET", META, "backed_up", taken_ms)])
        self._lookout.look()

    def live_as(self, process: str) -> None:
        """Note with every look that this process lives, so that nobody migrates the ledger under one that cannot follow."""
        self._lookout.process = process
