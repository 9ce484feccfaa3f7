"""Watches a whole relay while it is disturbed: does readiness tell the truth, does every worker take messages, is anything half written?"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import redis
import requests

from config.settings import load_settings
from tests.support.stack import Stack, wait_until
from workers.app import create_app


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at readiness: when it was asked and answered (monotonic), whether ready, and the problems named."""

    asked_at: float
    answered_at: float
    ready: bool
    problems: Sequence[str]


class Readiness(threading.Thread):
    """Asks `/health/ready` without a pause until stopped; `lies` and `false_alarms` compare the answers with what was true."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(name="readiness", daemon=True)
        self._url, self._ended = stack.url + "/health/ready", threading.Event()
        self.samples: list[Sample] = []
        self.bad: list[tuple[float, float, float]] = []

    def run(self) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while not self._ended.wait(0.1):
                asked_at = time.monotonic()
                try:
                    answer = session.get(self._url, timeout=30)
                    ready, problems = answer.status_code == 200, answer.json().get("problems", [answer.text])
                except requests.RequestException as error:
                    ready, problems = False, [type(error).__name__]
                self.samples.append(Sample(asked_at, time.monotonic(), ready, problems))

    def stop(self) -> None:
        self._ended.set()
        self.join(40)

    @contextlib.contextmanager
    def wrong(self, *, notice_seconds: float = 0.1, heal_seconds: float = 5.0) -> Iterator[None]:
        """While inside events cannot be taken; it may take so long to be noticed (at least until the command that does it has arrived), and so long to be over."""
        begun_at = time.monotonic()
        try:
            yield
        finally:
            self.bad.append((begun_at + notice_seconds, time.monotonic(), heal_seconds))

    def lies(self) -> list[Sample]:
        """Ready, asked and answered while events could not be taken."""
        return [each for each in self.samples if each.ready and any(start <= each.asked_at and each.answered_at <= end for start, end, _ in self.bad)]

    def false_alarms(self, notice_seconds: float = 2.0) -> list[Sample]:
        """Not ready, asked and answered while nothing was wrong and nothing had just been."""
        near = [(start - notice_seconds, end + heal) for start, end, heal in self.bad]
        return [each for each in self.samples if not each.ready and not any(each.answered_at >= start and each.asked_at <= end for start, end in near)]

    def reasons(self, since: float) -> set[str]:
        """Every problem named in answers to questions since then."""
        return {problem for each in self.samples if each.asked_at >= since for problem in each.problems}


class Consumers:
    """What each worker process has taken, by its own count: a worker that is connected and deaf takes nothing."""

    def __init__(self, stack: Stack, workers: int) -> None:
        self._app, self._workers = create_app(load_settings(stack.environment), ()), workers

    def taken(self) -> dict[str, int]:
        """Tasks taken so far by each worker that answers."""
        try:
            answers = self._app.control.inspect(timeout=2.0, limit=self._workers).stats() or {}
        except Exception:
            return {}
        return {name: sum(answer["total"].values()) for name, answer in answers.items()}

    def seconds_until_all_take(self, within_seconds: float) -> float:
        """How long it takes until each worker has taken something that came since now."""
        begun_at, before, fresh = time.monotonic(), {}, set()

        def all_took() -> bool:
            for name, count in self.taken().items():
                if count != before.setdefault(name, count):
                    fresh.add(name)
            return len(fresh) >= self._workers

        wait_until(all_took, within_seconds, lambda: f"only {sorted(fresh)} of {sorted(before)} take messages")
        return time.monotonic() - begun_at

    def close(self) -> None:
        self._app.close()


def half_written(client: redis.Redis) -> list[str]:
    """Events of a ledger with one partition of which some parts were written and others not; and a wrong sum."""
    records = list(client.scan_iter("cr:{e0}:e:*", count=1000))
    waiting = {name.decode() for name in client.zrange("cr:{e0}:open", 0, -1)}
    found, known = [], set()
    for record in records:
        event_id, fields = record.decode().rpartition(":")[2], client.hgetall(record)
        known.add(event_id)
        is_open = b"z" not in fields
        if not {b"f", b"h"} <= fields.keys() or (is_open and not (event_id in waiting and client.exists(f"cr:{{e0}}:p:{event_id}"))):
            found.append(event_id)
    counted = int(client.hget("cr:{e0}:n", "accepted") or 0)
    return found + sorted(waiting - known) + ([f"{counted} counted, {len(records)} there"] if counted != len(records) else [])
