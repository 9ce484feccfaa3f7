"""The sections of the settings as frozen values, and what must hold between them; `defaults.toml` explains each one."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from config.ledger_url import SENTINEL_PREFIXES

if TYPE_CHECKING:
    from config.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    partitions: int
    durability: str
    wait_aof_milliseconds: int
    min_replicas: int
    expected_id: str
    dedup_days: float
    payload_days: float
    fan_out_rescue_seconds: float
    push_rescue_seconds: float
    audit_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    chunk_size: int
    chunk_seconds: float
    lease_seconds: float
    claim_margin_seconds: float
    late_write_seconds: float
    threads_reserved_for_withdrawals: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    transport: str
    total_timeout_seconds: float
    connect_timeout_seconds: float
    max_response_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    withdrawal_reserve_share: float
    breaker_failures: int
    breaker_wait_seconds: float
    breaker_wait_max_seconds: float
    misconfigured_probe_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    waits_seconds: tuple[float, ...]
    give_up_after_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingest:
    host: str
    port: int
    processes: int
    max_body_bytes: int
    max_batch_body_bytes: int
    max_batch: int
    group_commit_events: int
    group_commit_wait_seconds: float
    max_pending: int
    allowed_skew_seconds: float
    stop_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    processes: int
    threads: int
    stop_seconds: float
    deaf_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Celery:
    socket_timeout_seconds: float
    socket_connect_timeout_seconds: float
    health_check_seconds: float
    max_connections: int
    publish_timeout_seconds: float
    publish_pause_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    release_seconds: float
    listen_seconds: float
    sweep_seconds: float
    audit_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    lease_seconds: float
    turn_seconds: float
    echo_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconcile:
    rate_share: float
    sample_every_seconds: float
    sample_size: int
    full_every_days: float
    settle_seconds: float
    turn_seconds: float
    lease_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    enabled: str
    url: str = field(repr=False)
    archive_seconds: float
    keep_days: float
    alert_seconds: float
    alert_megabytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Flower:
    host: str
    port: int
    login: str = field(repr=False)
    broker_api: str = field(repr=False)
    max_tasks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alerts:
    url: str = field(repr=False)
    secret: str = field(repr=False)
    repeat_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    backup_days: float
    identifier_days: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    level: str
    format: str


ZERO_ALLOWED = frozenset(
    {
        *(
            "ledger.partitions",
            "ledger.min_replicas",
            "deliver.threads_reserved_for_withdrawals",
            "limits.withdrawal_reserve_share",
            "ingest.allowed_skew_seconds",
            "ingest.port",
        ),
        *("evidence.keep_days", "retention.identifier_days", "reconcile.sample_every_seconds", "reconcile.full_every_days", "reconcile.settle_seconds"),
    }
)
ONE_OF = {
    "ledger.durability": ("auto", "fsync", "waitaof"),
    "evidence.enabled": ("auto", "on", "off"),
    "exchange.transport": ("curl", "requests"),
    "log.level": ("debug", "info", "warning", "error"),
    "log.format": ("json", "text"),
}


def promises(settings: Settings) -> Iterator[tuple[bool, str]]:
    """Each thing that must hold, with what breaks where it does not."""
    yield from _ranges(settings)
    deliver, exchange, celery, ledger, limits = settings.deliver, settings.exchange, settings.celery, settings.ledger, settings.limits
    yield (
        deliver.lease_seconds >= 5.0,
        ("deliver.lease_seconds must be 5 or more: it is renewed each third of it, and a worker that is merely slow would lose its deliveries"),
    )
    yield (
        deliver.late_write_seconds >= exchange.total_timeout_seconds,
        (
            "deliver.late_write_seconds must be exchange.total_timeout_seconds or more: a stale `given` could land after the withdrawal was told for the last time"
        ),
    )
    yield from _of_listening(settings)
    yield from _of_comparing(settings)
    yield exchange.connect_timeout_seconds <= exchange.total_timeout_seconds, "exchange.connect_timeout_seconds must not exceed total_timeout_seconds"
    yield (
        ledger.push_rescue_seconds > 1.0,
        ("ledger.push_rescue_seconds must exceed 1: messages that are merely on their way would be pushed again and again"),
    )
    yield (
        deliver.threads_reserved_for_withdrawals < settings.worker.threads,
        ("deliver.threads_reserved_for_withdrawals must be less than worker.threads: no thread would be left for `given`"),
    )
    yield limits.withdrawal_reserve_share < 1, "limits.withdrawal_reserve_share must be below 1: nothing would be left for `given`"
    yield limits.breaker_wait_max_seconds >= limits.breaker_wait_seconds, "limits.breaker_wait_max_seconds must not be less than breaker_wait_seconds"
    yield (
        celery.max_connections >= settings.worker.threads + 8,
        "celery.max_connections must be worker.threads + 8 or more: a full pool sends nothing",
    )
    yield from _of_alerts(settings.alerts)
    yield ledger.dedup_days >= ledger.payload_days, "ledger.dedup_days must not be less than payload_days: a repeated event would be taken for a new one"


def _of_alerts(alerts: Alerts) -> Iterator[tuple[bool, str]]:
    """What is posted can be posted, and whoever takes it can check it."""
    yield not alerts.url or alerts.url.startswith(("http://", "https://")), "alerts.url must begin with https:// (or http://)"
    yield (
        not alerts.url or _is_webhook_secret(alerts.secret),
        "alerts.secret must be whsec_ and the base64 of 24 to 64 bytes: without it nobody knows that an alert is ours",
    )


def _is_webhook_secret(secret: str) -> bool:
    try:
        return secret.startswith("whsec_") and 24 <= len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) <= 64
    except binascii.Error:
        return False


def _of_servers(settings: Settings) -> Iterator[tuple[bool, str]]:
    """What a failover could lose."""
    yield (
        settings.ledger.min_replicas > 0 or not settings.redis_url.startswith(SENTINEL_PREFIXES),
        "ledger.min_replicas must be 1 or more with Sentinel: a primary that is cut off would go on accepting what nobody else has",
    )


def _of_listening(settings: Settings) -> Iterator[tuple[bool, str]]:
    """A page is asked for once, and no late write of ours comes back as news."""
    listen, deliver = settings.listen, settings.deliver
    page = deliver.chunk_seconds + settings.exchange.total_timeout_seconds
    yield (
        listen.lease_seconds > page,
        f"listen.lease_seconds must exceed {page:g} (chunk_seconds + total_timeout_seconds): a page still asked for would be asked for twice",
    )
    yield (
        listen.echo_seconds >= deliver.late_write_seconds,
        "listen.echo_seconds must be deliver.late_write_seconds or more: our own late `given` could come back as a newer word than the withdrawal",
    )
    yield listen.echo_seconds <= 7 * 86_400, "listen.echo_seconds must be a week or less: it is not remembered longer whom a system was told to have consented"


def _of_comparing(settings: Settings) -> Iterator[tuple[bool, str]]:
    """A turn is taken over only when nobody can still be at it, and withdrawals keep what is theirs."""
    section = settings.reconcile
    longest = section.turn_seconds + 2 * (settings.deliver.chunk_seconds + settings.exchange.total_timeout_seconds)
    yield (
        section.lease_seconds > longest,
        f"reconcile.lease_seconds must exceed {longest:g} (turn_seconds + 2 x (chunk_seconds + total_timeout_seconds)): two workers would compare one destination",
    )
    yield section.rate_share <= 1, "reconcile.rate_share must not exceed 1: it is a share of the vendor's limit"


def _ranges(settings: Settings) -> Iterator[tuple[bool, str]]:
    """Numbers are above zero, ports are ports, words are from their list; a failover loses nothing."""
    yield from _of_servers(settings)
    for name, value in _items(settings):
        if name in ONE_OF:
            yield value in ONE_OF[name], f"{name} must be one of {', '.join(ONE_OF[name])}"
        elif name.endswith(".port"):
            yield 0 <= value <= 65535, f"{name} must be a port, 1 to 65535 (0: any free one)"
        elif isinstance(value, tuple):
            yield bool(value) and min(value) > 0, f"{name} must be one or more numbers above 0"
        elif not isinstance(value, str):
            yield value > 0 or (value == 0 and name in ZERO_ALLOWED), f"{name} must be above 0"


def _items(settings: Settings) -> Iterator[tuple[str, Any]]:
    for outer in fields(settings):
        section = getattr(settings, outer.name)
        if is_dataclass(section):
            yield from ((f"{outer.name}.{inner.name}", getattr(section, inner.name)) for inner in fields(section))
