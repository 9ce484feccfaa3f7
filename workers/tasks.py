"""The tasks: a few lines each, ids only. Unknown keywords are tolerated, so old and new messages survive a rolling deploy.

A task returns when the ledger has what came of it; an exception here is a bug, or `DeadLettered`, which makes Flower
show a FAILURE. None is ever retried by Celery: the ledger knows the time of the next attempt.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from celery import Task, shared_task

from config.logging import describe
from workers import wiring
from workers.attending import attendant
from workers.erased import look_after
from workers.reconciling import reconcile

logger = logging.getLogger(__name__)


class DeadLettered(Exception):
    """Deliveries died; raised only so that Flower shows it."""


class TaskFailed(Exception):
    """A bug or an outage in a task, told without the text of an exception that may quote a person."""


class Scrubbed(Task):  # type: ignore[misc]
    """A task whose exceptions are logged here and reach Celery's events, and so Flower, by their kind only."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        try:
            return super().__call__(*arguments, **keywords)
        except DeadLettered:
            raise
        except Exception as error:
            logger.exception("task_failed", extra={"task": self.name})
            raise TaskFailed(describe(error)) from None


@shared_task(base=Scrubbed, name="fan_out")
def fan_out(lane: str, event_ids: Sequence[str], **_: Any) -> None:
    attendant(wiring.current()).run(lane, event_ids)


@shared_task(base=Scrubbed, name="deliver")
def deliver(destination: str, lane: str, event_ids: Sequence[str], **_: Any) -> None:
    wiring.current().deliver.run(destination, lane, event_ids)


@shared_task(base=Scrubbed, name="dead_letter", throws=(DeadLettered,))
def dead_letter(destination: str, reason: str, delivery_ids: Sequence[str], **_: Any) -> None:
    logger.error("dead_letter", extra={"destination": destination, "reason": reason, "count": len(delivery_ids), "first": delivery_ids[:1]})
    raise DeadLettered(f"{destination}: {reason} ({len(delivery_ids)})")


@shared_task(base=Scrubbed, name="release_due", send_events=False)  # every second: it would drown the work in Flower
def release_due(**_: Any) -> None:
    wiring.current().release.run()


@shared_task(base=Scrubbed, name="listen_due", send_events=False)
def listen_due(**_: Any) -> None:
    wiring.current().listen.push_due()


@shared_task(base=Scrubbed, name="listen")
def listen(source: str, **_: Any) -> None:
    wiring.current().listen.run(source)


@shared_task(base=Scrubbed, name="archive_evidence", send_events=False)
def archive_evidence(**_: Any) -> None:
    wiring.current().evidence.archiver.run()


@shared_task(base=Scrubbed, name="sweep_due", send_events=False)
def sweep_due(**_: Any) -> None:
    reconcile(wiring.current()).push_due()


@shared_task(base=Scrubbed, name="sweep")
def sweep(destination: str, **_: Any) -> None:
    reconcile(wiring.current()).run(destination)


@shared_task(base=Scrubbed, name="audit")
def audit(**_: Any) -> None:
    try:
        wiring.current().audit.run()
        look_after(wiring.current())
    finally:
        wiring.current().alerts.run()
