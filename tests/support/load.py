"""Load for chaos tests: invented people changing their minds, clients that retry as real ones do, and what must come of it.

The oracle is as simple as the rule: for each (e-mail, purpose) the newest word by (time, withdrawn over given, event id) stands.
Every event names the e-mail, so no other identifier can change that.
"""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import requests

FIRST_TIME = datetime(2026, 1, 5, 8, tzinfo=UTC)
SPAN_SECONDS = 60 * 24 * 3600
RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 1.6
"""A client waits twice as long each time, up to this."""
GIVE_UP_SECONDS = 60.0
LARGEST_BATCH = 40


@dataclass(slots=True, kw_only=True)
class Sent:
    """One event with what its client saw: when it was first posted, when the first 202 came (both time.time()), and every id it was told."""

    body: dict[str, Any] = field(repr=False)
    order: int
    begun_at: float = 0.0
    answered_at: float = 0.0
    ids: list[str] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)

    @property
    def event_id(self) -> str:
        return self.ids[0]

    @property
    def withdrawn(self) -> bool:
        return self.body["state"] == "withdrawn"

    @property
    def about(self) -> tuple[str, str]:
        """E-mail and purpose."""
        return self.body["subject"]["email"], self.body["purpose"]

    @property
    def word(self) -> tuple[int, bool, str]:
        return self.order, self.withdrawn, self.event_id


def invent(chance: random.Random, count: int, *, people: int, purposes: Mapping[str, float], first: int = 0) -> list[Sent]:
    """Events of `people` invented persons, times in no order, some at the same second; `purposes` with their weights. Another `first` means other people and events."""
    events = []
    for number in range(count):
        person = first + chance.randrange(people)
        second = chance.randrange(SPAN_SECONDS) if chance.random() > 0.05 else chance.randrange(5) * 3600
        subject = {"email": f"person-{person}@example.org"}
        if chance.random() < 0.4:
            subject["external_id"] = f"crm-{person}"
        if chance.random() < 0.3:
            subject["phone"] = f"+55519{person:08d}"
        body = {
            "idempotency_key": f"key-{first + number}",
            "subject": subject,
            "purpose": chance.choices(list(purposes), list(purposes.values()))[0],
            "state": chance.choice(["given", "withdrawn"]),
            "event_time": (FIRST_TIME + timedelta(seconds=second)).isoformat(),
        }
        events.append(Sent(body=body, order=second))
    return events


def posts_of(chance: random.Random, events: Sequence[Sent], *, duplicates: float = 0.05) -> list[list[Sent]]:
    """The posts to make: mostly one event each, some batches, and some events once more, later."""
    posts: list[list[Sent]] = []
    left = list(events)
    while left:
        size = chance.randint(2, LARGEST_BATCH) if chance.random() < 0.02 else 1
        posts.append(left[:size])
        del left[:size]
    again = chance.sample(range(len(posts)), int(duplicates * len(posts)))
    for place in sorted(again, reverse=True):
        posts.insert(min(len(posts), place + chance.randint(1, 40)), posts[place])
    return posts


