"""Queues and the sending of hints: one plain queue per destination and lane, withdrawals always taken first.

A message is a hint, the ledger is the record: what cannot be sent within a second is not sent, and the ledger's index
brings it up again. So nothing here retries, and a failure never reaches whoever was accepting an event.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final

from celery import Celery
from kombu import Connection, Producer, Queue
from kombu.exceptions import KombuError
from kombu.utils.scheduling import round_robin_cycle

from config.celery import CONTROL_QUEUE, MOST_WAITING

logger = logging.getLogger(__name__)

LANES: Final = ("withdrawn", "given")
SHOWN_IDS: Final = 3
SWEEP_QUEUE: Final = "sweep"
"""Comparing waits behind everything that is urgent."""


def fan_out_queue(lane: str) -> str:
    return f"fan_out.{lane}"


def deliver_queue(destination: str, lane: str) -> str:
    return f"deliver.{destination}.{lane}"


def queue_names(destinations: Iterable[str]) -> list[str]:
    """Every queue there is with these destinations."""
    return [CONTROL_QUEUE, SWEEP_QUEUE, *map(fan_out_queue, LANES), *(deliver_queue(name, lane) for name in sorted(destinations) for lane in LANES)]


def plain_queue(name: str, arguments: Mapping[str, Any] = MappingProxyType({})) -> Queue:
    """A queue on the default exchange: it needs no binding that a flushed broker could forget. `arguments` are the broker's own."""
    return Queue(name, exchange="", routing_key=name, queue_arguments=dict(arguments) or None)


def is_urgent(queue: str) -> bool:
    """Whether a queue goes ahead of any backlog."""
    return queue == CONTROL_QUEUE or queue.endswith(".withdrawn")


class WithdrawalsFirst(round_robin_cycle):  # type: ignore[misc]
    """The order in which a worker asks its queues: withdrawals and control first, each group in turn.

    kombu builds it by the name in the transport option `queue_order_strategy`. `left` are queues that are not asked for now.
    """

    left: Collection[str] = ()

    def consume(self, n: int) -> list[str]:
        queues = [name for name in self.items[:n] if name not in self.left]
        return [name for name in queues if is_urgent(name)] + [name for name in queues if not is_urgent(name)]


