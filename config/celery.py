"""Celery's settings as plain values; docs/adr/0005-celery-settings.md says why each one is what it is.

Nothing here imports Celery: only `workers` does.
"""

from __future__ import annotations

import socket
from typing import Any

from config.amqp_url import speaks_amqp
from config.settings import Settings

CONTROL_QUEUE = "control"
MOST_WAITING = 20
"""Messages that say the same again each second and wait for a worker, at the most: none has an expiry time, which would depend on two clocks agreeing."""
DELIVERY_LIMIT = 20
"""How often RabbitMQ hands out a message whose worker died each time, before it drops it; what it said is in the ledger."""


def celery_settings(settings: Settings) -> dict[str, Any]:
    """What `Celery.conf` is updated with; the queues are added where the destinations are known."""
    return _common(settings) | (_of_rabbitmq() if speaks_amqp(settings.celery_broker_url()) else {})


def _of_rabbitmq() -> dict[str, Any]:
    """Quorum queues know no prefetch for a whole channel, so each queue has its own; a lane that must not wait needs threads of its own then."""
    return {
        "worker_detect_quorum_queues": True,
        "worker_consumer": "workers.rabbitmq:ConsumerWithoutDelays",
        "worker_pool": "workers.rabbitmq:LanePool",
        "beat_scheduler": "workers.rabbitmq:ReconnectingScheduler",
    }


def queue_arguments(settings: Settings) -> dict[str, Any]:
    """With what queues are declared. A queue that exists with others is refused by RabbitMQ until it is deleted."""
    return {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT} if speaks_amqp(settings.celery_broker_url()) else {}


def _common(settings: Settings) -> dict[str, Any]:
    return {
        **_of_broker(settings),
        "broker_connection_retry_on_startup": True,
        "broker_channel_error_retry": True,
        "broker_connection_max_retries": None,
        "broker_pool_limit": 32,
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "task_acks_late": True,
        "task_acks_on_failure_or_timeout": True,
        "task_reject_on_worker_lost": True,
        "task_create_missing_queues": False,
        "task_default_queue": CONTROL_QUEUE,
        "task_default_exchange": "",
        "task_publish_retry": False,
        "task_send_sent_event": False,
        "task_track_started": False,
        "worker_pool": "threads",
        "worker_consumer": "workers.consuming:Consumer",
        "worker_concurrency": settings.worker.threads,
        "worker_prefetch_multiplier": 1,
        "worker_send_task_events": True,
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_enable_remote_control": True,
        "worker_detect_quorum_queues": False,
        "event_queue_expires": 60.0,
        "event_queue_ttl": 5.0,
        "timezone": "UTC",
        "enable_utc": True,
        "beat_scheduler": "workers.beating:SteadyScheduler",
        "beat_max_loop_interval": 1,
        "beat_schedule": beat_schedule(settings),
    }


def _of_broker(settings: Settings) -> dict[str, Any]:
    return {"broker_url": settings.celery_broker_url(), "broker_use_ssl": broker_tls(settings), "broker_transport_options": transport_options(settings)}


def broker_tls(settings: Settings) -> dict[str, Any] | None:
    """How TLS to the broker is checked: kombu by itself would take any certificate, or one for any host's name. `workers.amqps` reads it for RabbitMQ."""
    checks = settings.broker_tls()
    return None if checks is None else dict(checks)


def transport_options(settings: Settings) -> dict[str, Any]:
    """Options of the broker's transport in kombu. A quorum queue that is still recovering answers nothing: without a time limit a worker would wait for it for ever."""
    celery = settings.celery
    if speaks_amqp(settings.celery_broker_url()):
        timeout = celery.socket_timeout_seconds
        return {"connect_timeout": celery.socket_connect_timeout_seconds, "read_timeout": timeout, "write_timeout": timeout}
    return {
        **_of_sentinel(settings),
        "ack_emulation": False,
        "priority_steps": [0],
        "queue_order_strategy": "workers.queues:WithdrawalsFirst",
        "max_connections": celery.max_connections,
        "socket_timeout": celery.socket_timeout_seconds,
        "socket_connect_timeout": celery.socket_connect_timeout_seconds,
        "socket_keepalive": True,
        "socket_keepalive_options": keepalive_options(),
        "health_check_interval": celery.health_check_seconds,
    }


def _of_sentinel(settings: Settings) -> dict[str, Any]:
    """The service, and how the Sentinels themselves are asked: with a login and TLS of their own where the URL says so."""
    address = settings.broker_address()
    if address is None or address.kind != "sentinel":
        return {}
    waits = {"socket_timeout": settings.celery.socket_timeout_seconds, "socket_connect_timeout": settings.celery.socket_connect_timeout_seconds}
    return {"master_name": address.service, "sentinel_kwargs": {**waits, **address.sentinel_login(), **address.tls_settings()}}


def keepalive_options() -> dict[int, int]:
    """A connection whose other end vanished is given up after 11 idle seconds; a worker that waits for messages sends nothing, and would wait for ever."""
    seconds = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}
    return {getattr(socket, name): value for name, value in seconds.items() if hasattr(socket, name)}


def publish_options(settings: Settings) -> dict[str, Any]:
    """Transport options of a connection that only sends hints: it gives up early, because the ledger finds what was not sent."""
    timeout = settings.celery.publish_timeout_seconds
    if speaks_amqp(settings.celery_broker_url()):
        # Without a confirmation a hint to a broker that has run out of memory or of its quorum would count as sent.
        own = {"confirm_publish": True, "connect_timeout": timeout, "read_timeout": timeout, "write_timeout": timeout}
    else:
        own = transport_options(settings) | {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    return own | {"connect_retries_timeout": timeout, "max_retries": 0}


def beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """The periodic tasks; `workers.beating` sends none while enough of them wait, so that they do not pile up while no worker runs."""
    beat = settings.beat
    every = {"release_due": beat.release_seconds, "listen_due": beat.listen_seconds, "sweep_due": beat.sweep_seconds, "audit": beat.audit_seconds}
    if settings.evidence_url():
        every["archive_evidence"] = settings.evidence.archive_seconds
    return {name: {"task": name, "schedule": seconds, "options": {"queue": CONTROL_QUEUE}} for name, seconds in every.items()}
