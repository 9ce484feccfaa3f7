"""`consent erase` against a running relay: what goes and what stays, withdrawals first, and a backup from before that is put back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.stack import ROOT, Stack, running_stack, wait_until
from tests.support.world import SHORT

ANA, BEN, EVA, PHONE = "ana@example.org", "ben@example.org", "eva@example.org", "+5551900000001"
ROUTING = """
version: 1
sources:
  web-forms: {kind: native, keys: ["${CONSENT_SAMPLE_KEY_SHA256:-}"], scopes: [ingest, read, replay]}
purposes:
  newsletter: {title: Newsletter}
destinations:
  crm-webhook:
    vendor: webhook
    base_url: "http://127.0.0.1:${CONSENT_SANDBOX_PORT}/webhook"
    allow_private_network: true
    credentials: {secret: "whsec_dGVzdC13ZWJob29rLXNpZ25pbmctc2VjcmV0LTAwMDE="}
triggers:
  - {purposes: [newsletter], deliver_to: [crm-webhook]}
"""
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("CONSENT_")}


def erase(stack: Stack, person: dict[str, str], *words: str) -> tuple[int, dict[str, Any]]:
    done = stack.consent("erase", "-", "--json", *words, input=json.dumps(person))
    assert not any(value in done.stdout + done.stderr for value in person.values())
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def sealed(stack: Stack) -> int:
    """How many sealed values and links of people the ledger holds."""
    with redis.Redis.from_url(stack.environment["CONSENT_REDIS_URL"]) as client:
        values = sum(field == b"v" or field.startswith(b"l:") for name in client.keys("cr:{i*}:i:*") for field in client.hkeys(name))
        return values + len(client.keys("cr:{e*}:p:*"))


def offline(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command while no relay runs on the folder."""
    found = {**PLAIN, "CONSENT_STATE_DIR": str(folder), "CONSENT_CONFIG": str(folder / "consent.yaml"), **environment}
    return subprocess.run([sys.executable, "-m", "workers.cli", *words], cwd=ROOT, env=found, capture_output=True, text=True, timeout=60, check=False)


def erase_told_person(stack: Stack) -> list[str]:
    """Everything was told: all of it goes at once, and the fence stays."""
    events = [stack.accept("given", minute=1, email=ANA, phone=PHONE), stack.accept("withdrawn", minute=2, email=ANA)]
    others = stack.accept("given", minute=1, email=BEN)
    stack.wait_complete([*events, others])
    backed_up = stack.consent("backup", str(stack.folder / "before.resp.gz"))
    assert backed_up.returncode == 0, backed_up.stderr
    assert (erase(stack, {"phone": PHONE}, "--dry-run")[0], sealed(stack)) == (0, 8)
    code, report = erase(stack, {"phone": PHONE}, "--yes")
    assert (code, report["erased"], report["events"], report["identifiers"]) == (0, True, 2, {"phone": 1, "email": 1})
    assert report["append_only_file"] == "done"
    assert sealed(stack) == 2, "the other person's payload and e-mail"
    assert [(stack.event(each)["status"], stack.event(each)["complete"]) for each in events] == [("erased", True)] * 2
    (standing,) = stack.post("/v1/subjects/status", {"subject": {"email": ANA}}).json()["purposes"]
    assert (standing["purpose"], standing["state"], standing["event_id"]) == ("newsletter", "withdrawn", events[1])
    late = stack.accept("given", minute=1.5, email=ANA)
    stack.wait_complete([late])
    assert (stack.event(late)["status"], stack.deliveries(late)) == ("erased", {})
    return events


