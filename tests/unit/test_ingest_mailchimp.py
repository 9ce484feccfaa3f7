"""Mailchimp's webhooks over HTTP: the address with a key, the signature in Mailchimp's own way, and what is answered to what is no word."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from urllib.parse import urlencode

import pytest

from pipeline.routing import Source
from tests.unit.ingest_fakes import EVENT, NOW, SECRET, digest, errors_of, make_relay, make_routing
from tests.unit.test_ingest_authentication import BODY as NATIVE_BODY
from tests.unit.test_ingest_authentication import headers as standard_headers

URL_KEY = "url-key-of-mailchimp-5d0f2c7e"
SIGNING_SECRET = "test-mailchimp-signing-secret"
ADDRESS = f"/v1/sources/mailchimp/{URL_KEY}"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
FIRED_AT = "2026-03-01 11:59:50"
UNSUBSCRIBE = {"type": "unsubscribe", "fired_at": FIRED_AT, "data[action]": "unsub", "data[list_id]": "L1", "data[email]": "ana@example.org"}
BODY = urlencode(UNSUBSCRIBE).encode()
EMPTY = {"accepted": 0, "duplicates": 0, "superseded": 0, "rejected": 0, "results": []}
STAMP = int(NOW.timestamp())


def relay(secret: str | None = None, **changes):
    source = Source(name="mailchimp", kind="mailchimp", url_keys=(digest(URL_KEY),), purposes={"L1": "newsletter"}, signing_secret=secret)
    return make_relay(routing=make_routing(sources={**make_routing().sources, "mailchimp": dataclasses.replace(source, **changes)}))


def signed(body: bytes = BODY, *, seconds: int = 0, secret: str = SIGNING_SECRET, stamp: int | None = None) -> dict[str, str]:
    at = STAMP + seconds
    value = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return {**FORM, "X-Mailchimp-Signature": f"t={at if stamp is None else stamp},v1={value}"}


def test_a_webhook_is_taken_at_its_address():
    """Given the key in the address alone, a form is one event, and the same form again a duplicate."""
    mine = relay()
    first, again = (mine.post(ADDRESS, body=BODY, key=None, headers=FORM) for _ in range(2))
    assert [(answer.status_code, answer.json["status"]) for answer in (first, again)] == [(202, "accepted"), (202, "duplicate")]
    assert first.json["event_id"] == again.json["event_id"]
    ((_, source, event),) = mine.acceptor.events.values()
    assert (source.name, event.state, event.subject.email) == ("mailchimp", "withdrawn", "ana@example.org")


def test_a_probe_is_answered():
    """Given a source that signs, GET on the address is 200 without a signature, as Mailchimp looks before it posts, and 401 with another key."""
    mine = relay(SIGNING_SECRET)
    assert [mine.get(path, key=None).status_code for path in (ADDRESS, ADDRESS + "x")] == [200, 401]


@pytest.mark.parametrize("kind", ["profile", "upemail", "campaign", "cleaned"])
def test_what_is_no_word_is_a_clean_202(kind):
    """Given a webhook that says nothing of consent, it is 202 so that Mailchimp does not repeat it, and nothing was accepted."""
    mine = relay()
    answer = mine.post(ADDRESS, body=urlencode({"type": kind, "data[reason]": "hard"}), key=None, headers=FORM)
    assert (answer.status_code, answer.json, mine.acceptor.groups) == (202, EMPTY, [])


def test_a_wrong_form_is_refused_by_its_own_names():
    """Given a list that stands for no purpose, no address and a bad date, 422 names all three, repeats none, and nothing was accepted."""
    mine = relay()
    answer = mine.post(ADDRESS, body=urlencode({**UNSUBSCRIBE, "data[list_id]": "L9", "data[email]": "ana", "fired_at": "noon"}), key=None, headers=FORM)
    assert (answer.status_code, sorted(path for path, _ in errors_of(answer))) == (422, ["data[email]", "data[list_id]", "fired_at"])
    assert ("L9" in answer.text, mine.acceptor.groups) == (False, [])


@pytest.mark.parametrize("size, status", [(1_200_000, 413), (40_000, 422)])
def test_a_huge_form_is_refused(size, status):
    """Given a form of more than a mebibyte it is 413, and one of 40 kB without a type 422; nothing was accepted."""
    mine = relay()
    assert mine.post(ADDRESS, body=b"a=" + b"x" * size, key=None, headers=FORM).status_code == status
    assert mine.acceptor.groups == []


def test_key_and_signature_together_are_accepted():
    """Given a source with key and secret, a form at the address with a fitting signature is accepted."""
    answer = relay(SIGNING_SECRET).post(ADDRESS, body=BODY, key=None, headers=signed())
    assert (answer.status_code, answer.json["status"]) == (202, "accepted")


def test_a_signature_is_good_for_as_long_as_mailchimp_tries_again():
    """Given a signed time 80 minutes ago or five minutes ahead it is accepted, and one second more is refused."""
    statuses = {
        seconds: relay(SIGNING_SECRET).post(ADDRESS, body=BODY, key=None, headers=signed(seconds=seconds)).status_code for seconds in (-4801, -4800, 300, 301)
    }
    assert statuses == {-4801: 401, -4800: 202, 300: 202, 301: 401}


def test_a_replay_says_nothing_new():
    """Given a signed subscription, then a withdrawal, and the first one posted again as it was, the replay is a duplicate with the first one's event and nothing is accepted."""
    mine = relay(SIGNING_SECRET)
    subscribe = urlencode({"type": "subscribe", "fired_at": "2026-03-01 10:45:00", "data[list_id]": "L1", "data[email]": "ana@example.org"}).encode()
    first, _, again = (mine.post(ADDRESS, body=body, key=None, headers=signed(body, seconds=-4500)) for body in (subscribe, BODY, subscribe))
    assert [(answer.status_code, answer.json["status"]) for answer in (first, again)] == [(202, "accepted"), (202, "duplicate")]
    assert first.json["event_id"] == again.json["event_id"]
    assert [event.state for _, _, event in mine.acceptor.events.values()] == ["given", "withdrawn"]


