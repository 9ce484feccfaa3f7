"""Builds the part of a worker process that fans events out."""

from __future__ import annotations

from typing import Final

from celery.worker import state

from pipeline.attending import Attendant
from pipeline.fanout import FanOut
from workers.wiring import Parts

STAYING_THREADS: Final = 6
"""Threads for `given` from which on a process has some to spare for fan-out tasks that stay, one for each lane."""


def attendant(parts: Parts) -> Attendant:
    """What runs the fan-out tasks of this process; a task that stays ends when the worker is told to stop."""
    return parts.built("_attendant", lambda: _built(parts))


def _built(parts: Parts) -> Attendant:
    settings = parts.settings
    fan_out = FanOut(parts.ledger, parts.vault, parts.publisher, lambda: parts.routing, chunk_size=settings.deliver.chunk_size, hands=parts.deliver)
    may_stay = settings.worker.threads - settings.deliver.threads_reserved_for_withdrawals >= STAYING_THREADS
    return Attendant(parts.ledger, fan_out, may_stay=may_stay, is_stopping=lambda: state.should_stop is not None)
