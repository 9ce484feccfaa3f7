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

from config.settings import load_settings
from pipeline.domain import IncomingEvent
from pipeline.errors import InvalidInput
from pipeline.schemas import TEXTS
from pipeline.vendors import vendor_names
from tests.support import canary_list
from tests.support.canaries import files_in, redis_content, traces
from tests.support.canary_run import ALTERNATIVES, SETTINGS, routing
from tests.support.readers import heard_kinds, read_body

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


def test_every_kind_of_source_has_a_body_full_of_canaries():
    """Each is heard, and every text of a person in what was heard is a canary: a field that a reader begins to read gets one, or this fails."""
    assert set(canary_list.bodies()) == set(heard_kinds())
    for kind, (media_type, body) in canary_list.bodies().items():
        for event in read_body(kind, body, media_type):
            assert not isinstance(event, InvalidInput), (kind, event)
            texts = [*event.subject.identifiers().values(), *event.profile.values(), *event.evidence.values(), *event.metadata.values(), event.group or ""]
            wanted = {value.lower() for value in canary_list.personal().values()}
            assert [text for text in texts if text and text.lower() not in wanted] == [], kind


def test_the_native_body_fills_every_field_of_the_schemas():
    """What the reader makes of it has a value in each place that an event has."""
    (event,) = read_body("native", canary_list.bodies()["native"][1])
    assert isinstance(event, IncomingEvent)
    held = {"subject": event.subject.identifiers(), "profile": event.profile, "evidence": event.evidence}
    assert {part: set(values) for part, values in held.items()} == {part: set(names) - canary_list.NOT_PERSONAL for part, names in TEXTS.items()}


def test_canaries_are_told_apart():
    """No value is another's, or part of another's: a trace says what leaked."""
    values = [*canary_list.personal().values(), *canary_list.credentials().values()]
    assert len(set(canary_list.credentials().values())) == len(canary_list.credentials())
    assert all(len(value) >= 10 for value in values)


def test_every_credential_of_every_vendor_is_used():
    """In the routing file of the test there is a destination that has it."""
    used = {name for names in ALTERNATIVES.values() for alternative in names for name in alternative}
    declared = {name for name in canary_list.credentials() if name[0] in canary_list.told()}
    assert declared - used == {("dinamize", "application_token")}  # of `consent authorize`, which no process uses
    assert set(ALTERNATIVES) == set(canary_list.told()) <= set(vendor_names())
    for value in (value for name, value in canary_list.credentials().items() if name in used):
        assert value in routing()


def test_every_hidden_setting_has_a_canary():
    """A setting that is hidden from repr carries a secret."""
    named = {name.removeprefix("CONSENT_").lower() for name in SETTINGS}
    assert {name.replace(".", "_") for name in canary_list.hidden_settings()} == named | {"redis_url", "broker_url"}  # their password is the server's
    assert load_settings(SETTINGS)
