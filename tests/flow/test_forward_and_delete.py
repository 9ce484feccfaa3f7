"""Forward and delete: a registration passes through real processes to Maileon and a webhook, and afterwards nothing of the person is left anywhere."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from pipeline.domain import ConsentEvent
from pipeline.envelope import open_event
from tests.support.canaries import files_in, redis_content, traces
from tests.support.stack import Stack, running_stack, wait_until
from tests.support.world import SHORT
from workers.wiring import Parts

pytestmark = pytest.mark.timeout(180)

ROUTING = """
version: 1
sources:
  web-forms: {kind: native, keys: ["${CONSENT_SAMPLE_KEY_SHA256:-}"], scopes: [ingest, read, replay], all_sources: true}
  cmx:
    kind: cmxorganize
    keys: ["${CONSENT_SAMPLE_CMX_KEY_SHA256:-}"]
    scopes: [ingest, read]
    retention: forward_and_delete
    time_zone: Europe/Berlin
    purposes: {newsletter: newsletter, single_user_tracking: single-user-tracking}
  maileon-webhooks:
    kind: maileon
    url_keys: ["${CONSENT_SAMPLE_MAILEON_KEY_SHA256:-}"]
    origin: [maileon-news]
    retention: forward_and_delete
    purposes: {doi: newsletter, "doi+": single-user-tracking}
purposes:
  newsletter: {title: Newsletter}
  single-user-tracking: {title: Reading of the newsletter may be followed person by person}
destinations:
  maileon-news:
    vendor: maileon
    base_url: "http://127.0.0.1:${CONSENT_SANDBOX_PORT}/maileon/1.0"
    allow_private_network: true
    credentials: {api_key: test-maileon-key}
    options: {custom_fields: [purchase_auto_value, name_prefix]}
    options_by_purpose:
      single-user-tracking: {tracking_purpose: single-user-tracking}
  crm-webhook:
    vendor: webhook
    base_url: "http://127.0.0.1:${CONSENT_SANDBOX_PORT}/webhook"
    allow_private_network: true
    credentials: {secret: "whsec_dGVzdC13ZWJob29rLXNpZ25pbmctc2VjcmV0LTAwMDE="}
triggers:
  - {purposes: [newsletter, single-user-tracking], deliver_to: [maileon-news, crm-webhook]}
"""
AWAITING, DELIVERED = ("awaiting_confirmation", None), ("delivered", None)


@pytest.fixture(scope="module")
def relay() -> Iterator[Stack]:
    with running_stack(routing=ROUTING, environment=SHORT) as stack:
        yield stack


@pytest.fixture
def stack(relay: Stack) -> Iterator[Stack]:
    for vendor in ("maileon", "webhook"):
        relay.fault(vendor)
        relay.session.post(f"{relay.sandbox_url}/_sandbox/{vendor}/reset", timeout=10)
    yield relay
    relay.fault("webhook")


@pytest.fixture
def parts(relay: Stack) -> Iterator[Parts]:
    """The ledger and the vault as the relay's own processes have them."""
    built = Parts(relay.environment)
    yield built
    built.close()


def canaries() -> dict[str, str]:
    """A value of its own for every personal field of a registration."""
    mark = uuid.uuid4().hex[:8]
    return {
        "salutation": f"Canary-Salutation-{mark}",
        "job_title": f"Canary Job & Title {mark}",
        "name_prefix": f"Canary-Prefix-{mark}",
        "last_name": f"Kanarienvögel-{mark}",
        "first_name": f"Canaryfirst-{mark}",
        "email": f"canary.person+{mark}@example.org",
        "purchase_auto_value": f"K-CANARY-{mark}",
    }


def register(stack: Stack, person: dict[str, str]) -> tuple[str, str]:
    """Post a registration with both boxes ticked; the ids of its tracking and its newsletter event."""
    body = {**person, "single_user_tracking": True, "registered_at": "2026-01-05T13:00:00+01:00", "newsletter": True}
    answer = stack.post("/v1/sources/cmx", body, source="cmxorganize")
    assert answer.status_code == 202, answer.text
    tracking, newsletter = (result["event_id"] for result in answer.json()["results"])
    return tracking, newsletter


