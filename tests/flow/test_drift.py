"""Real sandboxes that lie, forget and change by themselves: after one full sweep and the deliveries it asks for, no vendor permits what a person withdrew."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
import redis

from pipeline.domain import IncomingEvent, State, Subject
from pipeline.exchange import Exchange
from pipeline.routing_file import load_routing
from pipeline.transports.curl import CurlTransport
from tests.sandboxes import SandboxHandle, start_sandboxes
from tests.support.comparing import ComparingRelay
from tests.support.two_way import Sessions

VENDORS = ("dinamize", "mailchimp", "maileon", "contacthub", "contactsend", "privacy_tools")
PEOPLE = tuple(f"person-{number}@example.org" for number in range(6))
ROUTING = """
version: 1
sources:
  web: {{kind: native, keys: ["sha256:{digest}"]}}
  chimp: {{kind: mailchimp, url_keys: ["sha256:{other}"], origin: [mailchimp], purposes: {{L1: news}}}}
purposes: {{news: {{title: News}}}}
destinations:
  dinamize:
    vendor: dinamize
    base_url: {urls[dinamize]}
    credentials: {{token: test-dinamize-token}}
    options: {{list_code: "1"}}
    {common}
  mailchimp:
    vendor: mailchimp
    base_url: {urls[mailchimp]}
    credentials: {{api_key: test-mailchimp-key-us1}}
    options: {{list_id: L1}}
    reconcile: {{stricter: adopt, missing: tell}}
    {common}
  maileon:
    vendor: maileon
    base_url: {urls[maileon]}
    credentials: {{api_key: test-maileon-key}}
    options: {{double_opt_in: false}}
    {common}
  contacthub:
    vendor: contacthub
    base_url: {urls[contacthub]}
    credentials: {{token: test-contacthub-token}}
    options: {{workspace_id: test-workspace, node_id: test-node, subscription_id: newsletter}}
    {common}
  contactsend:
    vendor: contactsend
    base_url: {urls[contactsend]}
    credentials: {{api_key: test-contactsend-api-key, user_key: test-contactsend-user-key}}
    options: {{source_id: 6, webform_code: "230004001355", registration_field: __cls1}}
    {common}
  privacy-tools:
    vendor: privacy_tools
    base_url: {urls[privacy_tools]}
    credentials: {{public_key: test-privacy-public-key, secret: test-privacy-secret, client_id: test-privacy-client, client_secret: test-privacy-client-secret}}
    options: {{template_hash: test-template}}
    {common}
triggers:
  - {{purposes: [news], deliver_to: [dinamize, mailchimp, maileon, contacthub, contactsend, privacy-tools]}}
"""
COMMON = "allow_private_network: true\n    rate: {calls: 1000, per_seconds: 1, concurrent: 4}"
WRITES = {"mailchimp": "/lists", "dinamize": "upsert", "maileon": "/contacts", "contacthub": "/subscriptions", "contactsend": "", "privacy_tools": "import"}


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[SandboxHandle]:
    with start_sandboxes(VENDORS) as handle:
        yield handle


@pytest.fixture
def relay(client: redis.Redis, sandboxes: SandboxHandle) -> Iterator[ComparingRelay]:
    for vendor in VENDORS:
        sandboxes.faults(vendor)
        sandboxes.reset(vendor)
    sandboxes.settings("dinamize", calls_per_minute=None)
    sandboxes.settings("maileon", unsubscribe_seconds=0.0)
    text = ROUTING.format(digest="ab" * 32, other="cd" * 32, urls={vendor: sandboxes.url(vendor) for vendor in VENDORS}, common=COMMON)
    exchange = Exchange(CurlTransport(), Sessions(), total_timeout_seconds=5)
    yield ComparingRelay(client, load_routing(text, filename="drift.yaml", environment={}), seconds=1.0, exchange=exchange)
    exchange.close()


def say(relay: ComparingRelay, email: str, state: State) -> None:
    subject = Subject(email=email, external_id=f"user-{email[7]}")
    event = IncomingEvent(subject=subject, purpose="news", state=state, event_time=relay.ledger.now())
    relay.acceptor.accept_many([(relay.rules.sources["web"], event)])


def settle(relay: ComparingRelay) -> None:
    """Carry out all that is to be told by now."""
    for _ in range(30):
        relay.drain()
        relay.again()
        if not relay.queue.messages and not sum(count for _, _, count in relay.figures().waiting):
            return
    raise AssertionError(f"no rest: {relay.figures().waiting}")


def place(sandboxes: SandboxHandle, vendor: str, email: str, state: str) -> None:
    """Somebody at the vendor sets this person's state."""
    is_given = state == "given"
    contact: dict[str, Any] = {
        "dinamize": {"email": email, "list": "1", "date_rest": "2000-01-01" if is_given else "2099-01-01"},
        "mailchimp": {"email": email, "list_id": "L1", "status": "subscribed" if is_given else "unsubscribed"},
        "maileon": {"email": email, "permission": 2} if is_given else {"email": email, "unsubscribed": True},
        "contacthub": {
            "email": email,
            "external_id": f"user-{email[7]}",
            "subscriptions": [{"id": "newsletter", "kind": "DIGITAL_MESSAGE", "subscribed": is_given}],
        },
        "contactsend": {"attributes": {"EMAIL": email, "__cls1": "1" if is_given else "-1"}},
        "privacy_tools": {"template": "test-template", "email": email, "state": state, "user": f"user-{email[7]}"},
    }[vendor]
    sandboxes.place(vendor, **contact)


