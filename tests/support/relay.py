"""The whole way of an event in one process and one thread: a real ledger, the real steps, a queue that tests can lose, double and reorder.

Vendors are played by `Vendor`: it keeps every state it was ever told, and can be made to fail, to lose its answer, or to act late.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, ClassVar

import orjson
import redis
from msgspec import structs

from pipeline.accept import Accepted, Acceptor
from pipeline.audit import Audit
from pipeline.compaction import Compaction
from pipeline.deliver import Deliver
from pipeline.domain import IncomingEvent, Instruction, Outcome, Polled, State, Subject, VendorResult
from pipeline.exchange import Exchange, Work, WorkResult
from pipeline.fanout import FanOut
from pipeline.figures import collect
from pipeline.heard import Heard
from pipeline.identifiers import Hasher
from pipeline.ledger import Ledger, LedgerOptions
from pipeline.limits import Bulkhead, DeliverOptions, LimitOptions
from pipeline.listen import Listen, ListenOptions
from pipeline.metrics import MetricsSnapshot
from pipeline.outgoing import Fingerprint, Sent
from pipeline.prepare import Preparer
from pipeline.release import Release
from pipeline.routing import Conditions, Destination, Purpose, RetryPolicy, Routing, Source, Trigger, with_partners
from pipeline.settle import SettleOptions
from pipeline.settler import Settler
from pipeline.sightings import Sightings
from pipeline.vault import Vault
from pipeline.vendors.base import Adapter, Capabilities, Held, Rate, TellDialogue, VendorRequest, VendorResponse

PEPPER = b"pepper-for-tests"
BASE_TIME = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


class PlainAdapter(Adapter):
    """A vendor that is told as JSON and answers by status: enough to exercise every step."""

    title: ClassVar[str] = "Plain"
    docs_url: ClassVar[str] = "https://vendor.example/docs"
    base_url: ClassVar[str] = "https://vendor.example"
    capabilities: ClassVar[Capabilities] = Capabilities()

    def tell(self, instructions: Sequence[Instruction]) -> TellDialogue:
        told = [{"to": self.contact_of(each.subject), "purpose": each.purpose, "state": each.state, "id": each.event_id} for each in instructions]
        response = yield VendorRequest(operation="tell", path="/tell", body=orjson.dumps(told))
        return [_read(response)] * len(instructions)


def _read(response: VendorResponse) -> VendorResult:
    if response.status == 200:
        return VendorResult(outcome=Outcome.APPLIED, vendor_reference=response.headers.get("reference", ""))
    outcome = {429: Outcome.THROTTLED, 401: Outcome.MISCONFIGURED, 400: Outcome.REJECTED}.get(response.status, Outcome.UNAVAILABLE)
    seconds = response.headers.get("retry-after")
    return VendorResult(
        outcome=outcome, reason=f"http_{response.status}", retry_after_seconds=float(seconds) if seconds else None, definite=response.status < 500
    )


def adapter(**capabilities: Any) -> type[PlainAdapter]:
    """A plain vendor with other capabilities."""
    return type("Adapter", (PlainAdapter,), {"capabilities": Capabilities(**capabilities)})


@dataclass(slots=True)
class Vendor:
    """One vendor's side: `held` is (identifier, purpose) -> state, `calls` every tell in order of arrival.

    `answers` is consumed one for each call: a status, "lost" (acts, then no answer), "late" (no answer; acts when `act_late` is called), else 200.
    """

    held: dict[tuple[str, str], str] = field(default_factory=dict)
    calls: list[dict[str, Any]] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    late: list[list[dict[str, Any]]] = field(default_factory=list)

    def receive(self, body: bytes) -> VendorResponse | None:
        told = orjson.loads(body)
        self.calls += told
        answer = self.answers.pop(0) if self.answers else 200
        if answer == "late":
            self.late.append(told)
            return None
        if answer in (200, "lost"):
            self._apply(told)
        if answer == "lost":
            return None
        status, headers = answer if isinstance(answer, tuple) else (answer, {})
        return VendorResponse(status=status, headers=headers)

    def act_late(self) -> None:
        """The requests that were never answered take effect now."""
        while self.late:
            self._apply(self.late.pop(0))

    def _apply(self, told: Sequence[Mapping[str, Any]]) -> None:
        for each in told:
            for value in each["to"].values():
                self.held[value, each["purpose"]] = each["state"]


class DirectExchange:
    """Drives each dialogue at once, on the caller's thread; with a `fingerprint` it tells of each request as the real one does."""

    def __init__(self, vendors: Mapping[str, Vendor], fingerprint: Fingerprint | None = None) -> None:
        self.vendors, self.fingerprint = vendors, fingerprint
        self.before: Callable[[Work], None] = lambda _: None

    def start(self, work: Work, on_done: Callable[[Work, WorkResult], None]) -> None:
        if self.fingerprint is None:
            return self._drive(work, [], on_done)
        sent: list[Sent] = []
        return self._drive(work, sent, lambda done, result: on_done(done, structs.replace(result, sent=tuple(sent))))

    def _note(self, sent: list[Sent], work: Work, request: VendorRequest, response: VendorResponse | None) -> None:
        if self.fingerprint:
            request_hmac = self.fingerprint(request.method, work.adapter.address + request.path, request.body)
            sent.append((int(time.time() * 1000), request.operation, request_hmac, response.status if response else 0))

    def _drive(self, work: Work, sent: list[Sent], on_done: Callable[[Work, WorkResult], None]) -> None:
        self.before(work)
        response: VendorResponse | None = None
        calls = 0
        try:
            request = next(work.dialogue)
            while True:
                calls += 1
                response = self.vendors[work.account].receive(request.body)
                self._note(sent, work, request, response)
                if response is None:
                    lost = VendorResult(outcome=Outcome.UNAVAILABLE, reason="timed_out", definite=False)
                    return on_done(work, WorkResult(results=(lost,) * work.size, calls=calls, definite=False))
                request = work.dialogue.send(response)
        except StopIteration as end:
            if isinstance(end.value, VendorResult):
                return on_done(work, WorkResult(results=Held(readable=False), calls=calls, definite=True, failure=end.value))
            if isinstance(end.value, Held | Polled):
                return on_done(work, WorkResult(results=end.value, calls=calls, definite=True))
            return on_done(work, WorkResult(results=tuple(end.value), calls=calls, definite=all(result.definite for result in end.value)))

    def run(self, work: Work) -> WorkResult:
        """Drive a dialogue and hand back what came of it."""
        results: list[WorkResult] = []
        self.start(work, lambda _, result: results.append(result))
        return results[0]


