"""Brings a ledger of an older schema to this release's, in steps that may be broken off and repeated.

A release works with its own schema and the one before, so old and new processes may run side by side until all are new; then a person has the ledger migrated.
A step runs through its work in pieces and remembers where it is, in the ledger. While processes live that would undo it, it is refused. An older program
on a migrated ledger refuses to work, with the reason. To add a step: raise SCHEMA_VERSION in `identity`, append to STEPS, and say here what changed.

schema 2   the count of stale sends stands in the hash of the ledger's own counters; facts and times of an event are written apart (older records stay as they
           are, and are read); programs older than this know no quarantine
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.errors import LedgerMismatch, LedgerUnavailable
from pipeline.ledger.keys import COUNTERS, META, OLD_STALE, PROCESSES, Keys
from pipeline.ledger.store import Store, text

LOCK: Final = f"{META}:migrating"
LOCK_MS: Final = 60_000
ALIVE_MS: Final = 15_000
"""A process that was not seen for this long has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What leads to schema `to`: `run` goes on after a cursor ("" at first), does a piece, and yields the next cursor; every piece may be repeated."""

    to: int
    title: str
    run: Callable[[Store, Keys, str], Iterator[str]]


def _move_stale_count(store: Store, _keys: Keys, _cursor: str) -> Iterator[str]:
    store.call("move_count", [OLD_STALE, COUNTERS], ["stale"])
    yield "moved"


STEPS: Final = (Step(to=2, title="the count of stale sends moves into the ledger's counters", run=_move_stale_count),)


def note_process(store: Store, name: str, newest: int, now_ms: int) -> None:
    """Note that a process lives which works with ledgers up to schema `newest`."""
    store.run([("ZADD", PROCESSES, now_ms, f"{newest}|{name}"), ("ZREMRANGEBYSCORE", PROCESSES, "-inf", now_ms - 100 * ALIVE_MS)])


def living(store: Store) -> dict[str, int]:
    """Processes seen lately, with the newest schema each works with."""
    seconds, _ = store.run([("TIME",)])[0]
    found = store.run([("ZRANGEBYSCORE", PROCESSES, int(seconds) * 1000 - ALIVE_MS, "+inf")])[0]
    pairs = (text(member).partition("|") for member in found)
    return {name: int(newest) for newest, _, name in pairs}


def pending(schema_version: int, steps: Sequence[Step] = STEPS) -> list[Step]:
    """The steps that a ledger of this schema still needs."""
    return [step for step in steps if step.to > schema_version]


def migrate(
    store: Store,
    keys: Keys,
    schema_version: int,
    *,
    steps: Sequence[Step] = STEPS,
    others: Iterable[str] = (),
    on_piece: Callable[[Step], object] = lambda _: None,
) -> int:
    """Carry out what is pending; returns the schema that the ledger has then. `others` are older processes that the caller knows to live.

    Raises LedgerMismatch while older processes live, LedgerUnavailable while somebody else migrates.
    """
    token = secrets.token_hex(8)
    for step in pending(schema_version, steps):
        if older := sorted({*others, *(name for name, newest in living(store).items() if newest < step.to)}):
            raise LedgerMismatch(f"processes of an older release still run: {', '.join(older)}; stop them or start them anew, then migrate again")
        _hold(store, token)
        cursor = text(store.run([("HGET", META, f"step:{step.to}")])[0] or b"")
        for reached in step.run(store, keys, cursor):
            store.run([("HSET", META, f"step:{step.to}", reached)])
            _hold(store, token)
            on_piece(step)
        store.run([("HSET", META, "schema", step.to), ("HDEL", META, f"step:{step.to}")])
        schema_version = step.to
    store.call("unlock", [LOCK], [token])
    return schema_version


def _hold(store: Store, token: str) -> None:
    if not store.call("lock", [LOCK], [token, LOCK_MS]):
        raise LedgerUnavailable("somebody else is migrating the ledger; if they were broken off, try again in a minute")
