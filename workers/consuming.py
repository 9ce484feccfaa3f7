"""Celery's consumer, but for how often it tells watchers what its tasks do, and for what it does with their messages when the broker goes away."""

from __future__ import annotations

import time
from typing import Any, Final

from celery.worker import consumer

EVENTS_SECONDS: Final = 0.1


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """Sends the events of tasks together, ten times a second at the most: sent as they come, they took a quarter of a worker whose events come one by one."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._events_at = 0.0
        super().__init__(*arguments, **options)

    def on_send_event_buffered(self) -> None:
        """Called from any thread: the loop is woken and sets its timer itself. A moment is kept and not a mark, as the timer may go with a lost connection."""
        now = time.monotonic()
        if self.hub and now >= self._events_at:
            self._events_at = now + EVENTS_SECONDS
            self.hub.call_soon(self.hub.call_later, EVENTS_SECONDS, self._flush_events_promise)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Tasks go on without the broker and end in the ledger: to put their messages back would double them, or, where the broker is away, leave them in a file."""
        if self.task_consumer:
            self.task_consumer.channel.do_restore = False
        super().on_connection_error_after_connected(exc)

    def shutdown(self) -> None:
        self._flush_events()
        super().shutdown()
