"""One libcurl easy handle and what it needs for a call: options, buffers, the check of the address it dials."""

from __future__ import annotations

import socket
from typing import Any, Final

import pycurl

from pipeline.addresses import may_dial
from pipeline.transports.base import USER_AGENT, Answer, Call, Failure, OnAnswer, read_headers
from pipeline.vendors.base import VendorResponse

_FAILURES: Final = {
    pycurl.E_OPERATION_TIMEDOUT: Failure.TIMED_OUT,
    pycurl.E_COULDNT_RESOLVE_HOST: Failure.CONNECT_FAILED,
    pycurl.E_COULDNT_CONNECT: Failure.CONNECT_FAILED,
    pycurl.E_UNSUPPORTED_PROTOCOL: Failure.ADDRESS_REFUSED,
    pycurl.E_URL_MALFORMAT: Failure.ADDRESS_REFUSED,
    pycurl.E_SSL_CONNECT_ERROR: Failure.TLS_FAILED,
    pycurl.E_PEER_FAILED_VERIFICATION: Failure.TLS_FAILED,
    pycurl.E_SSL_CACERT_BADFILE: Failure.TLS_FAILED,
    pycurl.E_SSL_CIPHER: Failure.TLS_FAILED,
    pycurl.E_SSL_ISSUER_ERROR: Failure.TLS_FAILED,
    pycurl.E_SSL_INVALIDCERTSTATUS: Failure.TLS_FAILED,
}


_NO_CALL: Final = Call(method="", url="")


IDLE_SECONDS: Final = 30
"""A connection idle for longer is not used again: many servers close theirs after a minute."""


