"""Runs vendor dialogues by the hundreds: the only place that does vendor I/O.

A dialogue yields a request, the exchange signs and sends it, hands back the answer, and so on until the dialogue returns its results. Everything here
runs on the transport's one thread, so nothing needs a lock; `start` may be called from any thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final

from msgspec import Struct, structs

from pipeline.domain import Outcome, Polled, VendorResult
from pipeline.outgoing import Fingerprint, Sent, UnsafeRequest, checked_headers, whole_url
from pipeline.sessions import OnToken, Sessions, SignedIn, Tokens
from pipeline.transports.base import Answer, Call, Failure, Transport
from pipeline.vendors.base import Adapter, AskDialogue, Held, PollDialogue, SignIn, TellDialogue, VendorRequest, VendorResponse

__all__ = ["Exchange", "Sessions", "Work", "WorkResult"]

logger = logging.getLogger(__name__)

ADAPTER_ERROR: Final = "adapter_error"
DEADLINE_PASSED: Final = "deadline_passed"
SESSION_REFUSED: Final = "session_refused"
UNSAFE_REQUEST: Final = "unsafe_request"

_CLOSED: Final = VendorResult(outcome=Outcome.UNAVAILABLE, reason=Failure.CONNECTION_LOST)
_TOO_LATE: Final = VendorResult(outcome=Outcome.THROTTLED, reason=DEADLINE_PASSED)
_SESSION_REFUSED: Final = VendorResult(outcome=Outcome.MISCONFIGURED, reason=SESSION_REFUSED)
_UNSAFE: Final = VendorResult(outcome=Outcome.REJECTED, reason=UNSAFE_REQUEST)


class Work(Struct, frozen=True, kw_only=True):
    """One dialogue to run: a tell of `size` instructions, a poll (`size` 0), or an ask (`size` 0, or 1 where an ask stands in for a tell: its failure is then that of the instruction).

    `account` and the login of `adapter` name whose session is used. No request starts after `deadline` (time.monotonic()); one begun before may end after it.
    """

    adapter: Adapter
    dialogue: TellDialogue | AskDialogue | PollDialogue
    account: str
    size: int
    allow_private_network: bool = False
    deadline: float


class WorkResult(Struct, frozen=True, kw_only=True):
    """What came of a dialogue: one result for each instruction, what the vendor holds, or what it said.

    `calls` counts requests really made, sign-in included. `definite` is False when a request may still take effect at the vendor.
    `failure` is the result that ended the dialogue from outside the vendor file, if one did (an ask has no other place for it), or by which a poll says that nothing could be heard. `sent` are its requests, sign-in apart, where the exchange was given a `fingerprint` for them.
    """

    results: tuple[VendorResult, ...] | Held | Polled
    calls: int
    definite: bool
    failure: VendorResult | None = None
    sent: tuple[Sent, ...] = ()


OnDone = Callable[[Work, WorkResult], None]
OnEnd = Callable[[object, VendorResult | None, int, Sequence[Sent]], None]
"""Told of a dialogue's end: its value or failure, its calls, what was sent. One that knew its dialogue would keep it, and all that it tells, until Python looks for cycles."""


