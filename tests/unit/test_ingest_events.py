"""Events over HTTP: one, many, a source's own, and what became of them."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from falcon.testing import ASGIConductor, create_scope

from pipeline.domain import State
from pipeline.errors import LedgerMismatch, LedgerUnavailable, PayloadUnreadable
from pipeline.ingest import IngestLimits
from tests.unit.ingest_fakes import EVENT, IMPORT, KEYS, URL_KEY, FakeAcceptor, FakeLedger, errors_of, make_relay, paths_of

BATCH = "/v1/consent-events/batch"
NDJSON = {"Content-Type": "application/x-ndjson"}


def test_one_event_is_answered_after_the_write():
    """Given a good event, 202 carries its id and status, and the acceptor has it with its source."""
    relay = make_relay()
    answer = relay.post(json=EVENT)
    ((event_id, (_, source, event)),) = relay.acceptor.events.items()
    assert (answer.status_code, answer.json) == (202, {"event_id": event_id, "status": "accepted"})
    assert (source.name, event.subject.email, event.purpose, event.state) == ("web-forms", "ana@example.com", "newsletter", State.GIVEN)
    assert answer.headers["cache-control"] == "no-store"


def test_the_same_event_again_is_a_duplicate_with_the_same_id():
    """Given the same key and content twice, both are 202 with one id, the second as duplicate."""
    relay = make_relay()
    first, second = (relay.post(json={**EVENT, "idempotency_key": "k"}).json for _ in range(2))
    assert (first["event_id"], second["status"]) == (second["event_id"], "duplicate")


def test_a_key_with_other_content_is_a_conflict():
    """Given a used key with other content, 409 names the key and the first event stands."""
    relay = make_relay()
    relay.post(json={**EVENT, "idempotency_key": "k"})
    answer = relay.post(json={**EVENT, "idempotency_key": "k", "state": "withdrawn"})
    assert (answer.status_code, errors_of(answer)) == (409, [("idempotency_key", "stands for an event with other content already")])
    assert [event.state for _, _, event in relay.acceptor.events.values()] == [State.GIVEN]


@pytest.mark.parametrize("content_type", ["application/json", "APPLICATION/JSON", "application/json; charset=utf-8", 'application/json;charset="UTF-8"'])
def test_utf_8_may_be_named(content_type):
    """Given JSON whose charset is spelled out as UTF-8, it is accepted."""
    assert make_relay().post(body=orjson.dumps(EVENT), headers={"Content-Type": content_type}).status_code == 202


def test_an_unavailable_ledger_asks_to_come_back():
    """Given a ledger that cannot confirm, one event and a batch are 503 with Retry-After."""
    relay = make_relay(acceptor=FakeAcceptor(failure=LedgerUnavailable("down")))
    for answer in (relay.post(json=EVENT), relay.post(BATCH, json=[EVENT]), relay.post(BATCH, json=[EVENT] * 60)):
        assert (answer.status_code, answer.headers["retry-after"], paths_of(answer)) == (503, "1", [""])
        assert "down" not in answer.text


def test_an_unexpected_failure_tells_nothing_and_logs_no_text(caplog):
    """Given a bug whose exception quotes a person, the caller gets a plain 500 and the log has only the type and the place."""
    relay = make_relay(acceptor=FakeAcceptor(poison="bad"))
    answer = relay.post(json={**EVENT, "subject": {"external_id": "bad"}})
    assert (answer.status_code, answer.json["title"]) == (500, "Something went wrong here")
    assert {record.message for record in caplog.records} == {"event_poisoned", "request_failed"}
    assert all(record.error == "ZeroDivisionError" for record in caplog.records)
    assert "ana@example.com" not in caplog.text + answer.text


@pytest.mark.parametrize("failure, status", [(LedgerMismatch("other pepper"), 503), (PayloadUnreadable("key 3"), 500), (KeyError("ana@example.com"), 500)])
def test_no_failure_of_ours_is_told(failure, status):
    """Given whatever the acceptor may raise, the answer is a plain problem without its text."""
    relay = make_relay(acceptor=FakeAcceptor(failure=failure))
    answer = relay.post(json=EVENT)
    assert (answer.status_code, paths_of(answer)) == (status, [""])
    assert not any(text in answer.text for text in ("pepper", "key 3", "ana@"))


def test_a_batch_answers_each_item_in_order():
    """Given a new event, its duplicate, a reused key and a bad one, 207 counts them and names the bad ones."""
    relay = make_relay()
    keyed = {**EVENT, "idempotency_key": "k"}
    answer = relay.post(BATCH, json=[keyed, keyed, {**keyed, "purpose": "sms"}, {**EVENT, "purpose": "x"}])
    event_id = next(iter(relay.acceptor.events))
    assert answer.status_code == 207
    assert answer.json == {
        "accepted": 1,
        "duplicates": 1,
        "superseded": 0,
        "rejected": 2,
        "results": [
            {"index": 0, "status": "accepted", "event_id": event_id},
            {"index": 1, "status": "duplicate", "event_id": event_id},
            {"index": 2, "status": "rejected", "errors": [{"path": "idempotency_key", "message": "stands for an event with other content already"}]},
            {"index": 3, "status": "rejected", "errors": [{"path": "purpose", "message": "unknown purpose"}]},
        ],
    }


@pytest.mark.parametrize("count", [1, 50, 51, 5000])
def test_a_good_batch_is_accepted_whole(count):
    """Given an array or NDJSON of good events, 202 counts them all, whichever way they are written."""
    events = [{**EVENT, "idempotency_key": str(number)} for number in range(count)]
    for options in ({"json": events}, {"body": b"\n".join(map(orjson.dumps, events)), "headers": NDJSON}):
        relay = make_relay()
        answer = relay.post(BATCH, **options)
        assert (answer.status_code, answer.json["accepted"], len(relay.acceptor.events)) == (202, count, count)
        assert [result["index"] for result in answer.json["results"]] == list(range(count))


def test_a_poisoned_item_does_not_fail_its_batch():
    """Given one item the acceptor breaks on among a hundred, the other ninety-nine are accepted."""
    relay = make_relay(acceptor=FakeAcceptor(poison="bad"))
    events = [{**EVENT, "idempotency_key": str(number)} for number in range(99)]
    answer = relay.post(BATCH, json=[*events, {**EVENT, "subject": {"external_id": "bad"}}])
    assert (answer.status_code, answer.json["accepted"], answer.json["rejected"]) == (207, 99, 1)
    assert answer.json["results"][99]["status"] == "rejected"


def test_a_source_posts_its_own_body_as_one_event_or_as_a_batch():
    """Given a Privacy Tools body, one is answered as an event and a list of one as a batch."""
    relay = make_relay()
    path = "/v1/sources/privacy-tools"
    single = relay.post(path, json=IMPORT, key=KEYS["privacy-tools"])
    many = relay.post(path, json=[IMPORT, {**IMPORT, "consentValue": 3}], key=KEYS["privacy-tools"])
    listed = relay.post(path, json=[IMPORT], key=KEYS["privacy-tools"])
    assert (single.status_code, single.json["status"]) == (202, "accepted")
    assert (many.status_code, many.json["duplicates"], many.json["rejected"]) == (207, 1, 1)
    assert (listed.status_code, listed.json["duplicates"]) == (202, 1)


def test_a_native_source_may_post_to_its_own_address():
    """Given native events at the source's address, an object, an array and NDJSON are all taken."""
    relay = make_relay()
    path = "/v1/sources/web-forms"
    assert relay.post(path, json=EVENT).json["status"] == "accepted"
    assert relay.post(path, json=[EVENT]).json["duplicates"] == 1
    assert relay.post(path, body=orjson.dumps(EVENT) + b"\n", headers=NDJSON).json["duplicates"] == 1


