"""What became of a delivery, as it is kept in its event's record."""

from __future__ import annotations

from msgspec import Struct

from pipeline.domain import DeliveryStatus
from pipeline.ledger.store import text

_LETTERS = {
    DeliveryStatus.DELIVERED: "D",
    DeliveryStatus.SKIPPED: "K",
    DeliveryStatus.SUPERSEDED: "S",
    DeliveryStatus.DEAD: "X",
    DeliveryStatus.WAITING: "W",
    DeliveryStatus.AWAITING_CONFIRMATION: "A",
}
_STATUSES = {letter: status for status, letter in _LETTERS.items()}
MAX_REFERENCE = 100
"""Characters of a vendor's reference that are kept."""


class DeliveryResult(Struct, frozen=True, kw_only=True):
    """What became of a delivery, as kept in its event's record."""

    status: DeliveryStatus
    updated_ms: int
    outcome: str = ""
    reason: str = ""
    attempts: int = 0
    vendor_reference: str = ""

    def encode(self) -> str:
        reason, reference = self.reason.replace("|", "/"), self.vendor_reference.replace("|", "/")[:MAX_REFERENCE]
        return f"{_LETTERS[self.status]}|{self.updated_ms}|{self.outcome}|{reason}|{self.attempts}|{reference}"

    @classmethod
    def decode(cls, value: bytes | str) -> DeliveryResult:
        letter, updated_ms, outcome, reason, attempts, reference = (text(value).split("|", 5) + [""] * 4)[:6]
        return cls(
            status=_STATUSES[letter], updated_ms=int(updated_ms), outcome=outcome, reason=reason, attempts=int(attempts or 1), vendor_reference=reference
        )
