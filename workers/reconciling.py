"""Builds what compares vendors with the standings from the parts of a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.limits import Bulkhead
from workers.options import reconcile_options, staying_tasks

if TYPE_CHECKING:
    from pipeline.reconcile import Reconcile
    from pipeline.routing import Routing
    from workers.wiring import Parts


def bulkhead(parts: Parts) -> Bulkhead:
    """What keeps the threads of this process apart; one for all that runs in it. Those of fan-out tasks that stay are none that `given` could have beside them."""
    settings = parts.settings
    reserved = settings.deliver.threads_reserved_for_withdrawals + staying_tasks(settings)
    return parts.built("_bulkhead", lambda: Bulkhead(settings.worker.threads, reserved))


def reconcile(parts: Parts) -> Reconcile:
    """The comparing of this process."""
    return parts.built("_reconcile", lambda: _build(parts))


def _build(parts: Parts) -> Reconcile:
    from pipeline.asking import Asker
    from pipeline.expectation import Expectations
    from pipeline.reconcile import Reconcile
    from pipeline.repairs import Repairs
    from pipeline.retelling import Retelling
    from pipeline.sweeping import Sweeper

    section = parts.settings.reconcile

    def routing() -> Routing:
        return parts.routing

    sweeper = Sweeper(
        parts.ledger,
        Expectations(parts.ledger, parts.vault, routing, settle_ms=int(section.settle_seconds * 1000)),
        Asker(parts.ledger, parts.exchange, parts.limits, share=section.rate_share),
        Repairs(parts.ledger, Retelling(parts.ledger, parts.vault), parts.acceptor, routing),
    )
    return Reconcile(parts.ledger, sweeper, parts.publisher, routing, bulkhead(parts), reconcile_options(parts.settings))
