"""What Celery's processes do otherwise on RabbitMQ; `config/celery.py` names these classes where the broker's URL is one.

Redis hands a worker one message at a time, withdrawals first. Quorum queues push as many as there are threads from each queue, in no order among
them: what the worker already holds has to be put in order here.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

from celery import beat
from celery.concurrency.thread import TaskPool
from celery.worker import consumer

from workers.beating import SteadyScheduler
from workers.consuming import Consumer
from workers.queues import is_urgent

logger = logging.getLogger(__name__)

DELAYS: Final = "celery.worker.consumer.delayed_delivery:DelayedDelivery"
RECONNECT_SECONDS: Final = 2.0


class ConsumerWithoutDelays(Consumer):
    """The consumer without the 28 exchanges and quorum queues that it makes for long countdowns: we have none, waits stand in the ledger."""

    class Blueprint(consumer.Consumer.Blueprint):  # type: ignore[misc]
        default_steps = [step for step in consumer.Consumer.Blueprint.default_steps if step != DELAYS]  # noqa: RUF012 - as Celery declares it


class LanePool(TaskPool):  # type: ignore[misc]
    """Threads as Celery has them, and as many again for withdrawals and control, which thus never wait behind any number of `given`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.executor: ThreadPoolExecutor
        self._urgent, self._others = ThreadPoolExecutor(max_workers=self.limit), self.executor

    def on_stop(self) -> None:
        for executor in (self._others, self._urgent):
            executor.shutdown(cancel_futures=True)

    def apply_async(self, target: Any, args: Any = (), kwargs: Any = None, **options: Any) -> Any:
        """Choose the threads by the queue that a message came from; called from the consumer's thread only."""
        self.executor = self._urgent if is_urgent(_queue_of(args)) else self._others
        return super().apply_async(target, args, kwargs, **options)


def _queue_of(args: Any) -> str:
    """The queue in the arguments that Celery gives its tracer: task, id, request, body, content type and encoding."""
    return str(args[2]["delivery_info"]["routing_key"])


class ReconnectingScheduler(SteadyScheduler):
    """Beat that takes a new connection after one was lost: Celery's keeps the dead one for ever where messages are not sent again by themselves."""

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        try:
            self.apply_async(entry, producer=producer, advance=False)
        except beat.SchedulingError as error:
            logger.warning("hint_not_sent", extra={"reason": type(error.__context__ or error).__name__, "task": entry.task})
            self._forget_connection()

    def _forget_connection(self) -> None:
        connection = self.__dict__.pop("connection", None)
        self.__dict__.pop("producer", None)
        if connection is not None:
            with suppress(Exception):
                connection.collect()

    def _ensure_connected(self) -> Any:
        """Called for a new producer: nothing is due that could be sent elsewhere, so it waits until RabbitMQ is back."""
        return self.connection.ensure_connection(max_retries=None, interval_start=0.5, interval_step=0.5, interval_max=RECONNECT_SECONDS)