def test_an_address_with_a_key_needs_no_header_and_answers_a_probe():
    """Given the key in the address, GET is 200, a post is accepted, and no log line holds the key."""
    relay = make_relay()
    path = f"/v1/sources/privacy-tools/{URL_KEY}"
    assert relay.get(path, key=None).status_code == 200
    assert relay.call("HEAD", path, key=None).status_code == 200
    assert relay.post(path, json=IMPORT, key=None).json["status"] == "accepted"
    assert relay.get(path + "x", key=None).status_code == 401


def test_a_failure_behind_an_address_is_logged_without_its_key(caplog):
    """Given a bug behind an address with a key, the log names the route's template only."""
    relay = make_relay(acceptor=FakeAcceptor(failure=ZeroDivisionError()))
    assert relay.post(f"/v1/sources/privacy-tools/{URL_KEY}", json=IMPORT, key=None).status_code == 500
    assert [record.route for record in caplog.records if record.message == "request_failed"] == ["/v1/sources/{source}/{url_key}"]
    assert all(URL_KEY not in str(record.__dict__) for record in caplog.records)


def test_an_event_is_seen_by_its_own_source_only():
    """Given events of two sources, a key sees its own, another's is 404 as if it did not exist, and `all_sources` sees both."""
    relay = make_relay(ledger=FakeLedger(sources={"a": "web-forms", "b": "reader"}))
    assert relay.get("/v1/consent-events/a").json == {"event_id": "a", "source": "web-forms", "deliveries": []}
    hidden, missing = relay.get("/v1/consent-events/b"), relay.get("/v1/consent-events/c")
    assert (hidden.status_code, hidden.text) == (404, missing.text)
    assert [relay.get(f"/v1/consent-events/{one}", key=KEYS["auditor"]).status_code for one in "abc"] == [200, 200, 404]


