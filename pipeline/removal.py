"""Keeps a routing file from forgetting people: a destination that still owes withdrawals cannot be removed."""

from __future__ import annotations

from pipeline.errors import ConfigurationError
from pipeline.ledger import Ledger
from pipeline.routing import Routing


def refuse_forgetting(ledger: Ledger, routing: Routing) -> None:
    """Raises ConfigurationError if a destination that is not in this routing has withdrawals it was not told of."""
    problems = [
        f"destination {name} is gone, but {count} withdrawals have not been told there: put it back (with `enabled: false` they wait), or discard them one by one"
        for name in ledger.deliveries.known_destinations()
        if name not in routing.destinations and (count := ledger.deliveries.untold(name))
    ]
    if problems:
        raise ConfigurationError("\n".join(problems))
