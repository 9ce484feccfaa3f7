"""What arrives one by one, for one thread that wants many at once: it is woken when there are as many as it waits for, not for each."""

from __future__ import annotations

import sys
import time
from collections import deque
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

Item = TypeVar("Item")
_NOBODY_WAITS = sys.maxsize


class Arrivals(Generic[Item]):
    """A queue with any number of threads that put, and one that takes. Waking a thread costs a dialogue as much as a step of it."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._wanted = _NOBODY_WAITS
        self._bell: SimpleQueue[None] = SimpleQueue()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> None:
        """Add one; who waits is woken if it is the last that it waits for."""
        self._items.append(item)
        if len(self._items) >= self._wanted:
            self._bell.put(None)

    def take(self, most: int) -> list[Item]:
        """What has arrived, up to `most`, without waiting."""
        return [self._items.popleft() for _ in range(min(most, len(self._items)))]

    def wait(self, count: int, until: float) -> int:
        """Wait until so many have arrived, or until then by the monotonic clock; returns how many have."""
        self._wanted = count  # before the look: whoever puts one after it rings
        try:
            while len(self._items) < count and (left := until - time.monotonic()) > 0:
                self._bell.get(timeout=left)
        except Empty:
            pass
        finally:
            self._wanted = _NOBODY_WAITS
        return len(self._items)
