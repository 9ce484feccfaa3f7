"""What a ledger is: its id, schema version, number of partitions and pepper; and how durable a write to it can be confirmed."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from redis import exceptions

from pipeline.errors import ConfigurationError, LedgerMismatch
from pipeline.ledger.keys import META, OLDEST_SCHEMA, SCHEMA_VERSION
from pipeline.ledger.lookout import quarantine_now
from pipeline.ledger.store import Durability, Store, pairs_of, text

log = logging.getLogger(__name__)

ON_ONE_SERVER = 1
"""Partitions of a new ledger, unless a setting says otherwise: each more costs every step another script, and helps only a cluster."""
ON_A_CLUSTER = 16
"""And on a cluster: enough for the slots of events and identifiers to lie on all of its nodes."""
SAFE = {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no"}
"""The settings of a server that keep what it has confirmed, in the order of `ServerSettings`."""
ANEW = "or, to give the old one up, `consent ledger accept`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this ledger is."""

    ledger_id: str
    schema_version: int
    partitions: int
    pepper_fingerprint: str
    restoring: bool = False
    created_seconds: int = 0
    """When it was made, in seconds since 1970."""
    replaces: tuple[str, ...] = ()
    """Ids of the ledgers in whose place a person accepted this one."""

    def answers_to(self, ledger_id: str) -> bool:
        """Whether this is that ledger, or was accepted in its place."""
        return ledger_id in (self.ledger_id, *self.replaces)


def recognise(
    store: Store, *, partitions: int, pepper_fingerprint: str, expected_id: str | None, may_make: bool = True, seen: Callable[[], str | None] = lambda: None
) -> Identity:
    """Read the ledger's identity, giving a new one to an empty ledger that was not expected to hold anything, if the caller `may_make` one.

    `partitions` 0: what it has. Where none is expected, the one that was `seen` last is expected of an empty server.

    Raises LedgerMismatch for another pepper, another ledger than `expected_id`, an unexpectedly empty one, or another schema; ConfigurationError for
    another number of partitions.
    """
    found = read(store)
    if found is None:
        expected_id = expected_id or seen()
    if found is None and expected_id is None:
        if not may_make:
            raise LedgerMismatch("the ledger is empty: if it should not be, look at its server; otherwise the first `consent serve`, `worker` or `up` makes it")
        found = make(store, partitions=partitions, pepper_fingerprint=pepper_fingerprint)
    if found is None:
        raise LedgerMismatch(f"the ledger is empty, but ledger {expected_id} was expected: restore it; {ANEW}")
    if expected_id is not None and not found.answers_to(expected_id):
        raise LedgerMismatch(f"this is ledger {found.ledger_id}, but {expected_id} was expected: check CONSENT_REDIS_URL; {ANEW}")
    refuse_unusable(found, pepper_fingerprint)
    if partitions and found.partitions != partitions:
        raise ConfigurationError(f"the ledger has {found.partitions} partitions, ledger.partitions says {partitions}: the number is fixed at its creation")
    return found


def refuse_unusable(found: Identity, pepper_fingerprint: str) -> None:
    """Raise LedgerMismatch for a ledger that no word of an operator could make ours: another schema, another pepper, a half restored one."""
    if found.restoring:
        raise LedgerMismatch("a backup is being restored into this ledger: wait for it; if it was broken off, run the same `consent restore` again")
    refuse_schema(found.schema_version)
    if found.pepper_fingerprint != pepper_fingerprint:
        raise LedgerMismatch("the ledger was made with another CONSENT_SUBJECT_PEPPER: with this one every standing would be orphaned; set the old one")


def make(store: Store, *, partitions: int, pepper_fingerprint: str) -> Identity | None:
    """Give an empty ledger an identity; where two processes do it at once, both read the same one."""
    fresh = {
        "id": secrets.token_hex(8),
        "schema": SCHEMA_VERSION,
        "partitions": partitions or (ON_A_CLUSTER if store.nodes.is_spread else ON_ONE_SERVER),
        "pepper": pepper_fingerprint,
        "created": int(store.run([("TIME",)])[0][0]),
    }
    store.run([("HSETNX", META, name, value) for name, value in fresh.items()])
    found = read(store)
    log.warning("ledger_made", extra={"ledger": found.ledger_id if found else None})
    return found


