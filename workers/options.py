"""The pipeline's options from the settings: where names and units of the two meet."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.celery import publish_options, queue_arguments
from config.settings import Settings
from pipeline.alerts import AlertOptions
from pipeline.errors import ConfigurationError
from pipeline.ledger import LedgerOptions
from pipeline.ledger.keys import LANES
from pipeline.limits import DeliverOptions, LimitOptions
from pipeline.listen import ListenOptions
from pipeline.reconcile import ReconcileOptions
from workers.marks import MarksFile

if TYPE_CHECKING:
    from pipeline.exchange import Exchange, Sessions
    from pipeline.identifiers import Hasher
    from pipeline.transports.base import Transport

PATIENCE_SECONDS = 0.25
"""How long a task waits for a connection that another process holds before it gives its work back."""
STAYING_THREADS = 6
"""Threads that `given` may have from which on a process has some to spare for fan-out tasks that stay."""
IDLE_SECONDS = 1.0
"""How long a task stays at a destination for more: one event a second is told without a message for each delivery, and a worker that stops waits no longer."""


def publishing(settings: Settings) -> dict[str, Any]:
    """How hints are sent."""
    return {
        "transport_options": publish_options(settings),
        "queue_arguments": queue_arguments(settings),
        "pause_seconds": settings.celery.publish_pause_seconds,
    }


def ledger_options(settings: Settings, pepper_fingerprint: str, routing_version: Callable[[], str] | None = None) -> LedgerOptions:
    """How the ledger is opened by a process that runs on; how far it was seen is kept in the state directory. `routing_version` stands in the evidence, where any is kept."""
    section = settings.ledger
    return LedgerOptions(
        partitions=section.partitions,
        pepper_fingerprint=pepper_fingerprint,
        expected_id=section.expected_id or None,
        durability=section.durability,
        wait_aof_milliseconds=section.wait_aof_milliseconds,
        dedup_days=section.dedup_days,
        payload_days=section.payload_days,
        fan_out_rescue_seconds=section.fan_out_rescue_seconds,
        audit_seconds=section.audit_seconds,
        push_rescue_seconds=section.push_rescue_seconds,
        evidence=routing_version if settings.evidence_url() else None,
        marks=MarksFile(settings.state_path()),
    )


def limit_options(settings: Settings) -> LimitOptions:
    """How long dialogues may take and when the breaker opens."""
    limits, deliver = settings.limits, settings.deliver
    return LimitOptions(
        total_timeout_seconds=settings.exchange.total_timeout_seconds,
        start_window_seconds=deliver.chunk_seconds,
        claim_margin_seconds=deliver.claim_margin_seconds,
        late_write_seconds=deliver.late_write_seconds,
        withdrawal_reserve_share=limits.withdrawal_reserve_share,
        breaker_failures=limits.breaker_failures,
        breaker_wait_seconds=limits.breaker_wait_seconds,
        breaker_wait_max_seconds=limits.breaker_wait_max_seconds,
        misconfigured_probe_seconds=limits.misconfigured_probe_seconds,
        lease_seconds=deliver.lease_seconds,
    )


def deliver_options(settings: Settings) -> DeliverOptions:
    """How chunks are worked through; half of the threads that `given` may have are never held by tasks that stay for more."""
    deliver = settings.deliver
    return DeliverOptions(
        chunk_seconds=deliver.chunk_seconds,
        lease_seconds=deliver.lease_seconds,
        chunk_size=deliver.chunk_size,
        patience_seconds=PATIENCE_SECONDS,
        idle_seconds=IDLE_SECONDS,
        most_idle=(settings.worker.threads - deliver.threads_reserved_for_withdrawals) // 2,
    )


def staying_tasks(settings: Settings) -> int:
    """How many fan-out tasks stay in one process, one for each lane; none where threads are few."""
    return len(LANES) if settings.worker.threads - settings.deliver.threads_reserved_for_withdrawals >= STAYING_THREADS else 0


def listen_options(settings: Settings) -> ListenOptions:
    """How sources are polled."""
    listen = settings.listen
    return ListenOptions(lease_seconds=listen.lease_seconds, turn_seconds=listen.turn_seconds, allowed_skew_seconds=settings.ingest.allowed_skew_seconds)


def reconcile_options(settings: Settings) -> ReconcileOptions:
    """How vendors are compared with the standings."""
    section = settings.reconcile
    return ReconcileOptions(
        sample_every_seconds=section.sample_every_seconds,
        sample_size=section.sample_size,
        full_every_seconds=section.full_every_days * 86_400,
        turn_seconds=section.turn_seconds,
        lease_seconds=section.lease_seconds,
        misconfigured_probe_seconds=settings.limits.misconfigured_probe_seconds,
    )


def alert_options(settings: Settings) -> AlertOptions:
    """Where alerts are posted."""
    section = settings.alerts
    return AlertOptions(url=section.url, secret=section.secret, repeat_seconds=section.repeat_seconds)


def exchange(settings: Settings, sessions: Sessions, clock: Callable[[], float] = time.time, hasher: Hasher | None = None) -> Exchange:
    """An exchange with these settings; `sessions` keeps the tokens of vendors that are signed in to, `clock` says the seconds since 1970, `hasher` names the sessions, and hashes requests where evidence is kept."""
    from pipeline.exchange import Exchange

    section = settings.exchange
    return Exchange(
        transport(section.transport),
        sessions,
        total_timeout_seconds=section.total_timeout_seconds,
        connect_timeout_seconds=section.connect_timeout_seconds,
        max_response_bytes=section.max_response_bytes,
        clock=clock,
        fingerprint=hasher.request_hmac if hasher and settings.evidence_url() else None,
        session_key=hasher.session_key if hasher else None,
    )


def transport(name: str) -> Transport:
    """The transport that a setting names; the other one's library need not be there."""
    if name == "curl":
        from pipeline.transports.curl import CurlTransport

        return CurlTransport()
    from pipeline.transports.portable import PortableTransport

    return PortableTransport()


def routing_text(path: Path) -> str:
    """The routing file's text. Raises ConfigurationError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path}: the routing file cannot be read ({error.strerror}); CONSENT_CONFIG names another") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: is not UTF-8 at byte {error.start}") from error