class Transfer:
    """An easy handle with its buffers, used for one call after another."""

    __slots__ = ("_allow_private", "_begun", "_chunks", "_dialled", "_headers", "_is_fresh", "_last", "_limit", "_on_answer", "_refused", "_size", "curl")

    def __init__(self, ca_file: str, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._headers: list[bytes] = []
        self._chunks: list[bytes] = []
        self._last = _NO_CALL
        self._size = self._limit = 0
        self._dialled = self._refused = self._begun = self._is_fresh = False
        self._on_answer: OnAnswer = _nobody
        self.curl: Any = pycurl.Curl()
        self.curl.transfer = self
        for option, value in self._fixed_options(ca_file):
            self.curl.setopt(option, value)

    def _fixed_options(self, ca_file: str) -> list[tuple[int, Any]]:
        return [
            (pycurl.NOSIGNAL, 1),
            (pycurl.FOLLOWLOCATION, 0),
            (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
            (pycurl.PROXY, ""),  # an empty proxy keeps libcurl from reading the environment
            (pycurl.NETRC, pycurl.NETRC_IGNORED),
            (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
            (pycurl.SSL_VERIFYPEER, 1),
            (pycurl.SSL_VERIFYHOST, 2),
            (pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2),
            (pycurl.CAINFO, ca_file),
            (pycurl.PATH_AS_IS, 1),
            (pycurl.USERAGENT, USER_AGENT),
            (pycurl.HEADERFUNCTION, self._headers.append),
            (pycurl.WRITEFUNCTION, self._write),
            (pycurl.OPENSOCKETFUNCTION, self._open_socket),
            (pycurl.PREREQFUNCTION, self._begin),
            (pycurl.MAXAGE_CONN, IDLE_SECONDS),
        ]

    def arm(self, call: Call, on_answer: OnAnswer) -> None:
        self._on_answer = on_answer
        self._size, self._limit = 0, call.max_response_bytes
        self._dialled = self._refused = self._begun = False
        if self._is_fresh:
            self.curl.setopt(pycurl.FRESH_CONNECT, 0)
            self._is_fresh = False
        curl, last = self.curl, self._last
        # What equals the call before stays set: most calls of a handle go to the same destination.
        if call.url != last.url:
            curl.setopt(pycurl.URL, call.url)
        if call.headers != last.headers or last is _NO_CALL:
            curl.setopt(pycurl.HTTPHEADER, _header_lines(call))
        if call.body or call.method in ("POST", "PUT", "PATCH"):
            if last.method == "HEAD":
                curl.setopt(pycurl.POST, 1)  # takes NOBODY back, which POSTFIELDS alone does not
            curl.setopt(pycurl.POSTFIELDS, call.body)
        else:
            curl.setopt(pycurl.HTTPGET, 1)
            curl.setopt(pycurl.NOBODY, call.method == "HEAD")
        if call.method != last.method or not call.body:
            curl.setopt(pycurl.CUSTOMREQUEST, call.method)
        if call.connect_timeout_seconds != last.connect_timeout_seconds or last is _NO_CALL:
            curl.setopt(pycurl.CONNECTTIMEOUT_MS, max(1, int(call.connect_timeout_seconds * 1000)))
        if call.total_timeout_seconds != last.total_timeout_seconds or last is _NO_CALL:
            curl.setopt(pycurl.TIMEOUT_MS, max(1, int(call.total_timeout_seconds * 1000)))
        self._last = call

    def never_left(self, code: int) -> bool:
        """Whether a call ended only because the kept connection it was given was dead before the first byte went out."""
        return code == pycurl.E_ABORTED_BY_CALLBACK and self._begun and self.curl.getinfo(pycurl.REQUEST_SIZE) == 0

    def arm_again(self) -> None:
        """Prepare the same call once more, on a connection of its own."""
        self.arm(self._last, self._on_answer)
        self.curl.setopt(pycurl.FRESH_CONNECT, 1)
        self._is_fresh = True

    def answer(self, code: int) -> Answer:
        if code == 0:
            headers = read_headers(self._headers)
            if headers is None:
                return Answer(None, Failure.CONNECTION_LOST)
            return Answer(VendorResponse(status=self.curl.getinfo(pycurl.RESPONSE_CODE), headers=headers, body=b"".join(self._chunks)))
        # Bytes of the request that were written; libcurl's times are no use here, they are filled in on failure too.
        sent = self.curl.getinfo(pycurl.REQUEST_SIZE) > 0
        if self._size > self._limit:
            return Answer(None, Failure.RESPONSE_TOO_LARGE, may_have_arrived=True)
        if self._refused and not self._dialled:
            return Answer(None, Failure.ADDRESS_REFUSED, may_have_arrived=False)
        failure = _FAILURES.get(code, Failure.CONNECTION_LOST)
        if sent and failure is not Failure.TIMED_OUT:
            failure = Failure.CONNECTION_LOST
        return Answer(None, failure, may_have_arrived=sent)

    def let_go(self) -> OnAnswer:
        """Who waits for the answer; neither is kept here while the handle is idle, only what the call was."""
        on_answer, self._on_answer = self._on_answer, _nobody
        self._headers.clear()
        self._chunks.clear()
        return on_answer

    def _begin(self, *_addresses: Any) -> int:
        """Stop a repeat: libcurl sends a request again by itself when a kept connection breaks off before an answer, but the first may have arrived."""
        if self._begun:
            return int(pycurl.PREREQFUNC_ABORT)
        self._begun = True
        return int(pycurl.PREREQFUNC_OK)

    def _write(self, chunk: bytes) -> int | None:
        self._size += len(chunk)
        if self._size > self._limit:
            return 0  # fewer than were offered: libcurl ends the transfer
        self._chunks.append(chunk)
        return None

    def _open_socket(self, purpose: int, address: Any) -> Any:
        family, kind, protocol, target = address
        if purpose != pycurl.SOCKTYPE_IPCXN or family not in (socket.AF_INET, socket.AF_INET6) or not may_dial(target[0], allow_private=self._allow_private):
            self._refused = True
            return pycurl.SOCKET_BAD
        self._dialled = True
        return _Opened(family, kind, protocol)


class _Opened(socket.socket):
    """A socket that is closed as soon as pycurl has made its own copy of it and lets go."""

    def __del__(self) -> None:
        self.close()


def _header_lines(call: Call) -> list[str]:
    lines = ["Expect:"]  # without it libcurl waits for a `100 Continue` before a large body
    typed = False
    for name, value in call.headers:
        lines.append(f"{name}: {value}" if value else f"{name};")
        typed = typed or name.lower() == "content-type"
    if not typed:
        lines.append("Content-Type:")
    return lines


def _nobody(_answer: Answer) -> None:
    return None
