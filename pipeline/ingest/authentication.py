"""Who is calling: a bearer key, a key in the address, or a Standard Webhooks signature; and what that source may do.

Keys are compared by their SHA-256. The digest is looked up in an index and then confirmed with `compare_digest`: the lookup's
timing can only tell about digests, and nobody can steer the digest of a guess, so it says nothing about the key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

import falcon.asgi

from pipeline.ingest.problems import Kind, problem, unauthenticated
from pipeline.routing import Routing, Source

SIGNATURE_TOLERANCE_SECONDS: Final = 300
"""How old or early a signed request may be (Standard Webhooks recommends five minutes)."""


class Doorkeeper:
    """Finds the source behind a request in the routing of the moment; raises the 401 or 403 problem otherwise."""

    def __init__(self, routing: Callable[[], Routing], now: Callable[[], datetime]) -> None:
        self._routing = routing
        self._now = now
        self._indexed: Routing | None = None
        self._keys: dict[str, tuple[Source, str]] = {}
        self._url_keys: dict[str, tuple[Source, str]] = {}

    def caller(self, request: falcon.asgi.Request, scope: str) -> Source:
        """The source whose bearer key was given, if it has the scope."""
        header = request.get_header("Authorization")
        scheme, _, key = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise unauthenticated("give a key as `Authorization: Bearer <key>`")
        self._reindex()
        return allowed(_find(self._keys, key.strip()), scope)

    def sender(self, request: falcon.asgi.Request, name: str) -> Source | None:
        """The source that posts to `/v1/sources/<name>` with a key; None if it must prove itself by signing what it sends."""
        if request.get_header("Authorization") is None and (source := self._routing().sources.get(name)) and source.signing_secret:
            return None
        return own_address(self.caller(request, "ingest"), name)

    def by_address(self, name: str, url_key: str) -> Source:
        """The source behind a key in the address; the key is not logged and not repeated."""
        self._reindex()
        source = _find(self._url_keys, url_key, path="url_key")
        if source.name != name:
            raise unauthenticated(path="url_key")
        return allowed(source, "ingest")

    def signed(self, request: falcon.asgi.Request, name: str, body: bytes) -> Source:
        """The source that signed this body (Standard Webhooks), checked against its secret and the clock."""
        source = self._routing().sources.get(name)
        if source is None or not source.signing_secret:
            raise unauthenticated()
        headers = {part: request.get_header(f"webhook-{part}") or "" for part in ("id", "timestamp", "signature")}
        check_signature(source.signing_secret, headers, body, now=self._now())
        return allowed(source, "ingest")

    def _reindex(self) -> None:
        routing = self._routing()
        if routing is not self._indexed:
            sources = routing.sources.values()
            self._keys = {digest: (source, digest) for source in sources for digest in source.keys}
            self._url_keys = {digest: (source, digest) for source in sources for digest in source.url_keys}
            self._indexed = routing


def _find(index: Mapping[str, tuple[Source, str]], key: str, *, path: str = "authorization") -> Source:
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    source, known = index.get(digest, (None, ""))
    if not hmac.compare_digest(digest, known) or source is None:
        raise unauthenticated(path=path)
    return source


def allowed(source: Source, scope: str) -> Source:
    """The source, if its keys have the scope."""
    if scope not in source.scopes:
        raise problem(Kind.FORBIDDEN, f"this key lacks the scope `{scope}`", path="authorization")
    return source


def own_address(source: Source, name: str) -> Source:
    """The source, if the address is its own; whether another source of that name exists is not told."""
    if source.name != name:
        raise problem(Kind.FORBIDDEN, "this key belongs to another source than the one in the address", path="authorization")
    return source


def check_signature(secret: str, headers: Mapping[str, str], body: bytes, *, now: datetime) -> None:
    """Check a Standard Webhooks signature (`webhook-id`, `-timestamp`, `-signature`: any `v1` entry that fits will do).

    Raises the 401 problem that says which part does not fit, never what was expected.
    """
    timestamp = headers["timestamp"]
    if not (headers["id"] and timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise unauthenticated("give the headers webhook-id, webhook-timestamp and webhook-signature", path="webhook-timestamp")
    if abs(now.timestamp() - int(timestamp)) > SIGNATURE_TOLERANCE_SECONDS:
        raise unauthenticated("the signed time is more than five minutes away", path="webhook-timestamp")
    signed = f"{headers['id']}.{timestamp}.".encode("utf-8", "surrogateescape") + body
    expected = base64.b64encode(hmac.digest(signing_key(secret), signed, "sha256"))
    fits = False
    for entry in headers["signature"].split(" "):
        version, _, value = entry.partition(",")
        fits |= version == "v1" and hmac.compare_digest(expected, value.encode("utf-8", "surrogateescape"))
    if not fits:
        raise unauthenticated("no signature fits the body", path="webhook-signature")


def signing_key(secret: str) -> bytes:
    """The bytes of a signing secret: `whsec_` and base64, or the plain text where it is not that."""
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True) if secret.startswith("whsec_") else secret.encode()
    except binascii.Error:
        return secret.encode()
