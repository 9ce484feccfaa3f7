"""Refusals as problem details (RFC 9457): a fixed list of kinds, each with a stable type, one status and a plain title.

The type is a URN, because it names a kind and need not lead anywhere; the documentation page lists them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import falcon
import orjson

from pipeline.errors import ConsentRelayError, FieldError

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:problem-type:consent-relay:"


class Kind(Enum):
    """Every kind of refusal: code, HTTP status, title."""

    UNREADABLE = ("unreadable-body", 400, "The body cannot be read")
    UNAUTHENTICATED = ("unauthenticated", 401, "A valid key or signature is needed")
    FORBIDDEN = ("forbidden", 403, "This key may not do that")
    NOT_FOUND = ("not-found", 404, "There is nothing here")
    METHOD = ("method-not-allowed", 405, "This address knows other methods")
    TIMEOUT = ("body-timeout", 408, "The body did not arrive in time")
    KEY_REUSED = ("idempotency-key-reused", 409, "The idempotency key stands for other content")
    TOO_LARGE = ("too-large", 413, "That is more than is taken at once")
    MEDIA_TYPE = ("unsupported-media-type", 415, "This media type or encoding is not taken")
    INVALID = ("invalid-input", 422, "Some fields cannot be accepted")
    OVERLOADED = ("overloaded", 429, "Too much is waiting already")
    HEADERS_TOO_LARGE = ("headers-too-large", 431, "The headers are too large")
    INTERNAL = ("internal-error", 500, "Something went wrong here")
    UNAVAILABLE = ("unavailable", 503, "Events cannot be taken right now")

    def __init__(self, code: str, status: int, title: str) -> None:
        self.code = code
        self.status = status
        self.title = title

    @property
    def uri(self) -> str:
        return TYPE_PREFIX + self.code


BY_STATUS: Final[Mapping[int, Kind]] = {kind.status: kind for kind in Kind}


@dataclass(eq=False)
class Problem(ConsentRelayError):
    """A refusal on its way to the caller; nothing of it repeats what was sent."""

    kind: Kind
    errors: Sequence[FieldError] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {"type": self.kind.uri, "title": self.kind.title, "status": self.kind.status, "errors": errors_json(self.errors)}


def problem(kind: Kind, message: str, *, path: str = "", headers: Mapping[str, str] | None = None) -> Problem:
    """A refusal for one reason."""
    return Problem(kind, (FieldError(path, message),), headers or {})


def errors_json(errors: Sequence[FieldError]) -> list[dict[str, str]]:
    """Field errors as the contract shows them."""
    return [{"path": error.path, "message": error.message} for error in errors]


def unauthenticated(message: str = "no valid key was given", *, path: str = "authorization") -> Problem:
    """401: who is calling is not known; says how to say so (RFC 9110, 11.6.1)."""
    return problem(Kind.UNAUTHENTICATED, message, path=path, headers={"WWW-Authenticate": 'Bearer realm="consent-relay"'})


def overloaded(message: str, *, retry_after_seconds: int = 1) -> Problem:
    """429: nothing is wrong with the request, come back shortly."""
    return problem(Kind.OVERLOADED, message, headers={"Retry-After": str(retry_after_seconds)})


def unavailable(message: str, *, retry_after_seconds: int = 1) -> Problem:
    """503: nothing was promised; the same request may be sent again safely."""
    return problem(Kind.UNAVAILABLE, message, headers={"Retry-After": str(retry_after_seconds)})


def from_status(status: int, headers: Mapping[str, str] | None = None) -> Problem:
    """The refusal that fits a plain HTTP status raised by the framework."""
    kind = BY_STATUS.get(status, Kind.INTERNAL if status >= 500 else Kind.UNREADABLE)
    return Problem(kind, (FieldError("", kind.title.lower()),), dict(headers or {}))


def write(response: falcon.Response, refusal: Problem) -> None:
    """Put a refusal on a response."""
    response.status = refusal.kind.status
    response.content_type = MEDIA_TYPE
    response.data = orjson.dumps(refusal.as_json())
    for name, value in refusal.headers.items():
        response.set_header(name, value)


def failure_of(error: BaseException) -> dict[str, Any]:
    """What may be logged of an unexpected exception: its type and where it was raised, never its text, which may quote a person."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return {"error": type(error).__name__, "raised_at": frames[-6:]}
