"""The Celery application: settings, queues, logging, and the signals that say that a hint was lost."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from celery import Celery, signals
from kombu import Connection

from config.celery import broker_tls, celery_settings, queue_arguments
from config.settings import Settings, SettingsError
from workers.amqps import check_amqps
from workers.queues import plain_queue, queue_names
from workers.redis_broker import use_our_channels

logger = logging.getLogger(__name__)

check_amqps()
use_our_channels()


def refuse_unknown_broker(settings: Settings) -> None:
    """Raise SettingsError where CONSENT_BROKER_URL is set to what no transport of kombu can use."""
    scheme, mark, _ = settings.broker_url.partition("://")
    if not settings.broker_url:
        return
    url = settings.celery_broker_url()
    try:
        if mark and Connection(url, ssl=broker_tls(settings)).get_transport_cls():
            return
    except ImportError as error:
        raise SettingsError(f"CONSENT_BROKER_URL: {scheme}:// needs a package that is not installed") from error
    except Exception:  # noqa: BLE001, S110 - whatever it is, kombu cannot use it, and its text may quote the URL
        pass
    raise SettingsError("CONSENT_BROKER_URL: a URL that kombu knows was expected, such as redis://127.0.0.1:6379/1 or amqp://127.0.0.1")


def create_app(settings: Settings, destinations: Iterable[str]) -> Celery:
    """A Celery application with one queue per destination and lane; the tasks are imported with it. Raises SettingsError."""
    refuse_unknown_broker(settings)
    app = Celery("consent-relay", set_as_current=True)
    queues = [plain_queue(name, queue_arguments(settings)) for name in queue_names(destinations)]
    app.conf.update(celery_settings(settings), task_queues=queues, include=["workers.tasks"])
    app.set_default()
    return app


@signals.setup_logging.connect
def _keep_our_logging(**_: Any) -> None:
    """Connected, so that Celery configures no logging: the command has done it."""


@signals.task_unknown.connect
def _unknown_task(name: str = "", **_: Any) -> None:
    logger.error("hint_lost", extra={"reason": "unknown_task", "task": name})


@signals.task_rejected.connect
def _rejected_message(**_: Any) -> None:
    logger.error("hint_lost", extra={"reason": "unreadable_message"})
