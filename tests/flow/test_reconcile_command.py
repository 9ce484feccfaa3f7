"""The real thing: beat and Celery workers compare a vendor by themselves, the command shows it, and a worker that is killed in the middle costs only time."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.stack import Stack, running_stack, wait_until
from tests.support.world import SHORT

PEOPLE = [f"person-{number}@example.org" for number in range(24)]
ROUTING = """
version: 1
sources:
  web-forms: {kind: native, keys: ["${CONSENT_SAMPLE_KEY_SHA256:-}"], scopes: [ingest, read, replay]}
purposes:
  newsletter: {title: Newsletter, tell_within_seconds: 600}
destinations:
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
  - {purposes: [newsletter], deliver_to: [mailchimp-main, crm-webhook]}
"""
COMPARING = {
    "CONSENT_RECONCILE_SAMPLE_EVERY_SECONDS": "2",
    "CONSENT_RECONCILE_FULL_EVERY_DAYS": "0.00003",
    "CONSENT_RECONCILE_SETTLE_SECONDS": "0.2",
    "CONSENT_RECONCILE_TURN_SECONDS": "1",
    "CONSENT_RECONCILE_LEASE_SECONDS": "10",
    "CONSENT_BEAT_SWEEP_SECONDS": "0.5",
}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running_stack(routing=ROUTING, environment={**SHORT, **COMPARING}) as running:
        yield running


@pytest.fixture(scope="module")
def withdrawn(stack: Stack) -> list[str]:
    """Everybody has withdrawn, and both vendors know."""
    events = [stack.accept("withdrawn", email=email) for email in PEOPLE]
    stack.wait_complete(events)
    return events


def drift(stack: Stack, *emails: str) -> None:
    """Somebody at the vendor subscribes these people again."""
    members = [{"email": email, "list_id": "test-list", "status": "subscribed"} for email in emails]
    answer = stack.session.post(f"{stack.sandbox_url}/_sandbox/mailchimp/contacts", json=members, timeout=10)
    assert answer.status_code == 200, answer.text


def loose(stack: Stack) -> list[str]:
    return [key for key, held in stack.sandbox("mailchimp")["contacts"].items() if held["state"] == "given"]


def command(stack: Stack, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = stack.consent("reconcile", *arguments, "--json")
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def test_workers_find_and_repair_drift_by_themselves(stack: Stack, withdrawn: list[str]) -> None:
    """Nobody asks for it: the vendor holds the withdrawal again, the delivery says why, and the figures show it."""
    drift(stack, PEOPLE[3])
    wait_until(lambda: not loose(stack), 30, lambda: stack.log()[-2000:])
    wait_until(lambda: stack.deliveries(withdrawn[3])["mailchimp-main"] == ("delivered", "repaired"), 15)
    wait_until(lambda: stack.metric("consent_drift_repaired_total", destination="mailchimp-main", how="told_again") >= 1, 15)
    assert stack.metric("consent_drift_found_total", destination="mailchimp-main", **{"class": "vendor_looser"}) >= 1
    assert stack.metric("consent_unaccounted") == 0


def test_a_worker_killed_in_the_middle_of_a_sweep_costs_only_time(stack: Stack, withdrawn: list[str]) -> None:
    """Slow answers, everybody drifted, and every worker process is killed while they are asked about: all of it is repaired as soon as the turn and its claims have run out."""
    stack.settings("mailchimp", latency_seconds=0.2)
    drift(stack, *PEOPLE)
    asked = len(stack.sandbox("mailchimp")["calls"])
    wait_until(lambda: len(stack.sandbox("mailchimp")["calls"]) > asked + 2, 30)
    workers = [pid for kind, pids in stack.kinds().items() if kind.startswith("worker-") for pid in pids]
    assert len(workers) == 2
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    stack.settings("mailchimp", latency_seconds=0.0)
    wait_until(lambda: not loose(stack), 45, lambda: f"{loose(stack)} {stack.log()[-2000:]}")
    assert "child_died" in stack.log()
    wait_until(lambda: stack.metric("consent_last_sweep_seconds", destination="mailchimp-main") < 20, 30)
    assert stack.metric("consent_unaccounted") == 0


def test_the_command_compares_everybody_now(stack: Stack, withdrawn: list[str]) -> None:
    """A full sweep by the command: what has drifted is counted and told again, and the exit code says that there was something."""
    code, found = command(stack, "--full", "--destination", "mailchimp-main")
    row = found["destinations"][0]
    assert (row["destination"], row["mode"]) == ("mailchimp-main", "full")
    assert sum(row[name] for name in ("in_sync", "pending", "vendor_looser")) >= len(PEOPLE)
    assert code == int(bool(row["vendor_looser"]))
    assert "unreadable" in row


def test_the_command_shows_a_table_and_refuses_what_cannot_be_asked(stack: Stack, withdrawn: list[str]) -> None:
    shown = stack.consent("reconcile", "--sample", "3", "--dry-run")
    assert "what vendors hold" in shown.stdout, shown.stderr
    assert "mailchimp-main" in shown.stdout
    refused = stack.consent("reconcile", "--destination", "crm-webhook")
    assert (refused.returncode, "its vendor cannot be asked" in refused.stderr) == (2, True)


def test_the_ledgers_own_books_are_good(stack: Stack, withdrawn: list[str]) -> None:
    wait_until(lambda: stack.metric("consent_waiting") == 0, 30)
    code, found = command(stack, "--internal")
    assert (code, found["good"], found["unaccounted"]) == (0, True, 0)
    assert {"destination": "mailchimp-main", "status": "delivered", "count": len(PEOPLE)} in found["deliveries"]
    assert {"state": "withdrawn", "status": "complete", "count": len(PEOPLE)} in found["events"]
