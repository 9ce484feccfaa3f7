"""Probing: vendors are asked through the exchange and within their limits, and the findings say what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Any

import pytest
import redis

from pipeline.domain import Outcome
from pipeline.exchange import Exchange
from pipeline.expiry import key_expiries
from pipeline.limits import LimitOptions
from pipeline.probing import Prober
from pipeline.routing_file import load_routing
from pipeline.transports.portable import PortableTransport
from tests.sandboxes import SandboxHandle, start_sandboxes
from tests.support.relay import Relay, destination, routing
from workers.diagnosis import vendor_findings

TODAY = date(2026, 11, 25)


@pytest.fixture
def sandbox() -> Iterator[SandboxHandle]:
    with start_sandboxes(["maileon", "mailchimp", "privacy_tools", "webhook"]) as handle:
        yield handle


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    made: list[Exchange] = []

    class Tokens:
        def get(self, session: str) -> tuple[str, float] | None:
            return None

        def put(self, session: str, token: str, ttl_seconds: float) -> None:
            """Not kept: each dialogue signs in."""

        def drop(self, session: str, token: str) -> None:
            """Nothing to drop."""

    made.append(Exchange(PortableTransport(), Tokens(), total_timeout_seconds=2.0, connect_timeout_seconds=2.0))
    yield made[0]
    made[0].close()


def rules(sandbox: SandboxHandle, **destinations: str) -> Any:
    """A routing file with these destinations, each given as what follows its address."""
    lines = [
        f"  {name}: {{allow_private_network: true, base_url: {sandbox.url(name.split('-')[0].replace('privacy', 'privacy_tools'))}, {rest}}}"
        for name, rest in destinations.items()
    ]
    text = "\n".join(
        [
            "version: 1",
            "sources: {web: {kind: native}}",
            "purposes: {news: {title: News}, tracking: {title: Tracking}}",
            "destinations:",
            *lines,
            f"triggers: [{{purposes: [news, tracking], deliver_to: [{', '.join(destinations)}]}}]",
        ]
    )
    return load_routing(text, filename="test.yaml", environment={})


MAILEON = "vendor: maileon, credentials: {api_key: test-maileon-key}, options_by_purpose: {tracking: {tracking_purpose: tracking}}"
MAILCHIMP = "vendor: mailchimp, credentials: {api_key: test-mailchimp-key-us1}, options: {list_id: test-list}"


def findings(client: redis.Redis, exchange: Exchange, rules: Any, **limits: Any) -> Mapping[str, tuple[str, str]]:
    ledger = Relay(client, rules).ledger
    prober = Prober(ledger, exchange, lambda: rules, LimitOptions(**limits))
    return {found.name: (found.mark, found.text) for found in vendor_findings(prober.run())}


def test_what_works_is_said(client: redis.Redis, exchange: Exchange, sandbox: SandboxHandle):
    """Each probe by its name, once, although two purposes have options of their own; nobody is there afterwards."""
    found = findings(client, exchange, rules(sandbox, **{"maileon-news": MAILEON, "mailchimp-main": MAILCHIMP}))
    assert found == {"vendor maileon-news": ("ok", "right GET, right POST, right PUT, right DELETE works"), "vendor mailchimp-main": ("ok", "audience works")}
    assert sandbox.states("maileon") == sandbox.states("mailchimp") == {}
    assert (sandbox.state("maileon")["call_count"], sandbox.state("mailchimp")["call_count"]) == (4, 1)


def test_a_missing_right_is_named(client: redis.Redis, exchange: Exchange, sandbox: SandboxHandle):
    """A key with the rights to create and update only, as a shop's set-up page asks for."""
    sandbox.settings("maileon", rights=["POST", "PUT"])
    found = findings(client, exchange, rules(sandbox, **{"maileon-news": MAILEON.partition(", options_by")[0]}))
    text = "right GET is missing for news, tracking (http_403_get); right POST, right PUT works; right DELETE is missing for news, tracking (http_403_delete)"
    assert found == {"vendor maileon-news": ("FAIL", text)}


@pytest.mark.parametrize(
    "fault, mark, text",
    [
        ({"kind": "status", "status": 401}, "FAIL", "audience refused: look at credentials, options and base_url for news, tracking (http_401)"),
        ({"kind": "status", "status": 404}, "FAIL", "audience refused: look at credentials, options and base_url for news, tracking (list_not_found)"),
        ({"kind": "status", "status": 500}, "FAIL", "audience could not be reached for news, tracking (http_500)"),
        ({"kind": "reset"}, "FAIL", "audience could not be reached for news, tracking (connection_lost)"),
        ({"kind": "throttle"}, "note", "audience was put off for news, tracking (http_429)"),
    ],
)
def test_every_failure_in_words(client: redis.Redis, exchange: Exchange, sandbox: SandboxHandle, fault: dict[str, Any], mark: str, text: str):
    """What is wrong and for which purposes, with the code and without anybody's words; no key in it."""
    sandbox.faults("mailchimp", {**fault, "times": None})
    assert findings(client, exchange, rules(sandbox, **{"mailchimp-main": MAILCHIMP})) == {"vendor mailchimp-main": (mark, text)}


