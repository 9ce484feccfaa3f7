"""Connections to one server that are used again and again within moments: what redis-py looks at each time one is taken, it looks at only after a rest.

Its checks cost as much as sending the command does. They are there for connections that the server has closed meanwhile.
"""

from __future__ import annotations

import os
import time
from collections import deque
from typing import Any

import redis

FRESH_SECONDS = 0.1
"""A connection that rested for longer is checked before it is used again. One that is lost within that time fails the command that comes next, as one that is lost on its way does."""


class KeepingPool(redis.ConnectionPool):
    """redis-py's pool, to which a connection that is given back counts as in use until it has rested; safe to share between threads, and after a fork."""

    _kept: deque[tuple[Any, float]]
    _resting: set[Any]

    def reset(self) -> None:
        """Forget every connection: redis-py calls this when the pool is made, and in a process that was forked."""
        self._kept, self._resting = deque(), set()
        super().reset()

    def get_connection(self, *_: Any, **__: Any) -> Any:
        if self.pid == os.getpid():
            while self._kept:
                try:
                    connection, since = self._kept.pop()
                except IndexError:  # another thread was quicker
                    break
                self._resting.discard(connection)
                if connection.is_connected and time.monotonic() - since < FRESH_SECONDS:
                    return connection
                super().release(connection)
        return super().get_connection()

    def release(self, connection: Any) -> None:
        if connection in self._resting:
            return  # released twice: two threads would be given it
        if self.pid == os.getpid() == connection.pid and connection.is_connected and not connection.should_reconnect():
            self._resting.add(connection)
            self._kept.append((connection, time.monotonic()))
        else:
            super().release(connection)