def accept(store: Store, *, partitions: int, pepper_fingerprint: str, instead_of: Sequence[str]) -> Identity:
    """Take what is there for the ledger from now on, also for whoever expects one of `instead_of`; an empty one is given an identity.

    Only for a person who has looked: events of the old ledger that were not told yet never will be. Withdrawals that it knew are missing as well, so it is
    quarantined. Raises LedgerMismatch for what cannot be used.
    """
    found = read(store)
    if found is not None:
        refuse_unusable(found, pepper_fingerprint)
    # First in whose place, then who: processes that wait must never see the one without the other.
    replaced = dict.fromkeys([*(found.replaces if found else ()), *instead_of])
    replaced.pop(found.ledger_id if found else "", None)
    store.run([("HSET", META, "replaces", ",".join(replaced)), ("HDEL", META, "marked")])
    if instead_of:
        quarantine_now(store, reason="accepted", from_ms=0, era=0)
    made = found or make(store, partitions=partitions, pepper_fingerprint=pepper_fingerprint)
    accepted = read(store)
    if made is None or accepted is None:
        raise LedgerMismatch("the ledger was emptied again meanwhile: look at its server, then accept it once more")
    return accepted


def refuse_schema(version: int) -> None:
    """Raise LedgerMismatch for a schema that this release does not work with."""
    if version > SCHEMA_VERSION:
        raise LedgerMismatch(f"the ledger has schema {version}, this release works with {OLDEST_SCHEMA} to {SCHEMA_VERSION}: a newer one migrated it, use that")
    if version < OLDEST_SCHEMA:
        raise LedgerMismatch(
            f"the ledger has schema {version}, this release works with {OLDEST_SCHEMA} to {SCHEMA_VERSION}: migrate it with a release in between"
        )


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
        replaces=tuple(filter(None, fields.get("replaces", "").split(","))),
        restoring="restoring" in fields,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """How long things are kept or wait, in milliseconds; `record_ms` is also how long an idempotency key is known."""

    record_ms: int
    payload_ms: int
    fan_out_rescue_ms: int
    audit_ms: int
    push_rescue_ms: int


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How the server keeps what it is given; None where it does not tell (managed services forbid CONFIG)."""

    eviction: str | None = None
    append_only: str | None = None
    sync: str | None = None
    spares_sync: str | None = None


def settings_of(store: Store) -> ServerSettings:
    """Ask the server how it keeps what it is given; of several, replicas that may take over among them, the worst counts."""
    try:
        answers = store.on_each([("CONFIG GET", name) for name in SAFE], and_replicas=True)
    except exceptions.ResponseError:
        return ServerSettings(eviction=_eviction(store))
    found = [[text(pairs_of(reply)[0][1]) if reply else None for reply in replies] for replies in answers]
    return ServerSettings(*(_worst(values, good) for values, good in zip(zip(*found, strict=True), SAFE.values(), strict=True)))


def _eviction(store: Store) -> str | None:
    """What a server that forbids CONFIG says of it all the same."""
    try:
        found = [each.get("maxmemory_policy") for (each,) in store.on_each([("INFO", "memory")], and_replicas=True)]
    except exceptions.ResponseError:
        return None
    return _worst(found, SAFE["maxmemory-policy"])


def _worst(values: Sequence[str | None], good: str) -> str | None:
    """`no` before anything else that is not `good`, None before what is."""
    return min(values, key=lambda value: (value == good, value != "no", value is not None))


def confirmable(store: Store, settings: ServerSettings, wanted: str, wait_milliseconds: int) -> Durability:
    """The way a server with these settings can confirm durability; `wanted` is auto, fsync, waitaof or none.

    Raises ConfigurationError if the server cannot do what is wanted, evicts keys, or does not persist at all.
    """
    if settings.eviction not in (None, "noeviction"):
        raise ConfigurationError(f"the ledger's server evicts keys (maxmemory-policy {settings.eviction}): set noeviction")
    if wanted == "none":
        return Durability("none")
    if settings.append_only == "no":
        raise ConfigurationError("the ledger's server, or a replica of it, keeps no append-only file: set `appendonly yes` (and best `appendfsync always`)")
    if settings.sync == "no":
        raise ConfigurationError("the ledger's server never waits for the disk (appendfsync no): set `appendfsync always`")
    if settings.sync == "always" and settings.spares_sync == "yes":
        raise ConfigurationError("the ledger's server does not sync while it rewrites its file (no-appendfsync-on-rewrite yes): set it to `no`")
    if wanted in ("auto", "fsync") and settings.sync == "always":
        return Durability("fsync")
    if wanted in ("auto", "waitaof"):
        wait = ("WAITAOF", 1, 0, wait_milliseconds)
        try:
            store.on_each([wait])
        except exceptions.ResponseError as error:
            raise ConfigurationError("the ledger's server neither syncs always nor knows WAITAOF: set `appendfsync always`") from error
        return Durability("waitaof", wait)
    raise ConfigurationError("ledger.durability is fsync, but the appendfsync of the server or of a replica is not `always`")
