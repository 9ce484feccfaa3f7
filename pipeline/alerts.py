"""Posts alerts to a webhook: what is wrong now by the ledger's own figures, and what processes noted in their logs. Run by beat every few seconds; safe to run twice.

What was posted stands in the ledger, so an alert is posted once, again after a while if it goes on, and once more when it is over, whichever process runs and
whatever crashes; a post that failed is repeated, later and later. It carries kinds, names of destinations and sources, and counts: nobody's data.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import orjson

from pipeline.domain import State, format_time, utc_from_us
from pipeline.figures import collect
from pipeline.ledger import Ledger
from pipeline.metrics import MetricsSnapshot
from pipeline.routing import Routing
from pipeline.signatures import key_of, sign_standard_webhooks
from pipeline.transports.base import Answer, Call, Transport

log = logging.getLogger(__name__)

KINDS: Final[Mapping[str, str]] = {
    "withdrawal_dead": "withdrawals that nobody will tell unless a person acts (`consent dead list --state withdrawn`)",
    "withdrawal_held_up": "withdrawals wait because the account refuses our credentials",
    "withdrawal_overdue": "a withdrawal could not be told for longer than retry.give_up_after_seconds; it is tried on",
    "unaccounted": "the ledger's sums do not add up: a fault of ours",
    "quarantined": "the ledger may have forgotten withdrawals and tells no `given` (`consent ledger bring-forward`)",
    "destination_removed": "deliveries wait for a destination that the routing file no longer has",
    "key_expired": "the key of a destination has expired",
    "source_not_heard": "a polled source cannot be heard",
    "heard_unreadable": "a change that a source told of could not be read",
    "payload_unreadable": "an event cannot be opened: a vault key is missing",
    "identifier_unreadable": "an identifier cannot be opened: a vault key is missing",
    "vault_key_missing": "a vault key is missing that still seals something",
    "event_missing": "a delivery names an event that the ledger does not have",
    "vendor_looser": "a vendor holds consent that was withdrawn or never given; it is told again (`consent reconcile`)",
    "vendor_not_asked": "a vendor could not be compared with the standings",
    "clock_put_back": "the clock of the ledger's server was put back; what waited was brought forward",
    "evidence_not_archived": "the archive of the evidence is away, or not the one it was; records wait in the ledger",
    "evidence_waits": "records of evidence wait for too long, or too many of them (`consent evidence status`)",
    "ledger_older": "the ledger came back older than it was",
}
"""Every alert there is, in words; another one that is logged is posted by its kind alone."""
NOTED_MS: Final = 900_000
"""How long something that was noted once counts as going on."""
MOST: Final = 200
"""Alerts that are kept apart at once; what is beyond waits until others are over."""
POSTS: Final = 20
POST_SECONDS: Final = 5.0
FIRST_WAIT_MS, LONGEST_WAIT_MS = 10_000, 900_000
SILENT_SOURCE_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertOptions:
    """Where alerts go, and how often one that goes on is said again."""

    url: str = ""
    secret: str = ""
    repeat_seconds: float = 14_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What the ledger knows of one alert: since when (ms), how often posted, failed posts in a row, when to post next, and whether it is over."""

    since_ms: int
    count: int = 1
    posted: int = 0
    failures: int = 0
    next_ms: int = 0
    is_over: bool = False

    def encode(self) -> bytes:
        return orjson.dumps([self.since_ms, self.count, self.posted, self.failures, self.next_ms, self.is_over])

    @classmethod
    def decode(cls, value: bytes) -> Kept:
        return cls(**dict(zip(cls.__slots__, orjson.loads(value), strict=True)))