def confirm(stack: Stack, email: str) -> None:
    """The person clicks; then the hour after which Maileon is asked again passes at once."""
    answer = stack.session.post(f"{stack.sandbox_url}/_sandbox/maileon/contacts", json=[{"email": email, "confirmed": True}], timeout=10)
    assert answer.status_code == 200, answer.text
    hurry(stack)


def confirm_by_webhook(stack: Stack, email: str) -> list[str]:
    """The person clicks, and Maileon says so itself; the ids of what was heard."""
    stack.session.post(f"{stack.sandbox_url}/_sandbox/maileon/contacts", json=[{"email": email, "confirmed": True}], timeout=10).raise_for_status()
    body = {"email": email, "permission_status": 5, "timestamp": int(time.time() * 1000)}
    answer = stack.session.post(f"{stack.url}/v1/sources/maileon-webhooks/{stack.key('maileon')}?event=doi", json=body, timeout=10)
    assert answer.status_code == 202, answer.text
    return [result["event_id"] for result in answer.json()["results"]]


def hurry(stack: Stack) -> None:
    with redis.Redis.from_url(stack.environment["CONSENT_REDIS_URL"]) as client:
        for name in list(client.scan_iter(match="cr:{d:*}:due:*")):
            client.zadd(name, dict.fromkeys(client.zrange(name, 0, -1), 1), xx=True)


def look_everywhere(stack: Stack, *event_ids: str) -> dict[str, bytes]:
    """Both databases, every file that the relay keeps or logs to, what Flower and the metrics show, and what is answered about the events."""
    places = files_in(stack.folder)
    for label, url in (("ledger", stack.environment["CONSENT_REDIS_URL"]), ("broker", stack.broker_url)):
        with redis.Redis.from_url(url) as client:
            places |= redis_content(client, label)
    for path in ("/api/tasks", "/api/workers", "/api/task/types", "/tasks", "/metrics"):
        places[f"flower {path}"] = stack.session.get(stack.flower_url + path, auth=stack.flower_login, timeout=10).content
    places["metrics"] = stack.session.get(f"{stack.url}/metrics", timeout=10).content
    places["dead letters"] = stack.get("/v1/dead-letters").content
    return places | {f"event {event_id}": json.dumps(stack.event(event_id)).encode() for event_id in event_ids}


def opened(parts: Parts, event_id: str) -> ConsentEvent:
    """The event as a worker opens it."""
    (stored,) = parts.ledger.events.load([event_id])
    assert stored is not None
    return open_event(stored, parts.vault)


def personal(event: ConsentEvent) -> set[str]:
    return {event.subject.email or "", *event.profile.values(), *event.metadata.values()}


def payload_exists(parts: Parts, event_id: str) -> bool:
    return bool(parts.ledger.store.client.exists(parts.ledger.keys.payload(event_id)))


def test_nothing_of_a_person_is_left_once_everybody_is_told(stack: Stack, parts: Parts) -> None:
    """While Maileon waits for the click the person is there sealed only; after the last delivery nowhere and in no encoding."""
    person = canaries()
    tracking, newsletter = ids = register(stack, person)
    wait_until(lambda: all(stack.deliveries(each) == {"crm-webhook": DELIVERED, "maileon-news": AWAITING} for each in ids), 30)
    assert stack.sandbox("maileon")["mails"] == [{"email": person["email"], "plus": True, "mailing": None}]
    assert {stack.event(each)["status"] for each in ids} == {"accepted"}
    assert personal(opened(parts, newsletter)) == personal(opened(parts, tracking)) == set(person.values())
    assert traces(look_everywhere(stack, *ids), person) == []

    confirm(stack, person["email"])
    stack.wait_complete(ids)
    for each in ids:
        view = stack.event(each)
        assert (view["status"], view["complete"], stack.deliveries(each)) == ("erased", True, {"crm-webhook": DELIVERED, "maileon-news": DELIVERED})
        assert not payload_exists(parts, each)
    assert traces(look_everywhere(stack, *ids), person) == []
    held = stack.sandbox("maileon")["contacts"][person["email"]]
    assert (held["permission"], set(held["fields"].values()) >= set(person.values()) - {person["email"]}) == (5, True)
    assert stack.metric("consent_unaccounted") == 0


