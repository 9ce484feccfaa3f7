"""Flow tests run the real thing: one relay with all its processes for the whole module, its sandboxes healed and emptied for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.stack import Stack, running_stack
from tests.support.world import SHORT

ROUTING = """
version: 1
sources:
  web-forms: {kind: native, keys: ["${CONSENT_SAMPLE_KEY_SHA256:-}"], scopes: [ingest, read, replay], country: BR}
  privacy-tools:
    kind: privacy_tools
    keys: ["${CONSENT_SAMPLE_PRIVACY_TOOLS_KEY_SHA256:-}"]
    scopes: [ingest, read]
    date_order: day_first
    time_zone: America/Sao_Paulo
    country: BR
    purposes: {test-template-hash-newsletter: newsletter, test-template-hash-sms: marketing-sms}
purposes:
  newsletter: {title: Newsletter}
  marketing-sms: {title: Text messages}
destinations:
  dinamize-news:
    vendor: dinamize
    base_url: "http://127.0.0.1:${CONSENT_SANDBOX_PORT}/dinamize"
    allow_private_network: true
    credentials: {token: test-dinamize-token}
    options: {list_code: "1"}
    rate: {calls: 60, per_seconds: 60, concurrent: 4}
  mailchimp-main:
    vendor: mailchimp
    base_url: "http://127.0.0.1:${CONSENT_SANDBOX_PORT}/mailchimp/3.0"
    allow_private_network: true
    credentials: {api_key: test-mailchimp-key-us1}
    options: {list_id: test-list}
  crm-webhook:
    vendor: webhook
    base_url: "http://127.0.0.1:${CONSENT_SANDBOX_PORT}/webhook"
    allow_private_network: true
    credentials: {secret: "whsec_dGVzdC13ZWJob29rLXNpZ25pbmctc2VjcmV0LTAwMDE="}
triggers:
  - {purposes: [newsletter], states: [given, withdrawn], deliver_to: [dinamize-news, mailchimp-main, crm-webhook]}
  - {purposes: [marketing-sms], deliver_to: [crm-webhook]}
"""


@pytest.fixture(scope="module")
def relay() -> Iterator[Stack]:
    with running_stack(routing=ROUTING, environment=SHORT) as stack:
        yield stack


@pytest.fixture
def stack(relay: Stack) -> Iterator[Stack]:
    for vendor in ("dinamize", "mailchimp", "webhook"):
        relay.fault(vendor)
        relay.session.post(f"{relay.sandbox_url}/_sandbox/{vendor}/reset", timeout=10)
    yield relay
    for vendor in ("dinamize", "mailchimp", "webhook"):
        relay.fault(vendor)