@dataclass(slots=True)
class Queue:
    """The broker, as a list of messages: nothing happens until somebody takes one."""

    messages: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    dead: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)

    def fan_out(self, lane: str, event_ids: Sequence[str]) -> None:
        self.messages.append(("fan_out", (lane, tuple(event_ids))))

    def deliver(self, destination: str, lane: str, event_ids: Sequence[str], attempt: int) -> None:
        self.messages.append(("deliver", (destination, lane, tuple(event_ids), attempt)))

    def dead_letter(self, destination: str, reason: str, delivery_ids: Sequence[str]) -> None:
        self.dead.append((destination, reason, tuple(delivery_ids)))

    def listen(self, source: str) -> None:
        self.messages.append(("listen", (source,)))

    def sweep(self, destination: str) -> None:
        self.messages.append(("sweep", (destination,)))

    def depth(self, destination: str, lane: str) -> int:
        return sum(1 for kind, values in self.messages if kind == "deliver" and values[:2] == (destination, lane))

    def fan_out_depth(self, lane: str) -> int:
        return sum(1 for kind, values in self.messages if kind == "fan_out" and values[0] == lane)


def destination(name: str, kind: type[Adapter] = PlainAdapter, **values: Any) -> Destination:
    """A destination at a vendor of its own, tried again almost at once."""
    values.setdefault("retry", RetryPolicy(waits_seconds=(0.01,), give_up_after_seconds=3600))
    values.setdefault("rate", Rate(concurrent=8))
    values.setdefault("account", name)
    return Destination(name=name, vendor="plain", adapter=kind(), **values)


def routing(destinations: Sequence[Destination], *, triggers: Sequence[Trigger] | None = None, sources: Sequence[Source] = (Source(name="web"),)) -> Routing:
    """A routing in which every destination is told of everything, unless triggers say otherwise."""
    everything = Trigger(deliver_to=tuple(each.name for each in destinations), when=Conditions())
    return Routing(
        version_hash="test",
        sources={source.name: source for source in sources},
        purposes={name: Purpose(name=name, title=name) for name in ("news", "sms")},
        destinations={each.name: each for each in destinations},
        triggers=tuple(triggers) if triggers is not None else (everything,),
    )


