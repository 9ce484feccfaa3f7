"""What a ledger is: its id, schema version, number of partitions and pepper; and how durable a write to it can be confirmed."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from redis import exceptions

from pipeline.errors import ConfigurationError, LedgerMismatch, LedgerUnavailable
from pipeline.ledger.keys import META
from pipeline.ledger.store import Store, pairs_of, text

SCHEMA_VERSION = 1
ON_ONE_SERVER = 1
"""Partitions of a new ledger, unless a setting says otherwise: each more costs every step another script, and helps only a cluster."""
ANEW = "only to give the old one up, unset CONSENT_LEDGER_EXPECTED_ID (`consent up`: remove ledger_id from its state directory)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this ledger is."""

    ledger_id: str
    schema_version: int
    partitions: int
    pepper_fingerprint: str
    created_seconds: int = 0
    """When it was made, in seconds since 1970."""


def recognise(store: Store, *, partitions: int, pepper_fingerprint: str, expected_id: str | None) -> Identity:
    """Read the ledger's identity, giving a new one to an empty ledger that was not expected to hold anything. `partitions` 0: what it has.

    Raises LedgerMismatch for another pepper, another ledger than `expected_id`, an unexpectedly empty one, or another schema; ConfigurationError for
    another number of partitions.
    """
    found = read(store)
    if found is None and expected_id is None:
        fresh = {
            "id": secrets.token_hex(8),
            "schema": SCHEMA_VERSION,
            "partitions": partitions or ON_ONE_SERVER,
            "pepper": pepper_fingerprint,
            "created": int(store.run([("TIME",)])[0][0]),
        }
        store.run([("HSETNX", META, name, value) for name, value in fresh.items()])
        found = read(store)
    if found is None:
        raise LedgerMismatch(f"the ledger is empty, but ledger {expected_id} was expected: restore it; {ANEW}")
    if expected_id is not None and found.ledger_id != expected_id:
        raise LedgerMismatch(f"this is ledger {found.ledger_id}, but {expected_id} was expected: check CONSENT_REDIS_URL; {ANEW}")
    if found.schema_version != SCHEMA_VERSION:
        raise LedgerMismatch(f"the ledger has schema {found.schema_version}, this release works with {SCHEMA_VERSION}")
    if found.pepper_fingerprint != pepper_fingerprint:
        raise LedgerMismatch("the ledger was made with another CONSENT_SUBJECT_PEPPER: with this one every standing would be orphaned; set the old one")
    if partitions and found.partitions != partitions:
        raise ConfigurationError(f"the ledger has {found.partitions} partitions, ledger.partitions says {partitions}: the number is fixed at its creation")
    return found


def read(store: Store) -> Identity | None:
    """The ledger's identity, None if it is empty."""
    fields = {text(name): text(value) for name, value in pairs_of(store.run([("HGETALL", META)])[0])}
    if not {"id", "schema", "partitions", "pepper"} <= fields.keys():
        return None
    return Identity(
        ledger_id=fields["id"],
        schema_version=int(fields["schema"]),
        partitions=int(fields["partitions"]),
        pepper_fingerprint=fields["pepper"],
        created_seconds=int(fields.get("created", 0)),
    )


@dataclass(frozen=True, slots=True)
class Durability:
    """How a write is confirmed: `fsync` (the server syncs before it answers), `waitaof` (we ask and wait), or `none` (nobody can say)."""

    mode: str
    wait: tuple[Any, ...] | None = None


def confirmable(store: Store, wanted: str, wait_milliseconds: int) -> Durability:
    """The way this server can confirm durability; `wanted` is auto, fsync, waitaof or none.

    Raises ConfigurationError if the server cannot do what is wanted, evicts keys, or does not persist at all.
    """
    evicts = _setting(store, "maxmemory-policy")
    if evicts not in (None, "noeviction"):
        raise ConfigurationError(f"the ledger's server evicts keys (maxmemory-policy {evicts}): set noeviction")
    if wanted == "none":
        return Durability("none")
    if _setting(store, "appendonly") == "no":
        raise ConfigurationError("the ledger's server keeps no append-only file: set `appendonly yes` (and best `appendfsync always`)")
    if wanted in ("auto", "fsync") and _setting(store, "appendfsync") == "always":
        return Durability("fsync")
    if wanted in ("auto", "waitaof"):
        wait = ("WAITAOF", 1, 0, wait_milliseconds)
        try:
            store.run([wait])
        except exceptions.ResponseError as error:
            raise ConfigurationError("the ledger's server neither syncs always nor knows WAITAOF: set `appendfsync always`") from error
        return Durability("waitaof", wait)
    raise ConfigurationError("ledger.durability is fsync, but the server's appendfsync is not `always`")


def _setting(store: Store, name: str) -> str | None:
    """A server setting, None where the server does not tell (managed services forbid CONFIG)."""
    try:
        reply = store.run([("CONFIG GET", name)])[0]
    except exceptions.ResponseError:
        return None
    values = {text(key): text(value) for key, value in pairs_of(reply)}
    return values.get(name)


def confirmed(durability: Durability, reply: Any) -> None:
    """Check the answer to `durability.wait`. Raises LedgerUnavailable if the write was not synced in time."""
    if durability.wait and not (reply and int(reply[0]) >= 1):
        raise LedgerUnavailable("the ledger did not confirm in time that the write is on disk")
