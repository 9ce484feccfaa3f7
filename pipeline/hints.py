"""Cuts deliveries into parts of a size that suits their destination, and has them told: by a task of this process that is at it, or by a message."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.domain import State
from pipeline.ports import Publisher
from pipeline.routing import Destination

HandOver = Callable[[Destination, str, Sequence[str]], bool]
"""Gives deliveries of a destination and lane to a task that runs in this process; False if none takes them."""


def nobody(_destination: Destination, _lane: str, _event_ids: Sequence[str]) -> bool:
    """The hand-over of a process that tells nobody."""
    return False


def publish_chunks(
    publisher: Publisher,
    settings: Destination | None,
    destination: str,
    lane: str,
    event_ids: Sequence[str],
    attempt: int,
    chunk_size: int,
    hand_over: HandOver = nobody,
) -> None:
    """Hand over or publish parts of a size that suits the destination; one that is disabled or no longer configured gets none and its deliveries wait."""
    if settings is None or not settings.enabled:
        return
    size = max(chunk_size, settings.adapter.batch_size(State(lane)))
    for first in range(0, len(event_ids), size):
        part = event_ids[first : first + size]
        if not hand_over(settings, lane, part):
            publisher.deliver(destination, lane, part, attempt)
