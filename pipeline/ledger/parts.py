"""The parts of a ledger whose keys lie on several servers: each one says whose it is, since a server that came back empty would otherwise go unnoticed."""

from __future__ import annotations

from pipeline.errors import LedgerMismatch
from pipeline.ledger.keys import META, Keys
from pipeline.ledger.store import Store, text

MARKED = "marked"
"""Field of the ledger's identity: that its parts are marked. Whoever accepts what is there takes it away."""


def recognise_parts(store: Store, keys: Keys) -> None:
    """Look whether every part still is of the same ledger; those of a new one are marked. With a part the words of its identifiers would be gone.

    Raises LedgerMismatch.
    """
    ledger_id, marked = store.run([("HMGET", META, "id", MARKED)])[0]
    names = [name for partition in keys.all for name in (keys.event(partition, "id"), keys.identifier_part(partition, "id"))]
    if ledger_id and not marked:
        store.run([("SET", name, ledger_id) for name in names], replicated=True)
        store.run([("HSET", META, MARKED, 1)], replicated=True)
    if ledger_id and any(value != ledger_id for value in store.run([("GET", name) for name in names])):
        raise LedgerMismatch(
            f"a part of ledger {text(ledger_id)} is missing: a node of the cluster came back without its data; restore it, or, to go on without it, `consent ledger accept`"
        )