def test_who_cannot_be_asked_is_said_too(client: redis.Redis, exchange: Exchange, sandbox: SandboxHandle):
    """A disabled destination, and a vendor for which any request is a word, are asked nothing."""
    secret = "whsec_dGVzdC13ZWJob29rLXNpZ25pbmctc2VjcmV0LTAwMDE="
    both = {"mailchimp-main": MAILCHIMP + ", enabled: false", "webhook-crm": f"vendor: webhook, credentials: {{secret: {secret}}}"}
    assert findings(client, exchange, rules(sandbox, **both)) == {
        "vendor mailchimp-main": ("note", "not asked: it is disabled"),
        "vendor webhook-crm": ("note", "not asked: its vendor has no request that changes nothing"),
    }
    assert sandbox.state("mailchimp")["call_count"] + sandbox.state("webhook")["call_count"] == 0


def test_it_signs_in_first(client: redis.Redis, exchange: Exchange, sandbox: SandboxHandle):
    """For a vendor with sessions a refused login is what the probe says."""
    keys = "public_key: test-public-key, secret: test-secret, client_id: test-client, client_secret: test-client-secret"
    wrong = f"vendor: privacy_tools, credentials: {{{keys}}}, options: {{template_hash: test-template-hash}}"
    found = findings(client, exchange, rules(sandbox, **{"privacy-main": wrong.replace("test-client-secret", "test-other")}))
    assert found["vendor privacy-main"][0] == "FAIL"
    assert "test-other" not in found["vendor privacy-main"][1]
    assert sandbox.state("privacy_tools")["call_count"] == 1


def test_limits_hold_for_probes_too(client: redis.Redis, exchange: Exchange, sandbox: SandboxHandle):
    """The calls of a probe count in the account's window; once it is full nothing is asked, and its place is given back when it ends."""
    both = rules(sandbox, **{"maileon-news": MAILEON.partition(", options_by")[0] + ", rate: {calls: 8, per_seconds: 600, concurrent: 1}"})
    for _ in range(2):
        assert findings(client, exchange, both)["vendor maileon-news"][0] == "ok"
    assert findings(client, exchange, both) == {"vendor maileon-news": ("note", "not asked: its account has no room just now (rate)")}
    assert sandbox.state("maileon")["call_count"] == 8


def test_a_vendor_that_asks_for_time_is_given_it(client: redis.Redis, exchange: Exchange, sandbox: SandboxHandle):
    """A 429 to a probe holds back deliveries as one of theirs would."""
    sandbox.faults("mailchimp", {"kind": "throttle", "times": None})
    rule = rules(sandbox, **{"mailchimp-main": MAILCHIMP})
    findings(client, exchange, rule)
    assert findings(client, exchange, rule) == {"vendor mailchimp-main": ("note", "not asked: its account has no room just now (retry_after)")}


# Keys


@pytest.mark.parametrize(
    "days, text, is_near, is_past",
    [
        (31, "the key of mail expires in 31 days (2026-12-26)", False, False),
        (30, "the key of mail expires in 30 days (2026-12-25)", True, False),
        (1, "the key of mail expires in 1 day (2026-11-26)", True, False),
        (0, "the key of mail has expired (2026-11-25)", True, True),
        (-7, "the key of mail has expired (2026-11-18)", True, True),
    ],
)
def test_a_key_that_ends_is_told(days: int, text: str, is_near: bool, is_past: bool):
    """A note for 30 days, and a failure from its last day on."""
    (expiry,) = key_expiries(routing([destination("mail", key_expires_on=TODAY + timedelta(days=days)), destination("sms")]), TODAY)
    assert (str(expiry), expiry.is_near, expiry.is_past) == (text, is_near, is_past)


def test_days_left_are_a_figure(client: redis.Redis):
    """The gauge has a line for each destination whose key has an end."""
    relay = Relay(client, routing([destination("sms")]))
    today = relay.ledger.now().date()
    relay.rules = routing([destination("mail", key_expires_on=today + timedelta(days=12)), destination("sms")])
    assert relay.figures().key_expires_in_days == {"mail": 12}


def test_outcomes_of_probes_are_all_in_words():
    """No outcome is left without a finding."""
    from pipeline.domain import VendorResult
    from pipeline.probing import Probed

    for outcome in Outcome:
        (found,) = vendor_findings([Probed(destination="mail", what="list", result=VendorResult(outcome=outcome, reason="x"))])
        assert found.good is (outcome in (Outcome.APPLIED, Outcome.UNCHANGED, Outcome.THROTTLED))
