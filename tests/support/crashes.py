"""Storms for the relay: any step may be cut short or interrupted by other work, vendors answer as badly as they can, and time passes at will.

Time is virtual: the ledger's waits are shortened by rewriting its due times, so that nothing sleeps and a failure repeats exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import orjson
import redis

import pipeline.chunk
import pipeline.deliver
import pipeline.handing
import pipeline.in_hand
from pipeline.deliver import Deliver
from pipeline.domain import Outcome, VendorResult
from pipeline.errors import LedgerUnavailable
from pipeline.exchange import Work, WorkResult
from pipeline.fanout import FanOut
from pipeline.ledger.acceptance import Took
from pipeline.ledger.events import NewEvent
from pipeline.ledger.keys import LANES, Keys
from pipeline.ledger.store import Durability
from pipeline.limits import Bulkhead, DeliverOptions
from pipeline.prepare import Preparer
from pipeline.release import Release
from pipeline.routing import Routing
from pipeline.settle import SettleOptions
from pipeline.settler import Settler
from pipeline.vendors.base import VendorResponse
from tests.support.relay import BASE_TIME, DirectExchange, Queue, Relay, Vendor

LATE_WRITE_SECONDS = 60.0
TOTAL_TIMEOUT_SECONDS = 20.0
START_WINDOW_SECONDS = 10.0
CLAIM_SECONDS = 35.0
RESCUE_SECONDS = 15.0

SHIFT = """
local ms = tonumber(ARGV[1])
for _, key in ipairs(redis.call('KEYS', 'cr:*')) do
  local name = string.match(key, '}:(.*)$') or ''
  if name == 'open' or name == 'window' or name == 'flight' or string.find(name, '^out:') or string.find(name, '^due:') then
    local members = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    for i = 1, #members, 2 do redis.call('ZINCRBY', key, -ms, members[i]) end
  elseif name == 'gate' then
    for _, field in ipairs({'until', 'probe'}) do
      local value = redis.call('HGET', key, field)
      if value then redis.call('HSET', key, field, string.format('%d', tonumber(value) - ms)) end
    end
  elseif name == 'wants' or string.find(name, '^[cm]:') and string.find(key, '{a:', 1, true) then
    local left = redis.call('PTTL', key)
    if left >= 0 and left <= ms then redis.call('DEL', key) elseif left > ms then redis.call('PEXPIRE', key, left - ms) end
  end
