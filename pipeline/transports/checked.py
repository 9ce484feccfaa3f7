"""Connections for `requests` that dial only addresses that may be dialled, and can be cut from another thread."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPResponse, RemoteDisconnected
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from pipeline.addresses import may_dial
from pipeline.transports.base import USER_AGENT, Call


class AddressRefused(Exception):
    """Every address of the host is one that may not be dialled. Not an OSError: urllib3 would wrap it."""


class Attempt:
    """One call under way: its deadline, whether its request may have left, and a way to cut its connection."""

    def __init__(self, *, deadline: float) -> None:
        self.deadline = deadline
        self.may_have_arrived = False
        self.was_cut = False
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None

    def hold(self, handle: socket.socket | None) -> None:
        """Remember the connection in use; cut it at once if the time is over already."""
        with self._lock:
            self._handle = handle
            if self.was_cut and handle is not None:
                _shut(handle)

    def cut(self) -> None:
        """End the call's connection from another thread: its reader sees the end of the stream."""
        with self._lock:
            self.was_cut = True
            if self._handle is not None:
                _shut(self._handle)


class CheckedSession(requests.Session):
    """A session of one thread without redirects, cookies, environment or retries."""

    def __init__(self, ca_file: str, *, allow_private: bool) -> None:
        super().__init__()
        self.trust_env = False
        self.verify = ca_file
        self.headers.clear()
        self.headers.update({"User-Agent": USER_AGENT, "Accept": "*/*"})
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.current = Attempt(deadline=0.0)
        self.mount("http://", _Adapter(self, allow_private=allow_private))
        self.mount("https://", self.adapters["http://"])

    @contextlib.contextmanager
    def attempt(self, attempt: Attempt) -> Iterator[None]:
        self.current = attempt
        try:
            yield
        finally:
            attempt.hold(None)

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002
        """None for every answer: otherwise a redirect's body is read whole, without a cap, to prepare a call nobody makes."""
        return

    def send_call(self, call: Call, timeouts: tuple[float, float]) -> requests.Response:
        return self.request(call.method, call.url, data=call.body or None, headers=dict(call.headers), timeout=timeouts, allow_redirects=False, stream=True)


class _Adapter(HTTPAdapter):
    def __init__(self, session: CheckedSession, *, allow_private: bool) -> None:
        self._classes = _pool_classes(session, allow_private=allow_private)
        super().__init__(max_retries=0, pool_maxsize=4)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._classes


class _Lines:
    """A reader that remembers the last line it gave."""

    def __init__(self, reader: Any) -> None:
        self.reader = reader
        self.last = b""

    def readline(self, limit: int = -1) -> bytes:
        self.last = self.reader.readline(limit)
        return self.last

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reader, name)


class _WholeResponse(HTTPResponse):
    """An answer whose headers must end with an empty line: http.client is content with a stream that breaks off."""

    def begin(self) -> None:
        if self.headers is not None:  # http.client asks twice and reads once
            return
        lines = _Lines(self.fp)
        self.fp = lines
        super().begin()
        if lines.last.strip(b"\r\n") or not lines.last:
            self.close()
            raise RemoteDisconnected("the answer ended within its headers")
        if self.fp is lines:
            self.fp = lines.reader


def _pool_classes(session: CheckedSession, *, allow_private: bool) -> dict[str, Any]:
    """Pools whose connections check what they dial and report to the session's current attempt."""

    class Checked(HTTPConnection):
        handle: socket.socket | None = None
        response_class = _WholeResponse

        def _new_conn(self) -> socket.socket:
            opened = _dial(self, allow_private=allow_private)
            # A duplicate survives the wrapping in TLS, which takes the original away.
            self.handle = opened.dup()
            session.current.hold(self.handle)
            return opened

        def send(self, data: Any) -> None:
            if self.sock is None:
                self.connect()
            session.current.may_have_arrived = True
            session.current.hold(self.handle)
            super().send(data)

        def close(self) -> None:
            super().close()
            if self.handle is not None:
                session.current.hold(None)
                self.handle.close()
                self.handle = None

    class CheckedTls(Checked, HTTPSConnection):
        pass

    class Pool(HTTPConnectionPool):
        ConnectionCls = Checked

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = CheckedTls

    return {"http": Pool, "https": TlsPool}


def _dial(connection: HTTPConnection, *, allow_private: bool) -> socket.socket:
    """Resolve, check each address, and connect to exactly the address that was checked."""
    try:
        found = socket.getaddrinfo(connection.host, connection.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NewConnectionError(connection, "name not found") from error
    allowed = [entry for entry in found if may_dial(str(entry[4][0]), allow_private=allow_private)]
    if not allowed:
        raise AddressRefused
    timeout = connection.timeout if isinstance(connection.timeout, int | float) else None
    deadline = time.monotonic() + (timeout or 5.0)
    late = False
    for family, kind, protocol, _, target in allowed:
        candidate = socket.socket(family, kind, protocol)
        try:
            candidate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            candidate.settimeout(max(0.001, deadline - time.monotonic()))
            candidate.connect(target)
        except OSError as error:
            candidate.close()
            late = isinstance(error, TimeoutError)
        else:
            return candidate
    if late:
        raise ConnectTimeoutError(connection, "no connection in time")
    raise NewConnectionError(connection, "no connection")


def _shut(handle: socket.socket) -> None:
    with contextlib.suppress(OSError):
        handle.shutdown(socket.SHUT_RDWR)