def held(sandboxes: SandboxHandle, vendor: str, email: str) -> set[str]:
    """All that a vendor holds of somebody."""
    return {state for key, state in sandboxes.states(vendor).items() if email in key}


def standing(relay: ComparingRelay, email: str) -> str | None:
    word = relay.ledger.standings.reach([[relay.hasher.identifier_key("email", email)]])[0].newest("news")
    return word.state.value if word else None


def too_loose(relay: ComparingRelay, sandboxes: SandboxHandle) -> list[tuple[str, str]]:
    withdrawn = [email for email in PEOPLE if standing(relay, email) == "withdrawn"]
    return [(vendor, email) for email in withdrawn for vendor in VENDORS if "given" in held(sandboxes, vendor, email)]


@pytest.mark.parametrize("seed", range(4))
def test_after_a_sweep_no_vendor_permits_what_was_withdrawn(relay: ComparingRelay, sandboxes: SandboxHandle, seed: int) -> None:
    """People say this and that, some tellings are confirmed and not done, and then states change and people get lost at random."""
    random = Random(seed)
    for email in PEOPLE:
        for _ in range(random.randint(1, 2)):
            say(relay, email, random.choice(list(State)))
        if random.random() < 0.3:
            vendor = random.choice(VENDORS)
            sandboxes.faults(vendor, {"kind": "lie", "match": WRITES[vendor], "times": 2})
        settle(relay)
    for vendor in VENDORS:
        sandboxes.faults(vendor)
    say(relay, PEOPLE[0], State.WITHDRAWN)
    settle(relay)
    for _ in range(24):
        vendor, email, what = random.choice(VENDORS), random.choice(PEOPLE), random.choice(("given", "given", "withdrawn", "forget"))
        sandboxes.forget(vendor, email) if what == "forget" else place(sandboxes, vendor, email, what)
    place(sandboxes, random.choice(VENDORS), PEOPLE[0], "given")
    assert too_loose(relay, sandboxes)
    found = {vendor: relay.sweep(vendor.replace("_", "-")) for vendor in VENDORS}
    settle(relay)
    assert too_loose(relay, sandboxes) == [], found
    assert sum(each.get("vendor_looser", 0) for each in found.values())
    assert relay.figures().unaccounted == 0
    again = {vendor: relay.sweep(vendor.replace("_", "-")) for vendor in VENDORS}
    assert sum(each.get("vendor_looser", 0) for each in again.values()) == 0


def test_who_left_at_a_vendor_that_speaks_is_stopped_everywhere(relay: ComparingRelay, sandboxes: SandboxHandle) -> None:
    """Its webhook was lost; the sweep finds the state, and the others are told."""
    say(relay, PEOPLE[0], State.GIVEN)
    settle(relay)
    place(sandboxes, "mailchimp", PEOPLE[0], "withdrawn")
    assert relay.sweep("mailchimp") == {"vendor_stricter": 1, "vendor_stricter:adopted": 1}
    settle(relay)
    assert standing(relay, PEOPLE[0]) == "withdrawn"
    assert [held(sandboxes, vendor, PEOPLE[0]) for vendor in VENDORS] == [{"withdrawn"}] * len(VENDORS)


def test_who_left_somewhere_else_is_only_reported(relay: ComparingRelay, sandboxes: SandboxHandle) -> None:
    """Nothing says that this vendor speaks for people; what it lost is reported too."""
    say(relay, PEOPLE[0], State.GIVEN)
    settle(relay)
    place(sandboxes, "dinamize", PEOPLE[0], "withdrawn")
    sandboxes.forget("contacthub", PEOPLE[0])
    assert (relay.sweep("dinamize"), relay.sweep("contacthub")) == ({"vendor_stricter": 1}, {"missing": 1})
    settle(relay)
    assert standing(relay, PEOPLE[0]) == "given"


def test_a_vendor_that_lies_is_found_out(relay: ComparingRelay, sandboxes: SandboxHandle) -> None:
    """It confirmed a withdrawal and kept the consent: nothing but asking shows that."""
    say(relay, PEOPLE[0], State.GIVEN)
    settle(relay)
    sandboxes.faults("mailchimp", {"kind": "lie", "match": "/members"})
    say(relay, PEOPLE[0], State.WITHDRAWN)
    settle(relay)
    assert held(sandboxes, "mailchimp", PEOPLE[0]) == {"given"}
    assert relay.sweep("mailchimp") == {"vendor_looser": 1, "vendor_looser:told_again": 1}
    settle(relay)
    assert held(sandboxes, "mailchimp", PEOPLE[0]) == {"withdrawn"}