def test_the_vendor_itself_says_that_the_person_has_confirmed(stack: Stack, parts: Parts) -> None:
    """Its webhook ends what awaits it at once, and what was heard is forgotten like what was told."""
    person = canaries()
    ids = register(stack, person)
    wait_until(lambda: all(stack.deliveries(each) == {"crm-webhook": DELIVERED, "maileon-news": AWAITING} for each in ids), 30)
    heard = confirm_by_webhook(stack, person["email"])
    stack.wait_complete([*ids, *heard])
    for each in ids:
        assert stack.deliveries(each) == {"crm-webhook": DELIVERED, "maileon-news": ("delivered", "confirmed")}
    assert {stack.event(each)["status"] for each in [*ids, *heard]} == {"erased"}
    assert not any(payload_exists(parts, each) for each in [*ids, *heard])
    assert traces(look_everywhere(stack, *ids, *heard), person) == []
    assert stack.metric("consent_unaccounted") == 0


def test_what_was_erased_still_fences(stack: Stack) -> None:
    """An older word for the same person is superseded by the event that was forgotten, and an older withdrawal is told to nobody."""
    person = canaries()
    ids = _, newsletter = register(stack, person)
    wait_until(lambda: all(stack.deliveries(each).get("maileon-news") == AWAITING for each in ids), 30)
    confirm(stack, person["email"])
    stack.wait_complete(ids)
    for state in ("given", "withdrawn"):
        older = stack.accept(state, minute=0, email=person["email"])
        stack.wait_complete([older])
        assert (stack.event(older)["status"], stack.event(older)["superseded_by"]) == ("superseded", newsletter)
    assert stack.deliveries(older) == {}
    assert stack.sandbox("maileon")["contacts"][person["email"]]["permission"] == 5
    newer = stack.accept("withdrawn", minute=180, email=person["email"])
    stack.wait_complete([newer])
    assert stack.deliveries(newer) == {"crm-webhook": DELIVERED, "maileon-news": DELIVERED}
    assert person["email"] in stack.sandbox("maileon")["markers"]


@pytest.mark.parametrize("decision", ["replay", "discard"])
def test_what_died_is_erased_when_a_person_has_decided(stack: Stack, parts: Parts, decision: str) -> None:
    """Until then it is kept, sealed, because it may be told yet."""
    person = canaries()
    stack.fault("webhook", {"kind": "status", "status": 400, "times": None})
    ids = register(stack, person)
    wait_until(lambda: all(stack.deliveries(each).get("maileon-news") == AWAITING for each in ids), 30)
    confirm(stack, person["email"])
    stack.wait_complete(ids)
    for each in ids:
        assert stack.deliveries(each) == {"crm-webhook": ("dead", "http_400"), "maileon-news": DELIVERED}
        assert (stack.event(each)["status"], person["email"] in personal(opened(parts, each))) == ("accepted", True)
    assert traces(look_everywhere(stack, *ids), person) == []
    stack.fault("webhook")
    deliveries = [f"{each}.crm-webhook" for each in ids]
    if decision == "replay":
        assert sorted(stack.post("/v1/dead-letters/replay", {"ids": deliveries}).json()["replayed"]) == sorted(deliveries)
    else:
        assert stack.consent("dead", "discard", *deliveries, "--reason", "the CRM was told by hand").returncode == 0
    wait_until(lambda: {stack.event(each)["status"] for each in ids} == {"erased"}, 30)
    assert not any(payload_exists(parts, each) for each in ids)
    ended: dict[str, Any] = {"replay": DELIVERED, "discard": ("skipped", "discarded: the CRM was told by hand")}
    assert {stack.deliveries(each)["crm-webhook"] for each in ids} == {ended[decision]}
    assert traces(look_everywhere(stack, *ids), person) == []
