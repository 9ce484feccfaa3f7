"""HTTP as dialogues speak it: a request without secrets, an answer, and what plain HTTP says when it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import orjson

from pipeline import loose_json
from pipeline.domain import Outcome, Personal, VendorResult

LONGEST_WAIT_SECONDS: Final = 86_400.0


class VendorRequest(Personal, frozen=True, kw_only=True):
    """One HTTP request of a dialogue, without secrets: `Adapter.sign` adds those just before it is sent.

    `operation` is a label that is safe to log; `path` is appended to the destination's base_url as it is (already percent-encoded).
    `sent_at` is set by the exchange: seconds since 1970 on the clock that all processes share, for vendors whose signature names the time.
    """

    SHOWN = ("operation", "method", "sent_at")

    operation: str
    method: str = "POST"
    path: str = ""
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    sent_at: float = 0.0


class VendorResponse(Personal, frozen=True, kw_only=True):
    """What came back: header names are lower-cased, a later equal header wins, the body is capped by the transport."""

    SHOWN = ("status",)

    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""

    def json(self) -> Any:
        """The body as JSON, or None if it is not JSON (a cut body, an HTML error page)."""
        try:
            return loose_json.loads(self.body)
        except orjson.JSONDecodeError:
            return None


def refusal(response: VendorResponse) -> VendorResult | None:
    """The result that plain HTTP gives an answer that is not 2xx, or None for 2xx; vendor files call it after their own special cases.

    A redirect is `rejected`: following one could carry a withdrawal or a key to somebody else.
    """
    status = response.status
    if 200 <= status < 300:
        return None
    if status == 429:
        return VendorResult(outcome=Outcome.THROTTLED, reason="http_429", retry_after_seconds=retry_after(response))
    if status in (401, 403):
        return VendorResult(outcome=Outcome.MISCONFIGURED, reason=f"http_{status}")
    if status in (408, 423, 425) or status >= 500 or status < 200:
        return VendorResult(outcome=Outcome.UNAVAILABLE, reason=f"http_{status}", retry_after_seconds=retry_after(response), definite=status in (423, 425, 503))
    return VendorResult(outcome=Outcome.REJECTED, reason=f"http_{status}")


def unreadable() -> VendorResult:
    """The result for an answer that cannot be understood: the vendor may or may not have acted."""
    return VendorResult(outcome=Outcome.UNAVAILABLE, reason="unreadable_answer", definite=False)


def retry_after(response: VendorResponse, *, now: datetime | None = None) -> float | None:
    """Seconds from a Retry-After header, given as seconds or as an HTTP date (RFC 9110, 10.2.3); None if absent or unreadable.

    A date is held against the answer's own `Date`, since the vendor's clock wrote both; our own may differ by hours.
    """
    value = response.headers.get("retry-after", "").strip()
    if (seconds := read_seconds(value)) is not None:
        return seconds
    until = _http_date(value)
    said_at = now or _http_date(response.headers.get("date", "")) or datetime.now(UTC)
    return min(LONGEST_WAIT_SECONDS, max(0.0, (until - said_at).total_seconds())) if until else None


def read_seconds(text: str) -> float | None:
    """Seconds that a vendor wants us to wait, a day at the most: a slip of theirs must not hold back a withdrawal for a year. None if it is no whole number."""
    return min(LONGEST_WAIT_SECONDS, float(text)) if text.isascii() and text.isdigit() else None


def _http_date(value: str) -> datetime | None:
    try:
        instant = parsedate_to_datetime(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
