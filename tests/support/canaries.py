"""Looks for personal values wherever they could have been left: in every Redis type, in files and in texts, in every encoding in use, and inside what is encoded there."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import html
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import redis

DIGESTS = ("md5", "sha1", "sha256", "sha512")
TOKEN = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")
DEEPEST = 3
"""Encodings within encodings that are taken apart: a Celery message is JSON in base64 in JSON."""


def forms(value: str) -> dict[str, set[bytes]]:
    """Every way in which a value could be written, by name; all in small letters but base64, which is not the same then."""
    found: dict[str, set[bytes]] = {}
    for text in {value, value.lower(), value.upper()}:
        raw = text.encode()
        plain = [
            raw,
            quote(text, safe="").encode(),
            quote(text).encode(),
            quote_plus(text).encode(),
            json.dumps(text)[1:-1].encode(),
            html.escape(text).encode(),
        ]
        found.setdefault("plain", set()).update(each.lower() for each in [*plain, text.encode("utf-16-le"), text.encode("utf-16-be"), raw.hex().encode()])
        found.setdefault("base64", set()).update(core for offset in range(3) for core in _base64_cores(raw, offset))
        for name in DIGESTS:
            digest = hashlib.new(name, raw, usedforsecurity=False).digest()
            found.setdefault(name, set()).update({digest.hex().encode()})
            found.setdefault(f"{name} as it is", set()).update({digest, base64.b64encode(digest).rstrip(b"="), base64.urlsafe_b64encode(digest).rstrip(b"=")})
    return found


def traces(places: Mapping[str, bytes], values: Mapping[str, str]) -> list[str]:
    """Where a value was found, and how it was written there: `place: name as form`."""
    wanted = Wanted(values)
    return sorted({f"{place}: {found}" for place, content in places.items() for reading in _readings(content, DEEPEST) for found in wanted.within(reading)})


class Wanted:
    """All forms of all values, by how they begin, so that a content is gone through once however many there are."""

    def __init__(self, values: Mapping[str, str]) -> None:
        every = [(f"{name} as {form}", form, each) for name, value in values.items() for form, written in forms(value).items() for each in written]
        self._length = min((len(each) for _, _, each in every), default=1)
        self._exact: dict[bytes, list[tuple[str, bytes]]] = {}
        self._folded: dict[bytes, list[tuple[str, bytes]]] = {}
        for what, form, each in every:
            index = self._exact if form == "base64" or form.endswith("as it is") else self._folded
            index.setdefault(each[: self._length], []).append((what, each))

    def within(self, content: bytes) -> Iterator[str]:
        """What of it stands in a content."""
        for index, hay in ((self._exact, content), (self._folded, content.lower())):
            for place in range(len(hay) - self._length + 1):
                for what, each in index.get(hay[place : place + self._length], ()):
                    if hay.startswith(each, place):
                        yield what


def redis_content(client: redis.Redis, label: str) -> dict[str, bytes]:
    """Every key of a database with all that it holds; raises for a type that it cannot read."""
    content = {}
    for key in client.scan_iter(count=1000):
        kind = client.type(key).decode()
        readers: dict[str, Any] = {
            "string": lambda name: [client.get(name)],
            "hash": lambda name: [part for pair in client.hgetall(name).items() for part in pair],
            "list": lambda name: client.lrange(name, 0, -1),
            "set": client.smembers,
            "zset": lambda name: client.zrange(name, 0, -1),
            "stream": lambda name: [part for _, entry in client.xrange(name) for pair in entry.items() for part in pair],
        }
        if kind != "none":  # it has expired since
            content[f"{label} {key.decode(errors='replace')}"] = b"\n".join([key, *(part or b"" for part in readers[kind](key))])
    return content


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _base64_cores(raw: bytes, offset: int) -> Iterator[bytes]:
    """What base64 of a longer text shows of a value that begins `offset` bytes after a group: the characters that hang on the value alone."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        encoded = encode(b"\0" * offset + raw).rstrip(b"=")
        first = -(-offset * 8 // 6)
        yield encoded[first : (offset + len(raw)) * 8 // 6]


def _readings(content: bytes, depth: int) -> Iterator[bytes]:
    """The content as it is, and every part of it that can be decoded."""
    yield content
    if depth == 0:
        return
    for token in set(TOKEN.findall(content)):
        for decoded in _decoded(token):
            yield from _readings(decoded, depth - 1)


def _decoded(token: bytes) -> Iterator[bytes]:
    padded = token.rstrip(b"=") + b"=" * (-len(token.rstrip(b"=")) % 4)
    for altchars in (b"+/", b"-_"):
        try:
            plain = base64.b64decode(padded, altchars=altchars, validate=True)
        except (binascii.Error, ValueError):
            continue
        yield plain
        with contextlib.suppress(zlib.error):
            yield zlib.decompress(plain)