class Clients:
    """Threads that post, spread over `seconds` or one post `every_seconds` (0: as fast as they can); a client repeats a post until it is answered, under the same keys.

    `end` has them finish what they are at and post no more. `failures` holds what a real client could not have helped itself with.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        posts: Iterable[Sequence[Sent]],
        *,
        threads: int,
        seconds: float = 0.0,
        every_seconds: float | None = None,
        give_up_seconds: float = GIVE_UP_SECONDS,
    ) -> None:
        self.url, self.headers, self.give_up_seconds = url, headers, give_up_seconds
        self.failures: list[str] = []
        self.retries = 0
        self.begun_at = self.ended_at = 0.0
        self._pace = seconds / max(1, len(posts)) if isinstance(posts, Sequence) else 0.0
        self._pace = self._pace if every_seconds is None else every_seconds
        self._posts = iter(enumerate(posts))
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._work, name=f"client-{number}") for number in range(threads)]

    def start(self) -> None:
        self.begun_at = time.time()
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ended.set()

    @property
    def are_busy(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def join(self, seconds: float) -> None:
        """Wait for the last answer; fails with the first thing a client could not make sense of."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.1, until - time.monotonic()))
        assert not self.are_busy, "clients still wait for answers"
        assert not self.failures, self.failures[:3]
        self.ended_at = time.time()

    def _work(self) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while not self.failures:
                with self._lock:
                    place, post = next(self._posts, (0, None))
                if post is None or self._ended.wait(max(0.0, self.begun_at + place * self._pace - time.time())):
                    return
                self._post(session, post)

    def _post(self, session: requests.Session, post: Sequence[Sent]) -> None:
        begun_at = time.time()
        for sent in post:
            sent.begun_at = sent.begun_at or begun_at
        wait_seconds = RETRY_SECONDS
        while time.time() < begun_at + self.give_up_seconds:
            answer = self._try(session, post)
            if answer is not None:
                self._note(post, answer)
                return
            with self._lock:
                self.retries += 1
            time.sleep(wait_seconds)
            wait_seconds = min(2 * wait_seconds, LONGEST_RETRY_SECONDS)
        self.failures.append(f"no answer within {self.give_up_seconds} seconds")

    def _try(self, session: requests.Session, post: Sequence[Sent]) -> requests.Response | None:
        single = len(post) == 1
        path, body = ("/v1/consent-events", post[0].body) if single else ("/v1/consent-events/batch", [sent.body for sent in post])
        try:
            answer = session.post(self.url + path, json=body, headers=self.headers, timeout=10)
        except requests.RequestException:
            return None
        return None if answer.status_code >= 500 or answer.status_code == 429 else answer

    def _note(self, post: Sequence[Sent], answer: requests.Response) -> None:
        now = time.time()
        if answer.status_code != 202:
            self.failures.append(f"{answer.status_code}: {answer.text[:300]}")
            return
        results = [answer.json()] if len(post) == 1 else answer.json()["results"]
        with self._lock:
            for sent, result in zip(post, results, strict=True):
                sent.ids.append(result["event_id"])
                sent.statuses.append(result["status"])
                sent.answered_at = sent.answered_at or now


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One state as it reached a sandbox."""

    about: tuple[str, str]
    state: str
    at: float
    event_id: str = ""
    call_id: str = ""


def standing(events: Iterable[Sent]) -> dict[tuple[str, str], str]:
    """The oracle: the state of the newest word for each e-mail and purpose."""
    newest: dict[tuple[str, str], Sent] = {}
    for sent in events:
        if sent.about not in newest or sent.word > newest[sent.about].word:
            newest[sent.about] = sent
    return {about: str(sent.body["state"]) for about, sent in newest.items()}


CLOCKS_DIFFER_SECONDS = 0.1
"""How far the clocks of two processes may lie apart: a busy virtual machine showed calls 12 ms before the posts that they came from."""


def stale_arrivals(events: Iterable[Sent], arrivals: Iterable[Arrival]) -> list[tuple[Arrival, Sent]]:
    """Each `given` that arrived although the newest word answered with 202 before was a withdrawal, with that withdrawal.

    A newer `given` that had at least been posted by then excuses it: that one may be what was told.
    """
    by_person: dict[tuple[str, str], list[Sent]] = defaultdict(list)
    for sent in events:
        by_person[sent.about].append(sent)
    found = []
    for arrival in arrivals:
        if arrival.state != "given":
            continue
        said = by_person[arrival.about]
        withdrawn = max((sent for sent in said if sent.withdrawn and sent.answered_at < arrival.at), key=lambda sent: sent.word, default=None)
        if withdrawn and not any(not sent.withdrawn and sent.begun_at < arrival.at + CLOCKS_DIFFER_SECONDS and sent.word > withdrawn.word for sent in said):
            found.append((arrival, withdrawn))
    return found


def stale_lags(events: Iterable[Sent], arrivals: Iterable[Arrival]) -> list[float]:
    """How many seconds after the withdrawal's 202 each stale `given` arrived."""
    return [arrival.at - withdrawn.answered_at for arrival, withdrawn in stale_arrivals(events, arrivals)]


def corrections(events: Sequence[Sent], arrivals: Sequence[Arrival]) -> list[float]:
    """How many seconds after each stale `given` one vendor was told the withdrawal, or what came after it; infinite if it never was. `arrivals` are that vendor's."""
    by_person: dict[tuple[str, str], list[Arrival]] = defaultdict(list)
    for arrival in arrivals:
        by_person[arrival.about].append(arrival)
    found = []
    for stale, _ in stale_arrivals(events, arrivals):
        later = [arrival for arrival in by_person[stale.about] if arrival.at > stale.at]
        withdrawn = [arrival for arrival in later if arrival.state == "withdrawn"]
        found.append(min((arrival.at - stale.at for arrival in withdrawn or later), default=float("inf")))
    return found


def quantile(values: Iterable[float], share: float) -> float:
    """The value below which that share of all values lies; 0 if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def quantiles(values: Iterable[float]) -> str:
    """Median, 95th and 99th percentile and maximum, for people to read."""
    ordered = sorted(values)
    if not ordered:
        return "none"
    picked = [quantile(ordered, share) for share in (0.5, 0.95, 0.99, 1.0)]
    return " / ".join(f"{value:.2f}" for value in picked) + f" s (p50 / p95 / p99 / max of {len(ordered)})"
