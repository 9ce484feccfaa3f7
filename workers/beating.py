"""Beat's schedule by a clock that nobody sets, and without expiry times: both of Celery's own hang on wall clocks.

Celery notes when an entry ran last by the machine's clock, so putting that back by an hour would keep beat silent for an hour. And `expires` is a time by the sender's clock that the
receiver's decides upon: workers a few seconds ahead of beat would drop every message as too old. Instead none is sent while enough of them wait for a worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from celery.beat import Scheduler
from kombu.exceptions import KombuError

from config.celery import CONTROL_QUEUE, MOST_WAITING


class SteadyScheduler(Scheduler):  # type: ignore[misc]
    """Sends each entry of the schedule once in its interval; Celery makes it from the name in `beat_scheduler`."""

    clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._next: dict[str, float] = {}
        self._channel: Any = None
        super().__init__(*arguments, **options)

    def tick(self, *_: Any, **__: Any) -> float:
        """Send what is due; returns for how many seconds beat may sleep."""
        now = self.clock()
        due = [name for name in self.schedule if now >= self._next.get(name, now)]
        has_room = bool(due) and self._waiting() < MOST_WAITING
        for name in due:
            self._next[name] = now + self.schedule[name].schedule.run_every.total_seconds()
            if has_room:
                self.apply_entry(self.schedule[name], producer=self.producer)
        return float(max(0.0, min([self.max_interval, *(at - now for at in self._next.values())])))

    def _waiting(self) -> int:
        """How many messages wait in the control queue; 0 if nobody can tell, as when no worker has made it yet."""
        connection = self.producer.connection
        try:
            if self._channel is None:  # and kept: at Redis each is a connection with classes of its own, which one a second are a leak for hours
                self._channel = connection.channel()
            return int(self._channel.queue_declare(queue=CONTROL_QUEUE, passive=True).message_count)
        except connection.channel_errors:  # no such queue; AMQP has closed the channel as well
            if connection.transport.driver_type == "amqp":
                self._channel = None
            return 0
        except (KombuError, OSError, *connection.connection_errors):
            self._channel = None
            return 0
