"""The default transport: one thread drives hundreds of calls through libcurl's multi interface.

libcurl tells which sockets it waits for and epoll watches them, so a turn costs what happened and not what is in flight. Calls that may reach
private addresses have a multi handle of their own: a connection opened for one of them is never reused by a call that may not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import certifi
import pycurl

from pipeline.transports.base import Answer, Call, Failure, OnAnswer
from pipeline.transports.curl_transfer import Transfer
from pipeline.transports.poller import READ, WRITE, Poller

logger = logging.getLogger(__name__)

_MASKS: Final = {pycurl.POLL_IN: READ, pycurl.POLL_OUT: WRITE, pycurl.POLL_INOUT: READ | WRITE}
_IDLE_SECONDS: Final = 60.0


class CurlTransport:
    """Carries calls by libcurl on one loop thread; see `base.Transport` for the promises.

    A call over a kept connection that turns out to be dead is sent once more by libcurl itself, within its total time.
    """

    def __init__(self, *, ca_file: str | None = None, max_connections: int = 500) -> None:
        self._ca_file = ca_file or certifi.where()
        self._max_connections = max_connections
        self._inbox: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._sleeping = False
        self._wake_reader = self._wake_writer = -1
        self._lanes: dict[bool, _Lane] = {}
        self._poller = Poller()
        self._owners: dict[int, _Lane] = {}

    def post(self, action: Callable[[], None]) -> bool:
        with self._lock:
            if self._closing:
                return False
            if self._thread is None:
                self._start()
            self._inbox.append(action)
        # The loop says that it sleeps before it looks at the inbox for the last time, so one of the two sees the other.
        if self._sleeping:
            self._wake()
        return True

    def submit(self, call: Call, on_answer: OnAnswer) -> None:
        if threading.current_thread() is self._thread:
            self._begin(call, on_answer)
        elif not self.post(lambda: self._begin(call, on_answer)):
            _answer(on_answer, Answer(None, Failure.CONNECTION_LOST, may_have_arrived=False))

    def close(self) -> None:
        with self._lock:
            self._closing = True
            thread = self._thread
            if thread is not None:
                self._wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _start(self) -> None:
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)
        self._poller.open()
        self._poller.watch(self._wake_reader, READ)
        self._lanes = {allow: _Lane(self, allow_private=allow) for allow in (False, True)}
        self._thread = threading.Thread(target=self._run, name="exchange", daemon=True)
        self._thread.start()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_writer, b"\0")

    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
        except Exception as error:  # noqa: BLE001  # nobody may wait for an answer that cannot come
            logger.warning("exchange_loop_ended", extra={"error": type(error).__name__})
        finally:
            self._end()

    def _turn(self) -> None:
        self._take_inbox()
        pause_seconds = min(lane.drive() for lane in self._lanes.values())
        self._sleeping = True
        events = self._poller.wait(0.0 if self._inbox or self._closing else pause_seconds)
        self._sleeping = False
        for descriptor, event in events:
            owner = self._owners.get(descriptor)
            if owner is not None:
                owner.act(descriptor, event)
            elif descriptor == self._wake_reader:
                os.read(descriptor, 4096)
        for lane in self._lanes.values():
            lane.collect()

    def _take_inbox(self) -> None:
        # Only what is there now: an action that posts again must not keep the loop from the sockets.
        for _ in range(len(self._inbox)):
            action = self._inbox.popleft()
            try:
                action()
            except Exception as error:  # noqa: BLE001  # the loop outlives whatever was handed to it
                logger.warning("exchange_action_failed", extra={"error": type(error).__name__})

    def _begin(self, call: Call, on_answer: OnAnswer) -> None:
        if self._closing or not self._lanes:
            _answer(on_answer, Answer(None, Failure.CONNECTION_LOST, may_have_arrived=False))
        else:
            self._lanes[call.allow_private_network].begin(call, on_answer)

    def _end(self) -> None:
        with self._lock:
            self._closing = True
        for lane in self._lanes.values():
            lane.close()
        while self._inbox:
            self._take_inbox()
        self._poller.close()
        with self._lock:
            os.close(self._wake_reader)
            os.close(self._wake_writer)
            self._wake_writer = -1

    def watch(self, lane: _Lane, what: int, descriptor: int) -> None:
        """Watch a socket of a lane as libcurl wants it, or no longer."""
        if what == pycurl.POLL_REMOVE:
            if self._owners.pop(descriptor, None) is not None:
                self._poller.forget(descriptor)
            return
        self._owners[descriptor] = lane
        self._poller.watch(descriptor, _MASKS.get(what, 0))

    def new_transfer(self, *, allow_private: bool) -> Transfer:
        return Transfer(self._ca_file, allow_private=allow_private)

    @property
    def max_connections(self) -> int:
        return self._max_connections


class _Lane:
    """One multi handle with its connections and its idle easy handles."""

    def __init__(self, transport: CurlTransport, *, allow_private: bool) -> None:
        self._transport = transport
        self._allow_private = allow_private
        self._idle: list[Transfer] = []
        self._active: set[Transfer] = set()
        self._multi: Any = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, transport.max_connections)
        self._multi.setopt(pycurl.M_MAX_TOTAL_CONNECTIONS, transport.max_connections)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)

    def _on_socket(self, what: int, descriptor: int, _multi: object, _data: object) -> None:
        self._transport.watch(self, what, descriptor)

    def begin(self, call: Call, on_answer: OnAnswer) -> None:
        transfer = self._idle.pop() if self._idle else self._transport.new_transfer(allow_private=self._allow_private)
        try:
            transfer.arm(call, on_answer)
            self._multi.add_handle(transfer.curl)
        except (pycurl.error, UnicodeError, TypeError, ValueError) as error:
            logger.warning("exchange_call_unsendable", extra={"error": type(error).__name__})
            _answer(on_answer, Answer(None, Failure.ADDRESS_REFUSED, may_have_arrived=False))
        else:
            self._active.add(transfer)

    def drive(self) -> float:
        """Let libcurl do what is due by time (new calls, timeouts); seconds until it wants to be asked again."""
        if not self._active:
            return _IDLE_SECONDS
        milliseconds: int = self._multi.timeout()
        if milliseconds == 0:
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
            self.collect()
            return 0.0
        return _IDLE_SECONDS if milliseconds < 0 else milliseconds / 1000

    def act(self, descriptor: int, event: int) -> None:
        self._multi.socket_action(descriptor, (pycurl.CSELECT_IN if event & ~WRITE else 0) | (pycurl.CSELECT_OUT if event & WRITE else 0))

    def collect(self) -> None:
        """Hand over what has ended; its handles are free again before, so that a next request finds a warm one."""
        while self._active:
            queued, succeeded, failed = self._multi.info_read()
            for curl in succeeded:
                self._finish(curl.transfer, 0)
            for curl, code, _message in failed:
                self._finish(curl.transfer, code)
            if not queued:
                return

    def _finish(self, transfer: Transfer, code: int) -> None:
        if transfer.never_left(code):
            self._multi.remove_handle(transfer.curl)
            transfer.arm_again()
            self._multi.add_handle(transfer.curl)
            return
        answer, on_answer = transfer.answer(code), transfer.let_go()
        self._multi.remove_handle(transfer.curl)
        self._active.discard(transfer)
        self._idle.append(transfer)
        _answer(on_answer, answer)

    def close(self) -> None:
        for transfer in list(self._active):
            self._finish(transfer, pycurl.E_RECV_ERROR)
        for transfer in self._idle:
            transfer.curl.close()
        self._multi.close()


def _answer(on_answer: OnAnswer, answer: Answer) -> None:
    try:
        on_answer(answer)
    except Exception as error:  # noqa: BLE001  # the loop outlives whoever waits for an answer
        logger.warning("exchange_answer_failed", extra={"error": type(error).__name__})
