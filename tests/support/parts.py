"""Pieces of a ledger for tests of one part alone, without workers, vendors or a queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import redis

from pipeline.domain import ConsentEvent, DeliveryStatus, Outcome, State, Subject, Word, utc_from_us
from pipeline.identifiers import Hasher
from pipeline.ledger import Ledger, LedgerOptions
from pipeline.ledger.accounts import Traffic
from pipeline.ledger.deliveries import Row, Settlement, Verb
from pipeline.ledger.events import Facts, NewEvent
from pipeline.ledger.results import DeliveryResult
from pipeline.vault import Vault

HASHER = Hasher(b"pepper-for-tests")
VAULT = Vault([b"k" * 32])
MINUTE_US = 60_000_000
CANARY = "canary.person@example.org"
CANARY_PHONE = "+5511987654321"


def open_ledger(client: redis.Redis, *, hasher: Hasher = HASHER, **options: Any) -> Ledger:
    """A ledger with few partitions and short waits."""
    quick = {"fan_out_rescue_seconds": 0.1, "audit_seconds": 0.1, "push_rescue_seconds": 0.1}
    return Ledger(client, VAULT, LedgerOptions(**{"partitions": 4, "pepper_fingerprint": hasher.fingerprint(), **quick, **options}))


def facts(state: str = "given", minute: int = 1, **values: Any) -> Facts:
    at = minute * MINUTE_US
    return Facts(
        **{"source": "web", "subject_key": "e" * 25, "purpose": "news", "state": State(state), "event_us": at, "order_us": at, "received_us": at, **values}
    )


def new_event(event_id: str, *, content: str = "content", payload: bytes = b"sealed", **values: Any) -> NewEvent:
    return NewEvent(event_id=event_id, facts=facts(**values), content_hash=content, payload=payload)


def said(state: str = "given", minute: int = 5, purpose: str = "news") -> ConsentEvent:
    """An event of nobody in particular, for rules that never look at the person."""
    at = utc_from_us(minute * MINUTE_US)
    return ConsentEvent(
        event_id="a" * 24,
        source="web",
        subject=Subject(),
        subject_key="e" * 25,
        identifier_keys={"email": "e" * 25},
        purpose=purpose,
        state=State(state),
        event_time=at,
        order_us=minute * MINUTE_US,
        received_at=at,
    )


def word(minute: int, state: str = "given", event_id: str = "a" * 24) -> Word:
    return Word(order_us=minute * MINUTE_US, state=State(state), event_id=event_id)


def result(status: str, updated_ms: int, **values: Any) -> DeliveryResult:
    return DeliveryResult(status=DeliveryStatus(status), updated_ms=updated_ms, **values)


def final(event_id: str, *, updated_ms: int = 1) -> Settlement:
    return Settlement(event_id=event_id, verb=Verb.FINAL, result=result("delivered", updated_ms, outcome=Outcome.APPLIED, attempts=1))


def dead(event_id: str, *, at_ms: int = 1, reason: str = "http_400", state: str = "withdrawn", source: str = "web") -> Settlement:
    row = Row(attempts=1, outcome=Outcome.REJECTED, reason=reason, updated_ms=at_ms, state=state, source=source)
    return Settlement(
        event_id=event_id, verb=Verb.DEAD, at_ms=at_ms, row=row, result=result("dead", at_ms, outcome=Outcome.REJECTED, reason=reason, attempts=1)
    )


def waits(event_id: str, at_ms: int, **row: Any) -> Settlement:
    return Settlement(event_id=event_id, verb=Verb.WAIT, at_ms=at_ms, row=Row(**row))


def traffic(**values: Any) -> Traffic:
    """Limits of an account: eight at once, no limit on the rate, unless told otherwise."""
    return Traffic(
        **{
            "account": "shop",
            "concurrent": 8,
            "calls": 0,
            "per_ms": 200,
            "calls_per_dialogue": 1,
            "batch_size": 1,
            "claim_ms": 1000,
            "late_write_ms": 1000,
            "reserved_calls": 0,
            "reserved_dialogues": 0,
            "breaker_failures": 3,
            "breaker_wait_ms": 30,
            "breaker_wait_max_ms": 100,
            **values,
        }
    )


def everything_stored(client: redis.Redis) -> dict[bytes, Any]:
    """Every key of the server with its whole content, as Redis holds it."""
    readers: Mapping[bytes, Any] = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"set": client.smembers,
        b"zset": lambda name: client.zrange(name, 0, -1, withscores=True),
        b"stream": client.xrange,
    }
    return {name: readers[client.type(name)](name) for name in client.keys("*")}


def two_leased(client: redis.Redis, token: str, first: str, second: str) -> Ledger:
    """A ledger with a delivery to `mail` of each of two events, leased for a token."""
    ledger = open_ledger(client)
    ledger.events.commit([new_event(first), new_event(second)], ledger.durability)
    ledger.deliveries.plan("mail", "given", [(first, 1), (second, 1)])
    ledger.events.mark_fanned_out([(first, ["mail"], ""), (second, ["mail"], "")])
    ledger.deliveries.claim("mail", "given", token, 60_000, [first, second])
    return ledger


def close_gate(ledger: Ledger, account: str) -> None:
    """End an account's pause or breaker now."""
    ledger.store.client.delete(ledger.keys.account(account, "gate"))