class Relay:
    """Everything between a source and the vendors, driven by hand."""

    def __init__(
        self,
        client: redis.Redis,
        rules: Routing,
        *,
        seconds: float = 30.0,
        chunk_size: int = 100,
        limits: Mapping[str, Any] | None = None,
        exchange: Exchange | None = None,
        vault: Vault | None = None,
        evidence: bool = False,
    ) -> None:
        """With an `exchange` vendors are talked to for real; else each is played by a `Vendor`.

        `seconds` is how long leases, claims, waits and late writes last: longer than any test, unless it is about their end.
        """
        self.rules = with_partners(rules)
        self.clock_offset = timedelta()
        self.hasher, self.vault = Hasher(PEPPER), vault or Vault([b"k" * 32])
        options = LedgerOptions(
            partitions=4,
            pepper_fingerprint=self.hasher.fingerprint(),
            fan_out_rescue_seconds=seconds,
            audit_seconds=seconds,
            push_rescue_seconds=seconds,
            evidence=(lambda: self.rules.version_hash) if evidence else None,
        )
        self.ledger = Ledger(client, self.vault, options)
        self.queue = Queue()
        self.vendors = {each.account: Vendor() for each in rules.destinations.values()}
        self.exchange: Any = exchange or DirectExchange(self.vendors, self.hasher.request_hmac if evidence else None)
        self.limits = LimitOptions(
            **{
                "total_timeout_seconds": seconds / 2,
                "start_window_seconds": seconds / 2,
                "claim_margin_seconds": seconds / 2,
                "late_write_seconds": seconds,
                "misconfigured_probe_seconds": seconds,
                "breaker_wait_seconds": seconds,
                "breaker_wait_max_seconds": seconds,
                **(limits or {}),
            }
        )
        heard = Heard(self.ledger, self.vault, lambda: self.rules)
        self.acceptor = Acceptor(self.ledger, self.hasher, self.vault, self.queue, now=self.now, on_heard_again=heard.answer)
        self.sightings = Sightings(self.ledger, self.hasher)
        self.settler = Settler(self.ledger, self.queue, self.sightings, SettleOptions(misconfigured_probe_seconds=seconds), Random(7))
        self.fan_out = FanOut(self.ledger, self.vault, self.queue, lambda: self.rules, chunk_size=chunk_size)
        self.lease_seconds = seconds
        self.deliver = self.worker()
        self.release = Release(self.ledger, self.queue, lambda: self.rules, self.limits, chunk_size=chunk_size)
        self.listen = Listen(
            self.ledger,
            self.exchange,
            self.acceptor,
            self.sightings,
            self.queue,
            lambda: self.rules,
            self.limits,
            ListenOptions(),
        )
        preparer = Preparer(self.ledger, self.vault, lambda: self.rules)
        self.compaction = Compaction(self.ledger, preparer, self.settler, lambda: self.rules)
        self.audit = Audit(self.ledger, self.vault, lambda: self.rules, self.settler)
        self._serial = itertools.count()

    def worker(self, is_stopping: Callable[[], bool] = lambda: False, **options: Any) -> Deliver:
        """The delivering part of one more worker process, with these options of delivering."""
        return Deliver(
            self.ledger,
            self.exchange,
            Preparer(self.ledger, self.vault, lambda: self.rules),
            self.settler,
            lambda: self.rules,
            Bulkhead(16, 4),
            self.limits,
            DeliverOptions(chunk_seconds=5.0, lease_seconds=self.lease_seconds, **options),
            is_stopping=is_stopping,
        )

    def now(self) -> datetime:
        return self.ledger.now() + self.clock_offset

    def event(self, state: str, minute: float, *, purpose: str = "news", key: str | None = None, source: str = "web", **subject: Any) -> str:
        """Accept one event said `minute` minutes after the base time; returns its id."""
        return self.accept(state, minute, purpose=purpose, key=key, source=source, **subject).event_id

    def accept(self, state: str, minute: float, *, purpose: str = "news", key: str | None = None, source: str = "web", **subject: Any) -> Accepted:
        incoming = IncomingEvent(
            subject=Subject(**subject),
            purpose=purpose,
            state=State(state),
            event_time=BASE_TIME + timedelta(minutes=minute),
            idempotency_key=key or f"key-{next(self._serial)}",
        )
        answer = self.acceptor.accept_many([(self.rules.sources[source], incoming)])[0]
        if not isinstance(answer, Accepted):
            raise answer
        return answer

    def step(self, position: int = 0) -> None:
        """Carry out one message of the queue."""
        kind, values = self.queue.messages.pop(position)
        self.carry_out(kind, values)

    def carry_out(self, kind: str, values: tuple[Any, ...]) -> None:
        if kind == "fan_out":
            self.fan_out.run(values[1])
        elif kind == "listen":
            self.listen.run(*values)
        else:
            self.deliver.run(values[0], values[1], values[2])

    def drain(self) -> None:
        """Carry out messages until there are none."""
        while self.queue.messages:
            self.step()

    def beat(self) -> None:
        self.release.run()
        self.audit.run()

    def hurry(self, *, pushed: bool = False) -> None:
        """What waits in the ledger is due now; with `pushed` also what was pushed or leased and not heard of, and events to look at again."""
        client = self.ledger.store.client
        patterns = ["cr:{d:*}:due:*", *(["cr:{d:*}:out:*", "cr:{e*}:open"] if pushed else [])]
        for name in (name for pattern in patterns for name in client.scan_iter(match=pattern)):
            client.zadd(name, dict.fromkeys(client.zrange(name, 0, -1), 1), xx=True)

    def again(self, times: int = 1, *, pushed: bool = False) -> None:
        """Beat with everything due (see `hurry`), and carry out what that pushed."""
        for _ in range(times):
            self.hurry(pushed=pushed)
            self.beat()
            self.drain()

    def deliveries(self, event_id: str) -> dict[str, tuple[str, str | None]]:
        """Destination -> (status, reason) of one event."""
        view = self.ledger.event(event_id)
        assert view is not None
        return {each["destination"]: (each["status"], each["reason"]) for each in view["deliveries"]}

    def figures(self) -> MetricsSnapshot:
        return collect(self.ledger, self.rules)
