"""How what is posted to us may be signed: each scheme says what is wrong with a signature, or that nothing is.

A signature is over the bytes as they came, so it is checked before anything reads them. No message says what was expected.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from pipeline.errors import FieldError

TOLERANCE_SECONDS: Final = 300
"""How old or early a signed request may be, as Standard Webhooks recommends; a scheme may take an older one, never an earlier one."""


def standard_webhooks(secret: str, headers: Mapping[str, str], body: bytes, now: datetime) -> FieldError | None:
    """Standard Webhooks: `webhook-id`, `webhook-timestamp` and `webhook-signature`, of which any `v1` entry that fits will do."""
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not message_id or not _is_time(timestamp):
        return FieldError("webhook-timestamp", "give the headers webhook-id, webhook-timestamp and webhook-signature")
    if problem := _misdated(timestamp, now, TOLERANCE_SECONDS):
        return FieldError("webhook-timestamp", problem)
    expected = base64.b64encode(hmac.digest(key_of(secret), _bytes(f"{message_id}.{timestamp}.") + body, "sha256"))
    entries = (entry.partition(",") for entry in headers.get("webhook-signature", "").split(" "))
    fits = _fits_any(expected, (value for version, _, value in entries if version == "v1"))
    return None if fits else FieldError("webhook-signature", "no signature fits the body")


def sign_standard_webhooks(key: bytes, message_id: str, body: bytes, sent_at: int) -> tuple[tuple[str, str], ...]:
    """The headers that sign a message of ours by Standard Webhooks."""
    keyed = _keyed(key).copy()
    keyed.update(f"{message_id}.{sent_at}.".encode() + body)
    signature = base64.b64encode(keyed.finalize()).decode()
    return ("webhook-timestamp", str(sent_at)), ("webhook-signature", f"v1,{signature}")


@lru_cache(maxsize=64)
def _keyed(key: bytes) -> HMAC:
    """HMAC-SHA256 with its key, to be copied: keying it anew for each message would cost twice as much as hashing."""
    return HMAC(key, SHA256())


def timed_hex(
    header: str, secret: str, headers: Mapping[str, str], body: bytes, now: datetime, *, oldest_seconds: int = TOLERANCE_SECONDS
) -> FieldError | None:
    """One header `t=<unix seconds>,v1=<hex>`, the HMAC-SHA256 of `t.body` by the secret as it stands; any `v1` entry that fits will do."""
    entries = [entry.strip().partition("=") for entry in headers.get(header, "").split(",")]
    times = [value for name, _, value in entries if name == "t"]
    if len(times) != 1 or not _is_time(times[0]):
        return FieldError(header, "give the signature as t=<unix seconds>,v1=<hex>")
    if problem := _misdated(times[0], now, oldest_seconds):
        return FieldError(header, problem)
    expected = hmac.digest(secret.encode(), f"{times[0]}.".encode() + body, "sha256").hex().encode()
    fits = _fits_any(expected, (value for name, _, value in entries if name == "v1"))
    return None if fits else FieldError(header, "no signature fits the body")


def _fits_any(expected: bytes, values: Iterable[str]) -> bool:
    """Every value is compared, in constant time, so that the time tells nothing about which came near."""
    fits = False
    for value in values:
        fits |= hmac.compare_digest(expected, _bytes(value))
    return fits


def _is_time(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 12


def _misdated(timestamp: str, now: datetime, oldest_seconds: int) -> str:
    """What is wrong with the signed time; empty if nothing is."""
    age_seconds = now.timestamp() - int(timestamp)
    if age_seconds > oldest_seconds:
        return f"the signed time is more than {oldest_seconds // 60} minutes ago"
    return f"the signed time is more than {TOLERANCE_SECONDS // 60} minutes ahead" if age_seconds < -TOLERANCE_SECONDS else ""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def key_of(secret: str) -> bytes:
    """The bytes of a Standard Webhooks secret: `whsec_` and base64, or the plain text where it is not that."""
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True) if secret.startswith("whsec_") else secret.encode()
    except binascii.Error:
        return secret.encode()
