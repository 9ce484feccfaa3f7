"""What the ledger keeps of a delivery that has not ended well or not at once, and what a worker says of one it leased."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import orjson
from msgspec import Struct, structs

from pipeline.ledger.results import DeliveryResult


class Row(Struct, frozen=True, kw_only=True):
    """What is known of a delivery that did not end at once; absent for a fresh one. Times are milliseconds.

    `since_ms` is when it was replayed or backfilled: patience and latency count from then, not from the receipt of an event that may be old. `cause` stays as its reason when told.
    """

    attempts: int = 0
    outcome: str = ""
    reason: str = ""
    updated_ms: int = 0
    awaiting: bool = False
    retell: bool = False
    vendor_reference: str = ""
    state: str = ""
    source: str = ""
    since_ms: int = 0
    cause: str = ""

    def encode(self) -> bytes:
        return orjson.dumps(structs.astuple(self))

    @classmethod
    def decode(cls, value: bytes) -> Row:
        return cls(**dict(zip(cls.__struct_fields__, orjson.loads(value), strict=False))) if value else FRESH


FRESH = Row()
"""What is known of a delivery that nobody has tried."""


class Verb(StrEnum):
    """What a worker may say of a delivery it leased."""

    FINAL = "F"
    DEAD = "X"
    WAIT = "W"
    GIVE_BACK = "B"


class Settlement(Struct, frozen=True, kw_only=True):
    """The end of one leased delivery: `at_ms` is when it died or when to look again (negative: milliseconds from now).

    `sent` are the requests that were made of it; `asked` says why they asked instead of telling: asked, or awaited (a confirmation).
    `counters` go up by one when it is settled, and the sum of times from receipt to told by `told_seconds`.
    """

    event_id: str
    verb: Verb
    at_ms: int = 0
    row: Row = Row()
    result: DeliveryResult | None = None
    sent: Sequence[Sequence[Any]] = ()
    asked: str = ""
    counters: Sequence[str] = ()
    told_seconds: float = 0.0

    @property
    def is_recorded(self) -> bool:
        """Whether it leaves evidence: it ended, or something was sent."""
        return bool(self.sent) or self.result is not None

    def counted(self) -> str:
        """What it is counted as, as the script reads it."""
        return f"{self.told_seconds:.6f},{','.join(self.counters)}" if self.counters else ""

    def said(self) -> Sequence[Any]:
        """What is recorded of it, as `evidence.rows` reads it; empty for what leaves none."""
        result = self.result.encode() if self.result else ""
        return (self.event_id, result, "" if result else self.row.encode().decode(), self.sent, self.asked) if self.is_recorded else ()


Lasted = tuple[str, int]
"""Where the answer to leaving dialogues is kept, and the first permit of those: what was told in them is settled only if each of their claims had lasted."""
UNASKED: Lasted = ("", 0)


class Leased(Struct, frozen=True, kw_only=True):
    """A delivery leased to this worker."""

    event_id: str
    row: Row = FRESH


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A delivery that needs a person."""

    event_id: str
    destination: str
    row: Row
    died_ms: int
