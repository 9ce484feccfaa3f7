"""What the steps need from outside: somebody who publishes hints. Losing a hint costs time, never data.

A lane is the name of a state: `withdrawn` travels apart from, and ahead of, `given`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Publisher(Protocol):
    """Publishes messages to the workers; must not raise, since the ledger brings back whatever was not heard of."""

    def fan_out(self, lane: str, event_ids: Sequence[str]) -> None:
        """Ask a worker to plan the deliveries of these events."""

    def deliver(self, destination: str, lane: str, event_ids: Sequence[str], attempt: int) -> None:
        """Ask a worker to tell a destination about these events; `attempt` is for people who watch."""

    def dead_letter(self, destination: str, reason: str, delivery_ids: Sequence[str]) -> None:
        """Show operators that deliveries died."""

    def listen(self, source: str) -> None:
        """Ask a worker to poll a source."""

    def sweep(self, destination: str) -> None:
        """Ask a worker to go on with comparing a destination with the standings."""

    def depth(self, destination: str, lane: str) -> int:
        """Messages waiting in the queue of a destination and lane; 0 if nobody can tell."""

    def fan_out_depth(self, lane: str) -> int:
        """Messages waiting to be fanned out; 0 if nobody can tell."""
