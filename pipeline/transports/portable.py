"""The portable transport: `requests` in a small thread pool, for machines without libcurl; the promises of `base` at about thirty times the cost.

`requests` knows no total deadline and does not show the address it dials, so the connection classes are ours (`checked`):
they dial only what may be dialled, and leave a handle by which the loop thread cuts a call whose time is over.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import certifi
import requests
import urllib3

from pipeline.transports.base import Answer, Call, Failure, OnAnswer
from pipeline.transports.checked import AddressRefused, Attempt, CheckedSession
from pipeline.vendors.base import VendorResponse

logger = logging.getLogger(__name__)


class PortableTransport:
    """Carries calls by `requests`; see `base.Transport` for the promises.

    Looking up a name cannot be cut short: a call may outlast its total time by what the system's resolver takes.
    """

    def __init__(self, *, ca_file: str | None = None, threads: int = 16) -> None:
        self._ca_file = ca_file or certifi.where()
        self._threads = threads
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._local = threading.local()
        self._sessions: list[CheckedSession] = []
        self._waiting: dict[int, tuple[Attempt, OnAnswer]] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._numbers = itertools.count()

    def post(self, action: Callable[[], None]) -> bool:
        with self._lock:
            if self._closing:
                return False
            if self._thread is None:
                self._start()
            self._inbox.put(action)
            return True

    def submit(self, call: Call, on_answer: OnAnswer) -> None:
        if threading.current_thread() is self._thread:
            self._begin(call, on_answer)
        elif not self.post(lambda: self._begin(call, on_answer)):
            _guarded(lambda: on_answer(Answer(None, Failure.CONNECTION_LOST, may_have_arrived=False)))

    def close(self) -> None:
        with self._lock:
            if self._closing:
                return
            self._closing = True
            thread = self._thread
        self._inbox.put(_wake)
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _start(self) -> None:
        # urllib3 writes addresses and paths to the debug log, and a path may name a person.
        logging.getLogger("urllib3").setLevel(logging.WARNING)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="exchange-call")
        self._thread = threading.Thread(target=self._run, name="exchange", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closing:
            try:
                _guarded(self._inbox.get(timeout=self._pause_seconds()))
            except queue.Empty:
                self._cut_overdue()
        self._end()

    def _pause_seconds(self) -> float | None:
        if not self._deadlines:
            return None
        return max(0.0, self._deadlines[0][0] - time.monotonic())

    def _cut_overdue(self) -> None:
        while self._deadlines and self._deadlines[0][0] <= time.monotonic():
            _, number = heapq.heappop(self._deadlines)
            if number in self._waiting:
                self._waiting[number][0].cut()

    def _begin(self, call: Call, on_answer: OnAnswer) -> None:
        if self._closing or self._pool is None:
            _guarded(lambda: on_answer(Answer(None, Failure.CONNECTION_LOST, may_have_arrived=False)))
            return
        number = next(self._numbers)
        attempt = Attempt(deadline=time.monotonic() + call.total_timeout_seconds)
        self._waiting[number] = (attempt, on_answer)
        heapq.heappush(self._deadlines, (attempt.deadline, number))
        self._pool.submit(self._carry, number, call, attempt)

    def _carry(self, number: int, call: Call, attempt: Attempt) -> None:
        answer = self._answer(call, attempt)
        self._inbox.put(lambda: self._hand_over(number, answer))

    def _hand_over(self, number: int, answer: Answer) -> None:
        _, on_answer = self._waiting.pop(number, (None, None))
        if not self._waiting:
            self._deadlines.clear()
        if on_answer is not None:
            on_answer(answer)

    def _end(self) -> None:
        for attempt, on_answer in list(self._waiting.values()):
            answer = Answer(None, Failure.CONNECTION_LOST, may_have_arrived=attempt.may_have_arrived)
            attempt.cut()
            _guarded(partial(on_answer, answer))
        self._waiting.clear()
        with contextlib.suppress(queue.Empty):
            while True:
                _guarded(self._inbox.get_nowait())
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        for session in self._sessions:
            session.close()

    def _session(self, *, allow_private: bool) -> CheckedSession:
        """The session of the thread that asks; one for each of the two address rules, so that connections are never shared between them."""
        sessions: dict[bool, CheckedSession] = self._local.__dict__.setdefault("sessions", {})
        if allow_private not in sessions:
            sessions[allow_private] = CheckedSession(self._ca_file, allow_private=allow_private)
            self._sessions.append(sessions[allow_private])
        return sessions[allow_private]

    def _answer(self, call: Call, attempt: Attempt) -> Answer:
        try:
            return Answer(self._exchange(call, attempt))
        except AddressRefused:
            return Answer(None, Failure.ADDRESS_REFUSED, may_have_arrived=False)
        except _TooLarge:
            return Answer(None, Failure.RESPONSE_TOO_LARGE)
        except Exception as error:  # noqa: BLE001  # whatever broke, the caller gets an answer
            return Answer(None, _failure(error, attempt), may_have_arrived=attempt.may_have_arrived)

    def _exchange(self, call: Call, attempt: Attempt) -> VendorResponse:
        left_seconds = attempt.deadline - time.monotonic()
        if left_seconds <= 0 or attempt.was_cut:
            raise requests.Timeout
        session = self._session(allow_private=call.allow_private_network)
        timeouts = (min(call.connect_timeout_seconds, left_seconds), left_seconds)
        with session.attempt(attempt), session.send_call(call, timeouts) as response:
            body = b""
            for chunk in response.raw.stream(65_536, decode_content=False):
                body += chunk
                if len(body) > call.max_response_bytes:
                    raise _TooLarge
            if attempt.was_cut:  # http.client takes a stream that ends within the headers for a whole answer
                raise requests.Timeout
            return VendorResponse(status=response.status_code, headers={name.lower(): value for name, value in response.raw.headers.items()}, body=body)


class _TooLarge(Exception):
    """The answer is longer than the call allows."""


def _failure(error: Exception, attempt: Attempt) -> Failure:
    if attempt.was_cut or isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return Failure.TIMED_OUT
    if attempt.may_have_arrived:
        return Failure.CONNECTION_LOST
    if isinstance(error, requests.exceptions.SSLError):
        return Failure.TLS_FAILED
    if isinstance(error, requests.ConnectionError):
        return Failure.CONNECT_FAILED
    logger.warning("exchange_call_unsendable", extra={"error": type(error).__name__})
    return Failure.ADDRESS_REFUSED


def _guarded(action: Callable[[], None]) -> None:
    try:
        action()
    except Exception as error:  # noqa: BLE001  # the loop outlives whatever was handed to it
        logger.warning("exchange_action_failed", extra={"error": type(error).__name__})


def _wake() -> None:
    return None
