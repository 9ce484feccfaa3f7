"""Keys, scopes and signatures."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
from datetime import timedelta

import orjson
import pytest

from tests.unit.ingest_fakes import EVENT, KEYS, NOW, SECRET, digest, errors_of, make_relay, make_routing

HOOKS = "/v1/sources/hooks"
BODY = orjson.dumps(EVENT)


def signature(body: bytes, timestamp: str, *, secret: str = SECRET, message_id: str = "msg_1") -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def headers(*, body: bytes = BODY, seconds: int = 0, message_id: str = "msg_1", **changes) -> dict:
    timestamp = str(int((NOW + timedelta(seconds=seconds)).timestamp()))
    signed = {"webhook-id": message_id, "webhook-timestamp": timestamp, "webhook-signature": signature(body, timestamp, message_id=message_id)}
    return {"Content-Type": "application/json", **signed, **{f"webhook-{name}": value for name, value in changes.items()}}


@pytest.mark.parametrize("key", ["key-web-forms", "key-web-forms-old"])
def test_two_keys_may_be_valid_at_once(key):
    """Given a source with two keys, either is accepted."""
    assert make_relay().post(json=EVENT, key=key).status_code == 202


def test_a_reload_takes_effect_on_the_next_request():
    """Given a key that a reload removed, it is refused from then on, and the new one is accepted."""
    tables = [make_routing()]
    relay = make_relay(routing=lambda: tables[-1])
    assert relay.post(json=EVENT).status_code == 202
    sources = dict(tables[0].sources)
    sources["web-forms"] = dataclasses.replace(sources["web-forms"], keys=(digest("new-key"),))
    tables.append(make_routing(sources=sources))
    assert [relay.post(json=EVENT, key=key).status_code for key in (KEYS["web-forms"], "new-key")] == [401, 202]


@pytest.mark.parametrize("days, status", [(0, 202), (1, 202), (-1, 401)])
def test_a_key_ends_with_its_last_day(days, status):
    """Given a key that ends, it is taken to the end of that day (UTC) and then refused like one that never was."""
    table = make_routing()
    own = dataclasses.replace(table.sources["web-forms"], key_ends={digest(KEYS["web-forms"]): NOW.date() + timedelta(days=days)})
    relay = make_relay(routing=lambda: dataclasses.replace(table, sources={**table.sources, "web-forms": own}))
    answer = relay.post(json=EVENT)
    assert answer.status_code == status
    if status == 401:
        assert answer.json == make_relay().post(json=EVENT, key="nobody").json


def test_the_scheme_is_read_in_any_case_and_the_key_is_not():
    """Given `bearer` in lower case, the key is accepted: schemes ignore case (RFC 9110, 11.1)."""
    relay = make_relay()
    assert relay.post(json=EVENT, key=None, headers={"Authorization": "bearer key-web-forms"}).status_code == 202


def test_a_signed_body_is_accepted():
    """Given a Standard Webhooks signature of the source's secret, no key is needed."""
    relay = make_relay()
    answer = relay.post(HOOKS, body=BODY, key=None, headers=headers())
    assert (answer.status_code, answer.json["status"]) == (202, "accepted")
    assert [source.name for _, source, _ in relay.acceptor.events.values()] == ["hooks"]


def test_one_fitting_signature_among_several_is_enough():
    """Given an entry of another version and one of an older secret before it, the fitting entry counts."""
    right = headers()["webhook-signature"]
    answer = make_relay().post(HOOKS, body=BODY, key=None, headers=headers(signature=f"v1a,x v1,AAAA {right}"))
    assert answer.status_code == 202


def test_a_signature_is_good_for_five_minutes_either_way():
    """Given a signed time 300 seconds away it is accepted, and one second more is refused."""
    statuses = {seconds: make_relay().post(HOOKS, body=BODY, key=None, headers=headers(seconds=seconds)).status_code for seconds in (-301, -300, 300, 301)}
    assert statuses == {-301: 401, -300: 202, 300: 202, 301: 401}


BAD_SIGNATURES = {
    "another body": (headers(body=BODY + b" "), "webhook-signature"),
    "another id": (headers() | {"webhook-id": "msg_2"}, "webhook-signature"),
    "another version": (headers(signature=headers()["webhook-signature"].replace("v1,", "v2,")), "webhook-signature"),
    "no version": (headers(signature=headers()["webhook-signature"].removeprefix("v1,")), "webhook-signature"),
    "another secret": (headers(signature=signature(BODY, str(int(NOW.timestamp())), secret="whsec_AAAA")), "webhook-signature"),
    "empty": (headers(signature=""), "webhook-signature"),
    "no time": (headers(timestamp=""), "webhook-timestamp"),
    "time is no number": (headers(timestamp="now"), "webhook-timestamp"),
    "time is huge": (headers(timestamp="9" * 400), "webhook-timestamp"),
    "nothing signed": ({"Content-Type": "application/json"}, "webhook-timestamp"),
}


@pytest.mark.parametrize("sent, path", BAD_SIGNATURES.values(), ids=BAD_SIGNATURES)
def test_a_bad_signature_is_refused(sent, path):
    """Given a signature that does not fit, 401 names the header and nothing is written."""
    relay = make_relay()
    answer = relay.post(HOOKS, body=BODY, key=None, headers=sent)
    assert (answer.status_code, [where for where, _ in errors_of(answer)], relay.acceptor.groups) == (401, [path], [])


def test_a_source_without_a_secret_cannot_sign():
    """Given a signed body for a source that has only keys, or for nobody, it is 401."""
    relay = make_relay()
    for path in ("/v1/sources/web-forms", "/v1/sources/nobody"):
        assert relay.post(path, body=BODY, key=None, headers=headers()).status_code == 401
    assert relay.acceptor.groups == []


def test_a_signing_source_may_use_its_key_instead():
    """Given a key as well as a secret, the key alone is enough, and a wrong key is not rescued by a right signature."""
    relay = make_relay()
    assert relay.post(HOOKS, json=EVENT, key=KEYS["hooks"]).status_code == 202
    assert relay.post(HOOKS, body=BODY, key="wrong", headers=headers()).status_code == 401
