"""Cuts deliveries into parts of a size that suits their destination, and has them told by a message for each."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.domain import State
from pipeline.ports import Publisher
from pipeline.routing import Destination


def publish_chunks(
    publisher: Publisher,
    settings: Destination | None,
    destination: str,
    lane: str,
    event_ids: Sequence[str],
    attempt: int,
    chunk_size: int,
) -> None:
    """Publish parts of a size that suits the destination; one that is disabled or no longer configured gets none and its deliveries wait."""
    if settings is None or not settings.enabled:
        return
    size = max(chunk_size, settings.adapter.batch_size(State(lane)))
    for first in range(0, len(event_ids), size):
        publisher.deliver(destination, lane, event_ids[first : first + size], attempt)
