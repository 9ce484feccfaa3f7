"""The relay that chaos tests disturb: three vendors, waits short enough for tests, sandboxes slow enough that a kill meets dialogues under way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.support.stack import Stack, running_stack

PURPOSES = {"newsletter": 0.8, "marketing-sms": 0.2}
VENDORS = ("dinamize", "mailchimp", "webhook")
QUICK_VENDORS = ("dinamize", "webhook")
"""Without Mailchimp: a withdrawal told after a killed call to it is final only 70 seconds later."""
PURPOSES_OF: dict[str, set[str]] = {"dinamize": {"newsletter", "slow-news"}, "mailchimp": {"newsletter"}, "webhook": {"newsletter", "marketing-sms"}}
LATENCY_SECONDS = 0.03
"""How long a sandbox takes, so that kills meet dialogues under way."""

NOT_COMPARED = {"CONSENT_RECONCILE_SAMPLE_EVERY_SECONDS": "0", "CONSENT_RECONCILE_FULL_EVERY_DAYS": "0"}
"""Questions that find everything in sync leave no record, so that calls could not be held against the evidence."""
SHORT = {
    "CONSENT_RETRY_WAITS_SECONDS": "0.2, 0.5",
    "CONSENT_LIMITS_BREAKER_WAIT_SECONDS": "0.5",
    "CONSENT_LIMITS_BREAKER_WAIT_MAX_SECONDS": "1",
    "CONSENT_LIMITS_MISCONFIGURED_PROBE_SECONDS": "1",
    "CONSENT_EXCHANGE_TOTAL_TIMEOUT_SECONDS": "2",
    "CONSENT_EXCHANGE_CONNECT_TIMEOUT_SECONDS": "1",
    "CONSENT_DELIVER_LATE_WRITE_SECONDS": "3",
    "CONSENT_DELIVER_CHUNK_SECONDS": "2",
    "CONSENT_DELIVER_LEASE_SECONDS": "6",
    "CONSENT_LEDGER_PUSH_RESCUE_SECONDS": "3",
    "CONSENT_LEDGER_FAN_OUT_RESCUE_SECONDS": "2",
    "CONSENT_BEAT_AUDIT_SECONDS": "2",
    "CONSENT_WORKER_PROCESSES": "2",
    "CONSENT_WORKER_STOP_SECONDS": "10",
}

ROUTING = """
version: 1
sources:
  web-forms: {kind: native, keys: ["${CONSENT_SAMPLE_KEY_SHA256:-}"], scopes: [ingest, read, replay], country: BR}
purposes:
  newsletter: {title: Newsletter}
  marketing-sms: {title: Text messages}
  slow-news: {title: Newsletter of a list with a small rate}
destinations:
  dinamize:
    vendor: dinamize
    base_url: "http://127.0.0.1:${CONSENT_SANDBOX_PORT}/dinamize"
    allow_private_network: true
    credentials: {token: test-dinamize-token}
    options: {list_code: "1"}
    rate: {calls: 100000, per_seconds: 60, concurrent: 8}
    limit_group: quick
  dinamize-limited:
    vendor: dinamize
    base_url: "http://127.0.0.1:${CONSENT_SANDBOX_PORT}/dinamize"
    allow_private_network: true
    credentials: {token: test-dinamize-token}
    options: {list_code: "2"}
    rate: {calls: 60, per_seconds: 60, concurrent: 4}
    limit_group: limited
  mailchimp:
    vendor: mailchimp
    base_url: "http://127.0.0.1:${CONSENT_SANDBOX_PORT}/mailchimp/3.0"
    allow_private_network: true
    credentials: {api_key: test-mailchimp-key-us1}
    options: {list_id: test-list}
  webhook:
    vendor: webhook
    base_url: "http://127.0.0.1:${CONSENT_SANDBOX_PORT}/webhook"
    allow_private_network: true
    credentials: {secret: "whsec_dGVzdC13ZWJob29rLXNpZ25pbmctc2VjcmV0LTAwMDE="}
triggers:
  - {purposes: [newsletter], deliver_to: [VENDORS]}
  - {purposes: [marketing-sms], deliver_to: [webhook]}
  - {purposes: [slow-news], deliver_to: [dinamize-limited]}
"""


def routing(vendors: Sequence[str] = VENDORS) -> str:
    """The routing file, its newsletter told to these vendors."""
    return ROUTING.replace("VENDORS", ", ".join(vendors))


@contextmanager
def disturbed_stack(
    *, vendors: Sequence[str] = VENDORS, environment: Mapping[str, str] | None = None, vendors_apart: bool = False, waits: Mapping[str, str] = SHORT
) -> Iterator[Stack]:
    """A running relay with short waits (or others), its sandboxes set as the routing expects; `environment` adds to the waits."""
    with running_stack(routing=routing(vendors), environment={**waits, **NOT_COMPARED, **(environment or {})}, vendors_apart=vendors_apart) as relay:
        relay.settings("dinamize", calls_per_minute=None, latency_seconds=LATENCY_SECONDS)
        relay.settings("mailchimp", compliance="self", latency_seconds=LATENCY_SECONDS)
        relay.settings("webhook", latency_seconds=LATENCY_SECONDS)
        for vendor in PURPOSES_OF:
            relay.settings(vendor, pepper=(relay.folder / "subject_pepper").read_text().strip())
        yield relay