def test_one_fitting_signature_among_several_is_enough():
    """Given a second `v1` made with another secret, as while a secret is changed, the fitting one counts."""
    other = signed(secret="test-other")["X-Mailchimp-Signature"].partition(",")[2]
    sent = signed()["X-Mailchimp-Signature"]
    for value in (f"{sent},{other}", sent.replace(",", f",{other}, ", 1)):
        assert relay(SIGNING_SECRET).post(ADDRESS, body=BODY, key=None, headers={**FORM, "X-Mailchimp-Signature": value}).status_code == 202


def header(value: str) -> dict[str, str]:
    return {**FORM, "X-Mailchimp-Signature": value}


FITTING = signed()["X-Mailchimp-Signature"]
FORMAT, UNFIT = "give the signature as t=<unix seconds>,v1=<hex>", "no signature fits the body"
BAD_SIGNATURES = {
    "missing": (FORM, FORMAT),
    "empty": (header(""), FORMAT),
    "no time": (header(FITTING.partition(",")[2]), FORMAT),
    "two times": (header(f"t={STAMP + 1},{FITTING}"), FORMAT),
    "time is no number": (header(FITTING.replace(str(STAMP), "now")), FORMAT),
    "time is huge": (header(f"t={'9' * 400},v1=x"), FORMAT),
    "expired": (signed(seconds=-4801), "the signed time is more than 80 minutes ago"),
    "too early": (signed(seconds=301), "the signed time is more than 5 minutes ahead"),
    "altered within its time": (signed(BODY.replace(b"unsubscribe", b"subscribe"), seconds=-4000), UNFIT),
    "another time": (signed(stamp=STAMP + 1), UNFIT),
    "another body": (signed(BODY + b"&a=b"), UNFIT),
    "the same fields written otherwise": (signed(BODY.replace(b"%40", b"@")), UNFIT),
    "another secret": (signed(secret="test-other"), UNFIT),
    "the url key as secret": (signed(secret=URL_KEY), UNFIT),
    "another version": (header(FITTING.replace("v1=", "v0=")), UNFIT),
    "cut": (header(FITTING[:-1]), UNFIT),
    "no value": (header(f"t={STAMP},v1="), UNFIT),
    "only the time": (header(f"t={STAMP}"), UNFIT),
    "not ASCII": (header(f"t={STAMP},v1=\xe9"), UNFIT),
    "a Standard Webhooks signature": ({**standard_headers(body=BODY), **FORM}, FORMAT),
}


@pytest.mark.parametrize("sent, message", BAD_SIGNATURES.values(), ids=BAD_SIGNATURES)
@pytest.mark.parametrize("path", [ADDRESS, "/v1/sources/mailchimp"])
def test_a_bad_signature_is_refused(path, sent, message):
    """Given a signature that does not fit, 401 names the header, whether the address has the right key or none, and nothing was accepted."""
    mine = relay(SIGNING_SECRET)
    answer = mine.post(path, body=BODY, key=None, headers=sent)
    assert (answer.status_code, errors_of(answer), mine.acceptor.groups) == (401, [("x-mailchimp-signature", message)], [])


def test_a_right_signature_does_not_rescue_a_wrong_key():
    """Given a fitting signature at an address with another key, it is 401 and nothing was accepted."""
    mine = relay(SIGNING_SECRET)
    answer = mine.post(ADDRESS + "x", body=BODY, key=None, headers=signed())
    assert (answer.status_code, errors_of(answer)[0][0], mine.acceptor.groups) == (401, "url_key", [])


def test_what_is_no_word_must_be_signed_too():
    """Given an unsigned webhook about a campaign at a source that signs, it is 401 like any other."""
    assert relay(SIGNING_SECRET).post(ADDRESS, body=b"type=campaign", key=None, headers=FORM).status_code == 401


def test_a_signature_alone_is_enough_where_there_is_no_key():
    """Given a source with a secret only, the plain address takes a signed form."""
    mine = relay(SIGNING_SECRET, url_keys=())
    assert mine.post("/v1/sources/mailchimp", body=BODY, key=None, headers=signed()).json["status"] == "accepted"


def test_every_source_that_signs_must_sign_at_its_address_too():
    """Given a native source with a secret, its address takes a Standard Webhooks signature and refuses a body without."""
    mine = make_relay()
    path = "/v1/sources/hooks/url-key-of-hooks"
    answer = mine.post(path, json=EVENT, key=None)
    assert (answer.status_code, errors_of(answer)[0][0], mine.acceptor.groups) == (401, "webhook-timestamp", [])
    assert mine.post(path, body=NATIVE_BODY, key=None, headers=standard_headers()).status_code == 202


@pytest.mark.parametrize("value", [FITTING, f"t={STAMP},v1=x", ""])
def test_no_secret_is_shown(value, caplog):
    """Given any signature, neither answer nor log shows the secret, the key of the address or the person."""
    answer = relay(SIGNING_SECRET).post(ADDRESS, body=BODY, key=None, headers=header(value))
    shown = answer.text + "".join(str(record.__dict__) for record in caplog.records)
    assert not [text for text in (SIGNING_SECRET, SECRET, URL_KEY, "ana@example.org") if text in shown]