class CeleryPublisher:
    """Sends hints over a kept connection; safe to use from any thread.

    A hint that cannot be sent is logged and forgotten. After a failure none is tried for `pause_seconds`, so that a broker
    that hangs does not slow the accepting of events.
    """

    def __init__(
        self,
        app: Celery,
        transport_options: dict[str, Any],
        *,
        pause_seconds: float,
        queue_arguments: Mapping[str, Any] = MappingProxyType({}),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._options = transport_options
        self._queue_arguments = queue_arguments
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._producer: Producer | None = None
        self._closed_until = 0.0

    def fan_out(self, lane: str, event_ids: Sequence[str]) -> None:
        """Say that these events wait to be fanned out."""
        self._send(_message("fan_out", fan_out_queue(lane), f"fan_out {lane}", ids=list(event_ids), lane=lane))

    def deliver(self, destination: str, lane: str, event_ids: Sequence[str], attempt: int) -> None:
        """Say that this destination is to be told about these events."""
        # Flower counts by this name, so it must not take ever new values.
        again = "" if attempt <= 1 else f" attempt {attempt}" if attempt < 10 else " attempt 10+"
        shadow = f"deliver {destination}{again}"
        self._send(_message("deliver", deliver_queue(destination, lane), shadow, ids=list(event_ids), destination=destination, lane=lane, attempt=attempt))

    def dead_letter(self, destination: str, reason: str, delivery_ids: Sequence[str]) -> None:
        """Show operators that these deliveries died."""
        shadow = f"dead_letter {destination}"
        self._send(_message("dead_letter", CONTROL_QUEUE, shadow, key="delivery_ids", ids=list(delivery_ids), destination=destination, reason=reason))

    def listen(self, source: str) -> None:
        """Say that it is time to poll this source, unless so much waits for a worker already that it would be forgotten by then: it is said again each second."""
        if self.queue_depth(CONTROL_QUEUE) < MOST_WAITING:
            self._send({"name": "listen", "queue": CONTROL_QUEUE, "shadow": f"listen {source}", "kwargs": {"source": source}})

    def sweep(self, destination: str) -> None:
        """Say that it is time to go on with comparing this destination."""
        if self.queue_depth(SWEEP_QUEUE) < MOST_WAITING:
            shadow, arguments = f"sweep {destination}", {"destination": destination}
            self._send({"name": "sweep", "queue": SWEEP_QUEUE, "shadow": shadow, "kwargs": arguments})

    def depth(self, destination: str, lane: str) -> int:
        """Messages waiting in the queue of a destination and lane; 0 if nobody can tell."""
        return self.queue_depth(deliver_queue(destination, lane))

    def fan_out_depth(self, lane: str) -> int:
        """Messages waiting to be fanned out; 0 if nobody can tell."""
        return self.queue_depth(fan_out_queue(lane))

    def queue_depth(self, queue: str) -> int:
        """Messages waiting in a queue; 0 if nobody can tell."""
        with self._lock:
            if self._clock() < self._closed_until:
                return 0
            try:
                return self._count(queue)
            except (KombuError, OSError, *self._errors()) as error:
                self._failed("queue_depth_unknown", error, queue=queue)
                return 0

    def close(self) -> None:
        """Close the connection; the next hint opens another."""
        with self._lock:
            self._drop()

    def _send(self, message: dict[str, Any]) -> None:
        with self._lock:
            if self._clock() < self._closed_until:
                return
            try:
                queue = plain_queue(message["queue"], self._queue_arguments)
                self._app.send_task(**message | {"queue": queue}, producer=self._opened(), retry=False, ignore_result=True)
            except (KombuError, OSError, *self._errors()) as error:
                self._failed("hint_not_sent", error, queue=message["queue"])

    def _opened(self) -> Producer:
        if self._producer is None:
            self._connection = self._app.connection_for_write(transport_options=self._options)
            self._producer = Producer(self._connection, serializer="json")
        return self._producer

    def _count(self, queue: str) -> int:
        channel = self._opened().channel
        try:
            return int(channel.queue_declare(queue=queue, passive=True).message_count)
        except self._connection_of().channel_errors:
            # "No such queue" is an empty one; AMQP has closed the channel as well.
            if self._connection_of().transport.driver_type == "amqp":
                self._drop()
            return 0

    def _connection_of(self) -> Connection:
        if self._connection is None:
            raise ConnectionError("no broker connection")
        return self._connection

    def _errors(self) -> tuple[type[BaseException], ...]:
        """What the transport raises; kombu's Redis transport hands some errors of redis-py through as they are."""
        connection = self._connection
        return () if connection is None else (*connection.connection_errors, *connection.channel_errors)

    def _failed(self, event: str, error: BaseException, **fields: Any) -> None:
        self._closed_until = self._clock() + self._pause_seconds
        if self._connection is not None and self._connection.transport.driver_type == "amqp":
            with suppress(Exception):
                self._connection.collect()  # AMQP takes leave in words, and would wait for an answer
        self._drop()
        logger.warning(event, extra={"reason": type(error).__name__, **fields})

    def _drop(self) -> None:
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            with suppress(Exception):
                connection.release()


def _message(name: str, queue: str, shadow: str, *, ids: list[str], key: str = "event_ids", **arguments: Any) -> dict[str, Any]:
    """The arguments of `send_task`; Flower is shown the first ids only, a long list would cost more than the task.

    It is shown a Python dictionary: Flower reads it as one to search by `kwargs`, and logs a warning for an id that looks like a broken number.
    """
    shown = ids[:SHOWN_IDS] + ["..."] * (len(ids) > SHOWN_IDS)
    return {
        "name": name,
        "queue": queue,
        "shadow": shadow,
        "kwargs": {**arguments, key: ids},
        "kwargsrepr": repr({**arguments, "count": len(ids), key: shown}),
    }
