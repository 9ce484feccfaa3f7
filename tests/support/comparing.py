"""A relay that compares its vendors with the standings, and vendors that can be asked, change by themselves, forget, and lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

import orjson
import redis

from pipeline.asking import Asker
from pipeline.domain import Outcome, State, Subject, VendorResult
from pipeline.expectation import Drift, Expectations
from pipeline.limits import Bulkhead
from pipeline.reconcile import Reconcile, ReconcileOptions
from pipeline.repairs import Repairs
from pipeline.retelling import Retelling
from pipeline.routing import Destination, Routing
from pipeline.sweeping import Sweeper
from pipeline.vendors.base import AskDialogue, Capabilities, Held, VendorRequest, VendorResponse
from tests.support.relay import PlainAdapter, Relay, Vendor, destination

PURPOSES = ("news", "sms")
UNHURRIED = {"total_timeout_seconds": 10.0, "start_window_seconds": 10.0, "claim_margin_seconds": 5.0, "late_write_seconds": 60.0}


class AskedAdapter(PlainAdapter):
    """A plain vendor that can be asked."""

    capabilities: ClassVar[Capabilities] = Capabilities(reads_back=True, ask_calls=1)

    def ask(self, subject: Subject, options: Mapping[str, Any]) -> AskDialogue:
        asked = {"ask": list(self.contact_of(subject).values()), "purpose": options["purpose"]}
        response = yield VendorRequest(operation="ask", path="/ask", body=orjson.dumps(asked))
        answer = response.json()
        if response.status != 200 or not isinstance(answer, dict):
            return _refused(response)
        changed_at = datetime.fromisoformat(answer["changed_at"]) if answer["changed_at"] else None
        return Held(state=State(answer["state"]) if answer["state"] else None, changed_at=changed_at)


def _refused(response: VendorResponse) -> Any:
    outcome = {429: Outcome.THROTTLED, 401: Outcome.MISCONFIGURED, 503: Outcome.UNAVAILABLE}.get(response.status)
    return VendorResult(outcome=outcome, reason=f"http_{response.status}", retry_after_seconds=5.0) if outcome else Held(readable=False)


def asked_adapter(**capabilities: Any) -> type[AskedAdapter]:
    """One with other capabilities."""
    return type("Adapter", (AskedAdapter,), {"capabilities": Capabilities(**{"reads_back": True, "ask_calls": 1, **capabilities})})


@dataclass(slots=True)
class AskedVendor(Vendor):
    """`held` is what it holds; `lies`: it confirms what it is told and does nothing. `contact_scope`: one state for all purposes.

    `ask_answers` is consumed one for each question: a status, or "broken". `on_ask` is called before it answers.
    """

    contact_scope: bool = False
    lies: bool = False
    asks: list[list[str]] = field(default_factory=list)
    ask_answers: list[Any] = field(default_factory=list)
    changed_at: dict[tuple[str, str], datetime] = field(default_factory=dict)
    on_ask: Callable[[], None] = lambda: None

    def receive(self, body: bytes) -> VendorResponse | None:
        told = orjson.loads(body)
        if not isinstance(told, dict):
            return Vendor.receive(self, body)
        self.asks.append(told["ask"])
        self.on_ask()
        answer = self.ask_answers.pop(0) if self.ask_answers else 200
        if answer != 200:
            return VendorResponse(status=200 if answer == "broken" else answer, body=b"<html>")
        keys = [self._key(value, told["purpose"]) for value in told["ask"]]
        key = next((key for key in keys if key in self.held), keys[0])
        changed_at = self.changed_at.get(key)
        return VendorResponse(status=200, body=orjson.dumps({"state": self.held.get(key), "changed_at": changed_at and changed_at.isoformat()}))

    def sets(self, value: str, state: str | None, *, purpose: str = "news", changed_at: datetime | None = None) -> None:
        """Change by itself; None forgets the person."""
        key = self._key(value, purpose)
        self.held.pop(key, None)
        if state is not None:
            self.held[key] = state
        if changed_at is not None:
            self.changed_at[key] = changed_at

    def holds(self, value: str, purpose: str = "news") -> str | None:
        return self.held.get(self._key(value, purpose))

    def _key(self, value: str, purpose: str) -> tuple[str, str]:
        return value, "" if self.contact_scope else purpose

    def _apply(self, told: Any) -> None:
        for each in told if not self.lies else ():
            for value in each["to"].values():
                self.held[self._key(value, each["purpose"])] = each["state"]


def asked_destination(name: str, kind: type[PlainAdapter] = AskedAdapter, **values: Any) -> Destination:
    """A destination whose options name the purpose, as a list or a template does."""
    return destination(name, kind, options_by_purpose={each: {"purpose": each} for each in PURPOSES}, **values)


class ComparingRelay(Relay):
    """A relay that compares; every destination's vendor is an `AskedVendor`."""

    def __init__(
        self, client: redis.Redis, rules: Routing, *, share: float = 1.0, settle_ms: int = 0, options: ReconcileOptions | None = None, **more: Any
    ) -> None:
        super().__init__(client, rules, **{"limits": UNHURRIED, **more})
        if "exchange" not in more:
            self.vendors = {each.account: AskedVendor(contact_scope=each.adapter.capabilities.scope == "contact") for each in rules.destinations.values()}
            self.exchange.vendors = self.vendors
        routing = lambda: self.rules  # noqa: E731
        expectations = Expectations(self.ledger, self.vault, routing, settle_ms=settle_ms)
        self.asker = Asker(self.ledger, self.exchange, self.limits, share=share)
        repairs = Repairs(self.ledger, Retelling(self.ledger, self.vault), self.acceptor, routing)
        self.sweeper = Sweeper(self.ledger, expectations, self.asker, repairs)
        self.reconcile = Reconcile(self.ledger, self.sweeper, self.queue, routing, Bulkhead(16, 4), options or ReconcileOptions())

    def carry_out(self, kind: str, values: tuple[Any, ...]) -> None:
        if kind == "sweep":
            self.reconcile.run(values[0])
        else:
            super().carry_out(kind, values)

    def sweep(self, name: str = "crm", *, turns: int = 50) -> dict[str, int]:
        """A full sweep of a destination to its end; returns what it found, without what is zero."""
        client = self.ledger.store.client
        begun_ms = self.ledger.now_ms()
        for turn in range(turns):
            client.hset(f"cr:{{d:{name}}}:sweep", mapping={"due": 0})
            self.reconcile.run(name, full=turn == 0)
            figures = self.ledger.sweeps.figures(name)
            if figures.full_ms >= begun_ms:
                return {field: count for field, count in figures.last.items() if count}
        raise AssertionError(f"no end after {turns} turns: {figures}")

    def found(self, name: str = "crm") -> dict[str, int]:
        """The classes a full sweep finds, without how they were repaired."""
        return {field: count for field, count in self.sweep(name).items() if ":" not in field}


def only(drift: Drift, count: int = 1) -> dict[str, int]:
    """What `found` is when there is nothing else."""
    return {drift.value: count}


def crm(relay: ComparingRelay) -> AskedVendor:
    """The vendor `crm` of a relay, which can be asked."""
    vendor = relay.vendors["crm"]
    assert isinstance(vendor, AskedVendor)
    return vendor
