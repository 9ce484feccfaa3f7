"""Waiting for sockets: epoll, or poll where there is none (macOS), with one face."""

from __future__ import annotations

import contextlib
import select
from typing import Any, Final

READ: Final = 1  # EPOLLIN = POLLIN
WRITE: Final = 4  # EPOLLOUT = POLLOUT


class Poller:
    """epoll, or poll where there is none (macOS), with one face."""

    def __init__(self) -> None:
        self._poll: Any = None
        self._watched: set[int] = set()

    def open(self) -> None:
        self._poll = select.epoll() if hasattr(select, "epoll") else select.poll()

    def watch(self, descriptor: int, mask: int) -> None:
        if descriptor in self._watched:
            # A number may have been closed and given out again, which epoll forgets by itself.
            with contextlib.suppress(FileNotFoundError):
                self._poll.modify(descriptor, mask)
                return
        self._watched.add(descriptor)
        self._poll.register(descriptor, mask)

    def forget(self, descriptor: int) -> None:
        self._watched.discard(descriptor)
        with contextlib.suppress(OSError, KeyError):
            self._poll.unregister(descriptor)

    def wait(self, seconds: float) -> list[tuple[int, int]]:
        events: list[tuple[int, int]] = self._poll.poll(seconds if hasattr(select, "epoll") else seconds * 1000)
        return events

    def close(self) -> None:
        if hasattr(self._poll, "close"):
            self._poll.close()
