"""What goes out to a vendor: an address and headers that mean what the vendor file meant, and what is remembered of a request as evidence."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import quote, urlencode

from pipeline.vendors.base import VendorRequest

_DOT_SEGMENT: Final = re.compile(r"/(?:\.|%2e){1,2}(?:[/?#]|$)", re.IGNORECASE)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

Fingerprint = Callable[[str, str, bytes], str]
"""The keyed hash of a request: method, address, body."""
Sent = tuple[int, str, str, int]
"""One request that was made: when (ms, by the clock of this process), what for, its keyed hash, and the status of its answer (0: none). Plain, so that it is written as it is."""


class UnsafeRequest(Exception):
    """A request that would reach another place, or carry other headers, than its vendor file meant."""


def whole_url(address: str, request: VendorRequest) -> str:
    """The whole address. Raises UnsafeRequest if part of the path would be read as `go up`: an identifier may be `..`."""
    url = address + request.path
    if request.query:
        url += ("&" if "?" in url else "?") + urlencode(request.query, quote_via=quote)
    if not (url.isascii() and url.isprintable()) or " " in url or _DOT_SEGMENT.search(request.path):
        raise UnsafeRequest
    return url


def checked_headers(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    text = "".join(map("".join, headers))
    if not text.isascii() or _CONTROL.search(text):
        raise UnsafeRequest
    return headers
