"""Builds the part of a worker process that fans events out."""

from __future__ import annotations

from celery.worker import state

from pipeline.attending import Attendant
from pipeline.fanout import FanOut
from workers.options import staying_tasks
from workers.wiring import Parts


def attendant(parts: Parts) -> Attendant:
    """What runs the fan-out tasks of this process; a task that stays ends soon after the worker is told to stop."""
    return parts.built("_attendant", lambda: _built(parts))


def _built(parts: Parts) -> Attendant:
    fan_out = FanOut(parts.ledger, parts.vault, parts.publisher, lambda: parts.routing, chunk_size=parts.settings.deliver.chunk_size, hands=parts.deliver)
    return Attendant(parts.ledger, fan_out, may_stay=staying_tasks(parts.settings) > 0, is_stopping=is_stopping)


def is_stopping() -> bool:
    """Whether this worker was told to stop, warm (SIGTERM) or cold (SIGQUIT)."""
    return state.should_stop is not None or state.should_terminate is not None
