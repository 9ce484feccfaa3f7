"""The whole way of a backup: made under load, the ledger lost, put back, everything posted again, brought forward; nothing is lost, and no older `given` wins."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.signatures import standard_webhooks
from tests.support.load import Clients, Sent, invent, posts_of
from tests.support.receiver import SECRET, receiving
from tests.support.stack import ROOT, Stack, running_stack, wait_until
from tests.support.verdict import arrivals_of, check_end
from tests.support.world import PURPOSES, SHORT, routing
from workers.embedded import free_port

EVENTS, BEFORE = 400, 300
"""All events, and those posted around the backup; the others come later."""
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("CONSENT_")}


@pytest.fixture
def sandbox_port(tmp_path: Path) -> Iterator[int]:
    """Sandboxes that outlive the relay, as vendors do."""
    port, ready = free_port(), tmp_path / "sandbox-ready"
    with subprocess.Popen([sys.executable, "-m", "tests.sandboxes", "--port", str(port), "--ready-file", str(ready)], cwd=ROOT) as process:
        try:
            wait_until(ready.exists, 30)
            yield port
        finally:
            process.terminate()


def consent(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command while no relay runs on the folder."""
    environment = {**PLAIN, "CONSENT_STATE_DIR": str(folder), "CONSENT_CONFIG": str(folder / "consent.yaml")}
    return subprocess.run([sys.executable, "-m", "workers.cli", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


def post(stack: Stack, chance: random.Random, events: Sequence[Sent], seconds: float) -> Clients:
    clients = Clients(stack.url, stack.headers(), posts_of(chance, events), threads=6, seconds=seconds)
    clients.start()
    return clients


def given_arrivals(stack: Stack) -> int:
    return sum(arrival.state == "given" for told in arrivals_of(stack).values() for arrival in told)


@pytest.mark.timeout(240)
def test_a_lost_ledger_is_put_back_and_brought_forward(tmp_path: Path, sandbox_port: int):
    """A backup in mid-load, then the server's files are gone. What was accepted since is posted again, and until then no `given` is told."""
    chance, folder = random.Random(7), tmp_path / "state"
    folder.mkdir()
    events = invent(chance, EVENTS, people=80, purposes=PURPOSES)
    running = {"routing": routing(), "environment": SHORT, "folder": folder, "sandbox_port": sandbox_port}
    with running_stack(**running) as stack:
        stack.settings("dinamize", calls_per_minute=None)
        stack.settings("mailchimp", compliance="self")
        clients = post(stack, chance, events[:BEFORE], 6.0)
        made = stack.consent("backup", str(tmp_path / "ledger.resp.gz"), "--json")
        assert made.returncode == 0, made.stderr
        manifest = json.loads(made.stdout)
        clients.join(60)
        post(stack, chance, events[BEFORE:], 1.0).join(60)
        assert 0 < manifest["events_accepted"] <= BEFORE
        assert 0 <= stack.metric("consent_last_backup_seconds") < 60
        check_end(stack, events, seconds=60)

    (folder / "server").rename(tmp_path / "lost")
    tried = consent(folder, "restore", str(tmp_path / "ledger.resp.gz"), "--dry-run")
    assert (tried.returncode, tried.stdout.splitlines()[-1]) == (0, "the backup is good and the database is empty"), tried.stderr
    restored = consent(folder, "restore", str(tmp_path / "ledger.resp.gz"), "--yes", "--json")
    assert restored.returncode == 0, restored.stderr
    assert json.loads(restored.stdout)["events"] == manifest["events_accepted"]
    assert "empty database" in consent(folder, "restore", str(tmp_path / "ledger.resp.gz"), "--yes").stderr

    alerting = {"CONSENT_ALERTS_SECRET": SECRET}
    with receiving() as receiver, running_stack(**{**running, "environment": {**SHORT, **alerting, "CONSENT_ALERTS_URL": receiver.url}}) as stack:
        ready = stack.get("/health/ready")
        assert ready.status_code == 200
        assert "quarantined" in ready.json()["notices"][0]
        assert stack.metric("consent_quarantined") == 1
        assert stack.metric("consent_unaccounted") == 0
        doctor = stack.consent("doctor")
        assert doctor.returncode == 1
        assert "FAIL ledger: quarantined" in doctor.stdout
        before = given_arrivals(stack)
        waits, goes = (stack.accept(state, minute=1, key=f"quarantine-{state}", email=f"new-{state}@example.org") for state in ("given", "withdrawn"))
        stack.wait_complete([goes], 30)
        post(stack, chance, events, 2.0).join(60)
        assert all(len(set(sent.ids)) == 1 for sent in events)
        time.sleep(2)
        assert {each[:2] for each in stack.deliveries(waits).values()} == {("waiting", "quarantined")}
        assert given_arrivals(stack) == before

        wait_until(lambda: ("firing", "quarantined", None, 1) in receiver.said, 30)
        headers, body = receiver.posts[0]
        assert standard_webhooks(SECRET, headers, body, datetime.now(UTC)) is None
        early = stack.consent("ledger", "bring-forward", "--until", "2026-01-05T13:00:00Z", "--yes")
        assert (early.returncode, "stays missing" in early.stderr) == (2, True)
        plan = json.loads(stack.consent("ledger", "bring-forward", "--json").stdout)
        assert plan["lifted"] is False
        assert sum(plan["given_waiting"].values()) > 0
        done = stack.consent("ledger", "bring-forward", "--until", datetime.now(UTC).isoformat(), "--yes", "--json")
        assert json.loads(done.stdout)["lifted"] is True, done.stderr
        stack.wait_complete([waits], 90)
        wait_until(lambda: ("resolved", "quarantined", None, 1) in receiver.said, 30)
        assert len(receiver.said) == 2
        extra = [waits, goes]
        assert all(status == "delivered" for event_id in extra for status, _ in stack.deliveries(event_id).values())
        everything = [*events, *(_sent(state, event_id) for state, event_id in zip(("given", "withdrawn"), extra, strict=True))]
        check_end(stack, everything, seconds=90, is_on_record=False)  # what was not archived when the ledger was lost is lost with it


def _sent(state: str, event_id: str) -> Sent:
    body = {"subject": {"email": f"new-{state}@example.org"}, "purpose": "newsletter", "state": state}
    return Sent(body=body, order=0, ids=[event_id])
