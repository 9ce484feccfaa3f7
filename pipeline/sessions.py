"""Session tokens of vendor accounts: one sign-in serves everything that waits for it, here and in the other processes.

The store may be slow (it is the ledger), so it is asked on a thread of its own; everything else runs on the exchange's thread.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from pipeline.domain import Outcome, VendorResult
from pipeline.identifiers import Hasher
from pipeline.vendors.base import SignIn

logger = logging.getLogger(__name__)

LIFE_SECONDS: Final = 24 * 3600.0
"""How long a token is used whose vendor does not say how long it lives."""

_CLOSED: Final = VendorResult(outcome=Outcome.UNAVAILABLE, reason="connection_lost")


class Sessions(Protocol):
    """Where tokens are kept for all processes, by the name of the session."""

    def get(self, session: str) -> tuple[str, float] | None:
        """The token kept, if there is one, and how many seconds are left of it."""

    def put(self, session: str, token: str, ttl_seconds: float) -> None:
        """Keep a token for so long."""

    def drop(self, session: str, token: str) -> None:
        """Forget this token, but not a newer one that another process has put there."""


class Unshared:
    """Keeps no token: for a command that works without the ledger and signs in for itself."""

    def get(self, session: str) -> tuple[str, float] | None:  # noqa: ARG002 (as `Sessions`)
        return None

    def put(self, session: str, token: str, ttl_seconds: float) -> None:
        """Keep nothing."""

    def drop(self, session: str, token: str) -> None:
        """There is nothing to forget."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A token, or why there is none; `calls` are the requests that the receiver of this value caused."""

    token: str | None = field(default=None, repr=False)
    refusal: VendorResult | None = None
    calls: int = 0


Value = TypeVar("Value")
OnToken = Callable[[SignedIn], None]
SignInNow = Callable[[Callable[[SignIn, int], None]], None]


class Tokens:
    """The tokens of this process; `post` runs something on the exchange's thread, the only one to call `request`.

    A session is named by its account and by what `session_key` makes of the login, so that no other login ever finds it; it has to be a keyed hash, since the name
    is stored. Without one, no other process finds the sessions of this one.
    """

    def __init__(self, sessions: Sessions, post: Callable[[Callable[[], None]], bool], session_key: Callable[[bytes], str] | None = None) -> None:
        self._sessions = sessions
        self._post = post
        self._session_key = session_key or Hasher(os.urandom(32)).session_key
        self._held: dict[str, tuple[str, float]] = {}
        self._waiting: dict[str, list[OnToken]] = {}
        self._helper: ThreadPoolExecutor | None = None

    def request(self, account: str, login_digest: bytes, stale: str | None, sign_in: SignInNow, on_token: OnToken) -> None:
        """Hand over a token other than `stale`: the one held, one that another process stored, or a new one."""
        session = f"{account}:{self._session_key(login_digest)}"
        token, expires_at = self._held.get(session, (None, 0.0))
        if token is not None and token != stale and time.monotonic() < expires_at:
            on_token(SignedIn(token))
        elif session in self._waiting:
            self._waiting[session].append(on_token)
        else:
            self._waiting[session] = [on_token]
            refused = stale or self._held.pop(session, (None, 0.0))[0]
            self._aside(lambda: self._look(session, refused, sign_in))

    def close(self) -> None:
        """Let everything that still waits go without a token; the exchange's thread must have ended."""
        if self._helper is not None:
            self._helper.shutdown(wait=True)
        for session in list(self._waiting):
            self._settle(session, SignedIn(refusal=_CLOSED))

    def _look(self, session: str, stale: str | None, sign_in: SignInNow) -> None:
        if stale is not None:
            self._stored(lambda: self._sessions.drop(session, stale))
        asked_at = time.monotonic()
        token, seconds_left = self._stored(lambda: self._sessions.get(session)) or (None, 0.0)
        self._post(lambda: self._found(session, None if token == stale else token, asked_at + seconds_left, sign_in))

    def _found(self, session: str, token: str | None, expires_at: float, sign_in: SignInNow) -> None:
        if token is not None:
            self._held[session] = (token, expires_at)
            self._settle(session, SignedIn(token))
            return
        try:
            sign_in(lambda signed, calls: self._signed_in(session, signed, calls))
        except Exception as error:  # noqa: BLE001  # a vendor file's bug
            logger.warning("adapter_error", extra={"error": type(error).__name__})
            self._settle(session, SignedIn())

    def _signed_in(self, session: str, signed: SignIn, calls: int) -> None:
        token, seconds = signed.token, LIFE_SECONDS if signed.expires_in_seconds is None else signed.expires_in_seconds
        if token is not None:
            self._held[session] = (token, time.monotonic() + seconds)
            self._aside(lambda: self._stored(lambda: self._sessions.put(session, token, seconds)))
        self._settle(session, SignedIn(token, signed.refusal, calls))

    def _settle(self, session: str, signed: SignedIn) -> None:
        first, *others = self._waiting.pop(session)
        first(signed)
        for on_token in others:
            on_token(SignedIn(signed.token, signed.refusal))

    def _aside(self, action: Callable[[], object]) -> None:
        if self._helper is None:
            self._helper = ThreadPoolExecutor(1, thread_name_prefix="exchange-sessions")
        try:
            self._helper.submit(action)
        except RuntimeError:  # shut down: `close` lets those who wait go
            logger.info("session_store_closed")

    @staticmethod
    def _stored(action: Callable[[], Value]) -> Value | None:
        """Ask the store; without it this process signs in for itself."""
        try:
            return action()
        except Exception as error:  # noqa: BLE001  # whatever the store raises
            logger.warning("session_store_failed", extra={"error": type(error).__name__})
            return None
