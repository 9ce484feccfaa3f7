"""What one vendor account is allowed, as the ledger's admit script needs it, and each process's own bulkhead.

Rate, concurrency, pause and breaker are kept in the ledger, exact across all worker processes; nobody ever sleeps for them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.domain import State
from pipeline.ledger.accounts import Traffic
from pipeline.routing import Destination


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitOptions:
    """How long dialogues may take and when the breaker opens; seconds."""

    total_timeout_seconds: float = 20.0
    start_window_seconds: float = 10.0
    claim_margin_seconds: float = 5.0
    late_write_seconds: float = 60.0
    withdrawal_reserve_share: float = 0.1
    breaker_failures: int = 5
    breaker_wait_seconds: float = 5.0
    breaker_wait_max_seconds: float = 300.0
    misconfigured_probe_seconds: float = 180.0
    lease_seconds: float = 15.0

    def timeout_of(self, destination: Destination) -> float:
        """Total time for one request to this destination."""
        return destination.adapter.timeout_seconds or self.total_timeout_seconds


def traffic_of(destination: Destination, lane: str, options: LimitOptions) -> Traffic:
    """The limits of a destination's account, for dialogues of one lane.

    A dialogue may last for the time in which its requests may start, one request's timeout, and a margin. Its claim is renewed all that time;
    that of a process that died or stands still ends once no request of it can start any more.
    A share of the calls, and one connection where there are several, is kept for withdrawals.
    """
    rate, adapter, state = destination.rate, destination.adapter, State(lane)
    cost, calls = adapter.most_calls(state), rate.calls or 0
    of_withdrawal = adapter.most_calls(State.WITHDRAWN)
    claim_seconds = options.start_window_seconds + options.timeout_of(destination) + options.claim_margin_seconds
    reserved = max(int(calls * options.withdrawal_reserve_share), of_withdrawal if calls >= 4 * of_withdrawal else 0)
    return Traffic(
        account=destination.account,
        concurrent=rate.concurrent,
        calls=calls,
        per_ms=int(rate.per_seconds * 1000),
        calls_per_dialogue=cost,
        batch_size=adapter.batch_size(state),
        claim_ms=int(claim_seconds * 1000),
        late_write_ms=int(options.late_write_seconds * 1000),
        reserved_calls=reserved,
        reserved_dialogues=1 if rate.concurrent >= 4 else 0,
        breaker_failures=options.breaker_failures,
        breaker_wait_ms=int(options.breaker_wait_seconds * 1000),
        breaker_wait_max_ms=int(options.breaker_wait_max_seconds * 1000),
        hold_ms=int(min(claim_seconds, max(options.start_window_seconds + options.claim_margin_seconds, options.lease_seconds)) * 1000),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverOptions:
    """`chunk_seconds`: how long a chunk may start new dialogues; `lease_seconds`: how soon its deliveries are free again if this process dies.

    `chunk_size`: the most deliveries pulled at once, where the vendor takes no more in one call. `patience_seconds`: how long a chunk waits for a connection
    that another process holds. `idle_seconds`: how long a task that is done stays for more to be brought, and `most_idle` how many do so in one process.
    """

    chunk_seconds: float = 10.0
    lease_seconds: float = 15.0
    chunk_size: int = 100
    patience_seconds: float = 0.0
    idle_seconds: float = 0.0
    most_idle: int = 0

    @property
    def lease_ms(self) -> int:
        return int(self.lease_seconds * 1000)


class Bulkhead:
    """Keeps a slow destination from holding the threads of a worker process that others need.

    `threads` is the size of the pool; `reserved` of them are never given to the lane of `given`. A destination that is quick may use all the rest;
    one whose oldest chunk has been running for `slow_seconds` gets no more than its share.
    """

    def __init__(self, threads: int, reserved: int, *, slow_seconds: float = 2.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_given = max(1, threads - reserved)
        self._share = max(1, threads // 4)
        self._slow_seconds, self._clock = slow_seconds, clock
        self._lock = threading.Lock()
        self._running: dict[tuple[str, str], list[float]] = {}

    def enter(self, destination: str, lane: str) -> float | None:
        """A ticket to hand back to `leave`, or None if this chunk should go back to the ledger for now."""
        now = self._clock()
        with self._lock:
            mine = self._running.setdefault((destination, lane), [])
            if len(mine) >= self._share and now - mine[0] > self._slow_seconds:
                return None
            if lane == "given" and sum(len(chunks) for (_, other), chunks in self._running.items() if other == "given") >= self._most_given:
                return None
            mine.append(now)
            return now

    def may_stay(self, destination: str, lane: str) -> bool:
        """Whether a task may go on with more work: only while its destination holds no more than its share."""
        with self._lock:
            return len(self._running[destination, lane]) <= self._share

    def leave(self, destination: str, lane: str, ticket: float) -> None:
        """End of a chunk that `enter` let in."""
        with self._lock:
            self._running[destination, lane].remove(ticket)
