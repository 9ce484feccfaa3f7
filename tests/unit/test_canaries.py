"""The search for personal values finds them: a canary test that could not fail would say nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from tests.support.canaries import files_in, redis_content, traces

VALUES = {"email": "Canary.Jäger@example.org"}
VALUE = VALUES["email"]
HIDDEN = {
    "plain": [
        VALUE.encode(),
        VALUE.lower().encode(),
        VALUE.upper().encode(),
        f"https://x.example/{quote(VALUE, safe='')}".encode(),
        json.dumps({"to": VALUE}).encode(),
        VALUE.encode("utf-16-le"),
        VALUE.encode().hex().upper().encode(),
        base64.b64encode(json.dumps({"args": [VALUE]}).encode()),
        base64.b64encode(b"." + base64.urlsafe_b64encode(zlib.compress(VALUE.encode()))),
    ],
    "base64": [b"x" * 5 + base64.b64encode(b"." * n + VALUE.encode() + b"!") + b"\xff" for n in range(3)],
    "md5": [hashlib.md5(VALUE.lower().encode()).hexdigest().encode()],
    "sha256": [hashlib.sha256(VALUE.encode()).hexdigest().upper().encode()],
    "sha512": [hashlib.sha512(VALUE.encode()).hexdigest().encode()],
    "sha256 as it is": [hashlib.sha256(VALUE.encode()).digest(), base64.b64encode(hashlib.sha256(VALUE.encode()).digest())],
}


@pytest.mark.parametrize("form, content", [(form, content) for form, contents in HIDDEN.items() for content in contents])
def test_a_value_is_found_however_it_is_written(form: str, content: bytes):
    """Also within a longer text, in other letters, and inside what is encoded."""
    assert f"here: email as {form}" in traces({"here": b"before " + content + b" after"}, VALUES)


def test_a_keyed_hash_is_no_trace():
    """What cannot be made without the pepper names nobody."""
    keyed = hashlib.blake2b(VALUE.encode(), key=b"pepper-for-tests").hexdigest().encode()
    assert traces({"here": keyed, "there": b"canary@example.net"}, VALUES) == []


def test_every_type_of_key_is_looked_into(client: redis.Redis):
    """Names, fields, members and entries."""
    client.set(f"a:{VALUE}", "1")
    client.set("b", VALUE)
    client.hset("c", VALUE, "1")
    client.hset("d", "field", VALUE)
    client.rpush("e", VALUE)
    client.sadd("f", VALUE)
    client.zadd("g", {VALUE: 1})
    client.xadd("h", {"field": VALUE})
    client.set("z", "clean")
    found = {trace.partition(" ")[2].partition(":")[0] for trace in traces(redis_content(client, "ledger"), {"email": VALUE})}
    assert found == set("abcdefg") | {"h"}


def test_every_file_is_looked_into(tmp_path: Path):
    """However deep it lies."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/worker.log").write_text(f'{{"event": "x", "who": "{VALUE}"}}')
    (tmp_path / "clean").write_text("nothing")
    assert traces(files_in(tmp_path), VALUES) == ["logs/worker.log: email as plain"]