def erase_when_told(stack: Stack) -> None:
    """A withdrawal waits: it is named, then noted, and beat ends the erasure once it is told."""
    assert stack.consent("destination", "pause", "crm-webhook").returncode == 0
    waits = stack.accept("withdrawn", minute=5, email=BEN)
    code, report = erase(stack, {"email": BEN}, "--yes")
    assert (code, report["erased"]) == (1, False)
    assert report["under_way"] is None
    assert report["untold_withdrawals"] in ([waits], [f"{waits}.crm-webhook"])
    code, report = erase(stack, {"email": BEN}, "--yes", "--when-told")
    assert (code, report["erased"], report["waits_for"], report["append_only_file"]) == (0, False, [waits], "later")
    assert sealed(stack) > 0
    code, report = erase(stack, {"email": BEN}, "--dry-run")
    assert (code, report["under_way"]["waits_for"]) == (1, [waits])
    looked = stack.consent("erase", "-", "--dry-run", "--when-told", input=json.dumps({"email": BEN}))
    assert looked.returncode == 0, looked.stderr
    assert "an erasure of this person is under way since 2" in looked.stdout
    assert "waits for the same" in looked.stdout
    assert "--when-told" not in looked.stdout
    assert stack.consent("destination", "resume", "crm-webhook").returncode == 0
    stack.wait_complete([waits])
    wait_until(lambda: sealed(stack) == 0, 30, lambda: stack.log()[-2000:])
    assert (stack.event(waits)["status"], stack.deliveries(waits)["crm-webhook"][0]) == ("erased", "delivered")
    assert stack.consent("reconcile", "--internal").returncode == 0


def erase_while_more_comes(stack: Stack, before: int) -> None:
    """What the person said earlier, and is posted and told while the command asks, goes too."""
    stack.wait_complete([stack.accept("given", minute=1, email=EVA)])
    person = stack.folder / "eva.json"
    person.write_text(json.dumps({"email": EVA}))
    command = [sys.executable, "-m", "workers.cli", "erase", str(person)]
    environment = {**os.environ, **stack.environment}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asking:
        assert asking.stderr is not None
        asked = b""
        while b"Erase?" not in asked:
            asked += (part := asking.stderr.read1(1000))
            assert part, asked
        late = stack.accept("given", minute=2, email=EVA)
        stack.wait_complete([late])
        said, failed = asking.communicate(b"y\n", timeout=60)
    assert (asking.returncode, b"\nerased\n" in said) == (0, True), failed
    assert (stack.event(late)["status"], sealed(stack)) == ("erased", before)


@pytest.mark.timeout(240)
def test_a_person_is_erased_and_no_backup_brings_anybody_back(tmp_path: Path) -> None:
    """At once, when told, and again in the older ledger that is put back; the list names nobody."""
    folder = tmp_path / "state"
    folder.mkdir()
    with running_stack(routing=ROUTING, environment=SHORT, folder=folder) as stack:
        unknown, report = erase(stack, {"email": "nobody@example.org"}, "--yes")
        assert (unknown, report["known"]) == (1, False)
        events = erase_told_person(stack)
        erase_while_more_comes(stack, sealed(stack))
        erase_when_told(stack)
    listed = folder / "erased.ndjson"
    assert listed.stat().st_mode & 0o777 == 0o600
    assert (len(listed.read_text().splitlines()), "example.org" in listed.read_text()) == (3, False)
    (folder / "server").rename(tmp_path / "lost")
    backup = str(folder / "before.resp.gz")
    expired = offline(folder, "restore", backup, "--yes", CONSENT_RETENTION_BACKUP_DAYS="0.00000001")
    assert (expired.returncode, "--even-expired" in expired.stderr) == (2, True), expired.stderr
    restored = offline(folder, "restore", backup, "--yes", "--json")
    assert restored.returncode == 0, restored.stderr
    assert {name: json.loads(restored.stdout)[name] for name in ("erasures", "erasures_waiting")} == {"erasures": 3, "erasures_waiting": 0}
    with running_stack(routing=ROUTING, environment=SHORT, folder=folder) as stack:
        assert [stack.event(each)["status"] for each in events] == ["erased"] * 2
        assert sealed(stack) == 0
        assert stack.metric("consent_unaccounted") == 0
