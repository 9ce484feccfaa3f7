"""Asks vendors by harmless requests whether they would let us do what we have to: credentials, rights, lists. Only when a person wants to know.

It goes through the exchange and keeps within the account's limits like any delivery, in the lane of `given`, so that it takes nothing from withdrawals.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.domain import Outcome, State, VendorResult
from pipeline.exchange import Exchange, Work
from pipeline.landing import gate_word
from pipeline.ledger import Ledger
from pipeline.limits import LimitOptions, traffic_of
from pipeline.routing import Destination, Routing
from pipeline.vendors.base import SIGN_IN_CALLS, VendorRequest

LANE = State.GIVEN.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What came of one probe of a destination; `what` is the vendor file's word for what was tried.

    Where nothing was tried, `what` is empty and `untried` says why.
    """

    destination: str
    what: str = ""
    purposes: tuple[str, ...] = ()
    result: VendorResult | None = None
    untried: str = ""

    @property
    def works(self) -> bool:
        return self.result is not None and self.result.outcome in (Outcome.APPLIED, Outcome.UNCHANGED)


class Prober:
    """Probes the destinations of the routing in force, one after the other."""

    def __init__(self, ledger: Ledger, exchange: Exchange, routing: Callable[[], Routing], limits: LimitOptions) -> None:
        self._ledger, self._exchange, self._routing, self._limits = ledger, exchange, routing, limits

    def run(self) -> Iterator[Probed]:
        """What came of each probe of each destination, as it comes. Raises LedgerUnavailable."""
        routing = self._routing()
        for destination in routing.destinations.values():
            if not destination.enabled:
                yield Probed(destination=destination.name, untried="it is disabled")
            elif not destination.adapter.probes:
                yield Probed(destination=destination.name, untried="its vendor has no request that changes nothing")
            else:
                for options, purposes in _variants(destination, sorted(routing.purposes_of(destination.name))):
                    yield from self._probe(destination, options, purposes)

    def _probe(self, destination: Destination, options: Mapping[str, Any], purposes: tuple[str, ...]) -> Iterator[Probed]:
        adapter = destination.adapter
        calls = len(adapter.probes) + (SIGN_IN_CALLS if adapter.needs_session() else 0)
        traffic = replace(traffic_of(destination, LANE, self._limits), calls_per_dialogue=calls, batch_size=1)
        token = f"probe.{secrets.token_hex(4)}"
        admission = self._ledger.accounts.admit(traffic, LANE, token, 0, [()])
        if not admission.dialogues:
            yield Probed(destination=destination.name, untried=f"its account has no room just now ({admission.why or 'busy'})")
            return
        work = Work(
            adapter=adapter,
            dialogue=adapter.probe(options),
            account=destination.account,
            size=len(adapter.probes),
            allow_private_network=destination.allow_private_network,
            deadline=time.monotonic() + self._limits.start_window_seconds,
        )
        ended = self._exchange.run(work)
        assert isinstance(ended.results, tuple)
        gate, pause_seconds = gate_word(ended.results, 0.0)
        word = gate if gate == "paused" else ""  # a look neither opens nor closes the breaker
        self._ledger.accounts.leave(traffic, token, [(0, ended.calls)], [], gate=word, pause_ms=int(pause_seconds * 1000))
        for what, result in zip(adapter.probes, ended.results, strict=True):
            yield Probed(destination=destination.name, what=what, purposes=purposes, result=result)


def _variants(destination: Destination, purposes: list[str]) -> Iterator[tuple[Mapping[str, Any], tuple[str, ...]]]:
    """The destination's options as they hold for its purposes, and for which of them; those that begin with the same request are one."""
    seen: dict[VendorRequest, tuple[Mapping[str, Any], list[str]]] = {}
    for purpose in purposes:
        options = destination.options_for(purpose)
        seen.setdefault(next(destination.adapter.probe(options)), (options, []))[1].append(purpose)
    yield from ((options, tuple(named)) for options, named in seen.values())