class Alerts:
    """Looks for what is wrong, and posts it; safe to share between threads and processes."""

    def __init__(self, ledger: Ledger, transport: Transport, routing: Callable[[], Routing], options: AlertOptions) -> None:
        self._ledger, self._transport, self._routing, self._options = ledger, transport, routing, options

    def run(self) -> int:
        """One look; returns how many alerts were posted. Does nothing where no webhook is set. Raises LedgerUnavailable."""
        if not self._options.url or not self._ledger.once("alerting", int(2 * POST_SECONDS * 1000)):
            return 0
        try:
            return self._run()
        finally:
            self._ledger.again("alerting")

    def _run(self) -> int:
        now_ms = self._ledger.now_ms()
        routing = self._routing()
        accounts = {destination.account for destination in routing.destinations.values()}
        refused = {account for account in accounts if self._ledger.accounts.open_because(account) == "misconfigured"}
        firing = dict(conditions(collect(self._ledger, routing), routing, refused))
        for name in self._ledger.alerts.noted(now_ms - NOTED_MS):
            firing.setdefault(name, 1)
        kept = {name: Kept.decode(value) for name, value in self._ledger.alerts.kept().items()}
        changed = dict(_followed(kept, firing, now_ms))
        self._keep(changed)
        now = {**kept, **changed}
        due = sorted((each.next_ms, name) for name, each in now.items() if each.next_ms <= now_ms)
        return self._post({name: now[name] for _, name in due[:POSTS]}, now_ms)

    def _post(self, due: Mapping[str, Kept], now_ms: int) -> int:
        """Post at once, wait for all answers, and note what came of each."""
        answers: dict[str, Answer] = {}
        arrived = threading.Semaphore(0)

        def answered(name: str) -> Callable[[Answer], None]:
            def note(answer: Answer) -> None:
                answers[name] = answer
                arrived.release()

            return note

        for name, each in due.items():
            self._transport.submit(self._call(name, each), answered(name))
        until = time.monotonic() + POST_SECONDS + 1.0
        for _ in due:
            arrived.acquire(timeout=max(0.0, until - time.monotonic()))
        taken = {name for name, answer in answers.items() if answer.response is not None and 200 <= answer.response.status < 300}
        self._keep({name: _after(each, name in taken, now_ms, self._options.repeat_seconds) for name, each in due.items()})
        self._ledger.alerts.forget(name for name in taken if due[name].is_over and due[name].posted)
        if failed := len(due) - len(taken):
            log.warning("alert_not_posted", extra={"alerts": failed})
        return len(taken)

    def _keep(self, alerts: Mapping[str, Kept]) -> None:
        self._ledger.alerts.keep({name: each.encode() for name, each in alerts.items()})

    def _call(self, name: str, each: Kept) -> Call:
        body, message_id = self._message(name, each)
        signed = sign_standard_webhooks(key_of(self._options.secret), message_id, body, int(time.time()))
        return Call(
            method="POST",
            url=self._options.url,
            headers=(("content-type", "application/json"), ("webhook-id", message_id), *signed),
            body=body,
            connect_timeout_seconds=POST_SECONDS / 2,
            total_timeout_seconds=POST_SECONDS,
            max_response_bytes=65_536,
            allow_private_network=True,  # the operator's own setting, and mostly a receiver of their own
        )

    def _message(self, name: str, each: Kept) -> tuple[bytes, str]:
        """The body, and an id that a repeat of the same post has again, so that the receiver takes it once."""
        kind, _, where = name.partition("|")
        state = "resolved" if each.is_over and each.posted else "firing"
        ledger_id = self._ledger.identity.ledger_id
        data = {
            "alert": kind,
            "where": where or None,
            "state": state,
            "since": format_time(utc_from_us(each.since_ms * 1000)),
            "count": each.count,
            "text": KINDS.get(kind, kind),
            "ledger_id": ledger_id,
        }
        digest = hashlib.sha256(f"{ledger_id}|{name}|{each.since_ms}|{each.posted}|{state}".encode()).hexdigest()
        timestamp = format_time(utc_from_us(self._ledger.clock_ms() * 1000))
        return orjson.dumps({"type": f"consent.alert.{state}", "timestamp": timestamp, "data": data}), f"alert-{digest[:32]}"


def conditions(snapshot: MetricsSnapshot, routing: Routing, refused: Container[str]) -> Iterator[tuple[str, int]]:
    """What is wrong by the ledger's own figures: kind and where, and how many. `refused` are accounts that refuse our credentials."""
    dead: dict[str, int] = {}
    for told, state, _, count in snapshot.dead_letters:
        if state == State.WITHDRAWN:
            dead[told] = dead.get(told, 0) + count
    yield from ((f"withdrawal_dead|{name}", count) for name, count in dead.items() if count)
    if snapshot.unaccounted:
        yield "unaccounted|", snapshot.unaccounted
    if snapshot.quarantined:
        yield "quarantined|", 1
    for name, destination in routing.destinations.items():
        seconds = snapshot.oldest_untold_withdrawal_seconds.get(name, 0.0)
        if seconds >= destination.retry.give_up_after_seconds:
            yield f"withdrawal_overdue|{name}", 1
        if seconds > 0 and destination.account in refused:
            yield f"withdrawal_held_up|{name}", 1
    waiting: dict[str, int] = {}
    for name, _, count in snapshot.waiting:
        waiting[name] = waiting.get(name, 0) + count
    yield from ((f"destination_removed|{name}", count) for name, count in waiting.items() if count and name not in routing.destinations)
    yield from ((f"key_expired|{name}", 1) for name, days in snapshot.key_expires_in_days.items() if days <= 0)
    for name, seconds in snapshot.last_heard_seconds.items():
        source = routing.sources[name]
        if not routing.rests(source) and seconds > max(SILENT_SOURCE_SECONDS, 5 * source.poll.every_seconds if source.poll else 0.0):
            yield f"source_not_heard|{name}", 1


def _followed(kept: Mapping[str, Kept], firing: Mapping[str, int], now_ms: int) -> Iterator[tuple[str, Kept]]:
    """What is new, has changed in number, is over, or is back."""
    room = MOST - len(kept)
    for name, count in firing.items():
        known = kept.get(name)
        if known is None:
            room -= 1
            if room >= 0:
                yield name, Kept(since_ms=now_ms, count=count, next_ms=now_ms)
        elif known.is_over:
            yield name, Kept(since_ms=now_ms, count=count, next_ms=now_ms)
        elif known.count != count:
            yield name, replace(known, count=count)
    for name, known in kept.items():
        if name not in firing and not known.is_over:
            yield name, replace(known, is_over=True, next_ms=min(known.next_ms, now_ms) if not known.failures else known.next_ms)


def _after(each: Kept, taken: bool, now_ms: int, repeat_seconds: float) -> Kept:
    if not taken:
        wait_ms = min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** min(each.failures, 10))
        return replace(each, failures=each.failures + 1, next_ms=now_ms + wait_ms)
    return replace(each, posted=each.posted + 1, failures=0, next_ms=now_ms + (0 if each.is_over else int(repeat_seconds * 1000)))
