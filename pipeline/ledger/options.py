"""How a ledger is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.ledger.lookout import InMemory, Marks


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerOptions:
    """How a ledger is opened: `expected_id` is the id seen last time (None: a new one is fine, and is made if we `may_make` it); times are in seconds.

    `marks` keep how far it was seen.

    Without `needs_vault_keys` it opens even if a key is missing that sealed something, for those who look after the keys.
    `evidence` gives the version of the routing in force (None: no evidence is kept).
    """

    partitions: int
    pepper_fingerprint: str
    expected_id: str | None = None
    may_make: bool = True
    durability: str = "auto"
    wait_aof_milliseconds: int = 1000
    dedup_days: float = 90
    payload_days: float = 30
    fan_out_rescue_seconds: float = 5
    audit_seconds: float = 60
    push_rescue_seconds: float = 15
    evidence: Callable[[], str] | None = None
    needs_vault_keys: bool = True
    marks: Marks = field(default_factory=InMemory)
