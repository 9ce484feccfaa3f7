"""The Celery application: settings, queues, logging, and the signals that say that a hint was lost."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from celery import Celery, signals

from config.celery import celery_settings
from config.settings import Settings
from workers.queues import plain_queue, queue_names

logger = logging.getLogger(__name__)


def create_app(settings: Settings, destinations: Iterable[str]) -> Celery:
    """A Celery application with one queue per destination and lane; the tasks are imported with it."""
    app = Celery("consent-relay", set_as_current=True)
    app.conf.update(celery_settings(settings), task_queues=[plain_queue(name) for name in queue_names(destinations)], include=["workers.tasks"])
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