class Exchange:
    """Drives dialogues over one transport; one for each process, and its thread starts with the first work."""

    def __init__(
        self,
        transport: Transport,
        sessions: Sessions,
        *,
        total_timeout_seconds: float = 20.0,
        connect_timeout_seconds: float = 5.0,
        max_response_bytes: int = 1_048_576,
        clock: Callable[[], float] = time.time,
        fingerprint: Fingerprint | None = None,
        session_key: Callable[[bytes], str] | None = None,
    ) -> None:
        """`clock` gives the seconds since 1970 that signed requests name; it must not wait for anything. `session_key` is as `Tokens` needs it."""
        self._transport, self._tokens = transport, Tokens(sessions, transport.post, session_key)
        self._total_timeout_seconds = total_timeout_seconds
        self._connect_timeout_seconds = connect_timeout_seconds
        self._max_response_bytes = max_response_bytes
        self._clock, self._fingerprint = clock, fingerprint

    def start(self, work: Work, on_done: OnDone) -> None:
        """Begin a dialogue; `on_done` is called exactly once, on the exchange's thread, and must be quick. Callable from any thread."""

        def on_end(value: object, failure: VendorResult | None, calls: int, sent: Sequence[Sent]) -> None:
            result = _result(work, value, failure, calls)
            _hand_over(work, structs.replace(result, sent=tuple(sent)) if sent else result, on_done)

        talk = _Talk(self, work, work.dialogue, on_end, with_session=work.adapter.needs_session(), deadline=work.deadline)
        if not self._transport.post(talk.begin):
            talk.fail(_CLOSED)

    def run(self, work: Work) -> WorkResult:
        """Run a dialogue and wait for its end; never call it on the exchange's thread."""
        ended = threading.Event()
        results: list[WorkResult] = []

        def on_done(_work: Work, result: WorkResult) -> None:
            results.append(result)
            ended.set()

        self.start(work, on_done)
        ended.wait()
        return results[0]

    def close(self) -> None:
        """End everything in flight as `connection_lost`; later work ends at once without being sent."""
        self._transport.close()
        self._tokens.close()

    def send(self, work: Work, request: VendorRequest, token: str | None, on_answer: Callable[[Answer], None]) -> str | None:
        """Sign a request and send it; for dialogues under way. Returns what stands for it as evidence. Raises UnsafeRequest before anything is sent."""
        signed = work.adapter.sign(structs.replace(request, sent_at=self._clock()), token)
        call = Call(
            method=signed.method,
            url=whole_url(work.adapter.address, signed),
            headers=checked_headers(signed.headers),
            body=signed.body,
            connect_timeout_seconds=self._connect_timeout_seconds,
            total_timeout_seconds=work.adapter.timeout_seconds or self._total_timeout_seconds,
            max_response_bytes=self._max_response_bytes,
            allow_private_network=work.allow_private_network,
        )
        request_hmac = self._fingerprint(call.method, call.url, call.body or b"") if self._fingerprint else None
        self._transport.submit(call, on_answer)
        return request_hmac

    def token(self, work: Work, stale: str | None, on_token: OnToken) -> None:
        """The account's session token, by signing in if need be; for dialogues under way."""

        def sign_in(on_signed_in: Callable[[SignIn, int], None]) -> None:
            def on_end(value: object, failure: VendorResult | None, calls: int, _sent: Sequence[Sent]) -> None:
                on_signed_in(value if isinstance(value, SignIn) else SignIn(refusal=failure), calls)

            # Not bound to the deadline of the work that came first: others wait for the same token, and it is about no subject.
            talk = _Talk(self, work, work.adapter.sign_in(), on_end, with_session=False, deadline=float("inf"))
            talk.begin()

        self._tokens.request(work.account, work.adapter.login_digest(), stale, sign_in, on_token)


