"""Samples what a stack uses while it works: memory and descriptors of every process, the server's memory, what waits, and how long telling takes."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from tests.support.load import Sent, quantile
from tests.support.stack import Stack
from tests.support.verdict import repeated_in
from tests.support.world import LATENCY_SECONDS

PAGE_MEGABYTES = os.sysconf("SC_PAGE_SIZE") / 2**20
FORGOTTEN_SECONDS = 120.0
"""An event that its vendor was not told of for so long has been overtaken by a newer one."""

FAMILIES = {"fan_out": "hints to fan out", "celeryev": "events for Flower", "control": "control", "": "hints to deliver"}
"""How a queue's name begins, and what its messages are about."""


class Book:
    """What clients said: the newest word of each person, and when those were answered that no vendor was told of yet."""

    def __init__(self) -> None:
        self.newest: dict[tuple[str, str], Sent] = {}
        self.answered: dict[str, float] = {}
        self.accepted = 0
        self._open: list[Sent] = []
        self._lock = threading.Lock()

    def open(self, sent: Sent) -> None:
        """An event is about to be posted."""
        with self._lock:
            self._open.append(sent)

    def close(self) -> None:
        """Take in what has been answered since."""
        with self._lock:
            done = [sent for sent in self._open if sent.answered_at]
            self._open = [sent for sent in self._open if not sent.answered_at]
        for sent in done:
            self.accepted += 1
            self.answered[sent.event_id] = sent.answered_at
            if sent.about not in self.newest or sent.word > self.newest[sent.about].word:
                self.newest[sent.about] = sent
        until = time.time() - FORGOTTEN_SECONDS
        self.answered = {event_id: at for event_id, at in self.answered.items() if at > until}


class Watcher(threading.Thread):
    """Looks every so many seconds; `curves` are name -> values at `at_seconds`, None where there was nothing to see. `failure` is what stopped it."""

    def __init__(self, stack: Stack, book: Book, every_seconds: float, say: Callable[[str], None] = lambda _: None) -> None:
        super().__init__(name="watcher")
        self.stack, self.book, self.every_seconds, self._say = stack, book, every_seconds, say
        self.at_seconds: list[float] = []
        self.curves: dict[str, dict[str, list[float | None]]] = defaultdict(dict)
        self.calls = self.doubled = 0
        self.failure: BaseException | None = None
        self._over = threading.Event()

    def run(self) -> None:
        begun_at, number = time.monotonic(), 0
        try:
            with redis.Redis.from_url(self.stack.broker_url) as broker:
                while not self._over.wait(max(0.0, begun_at + number * self.every_seconds - time.monotonic())):
                    self.at_seconds.append(round(time.monotonic() - begun_at, 1))
                    self._look(broker)
                    number += 1
        except BaseException as error:
            self.failure = error

    def finish(self) -> None:
        """Stop looking; raises what stopped it earlier."""
        self._over.set()
        self.join()
        if self.failure is not None:
            raise self.failure

    def tell(self) -> list[float]:
        """Take from the vendors what they were told since the last look; returns how long after its 202 each event was told at the webhook."""
        self.book.close()
        taken = self.stack.take("webhook")
        for vendor in ("dinamize", "mailchimp"):
            self.stack.take(vendor)
        calls, doubled = repeated_in(taken["history"])
        self.calls, self.doubled = self.calls + calls, self.doubled + doubled
        told = {}
        for states in taken["history"].values():
            for each in states:
                told.setdefault(each["event_id"], each["at"] - LATENCY_SECONDS)
        return [max(0.0, at - self.book.answered.pop(event_id)) for event_id, at in told.items() if event_id in self.book.answered]

    def _look(self, broker: Any) -> None:
        for kind, pids in self.stack.kinds().items():
            self._note("memory", kind, sum(_megabytes(pid) for pid in pids))
            self._note("descriptors", kind, sum(_descriptors(pid) for pid in pids))
        self._note("server", "used_memory", broker.info("memory")["used_memory"] / 2**20)
        depths = dict.fromkeys(FAMILIES.values(), 0)
        for name in broker.scan_iter("*", _type="list"):
            depths[_family(name.decode())] += broker.llen(name)
        for line, depth in depths.items():
            self._note("waiting", line, depth)
        self._note("waiting", "deliveries", self.stack.metric("consent_waiting"))
        told_after = self.tell()
        self._note("latency", "median", quantile(told_after, 0.5) if told_after else None)
        self._note("latency", "99th percentile", quantile(told_after, 0.99) if told_after else None)
        if len(self.at_seconds) % 20 == 0:
            self._say(f"{self.at_seconds[-1]:.0f} s: {len(told_after)} told within {quantile(told_after, 0.5):.2f} s (median), messages that wait: {depths}")

    def _note(self, curve: str, line: str, value: float | None) -> None:
        values = self.curves[curve].setdefault(line, [])
        values += [None] * (len(self.at_seconds) - 1 - len(values))
        values.append(None if value is None else round(value, 3))

    def lines(self, curve: str) -> dict[str, list[float | None]]:
        """A curve's lines, each as long as the time axis."""
        return {name: values + [None] * (len(self.at_seconds) - len(values)) for name, values in self.curves[curve].items()}


def _family(queue: str) -> str:
    """What the messages of a queue are about."""
    return next(line for start, line in FAMILIES.items() if queue.startswith(start))


def _megabytes(pid: int) -> float:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_MEGABYTES
    return 0.0


def _descriptors(pid: int) -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - counts only
    return 0
