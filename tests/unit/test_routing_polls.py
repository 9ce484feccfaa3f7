"""Sources that speak for destinations, and those that are polled: what the routing file may say of them."""

from __future__ import annotations

import pytest

from pipeline.routing_summary import describe
from tests.unit.test_routing import complaints, load

GOOD = """\
version: 1
sources:
  hub-changes:
    kind: contacthub
    purposes: {newsletter: news}
    poll: {destination: hub, every_seconds: 30, credentials: {token: "${UPDATES_TOKEN:-test-updates}"}}
  shop: {kind: native, origin: [crm]}
purposes:
  news: {title: News}
destinations:
  hub:
    vendor: contacthub
    credentials: {token: "${TOKEN}"}
    options: {workspace_id: W, node_id: N, subscription_id: newsletter}
    rate: {calls: 20, per_seconds: 2, concurrent: 3}
  crm: {vendor: webhook, base_url: "https://crm.example.org/hook", credentials: {secret: whsec_dGVzdC13ZWJob29rLXNpZ25pbmctc2VjcmV0LTAwMDE=}}
triggers:
  - {purposes: [news], deliver_to: [hub, crm]}
"""


def test_a_polled_source_speaks_for_the_destination_it_asks():
    """It asks at the destination's address, with its options and rate, by its own credentials and therefore as an account of its own."""
    routing = load(GOOD)
    poll = routing.sources["hub-changes"].poll
    assert poll is not None
    assert (poll.every_seconds, poll.asked.name, poll.asked.account, poll.asked.rate.calls) == (30.0, "hub", "poll:hub-changes", 20)
    assert poll.asked.adapter.settings["node_id"] == "N"
    assert poll.asked.adapter._secrets == {"token": "test-updates"}
    assert routing.destinations["hub"].adapter._secrets == {"token": "test-token"}
    assert routing.origin_of("hub-changes") == {"hub"}
    assert (routing.destinations["hub"].is_polled, routing.destinations["crm"].is_polled) == (True, False)


def test_without_credentials_of_its_own_a_poll_shares_the_account():
    """Reading and telling then share rate, pause and session."""
    poll = load(GOOD.replace(', credentials: {token: "${UPDATES_TOKEN:-test-updates}"}', "")).sources["hub-changes"].poll
    assert poll is not None
    assert poll.asked.account == "hub"


def test_a_source_without_a_poll_may_name_its_origin():
    """What it sends by itself is known to come from there; other sources speak for nobody."""
    routing = load(GOOD)
    assert (routing.origin_of("shop"), routing.origin_of("gone")) == ({"crm"}, frozenset())


def test_a_polled_source_needs_no_key():
    """It lets nobody in, and that is no reason to warn."""
    assert not any("hub-changes has no key" in warning for warning in load(GOOD).warnings)


def test_describe_says_who_is_polled_and_speaks_for_whom():
    """A person reads what the file does, without a secret."""
    text = "\n".join(describe(load(GOOD)))
    assert "hub-changes: contacthub, keys: 0, ingest, hub is polled every 30 s, speaks for hub" in text
    assert "shop: native, keys: 0, ingest, speaks for crm" in text
    assert "test-updates" not in text


POLL = '    poll: {destination: hub, every_seconds: 30, credentials: {token: "${UPDATES_TOKEN:-test-updates}"}}\n'


@pytest.mark.parametrize(
    "poll, complaint",
    [
        ("poll: {every_seconds: 30}", "poll of hub-changes needs the destination to ask and every_seconds"),
        ("poll: {destination: hub}", "poll of hub-changes needs the destination to ask and every_seconds"),
        ("poll: {destination: hub, every_seconds: 0.5}", "every_seconds of hub-changes must be 1 or more"),
        ("poll: {destination: hob, every_seconds: 5}", "unknown destination 'hob' in destination; did you mean 'hub'?"),
        ("poll: {destination: crm, every_seconds: 5}", "source hub-changes of kind contacthub cannot poll crm, which is webhook"),
        ("poll: {destination: hub, every_seconds: 5, credentials: {key: x}}", "credentials of the poll of hub-changes has an unknown key 'key'"),
        ("origin: [hob]", "unknown destination 'hob' in origin of hub-changes; did you mean 'hub'?"),
    ],
)
def test_a_wrong_poll_is_refused_by_line(poll: str, complaint: str):
    """Each mistake is named with its line and what was expected."""
    found = complaints(GOOD.replace(POLL, f"    {poll}\n"))
    assert any(each.startswith("consent.yaml:") and complaint in each for each in found), found


def test_a_destination_is_polled_by_one_source_alone():
    """Two would take each other's news away."""
    twice = GOOD.replace("  shop:", "  hub-again: {kind: contacthub, poll: {destination: hub, every_seconds: 9}}\n  shop:")
    assert complaints(twice) == ["consent.yaml:7: hub is polled by source hub-changes already; expected one source for each"]


def test_a_kind_that_sends_nothing_has_to_be_polled_and_takes_no_key():
    """Contactsend tells of nothing by itself: a source of it without a poll would hear nothing, and a key would open a door to nowhere."""
    deaf = GOOD.replace("  shop:", f'  send: {{kind: contactsend, keys: ["sha256:{"ab" * 32}"]}}\n  shop:')
    assert complaints(deaf) == [
        "consent.yaml:7: source send of kind contactsend can only be polled, so nobody posts for it; expected no keys",
        "consent.yaml:7: source send of kind contactsend can only be polled; expected poll",
    ]