class _Talk:
    """One dialogue under way: which request waits for an answer, with which token, and how many were sent."""

    __slots__ = (
        "_calls",
        "_deadline",
        "_dialogue",
        "_ended",
        "_exchange",
        "_on_end",
        "_renewed",
        "_request",
        "_sent",
        "_token",
        "_with_session",
        "_work",
        "_written",
    )

    def __init__(
        self,
        exchange: Exchange,
        work: Work,
        dialogue: Generator[VendorRequest, VendorResponse, object],
        on_end: OnEnd,
        *,
        with_session: bool,
        deadline: float,
    ) -> None:
        self._exchange, self._work, self._dialogue, self._on_end = exchange, work, dialogue, on_end
        self._with_session, self._deadline, self._calls = with_session, deadline, 0
        self._token: str | None = None
        self._renewed = self._ended = False
        self._request: VendorRequest | None = None
        self._written: tuple[int, str, str] | None = None
        self._sent: list[Sent] = []

    def begin(self) -> None:
        self._guarded(self._advance, None)

    def fail(self, failure: VendorResult) -> None:
        """End the dialogue from outside: its vendor file gets no answer any more."""
        if not self._ended:
            self._ended = True
            self._note_answer(0)
            self._close_dialogue()
            self._on_end(None, failure, self._calls, self._sent)

    def _on_token(self, signed: SignedIn) -> None:
        self._calls += signed.calls
        if signed.token is None:
            # Whatever became of the sign-in, the request that waited for it was not sent.
            self.fail(structs.replace(signed.refusal, definite=True) if signed.refusal else self._broken("SignInWithoutToken"))
            return
        self._token = signed.token
        self._guarded(self._send)

    def _advance(self, response: VendorResponse | None) -> None:
        try:
            self._request = self._dialogue.send(response)  # type: ignore[arg-type]  # None starts a generator
        except StopIteration as end:
            self._ended = True
            self._on_end(end.value, None, self._calls, self._sent)
        else:
            self._send()

    def _send(self) -> None:
        assert self._request is not None
        if time.monotonic() > self._deadline:
            self.fail(_TOO_LATE)
            return
        if self._with_session and self._token is None:
            self._exchange.token(self._work, None, self._on_token)
            return
        try:
            request_hmac = self._exchange.send(self._work, self._request, self._token, self._on_answer)
        except UnsafeRequest:
            self.fail(_UNSAFE)
        else:
            self._calls += 1
            self._written = None if request_hmac is None else (int(time.time() * 1000), self._request.operation, request_hmac)

    def _on_answer(self, answer: Answer) -> None:
        if answer.response is None:
            self.fail(_failed(answer))
        else:
            self._note_answer(answer.response.status)
            self._guarded(self._read, answer.response)

    def _note_answer(self, status_code: int) -> None:
        self._sent += [(*self._written, status_code)] if self._written else []
        self._written = None

    def _read(self, response: VendorResponse) -> None:
        if not self._with_session or not self._work.adapter.is_signed_out(response):
            self._advance(response)
        elif self._renewed:
            self.fail(_SESSION_REFUSED)
        else:
            self._renewed = True
            self._exchange.token(self._work, self._token, self._on_token)

    def _guarded(self, step: Callable[..., None], *arguments: Any) -> None:
        try:
            step(*arguments)
        except Exception as error:  # noqa: BLE001  # a vendor file's bug ends its own dialogue only
            self.fail(self._broken(type(error).__name__))

    def _broken(self, error: str) -> VendorResult:
        logger.error(ADAPTER_ERROR, extra={"vendor": _vendor(self._work.adapter), "error": error})
        return VendorResult(outcome=Outcome.UNAVAILABLE, reason=ADAPTER_ERROR, definite=self._calls == 0)

    def _close_dialogue(self) -> None:
        try:
            self._dialogue.close()
        except Exception as error:  # noqa: BLE001  # as above
            logger.warning(ADAPTER_ERROR, extra={"vendor": _vendor(self._work.adapter), "error": type(error).__name__})


def _failed(answer: Answer) -> VendorResult:
    reason = answer.failure or Failure.CONNECTION_LOST
    outcome = Outcome.MISCONFIGURED if reason is Failure.ADDRESS_REFUSED else Outcome.UNAVAILABLE
    return VendorResult(outcome=outcome, reason=reason.value, definite=not answer.may_have_arrived)


def _result(work: Work, value: object, failure: VendorResult | None, calls: int) -> WorkResult:
    if failure is None and work.size <= 1 and isinstance(value, Held | Polled):
        return WorkResult(results=value, calls=calls, definite=True)
    if work.size == 0 and isinstance(value, VendorResult):
        failure = value
    if failure is None and work.size and isinstance(value, list | tuple) and len(value) == work.size and all(isinstance(each, VendorResult) for each in value):
        return WorkResult(results=tuple(value), calls=calls, definite=all(result.definite for result in value))
    if failure is None:
        logger.error(ADAPTER_ERROR, extra={"vendor": _vendor(work.adapter), "error": "WrongResult"})
        failure = VendorResult(outcome=Outcome.UNAVAILABLE, reason=ADAPTER_ERROR, definite=calls == 0)
    results = (failure,) * work.size if work.size else Held(readable=False)
    return WorkResult(results=results, calls=calls, definite=failure.definite, failure=failure)


def _hand_over(work: Work, result: WorkResult, on_done: OnDone) -> None:
    try:
        on_done(work, result)
    except Exception as error:  # noqa: BLE001  # the exchange outlives whoever waits for a result
        logger.error("exchange_result_not_taken", extra={"vendor": _vendor(work.adapter), "error": type(error).__name__})  # noqa: TRY400


def _vendor(adapter: Adapter) -> str:
    return type(adapter).__module__.rpartition(".")[2]
