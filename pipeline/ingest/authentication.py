"""Who is calling: a bearer key, a key in the address, or a signature of what is sent; and what that source may do.

Keys are compared by their SHA-256. The digest is looked up in an index and then confirmed with `compare_digest`: the lookup's
timing can only tell about digests, and nobody can steer the digest of a guess, so it says nothing about the key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from datetime import datetime

import falcon.asgi

from pipeline.ingest.problems import Kind, problem, unauthenticated
from pipeline.routing import Routing, Source
from pipeline.sources import signature_error


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
        return self.bearer(request.get_header("Authorization") or "", scope)

    def bearer(self, authorization: str, scope: str) -> Source:
        """The same by the value of that header, empty if there is none."""
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise unauthenticated("give a key as `Authorization: Bearer <key>`")
        self._reindex()
        return allowed(self._find(self._keys, key.strip()), scope)

    def sender(self, request: falcon.asgi.Request, name: str) -> Source | None:
        """The source that posts to `/v1/sources/<name>` with a key; None if it must prove itself by signing what it sends."""
        if request.get_header("Authorization") is None and (source := self._routing().sources.get(name)) and source.signing_secret:
            return None
        return own_address(self.caller(request, "ingest"), name)

    def by_address(self, name: str, url_key: str) -> Source:
        """The source behind a key in the address; the key is not logged and not repeated."""
        self._reindex()
        source = self._find(self._url_keys, url_key, path="url_key")
        if source.name != name:
            raise unauthenticated(path="url_key")
        return allowed(source, "ingest")

    def signed(self, request: falcon.asgi.Request, name: str, body: bytes) -> Source:
        """The source that signed this body in the way of its kind, and has proved itself by that alone."""
        source = self._routing().sources.get(name)
        if source is None or not source.signing_secret:
            raise unauthenticated()
        return allowed(self.verified(request, source, body), "ingest")

    def verified(self, request: falcon.asgi.Request, source: Source, body: bytes) -> Source:
        """The source, if what came by its address is signed as well, where it has a secret: an address may have leaked into some log."""
        if source.signing_secret:
            headers = {header.lower(): value for header, value in request.headers.items()}
            if error := signature_error(source, source.signing_secret, headers, body, self._now()):
                raise unauthenticated(error.message, path=error.path)
        return source

    def _find(self, index: Mapping[str, tuple[Source, str]], key: str, *, path: str = "authorization") -> Source:
        """The source of a key; one that has ended is refused like one that never was."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        source, known = index.get(digest, (None, ""))
        if not hmac.compare_digest(digest, known) or source is None:
            raise unauthenticated(path=path)
        if (last_day := source.key_ends.get(digest)) is not None and self._now().date() > last_day:
            raise unauthenticated(path=path)
        return source

    def _reindex(self) -> None:
        routing = self._routing()
        if routing is not self._indexed:
            sources = routing.sources.values()
            self._keys = {digest: (source, digest) for source in sources for digest in source.keys}
            self._url_keys = {digest: (source, digest) for source in sources for digest in source.url_keys}
            self._indexed = routing


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
