"""The HTTP interface on the real ledger: what it answers is what stands there, and bad input leaves no trace."""

from __future__ import annotations

import pytest
import redis

from pipeline.answers import AcceptedSchema, BatchSchema, DeadLetterPageSchema, EventSchema
from pipeline.desk import Desk
from pipeline.ingest.openapi import ReplayReportSchema
from pipeline.routing import Trigger
from tests.support import relay as way
from tests.support.servers import valkey_server
from tests.unit.ingest_fakes import EVENT, KEYS, make_relay, make_routing
from tests.unit.test_bad_input import CASES

LETTERS = "/v1/dead-letters"
BATCH = "/v1/consent-events/batch"


@pytest.fixture
def whole(client):
    """The way of an event behind the HTTP interface, with one destination."""
    rules = make_routing(destinations={"plain": way.destination("plain")}, triggers=(Trigger(deliver_to=("plain",)),))
    return way.Relay(client, rules)


@pytest.fixture
def web(whole):
    """The HTTP interface."""
    return make_relay(acceptor=whole.acceptor, ledger=Desk(whole.ledger, whole.vault, lambda: whole.rules, whole.hasher), routing=whole.rules)


def contents(client) -> dict:
    return {key: client.dump(key) for key in client.scan_iter()}


def test_bad_input_leaves_no_trace(client, whole, web):
    """Given every bad request there is, the ledger is byte for byte what it was and no message was sent."""
    web.post(json=EVENT)
    whole.drain()
    before = contents(client)
    for case in CASES:
        headers = {**({"Content-Type": case.content_type} if case.content_type else {}), **case.headers}
        assert web.post(case.path, body=case.body, key=case.key, headers=headers).status_code == case.status, case.name
    assert contents(client) == before
    assert whole.queue.messages == []


def test_answers_follow_the_ledger(whole, web):
    """Given an event, the same again, other content under its key, and an older word, each gets its own answer and is seen as such."""
    keyed = {**EVENT, "idempotency_key": "k"}
    first, again, other = web.post(json=keyed), web.post(json=keyed), web.post(json={**keyed, "state": "withdrawn"})
    older = web.post(json={**EVENT, "event_time": "2026-01-04T13:00:00-03:00", "state": "withdrawn"})
    assert [answer.status_code for answer in (first, again, other, older)] == [202, 202, 409, 202]
    assert [answer.json["status"] for answer in (first, again, older)] == ["accepted", "duplicate", "superseded"]
    whole.drain()
    seen = web.get(f"/v1/consent-events/{first.json['event_id']}").json
    assert not EventSchema().validate(seen) | AcceptedSchema().validate(first.json)
    assert (seen["complete"], [delivery["status"] for delivery in seen["deliveries"]]) == (True, ["delivered"])
    assert web.get(f"/v1/consent-events/{older.json['event_id']}").json["superseded_by"] == first.json["event_id"]
    assert web.get(f"/v1/consent-events/{first.json['event_id']}", key=KEYS["reader"]).status_code == 404
    assert "ana@example.com" not in str(seen)


def test_a_large_batch_is_told_whole(whole, web):
    """Given 300 events in one batch with a bad one in the middle, 299 are accepted and told."""
    events = [{**EVENT, "subject": {"email": f"p{number}@example.com"}} for number in range(300)]
    events[150]["purpose"] = "x"
    answer = web.post(BATCH, json=events)
    assert (answer.status_code, answer.json["accepted"], answer.json["rejected"]) == (207, 299, 1)
    assert not BatchSchema().validate(answer.json)
    whole.drain()
    assert len(whole.vendors["plain"].held) == 299


def test_dead_letters_are_listed_by_page_and_replayed(whole, web):
    """Given three refused deliveries, they are listed page by page and counted, seen by their source only, and told once replayed."""
    whole.vendors["plain"].answers = [400] * 3
    for number in range(3):
        web.post(json={**EVENT, "subject": {"email": f"p{number}@example.com"}})
    whole.drain()
    page = web.get(LETTERS, query_string="limit=2").json
    rest = web.get(LETTERS, params={"limit": 2, "cursor": page["next_cursor"]}).json
    assert not DeadLetterPageSchema().validate(page)
    assert (len(page["items"]), len(rest["items"]), rest["next_cursor"]) == (2, 1, None)
    assert page["groups"] == [{"destination": "plain", "state": "given", "reason": "http_400", "count": 3}]
    assert web.get(LETTERS, key=KEYS["reader"]).json == {"items": [], "groups": [], "next_cursor": None}
    dry = web.post(f"{LETTERS}/replay", json={"filter": {"reason": "http_400"}, "dry_run": True}).json
    assert not ReplayReportSchema().validate(dry)
    assert (len(dry["replayed"]), whole.vendors["plain"].held) == (3, {})
    ids = [item["delivery_id"] for item in page["items"]]
    done = web.post(f"{LETTERS}/replay", json={"ids": [*ids, "nothing.plain"]}).json
    assert (sorted(done["replayed"]), done["not_replayed"]) == (sorted(ids), [{"delivery_id": "nothing.plain", "reason": "not_found"}])
    whole.drain()
    whole.beat()
    whole.drain()
    assert len(whole.vendors["plain"].held) == 2
    assert web.get(LETTERS, query_string="cursor=abc").status_code == 422


def test_metrics_come_from_the_ledger(whole, web):
    """Given one event told, the figures say so and nothing is unaccounted for."""
    web.post(json=EVENT)
    whole.drain()
    text = web.get("/metrics", key=None).text
    assert "\nconsent_unaccounted 0.0\n" in text
    assert 'consent_deliveries_total{destination="plain",outcome="applied",state="given"} 1.0' in text


def test_a_ledger_that_goes_away_is_503():
    """Given a ledger whose server has died, posts and reads are 503 and say when to come back."""
    with valkey_server() as url:
        client = redis.Redis.from_url(url, socket_connect_timeout=0.2, retry=None)
        whole = way.Relay(client, make_routing())
        web = make_relay(acceptor=whole.acceptor, ledger=Desk(whole.ledger, whole.vault, lambda: whole.rules, whole.hasher))
        assert web.post(json=EVENT).status_code == 202
    for answer in (web.post(json=EVENT), web.post(BATCH, json=[EVENT] * 60), web.get("/v1/consent-events/a"), web.get(LETTERS), web.get("/metrics")):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    client.close()