@pytest.mark.parametrize("key, status", [(None, 401), ("x", 401), (KEYS["privacy-tools"], 403)])
def test_reading_needs_a_key_with_the_scope(key, status):
    """Given no key or one without `read`, nothing is looked up."""
    relay = make_relay()
    answer = relay.get("/v1/consent-events/a", key=key)
    assert (answer.status_code, relay.ledger.calls) == (status, [])
    assert ("www-authenticate" in answer.headers) == (status == 401)


@pytest.mark.parametrize(
    "method, path, status", [("GET", "/v1/consent-events", 405), ("DELETE", "/v1/consent-events/a", 405), ("POST", "/", 405), ("GET", "/v2", 404)]
)
def test_other_addresses_and_methods_are_problems_too(method, path, status):
    """Given an unknown address or method, the answer is a problem document; 405 names the methods."""
    answer = make_relay().call(method, path)
    assert (answer.status_code, paths_of(answer)) == (status, [""])
    assert ("allow" in answer.headers) == (status == 405)


async def raw_status(relay, *, http_version="1.1", body=b"", more_body=False, headers=()):
    """The status of a post whose body arrives as given; after that the client is silent."""
    scope = create_scope(
        method="POST", path="/v1/consent-events", headers={"Authorization": "Bearer key-web-forms", "Content-Type": "application/json", **dict(headers)}
    )
    scope["http_version"] = http_version
    events = [{"type": "http.request", "body": body, "more_body": more_body}]
    sent = []

    async def receive():
        return events.pop() if events else await asyncio.Event().wait()

    async def send(event):
        sent.append(event)

    async with ASGIConductor(relay.application):
        await relay.application(scope, receive, send)
    return sent[0]["status"]


def test_an_old_client_is_served():
    """Given HTTP/1.0 as granian names it, the event is accepted."""
    assert asyncio.run(raw_status(make_relay(), http_version="1", body=orjson.dumps(EVENT))) == 202


@pytest.mark.parametrize("length", ["ten", "-1", "1.5"])
def test_a_length_that_is_no_number_is_refused(length):
    """Given a declared length that cannot be read, 400 and nothing is written."""
    relay = make_relay()
    assert asyncio.run(raw_status(relay, body=orjson.dumps(EVENT), headers={"Content-Length": length})) == 400
    assert relay.acceptor.groups == []


def test_a_body_that_does_not_arrive_is_given_up():
    """Given a client that falls silent within the body, 408 after the time for bodies, and nothing is written."""
    relay = make_relay(limits=IngestLimits(body_timeout_seconds=0.02))
    assert asyncio.run(raw_status(relay, body=orjson.dumps(EVENT), more_body=True)) == 408
    assert relay.acceptor.groups == []


def test_a_full_process_asks_to_come_back():
    """Given more events than may wait, 429 with Retry-After and nothing is written."""
    relay = make_relay(limits=IngestLimits(max_pending=2))
    answer = relay.post(BATCH, json=[EVENT] * 3)
    assert (answer.status_code, answer.headers["retry-after"], relay.acceptor.groups) == (429, "1", [])