end
"""


class Crashed(BaseException):
    """The process was killed here."""


@dataclass(slots=True)
class Interruption:
    """What happens at the `at`-th step of an operation: `before`, `after` or `half` (a crash), `away` (the ledger's answer is lost) or `meanwhile` (other work)."""

    at: int
    how: str
    meanwhile: Callable[[], None] = lambda: None


@dataclass(slots=True)
class Steps:
    """Counts the steps of the operation under way and interrupts it where it is told to."""

    armed: Interruption | None = None
    fired: str | None = None
    count: int = 0

    @contextmanager
    def interrupted(self, interruption: Interruption | None) -> Iterator[None]:
        outer = self.armed, self.count
        self.armed, self.count, self.fired = interruption, 0, None
        try:
            yield
        finally:
            self.armed, self.count = outer

    def step(self, act: Callable[[], Any], half: Callable[[], Any] | None = None, *, ledger: bool = False) -> Any:
        """Carry out one step, unless this is where the interruption is due."""
        armed, position = self.armed, self.count
        self.count += 1
        if armed is None or position != armed.at:
            return act()
        self.armed, self.fired = None, armed.how
        if armed.how == "meanwhile":
            armed.meanwhile()
            self.fired = armed.how
            return act()
        if armed.how == "half" and half is not None:
            half()
        elif armed.how != "before":
            act()
        if armed.how == "away" and ledger:
            raise LedgerUnavailable("the answer was lost")
        raise Crashed(armed.how)


@dataclass(slots=True)
class Write:
    """A request that the vendor may still act upon, until then (virtual milliseconds)."""

    told: list[dict[str, Any]]
    expires_ms: int


@dataclass(slots=True)
class StormyVendor(Vendor):
    """Keeps states by contact where that is its scope; acts late only on `given` (a late withdrawal errs on the safe side) and refuses only those."""

    contact_scope: bool = False
    writes: list[Write] = field(default_factory=list)
    acted: list[dict[str, Any]] = field(default_factory=list)
    confirmed: set[str] = field(default_factory=set)
    now_ms: Callable[[], int] = lambda: 0

    def receive(self, body: bytes) -> VendorResponse | None:
        told = orjson.loads(body)
        answer = self.answers.pop(0) if self.answers else 200
        if any(each["state"] == "withdrawn" for each in told):
            answer = {"late": "gone", 400: 200}.get(answer, answer) if not isinstance(answer, tuple) else answer
        self.calls += told
        if answer == "late":
            self.writes.append(Write(told, self.now_ms() + int(LATE_WRITE_SECONDS * 1000) - 2000))
        if answer in ("late", "gone"):
            return None
        if answer in (200, "lost"):
            self._apply(told)
        if answer == "lost":
            return None
        if answer == 200:
            self.confirmed.update(each["id"] for each in told)
        status, headers = answer if isinstance(answer, tuple) else (answer, {})
        return VendorResponse(status=status, headers=headers)

    def act_late(self) -> None:
        while self.writes:
            self._apply(self.writes.pop(0).told)

    def _apply(self, told: Sequence[Any]) -> None:
        for each in told:
            self.acted.append(each)
            for value in each["to"].values():
                self.held[value, "" if self.contact_scope else each["purpose"]] = each["state"]


class StormyQueue(Queue):
    """A broker that may be cut off before or after a message; every publish is a step."""

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self.steps = steps

    def fan_out(self, lane: str, event_ids: Sequence[str]) -> None:
        self.steps.step(lambda: Queue.fan_out(self, lane, event_ids))

    def deliver(self, destination: str, lane: str, event_ids: Sequence[str], attempt: int) -> None:
        self.steps.step(lambda: Queue.deliver(self, destination, lane, event_ids, attempt))

    def dead_letter(self, destination: str, reason: str, delivery_ids: Sequence[str]) -> None:
        self.steps.step(lambda: Queue.dead_letter(self, destination, reason, delivery_ids))


class StormyExchange(DirectExchange):
    """Starts no request after its deadline; may be paused or killed just before and just after the vendor is reached."""

    def __init__(self, vendors: Any, relay: StormyRelay) -> None:
        super().__init__(vendors)
        self.relay = relay

    def start(self, work: Work, on_done: Callable[[Work, WorkResult], None]) -> None:
        self.relay.steps.step(lambda: None)
        if self.relay.monotonic() > work.deadline:
            late = VendorResult(outcome=Outcome.THROTTLED, reason="deadline_passed")
            return on_done(work, WorkResult(results=(late,) * work.size, calls=0, definite=True))
        vendor, done = self.vendors[work.account], []
        told = orjson.loads(next(work.dialogue).body)
        started_ms = self.relay.passed_ms
        arrive = self.relay.steps.step(lambda: self._arrive(vendor, told, started_ms))
        if arrive is None:
            lost = VendorResult(outcome=Outcome.UNAVAILABLE, reason="timed_out", definite=False)
            return on_done(work, WorkResult(results=(lost,) * work.size, calls=1, definite=False))
        try:
            work.dialogue.send(arrive)
        except StopIteration as end:
            done = list(end.value)
        self.relay.steps.step(lambda: None)
        return on_done(work, WorkResult(results=tuple(done), calls=1, definite=all(result.definite for result in done)))

    def _arrive(self, vendor: Vendor, told: list[dict[str, Any]], started_ms: int) -> VendorResponse | None:
        paused_seconds = (self.relay.passed_ms - started_ms) / 1000
        if paused_seconds >= CLAIM_SECONDS - START_WINDOW_SECONDS and any(each["state"] == "withdrawn" for each in told):
            return None  # only a stale `given` is corrected afterwards; a withdrawal held up for so long is lost here
        answer = vendor.receive(orjson.dumps(told))
        self.relay.on_arrival(told, vendor, answer)
        return answer


class StormyRelay(Relay):
    """A relay whose every ledger command, message and request is a step that may be interrupted, and whose processes may be started anew."""

    def __init__(self, client: redis.Redis, rules: Routing) -> None:
        self.steps = Steps()
        self.passed_ms = 0
        self.receipts = 0
        self.answered = 0
        self.begun = 0
        self.fan_outs = 0
        self.commits = 0
        self.on_arrival: Callable[[list[dict[str, Any]], Vendor, VendorResponse | None], None] = lambda *_: None
        limits = {
            "total_timeout_seconds": TOTAL_TIMEOUT_SECONDS,
            "start_window_seconds": START_WINDOW_SECONDS,
            "claim_margin_seconds": CLAIM_SECONDS - TOTAL_TIMEOUT_SECONDS - START_WINDOW_SECONDS,
            "late_write_seconds": LATE_WRITE_SECONDS,
        }
        super().__init__(client, rules, seconds=RESCUE_SECONDS, chunk_size=3, limits=limits)
        self.client = client
        self.vendors = {
            each.account: StormyVendor(contact_scope=each.adapter.capabilities.scope == "contact", now_ms=lambda: self.passed_ms)
            for each in rules.destinations.values()
        }
        self._shift = client.register_script(SHIFT)
        self._send = self.ledger.store.round_trip
        self.ledger.store.round_trip = self._run  # type: ignore[method-assign]
        self.queue = StormyQueue(self.steps)
        self.exchange = StormyExchange(self.vendors, self)
        self.acceptor._publisher = self.queue
        self._commit = self.ledger.acceptance.take
        self.ledger.acceptance.take = self._take  # type: ignore[method-assign]
        self.restart()

    def restart(self) -> None:
        """New worker and beat processes: nothing in memory survives."""
        self.settler = Settler(self.ledger, self.queue, self.sightings, SettleOptions(misconfigured_probe_seconds=RESCUE_SECONDS), Random(7))
        preparer, options = Preparer(self.ledger, self.vault, lambda: self.rules), DeliverOptions(chunk_seconds=10.0, lease_seconds=RESCUE_SECONDS)
        self.deliver = Deliver(self.ledger, self.exchange, preparer, self.settler, lambda: self.rules, Bulkhead(16, 4), self.limits, options)  # type: ignore[arg-type]
        self.fan_out = FanOut(self.ledger, self.vault, self.queue, lambda: self.rules, chunk_size=3, hands=self.deliver)
        self.release = Release(self.ledger, self.queue, lambda: self.rules, self.limits, chunk_size=3)
        launch = self.deliver.worker._launch

        def noted(*values: Any) -> None:
            outer, self.begun = self.begun, self.answered
            try:
                launch(*values)
            finally:
                self.begun = outer

        self.deliver.worker._launch = noted  # type: ignore[method-assign]

    def carry_out(self, kind: str, values: tuple[Any, ...]) -> None:
        """Every second fan-out finds a task at each destination, which goes on with what it is brought; the others send messages."""
        inboxes = []
        self.fan_outs += kind == "fan_out"
        if kind == "fan_out" and self.fan_outs % 2:
            places = [(each, lane) for each in self.rules.destinations.values() for lane in ("withdrawn", "given")]
            inboxes = [(each, inbox) for each, lane in places if (inbox := self.deliver._crew.join(each.name, lane, [], each)) is not None]
        super().carry_out(kind, values)
        for each, inbox in inboxes:
            self.deliver._run(each, inbox.place[1], inbox)

    def _take(self, events: Sequence[NewEvent], merges: Any, durability: Durability) -> Took:
        """Every second commit finds a fan-out task that waits: it plans what was laid before its producer is answered, or later, or dies with it."""
        self.commits += 1
        if (number := self.commits) % 2:
            for lane in LANES:
                self.client.zadd(Keys.attended(lane), {"a task": "+inf"})
        try:
            took = self._commit(events, merges, durability)
        finally:
            laid = {lane: [each.decode() for each in self.client.zrange(Keys.tray(lane), 0, -1)] for lane in LANES}
            for lane in LANES:
                self.client.delete(Keys.attended(lane), Keys.tray(lane))
            if number % 8 == 3:
                self.queue.messages += [("fan_out", (lane, tuple(ids))) for lane, ids in laid.items() if ids]
        if number % 8 in (1, 5):
            for ids in laid.values():
                self.fan_out.run(ids)
        return took

    def now(self) -> datetime:
        """A receipt clock of its own: every accept is a second later than the one before."""
        self.receipts += 1
        return BASE_TIME + timedelta(days=1, seconds=self.receipts)

    def monotonic(self) -> float:
        """The clock by which processes time their chunks; only `pass_time` moves it."""
        return self.passed_ms / 1000

    @contextmanager
    def virtual_time(self) -> Iterator[None]:
        with ExitStack() as patches:
            for module in (pipeline.deliver, pipeline.chunk, pipeline.handing, pipeline.in_hand):
                patches.enter_context(patch.object(module, "time", SimpleNamespace(monotonic=self.monotonic)))
            yield

    def pass_time(self, seconds: float) -> None:
        """Let time pass; requests still under way at a vendor act at the last moment they can."""
        end_ms = self.passed_ms + int(seconds * 1000)
        for vendor in self.vendors.values():
            while vendor.writes and vendor.writes[0].expires_ms <= end_ms:  # type: ignore[attr-defined]
                self._pass_ms(max(0, vendor.writes[0].expires_ms - self.passed_ms))  # type: ignore[attr-defined]
                vendor._apply(vendor.writes.pop(0).told)  # type: ignore[attr-defined]
        self._pass_ms(end_ms - self.passed_ms)

    def _pass_ms(self, milliseconds: int) -> None:
        if milliseconds > 0:
            self._shift(args=[milliseconds])
            self.passed_ms += milliseconds

    def _run(self, commands: Sequence[tuple[Any, ...]], **options: Any) -> list[Any]:
        half = (lambda: self._send(commands[: len(commands) // 2], **options)) if len(commands) > 1 else (lambda: None)
        answers: list[Any] = self.steps.step(lambda: self._send(commands, **options), half, ledger=True)
        return answers
